package local_test

import (
	"os/exec"
	"strings"
	"testing"

	"runner-token-broker/e2e/rig"
	"runner-token-broker/internal/local/lambda"
)

// AWS's own client reads the local Lambda's answers: what it takes for a result, for an error of the function and for
// a refusal by Lambda.
func TestBoto3InvokesTheLocalLambda(t *testing.T) {
	t.Parallel()
	f, c := rig.NewFunction(t), rig.RoleCredentials()
	url := rig.Serve(t, &lambda.Endpoint{Service: f.Lambda, Credentials: c})
	const script = `
import boto3, json
client = boto3.client("lambda")
def invoke(target, **more):
    r = client.invoke(FunctionName="token", Payload=json.dumps({"target": target}), **more)
    return r["StatusCode"], r.get("FunctionError"), r["ExecutedVersion"], json.loads(r["Payload"].read() or "{}")
status, error, version, payload = invoke("orgs/acme")
print(status, error, version, payload["runner_url"])
status, error, version, payload = invoke("orgs/other")
print(status, error, version, payload["errorType"], payload["errorMessage"])
for kind in "Event", "DryRun":
    print(*invoke("orgs/acme", InvocationType=kind))
try:
    client.invoke(FunctionName="other")
except client.exceptions.ResourceNotFoundException as e:
    print(e)
`
	cmd := exec.CommandContext(t.Context(), rig.Tool(t, "python"), "-c", script)
	cmd.Env = append(rig.Environ(), "AWS_ENDPOINT_URL="+url, "AWS_DEFAULT_REGION="+rig.Region,
		"AWS_ACCESS_KEY_ID="+c.AccessKeyID, "AWS_SECRET_ACCESS_KEY="+c.SecretAccessKey,
		"AWS_SESSION_TOKEN="+c.SessionToken)
	want := strings.Join([]string{
		"200 None $LATEST " + f.GitHubURL + "/acme",
		"200 Unhandled $LATEST TargetNotAllowed orgs/other is not one of the targets this service serves",
		"202 None $LATEST {}",
		"204 None $LATEST {}",
		"An error occurred (ResourceNotFoundException) when calling the Invoke operation: Function not found: other\n",
	}, "\n")
	if printed := rig.Output(t, cmd); printed != want {
		t.Errorf("it prints\n%s, want\n%s", printed, want)
	}
}
