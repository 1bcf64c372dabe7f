package readme_test

import (
	"archive/zip"
	"bytes"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/secretsmanager"

	"runner-token-broker/e2e/rig"
	"runner-token-broker/internal/local/sigv4"
	"runner-token-broker/internal/network"
)

const deploying = "docs/deploying.md"

// account is Moto, but for CloudFormation's templates: Moto knows neither SAM's transform nor most of what the stack is
// of, so it gets a stack of two logs with the same parameters. What SAM asked for is recorded. There are two buckets,
// SAM's and another.
type account struct {
	*rig.Moto
	URL       string
	template  map[string]any
	mu        sync.Mutex
	changes   []url.Values
	count     int // of all changes so far
	secretARN string
}

func newAccount(t *testing.T) *account {
	m := rig.StartMoto(t)
	made, err := m.SecretsManager.CreateSecret(t.Context(), &secretsmanager.CreateSecretInput{
		Name: aws.String("made-by-the-stack"),
	})
	if err != nil {
		t.Fatal(err)
	}
	rig.Output(t, shell(t, "", m.URL, `
aws cloudformation create-stack --stack-name aws-sam-cli-managed-default \
  --tags '[{"Key": "ManagedStackSource", "Value": "AwsSamCli"}]' --template-body '{
    "Resources": {
      "Theirs": {"Type": "AWS::S3::Bucket", "Properties": {"BucketName": "made-by-sam"}},
      "Ours": {"Type": "AWS::S3::Bucket", "Properties": {"BucketName": "ours"}}},
    "Outputs": {"SourceBucket": {"Value": "made-by-sam"}}}'`, keys(rig.RoleCredentials())...))
	a := &account{Moto: m, secretARN: aws.ToString(made.ARN)}
	a.template = rig.Translate(t, rig.ReadFile(t, filepath.Join(rig.Root, "template.yaml")))[0].Source
	upstream, err := url.Parse(m.URL)
	if err != nil {
		t.Fatal(err)
	}
	proxy := httputil.NewSingleHostReverseProxy(upstream)
	a.URL = rig.Serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if strings.HasPrefix(r.Header.Get("Content-Type"), "application/x-www-form-urlencoded") {
			body, _ := io.ReadAll(r.Body)
			form, _ := url.ParseQuery(string(body))
			if form.Get("Action") == "CreateChangeSet" {
				body = []byte(a.simplified(form).Encode())
			}
			r.Body, r.ContentLength = io.NopCloser(bytes.NewReader(body)), int64(len(body))
		}
		proxy.ServeHTTP(w, r)
	}))
	return a
}

// simplified records a change and gives it a template that Moto takes.
func (a *account) simplified(form url.Values) url.Values {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.changes = append(a.changes, maps.Clone(form))
	a.count++
	parameters := map[string]any{}
	for name := range a.template["Parameters"].(map[string]any) {
		parameters[name] = map[string]any{"Type": "String", "Default": "-"}
	}
	log := map[string]any{"Type": "AWS::Logs::LogGroup"}
	form.Del("TemplateURL")
	form.Set("TemplateBody", string(must(json.Marshal(map[string]any{
		"Description": fmt.Sprint("change ", a.count), // Moto refuses one that changes nothing
		"Parameters":  parameters, "Resources": map[string]any{"FunctionLogGroup": log, "AccessLogGroup": log},
	}))))
	return form
}

// fillSecretCommand is the stack's output.
func (a *account) fillSecretCommand() string {
	output := a.template["Outputs"].(map[string]any)["FillSecretCommand"].(map[string]any)
	text := output["Value"].(map[string]any)["Fn::Sub"].(string)
	return strings.NewReplacer("${AWS::Region}", rig.Region, "${Secret}", a.secretARN).Replace(text)
}

// change is what a deployment asked CloudFormation for.
type change struct {
	stack, bucket string
	parameters    map[string]string // those with a value; the others keep theirs
	keeps         []string
	template      []byte
}

// deployed returns the one change since the last call.
func (a *account) deployed(t *testing.T) change {
	t.Helper()
	a.mu.Lock()
	defer a.mu.Unlock()
	if len(a.changes) != 1 {
		t.Fatalf("%d changes were made, want one", len(a.changes))
	}
	form := a.changes[0]
	a.changes = nil
	c := change{stack: form.Get("StackName"), parameters: map[string]string{}}
	for i := 1; form.Has(fmt.Sprintf("Parameters.member.%d.ParameterKey", i)); i++ {
		member := fmt.Sprintf("Parameters.member.%d.", i)
		if name := form.Get(member + "ParameterKey"); form.Has(member + "ParameterValue") {
			c.parameters[name] = form.Get(member + "ParameterValue")
		} else {
			c.keeps = append(c.keeps, name)
		}
	}
	uploaded, err := url.Parse(form.Get("TemplateURL"))
	if err != nil {
		t.Fatal(err)
	}
	c.bucket, _, _ = strings.Cut(strings.TrimPrefix(uploaded.Path, "/"), "/")
	c.template = a.object(t, uploaded.Path)
	if got := form.Get("Capabilities.member.1"); got != "CAPABILITY_IAM" || form.Has("Capabilities.member.2") {
		t.Errorf("the capability is %s", got)
	}
	return c
}

