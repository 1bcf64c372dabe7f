package iam_test

import (
	"bytes"
	"encoding/json"
	"encoding/xml"
	"fmt"
	"io"
	"net/http"
	"net/http/httputil"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"regexp"
	"strings"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"

	"runner-token-broker/e2e/rig"
	"runner-token-broker/internal/local/sigv4"
)

// The README's commands, one after the other, against Moto's IAM, STS and CloudFormation. The last gets a token with
// what STS gave. Moto enforces no policies and is one account here; that is for the tests above.
func TestIAMCommandsOfTheREADMEGetATokenByAnAssumedRole(t *testing.T) {
	t.Parallel()
	s := newStack(t)
	text := rig.ReadFile(t, filepath.Join(examplesIAM, "README.md"))
	scripts := regexp.MustCompile("(?s)```bash\n(.*?)```").FindAllStringSubmatch(text, -1)
	if len(scripts) != 3 {
		t.Fatalf("the README has %d blocks of bash", len(scripts))
	}

	moto := rig.StartMoto(t)
	sh := awsShell(t)
	fill := strings.NewReplacer("ROLE_OF_YOUR_RUNNERS", "github-runner", "RUNNER_ACCOUNT", "123456789012",
		"API_ACCOUNT", "123456789012").Replace
	setUp := sh(moto.URL, rig.RoleCredentials(), fmt.Sprintf(`
aws cloudformation create-stack --stack-name runner-token-broker --template-body '{
  "Resources": {"Log": {"Type": "AWS::Logs::LogGroup"}},
  "Outputs": {"InvokeArnPrefix": {"Value": "%s"}, "Other": {"Value": "other"}}}' >&2
aws iam create-role --role-name github-runner --assume-role-policy-document '{}' >&2
{
%s
%s
} >&2
aws iam get-role-policy --role-name github-runner --policy-name runner-token --query PolicyDocument
aws iam get-role --role-name runner-token --query Role.AssumeRolePolicyDocument
aws iam get-role-policy --role-name runner-token --policy-name runner-token --query PolicyDocument
aws iam get-role-policy --role-name github-runner --policy-name assume-runner-token --query PolicyDocument
aws sts assume-role --role-arn arn:aws:iam::123456789012:role/github-runner --role-session-name %s --query Credentials
`, s.prefix, fill(scripts[0][1]), fill(scripts[1][1]), rig.InstanceID))
	written := json.NewDecoder(strings.NewReader(setUp))
	next := func(v any) {
		t.Helper()
		if err := written.Decode(v); err != nil {
			t.Fatalf("%v\n%s", err, setUp)
		}
	}
	for _, name := range []string{"org", "cross-account-trust", "org", "cross-account-caller"} {
		var got, want any
		next(&got)
		filled := bytes.ReplaceAll(s.policy(t, name), []byte("210987654321"), []byte("123456789012"))
		if err := json.Unmarshal(bytes.ReplaceAll(filled, []byte("acme"), []byte("your-org")), &want); err != nil {
			t.Fatal(err)
		}
		if !reflect.DeepEqual(got, want) {
			t.Errorf("%s became %v, want %v", name, got, want)
		}
	}
	var fromIMDS stsCredentials
	next(&fromIMDS)

	f := rig.NewFunction(t)
	parse := func(rawURL string) *url.URL {
		u, err := url.Parse(rawURL)
		if err != nil {
			t.Fatal(err)
		}
		return u
	}
	// The local API Gateway knows one caller, so its signature is made anew when the assumed role's was right.
	answered := make(chan aws.Credentials, 1)
	sts := httputil.NewSingleHostReverseProxy(parse(moto.URL))
	sts.ModifyResponse = func(r *http.Response) error {
		body, err := io.ReadAll(r.Body)
		r.Body = io.NopCloser(bytes.NewReader(body))
		var answer struct {
			Credentials stsCredentials `xml:"AssumeRoleResult>Credentials"`
			ARN         string         `xml:"AssumeRoleResult>AssumedRoleUser>Arn"`
		}
		if err == nil && xml.Unmarshal(body, &answer) == nil && answer.ARN != "" {
			if want := "arn:aws:sts::123456789012:assumed-role/runner-token/" + rig.InstanceID; answer.ARN != want {
				t.Errorf("the caller is %s, want %s", answer.ARN, want)
			}
			answered <- answer.Credentials.aws()
		}
		return err
	}
	upstream := parse(f.URL)
	gateway := &httputil.ReverseProxy{Rewrite: func(r *httputil.ProxyRequest) {
		r.SetURL(upstream)
		if err := sigv4.Sign(r.Out, nil, rig.RoleCredentials(), rig.Region, "execute-api"); err != nil {
			t.Error(err)
		}
	}}
	api := rig.Serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		verifier := sigv4.Verifier{Region: rig.Region, Service: "execute-api"}
		select {
		case verifier.Credentials = <-answered:
		default:
		}
		if err := verifier.Verify(r, nil); err != nil {
			http.Error(w, err.Error(), http.StatusForbidden)
			return
		}
		gateway.ServeHTTP(w, r)
	}))
	script := fmt.Sprintf("TOKEN_ROLE_ARN=%s REGION=%s API_URL=%s\n%s\nprintf %%s \"$token\"",
		tokenRoleARN, rig.Region, api, strings.ReplaceAll(scripts[2][1], "your-org", "acme"))
	got := sh(rig.Serve(t, sts), fromIMDS.aws(), script)
	if tokens := f.GitHub.Tokens(); len(tokens) != 1 || got != tokens[0].Reveal() {
		t.Errorf("the script got %q", got)
	}
}

type stsCredentials struct{ AccessKeyId, SecretAccessKey, SessionToken string }

func (c stsCredentials) aws() aws.Credentials {
	return aws.Credentials{AccessKeyID: c.AccessKeyId, SecretAccessKey: c.SecretAccessKey, SessionToken: c.SessionToken}
}

// awsShell runs a script beside the examples, with rig.AWSCLI, and returns what it printed.
func awsShell(t *testing.T) func(endpoint string, c aws.Credentials, script string) string {
	t.Helper()
	path := rig.AWSCLI(t) + ":" + filepath.Dir(rig.Tool(t, "curl")) + ":" + os.Getenv("PATH")
	return func(endpoint string, c aws.Credentials, script string) string {
		t.Helper()
		cmd := exec.CommandContext(t.Context(), "bash", "-euo", "pipefail")
		cmd.Dir = examplesIAM
		cmd.Stdin = strings.NewReader(script)
		cmd.Env = append(rig.Environ(), "PATH="+path, "AWS_ENDPOINT_URL="+endpoint, "AWS_DEFAULT_REGION="+rig.Region,
			"AWS_ACCESS_KEY_ID="+c.AccessKeyID, "AWS_SECRET_ACCESS_KEY="+c.SecretAccessKey,
			"AWS_SESSION_TOKEN="+c.SessionToken)
		return rig.Output(t, cmd)
	}
}
