package readme_test

import (
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/secretsmanager"

	"runner-token-broker/e2e/rig"
	"runner-token-broker/internal/local/lambda"
)

// The commands of the runbook, as they are but for the names in capitals.

func TestRouteGetsItsAuthorizerBack(t *testing.T) {
	t.Parallel()
	m := rig.StartMoto(t)
	commands := command(t, operating, "aws apigatewayv2 get-routes")
	list, update, _ := strings.Cut(commands, "\n")
	got := rig.Output(t, shell(t, "", m.URL, `
API_ID=$(aws apigatewayv2 create-api --name runners --protocol-type HTTP --query ApiId --output text)
aws apigatewayv2 create-route --api-id "$API_ID" --route-key 'POST /a' --authorization-type AWS_IAM >/dev/null
ROUTE_ID=$(aws apigatewayv2 create-route --api-id "$API_ID" --route-key 'POST /b' --query RouteId --output text)
`+inVariables(commands, "API_ID", "ROUTE_ID")+inVariables(list, "API_ID"), keys(rig.RoleCredentials())...))
	if update == "" {
		t.Fatal("there is one command alone")
	}
	before, after, _ := strings.Cut(got, "}")
	if !strings.Contains(before, "\tPOST /a\tAWS_IAM\n") || strings.Contains(before, "\tPOST /b\tAWS_IAM\n") ||
		!strings.Contains(after, "\tPOST /b\tAWS_IAM\n") {
		t.Errorf("%s", got)
	}
}

func TestSecretIsRestored(t *testing.T) {
	t.Parallel()
	m := rig.StartMoto(t)
	m.CreateSecret(t, "github-pat", rig.NewPATs(1)[0])
	id := aws.String("github-pat")
	if _, err := m.SecretsManager.DeleteSecret(t.Context(), &secretsmanager.DeleteSecretInput{SecretId: id}); err != nil {
		t.Fatal(err)
	}
	restore := inVariables(command(t, operating, "aws secretsmanager restore-secret"), "SECRET_ARN")
	rig.Output(t, shell(t, "", m.URL, "SECRET_ARN=github-pat\n"+restore, keys(rig.RoleCredentials())...))
	held(t, m, "github-pat")
}

// held returns what a secret holds.
func held(t *testing.T, m *rig.Moto, id string) string {
	t.Helper()
	value, err := m.SecretsManager.GetSecretValue(t.Context(), &secretsmanager.GetSecretValueInput{SecretId: &id})
	if err != nil {
		t.Fatal(err)
	}
	return aws.ToString(value.SecretString)
}

func TestPATIsConfirmed(t *testing.T) {
	t.Parallel()
	pats := rig.NewPATs(2)
	m := rig.StartMoto(t)
	m.CreateSecret(t, "good", pats[0])
	m.CreateSecret(t, "bad", pats[1])
	// The stand-in for GitHub does not have this path.
	gitHub := rig.Serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/user" || r.Header.Get("Authorization") != "Bearer "+pats[0].Reveal() {
			w.WriteHeader(http.StatusUnauthorized)
		}
	}))
	ask := command(t, operating, "aws secretsmanager get-secret-value")
	ask = inVariables(strings.ReplaceAll(ask, "https://api.github.com", gitHub), "SECRET_ARN")
	for secret, status := range map[string]string{"good": "200", "bad": "401"} {
		t.Run(secret, func(t *testing.T) {
			out := rig.Output(t, shell(t, "", m.URL, "SECRET_ARN="+secret+"\n"+ask, keys(rig.RoleCredentials())...))
			if out != status+"\n" {
				t.Errorf("GitHub answered %q, want %s", out, status)
			}
		})
	}
}

func TestSelfCheckByHand(t *testing.T) {
	t.Parallel()
	f := rig.NewFunction(t)
	endpoint := rig.Serve(t, &lambda.Endpoint{Service: f.Lambda, Credentials: rig.RoleCredentials()})
	check := inVariables(command(t, operating, "aws lambda invoke"), "FUNCTION_NAME")
	out := rig.Output(t, shell(t, "", endpoint, "FUNCTION_NAME=token\n"+check, keys(rig.RoleCredentials())...))
	for subject, times := range map[string]int{
		"orgs/acme": 1, "enterprises/acme-corp": 1, "repos/acme/widgets": 1, "clock": 2,
	} {
		ok := fmt.Sprintf(`"subject":"%s","status":"ok"`, subject)
		if strings.Count(out, ok) != times {
			t.Errorf("%s is not in\n%s", ok, out)
		}
	}
}

// inVariables returns the commands with shell variables in place of the names that a reader fills in.
func inVariables(commands string, names ...string) string {
	for _, name := range names {
		commands = strings.ReplaceAll(commands, name, `"$`+name+`"`)
	}
	return commands
}