// object returns an object of a bucket.
func (a *account) object(t *testing.T, path string) []byte {
	t.Helper()
	r := must(http.NewRequestWithContext(t.Context(), http.MethodGet, a.Moto.URL+path, nil))
	if err := sigv4.Sign(r, nil, rig.RoleCredentials(), rig.Region, "s3"); err != nil {
		t.Fatal(err)
	}
	answer := rig.Send(t, r)
	if answer.Status != http.StatusOK {
		t.Fatalf("%s: %d %s", path, answer.Status, answer.Body)
	}
	return answer.Body
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

// inTerminal lets a command have a terminal, in which it reads what is typed.
func inTerminal(t *testing.T, cmd *exec.Cmd, typed string) *exec.Cmd {
	t.Helper()
	const program = "import os, pty, sys; sys.exit(os.waitstatus_to_exitcode(pty.spawn(sys.argv[1:])))"
	terminal := exec.CommandContext(t.Context(), rig.Tool(t, "python"), append([]string{"-c", program}, cmd.Args...)...)
	terminal.Dir, terminal.Env, terminal.Stdin = cmd.Dir, cmd.Env, strings.NewReader(typed)
	return terminal
}

// The commands of README and docs that deploy, one after the other, by the SAM CLI.
func TestDeployment(t *testing.T) {
	t.Parallel()
	a := newAccount(t)
	dir := rig.Checkout(t)
	sh := func(commands string) *exec.Cmd {
		t.Helper()
		return shell(t, dir, a.URL, commands, keys(rig.RoleCredentials())...)
	}

	t.Run("the outputs are printed again", func(t *testing.T) {
		list := "sam list stack-outputs --stack-name runner-token-broker"
		if !strings.Contains(rig.ReadFile(t, filepath.Join(rig.Root, "README.md")), "`"+list+"`") {
			t.Fatalf("the README does not have %s", list)
		}
		// Moto forgets the outputs of a change set.
		got := rig.Output(t, sh(`
aws cloudformation create-stack --stack-name runner-token-broker --template-body '{
  "Resources": {"Log": {"Type": "AWS::Logs::LogGroup"}},
  "Outputs": {"ApiUrl": {"Value": "https://a1b2c3d4e5"}}}' >/dev/null
`+list+`
aws cloudformation delete-stack --stack-name runner-token-broker >/dev/null`))
		if !strings.Contains(got, "https://a1b2c3d4e5") {
			t.Error(got)
		}
	})

	rig.Output(t, inTerminal(t, sh(command(t, "README.md", "sam build\n")), "y\n"))
	first := a.deployed(t)
	if first.stack != "runner-token-broker" || first.parameters["AllowedTargets"] != "orgs/acme" ||
		first.parameters["CallerTarget"] != "orgs/acme" || len(first.parameters) != 2 {
		t.Errorf("the README deploys %s with %v", first.stack, first.parameters)
	}
	function := rig.Translate(t, string(first.template))[0].Source["Resources"].(map[string]any)["TokenFunction"]
	uri := function.(map[string]any)["Properties"].(map[string]any)["CodeUri"].(string)
	code := a.object(t, strings.TrimPrefix(uri, "s3:/"))
	files := must(zip.NewReader(bytes.NewReader(code), int64(len(code)))).File
	if len(files) != 1 || files[0].Name != "bootstrap" {
		t.Errorf("the package holds %d files, %s first", len(files), files[0].Name)
	}

	t.Run("the PAT goes into the secret and nowhere else", func(t *testing.T) {
		fromREADME := strings.TrimSpace(command(t, "README.md", "(read -rs PAT &&"))
		fill := strings.NewReplacer("REGION", rig.Region, "SECRET_ARN", a.secretARN).Replace(fromREADME)
		if output := a.fillSecretCommand(); fill != output {
			t.Errorf("the README has\n%s\nand the stack\n%s", fill, output)
		}
		pat := rig.NewPATs(1)[0]
		cmd := sh(fill)
		cmd.Stdin = strings.NewReader(pat.Reveal() + "\n")
		printed, errs, status := rig.Run(t, cmd)
		if status != 0 || strings.Contains(printed+errs, pat.Reveal()) {
			t.Errorf("exit %d\n%s%s", status, printed, errs)
		}
		if held(t, a.Moto, a.secretARN) != pat.Reveal() {
			t.Error("the secret holds something else than was typed")
		}
	})

	t.Run("the policy is attached", func(t *testing.T) {
		attach := inVariables(command(t, "README.md", "aws iam attach-role-policy"),
			"ROLE_OF_YOUR_RUNNERS", "CALLER_POLICY_ARN")
		got := rig.Output(t, sh(`
ROLE_OF_YOUR_RUNNERS=runners
aws iam create-role --role-name runners --assume-role-policy-document '{}' >/dev/null
CALLER_POLICY_ARN=$(aws iam create-policy --policy-name caller --query Policy.Arn --output text --policy-document '{
  "Version": "2012-10-17", "Statement": {"Effect": "Allow", "Action": "execute-api:Invoke", "Resource": "*"}}')
`+attach+`
aws iam list-attached-role-policies --role-name runners --query 'AttachedPolicies[].PolicyName' --output text`))
		if !strings.HasSuffix(got, "caller\n") {
			t.Errorf("%s", got)
		}
	})

	t.Run("a target is added, and all else stays", func(t *testing.T) {
		rig.Output(t, inTerminal(t, sh(command(t, operating, "sam build && sam deploy")), "y\n"))
		c := a.deployed(t)
		if c.parameters["AllowedTargets"] != "orgs/acme,repos/acme/widgets" || len(c.parameters) != 1 {
			t.Errorf("the runbook deploys %v", c.parameters)
		}
		if len(c.keeps) == 0 {
			t.Error("no parameter keeps its value")
		}
	})

	inCI := command(t, deploying, "sam build\nsam deploy --no-confirm-changeset")
	// From here on the change sets are not executed, for which SAM would wait.
	quick := strings.TrimSpace(strings.TrimPrefix(inCI, "sam build\n")) + " --no-execute-changeset"
	t.Run("without a terminal", func(t *testing.T) {
		rig.Output(t, sh(inCI))
		if c := a.deployed(t); c.parameters["AllowedTargets"] != "orgs/acme" || c.bucket != "made-by-sam" {
			t.Errorf("it deploys %v from %s", c.parameters, c.bucket)
		}
	})
	t.Run("from a bucket of one's own", func(t *testing.T) {
		flags := "--no-resolve-s3 --s3-bucket "
		if !strings.Contains(rig.ReadFile(t, filepath.Join(rig.Root, deploying)), "`"+flags+"NAME`") {
			t.Fatalf("%s does not have the flags %s", deploying, flags)
		}
		rig.Output(t, sh(quick+" "+flags+"ours"))
		if c := a.deployed(t); c.bucket != "ours" {
			t.Errorf("it deploys from %s", c.bucket)
		}
	})
	t.Run("with tables of one's own", func(t *testing.T) {
		file := filepath.Join(dir, "samconfig.toml")
		text := rig.ReadFile(t, file)
		_, tables, _ := strings.Cut(text, "version = 0.1\n")
		tables = strings.NewReplacer("[default.", "[second.", `"runner-token-broker"`, `"second"`).Replace(tables)
		rig.WriteFile(t, file, text+tables, 0o644)
		rig.Output(t, sh(quick+" --config-env second"))
		if c := a.deployed(t); c.stack != "second" {
			t.Errorf("it deploys %s", c.stack)
		}
	})
	t.Run("with a private CA", func(t *testing.T) {
		server := httptest.NewTLSServer(nil)
		defer server.Close()
		ca := string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw}))
		rig.WriteFile(t, filepath.Join(dir, "ca.pem"), ca, 0o644)
		rig.Output(t, inTerminal(t, sh(strings.TrimSpace(
			command(t, deploying, "sam deploy --parameter-overrides GitHubCa"))+" --no-execute-changeset"), "y\n"))
		c := a.deployed(t)
		if _, err := network.ParseCertificates(c.parameters["GitHubCaCertificates"]); err != nil || len(c.parameters) != 1 {
			t.Errorf("it deploys %v: %v", c.parameters, err)
		}
	})

	// What SAM does with spaces. The template refuses the second; a reader of the output AllowedTargets sees the first.
	for _, c := range []struct{ name, list, arrives string }{
		{"a quoted list is cut at its space", `"orgs/acme repos/acme/widgets"`, "orgs/acme"},
		{"a quoted list with commas too", `"orgs/acme, repos/acme/widgets"`, "orgs/acme,"},
		{"a list without quotes is refused", `orgs/acme repos/acme/widgets`, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			out, errs, status := rig.Run(t, sh("sam deploy --no-execute-changeset --no-confirm-changeset "+
				"--parameter-overrides AllowedTargets="+c.list))
			if c.arrives == "" {
				if status == 0 || !strings.Contains(errs, "repos/acme/widgets is not a valid format") {
					t.Errorf("exit %d\n%s%s", status, out, errs)
				}
				return
			}
			if got := a.deployed(t).parameters["AllowedTargets"]; got != c.arrives {
				t.Errorf("%q arrives", got)
			}
		})
	}

	t.Run("the stack ends", func(t *testing.T) {
		rig.Output(t, sh(command(t, deploying, "aws cloudformation delete-stack")))
		out, errs, status := rig.Run(t, sh("sam list stack-outputs --stack-name runner-token-broker"))
		if status == 0 {
			t.Errorf("it is still there\n%s%s", out, errs)
		}
	})
}
