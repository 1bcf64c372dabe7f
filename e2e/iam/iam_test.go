package iam_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"runner-token-broker/e2e/rig"
)

// Not proven here: IAM itself, above all whether it sees a path before or after API Gateway decodes it.

const (
	examplesIAM   = rig.Root + "/examples/iam"
	tokenFunction = "arn:aws:lambda:eu-central-1:123456789012:function:runner-token-broker-TokenFunction-a1B2c3"
	runnerRoleARN = "arn:aws:iam::210987654321:role/github-runner"
	tokenRoleARN  = "arn:aws:iam::123456789012:role/runner-token"
)

// stack is what the template gives its callers: the managed policy, and the prefix for policies of their own.
type stack struct {
	callerPolicy json.RawMessage
	prefix       string
}

func newStack(t *testing.T) stack {
	t.Helper()
	text, err := json.Marshal(rig.Translate(t, rig.ReadFile(t, rig.Root+"/template.yaml"))[0].Source)
	if err != nil {
		t.Fatal(err)
	}
	text = regexp.MustCompile(`\{"Fn::Sub":("[^"]*")\}`).ReplaceAll(text, []byte("$1"))
	resolved := strings.NewReplacer(
		"${AWS::Partition}", "aws", "${AWS::Region}", rig.Region, "${AWS::AccountId}", "123456789012",
		"${Api}", "a1b2c3d4e5", "${CallerTarget}", "orgs/acme",
	).Replace(string(text))
	var template struct {
		Resources struct {
			CallerPolicy struct {
				Properties struct{ PolicyDocument json.RawMessage }
			}
		}
		Outputs struct{ InvokeArnPrefix struct{ Value string } }
	}
	if err := json.Unmarshal([]byte(resolved), &template); err != nil {
		t.Fatal(err)
	}
	return stack{template.Resources.CallerPolicy.Properties.PolicyDocument, template.Outputs.InvokeArnPrefix.Value}
}

// fill puts values for the placeholders.
func (s stack) fill(text string) string {
	return strings.NewReplacer(
		"<InvokeArnPrefix>", s.prefix, "<FunctionArn>", tokenFunction, "<RunnerRoleArn>", runnerRoleARN,
		"<TokenRoleArn>", tokenRoleARN, "<RunnerRole>", "github-runner", "<OrganizationId>", "o-a1b2c3d4e5",
	).Replace(text)
}

// policy returns an example, filled in.
func (s stack) policy(t *testing.T, name string) json.RawMessage {
	t.Helper()
	if name == "CallerPolicy" {
		return s.callerPolicy
	}
	return json.RawMessage(s.fill(rig.ReadFile(t, filepath.Join(examplesIAM, name+".json"))))
}

// request is what IAM is asked when the README says `POST /orgs/...`.
func (s stack) request(written string) string {
	method, path, _ := strings.Cut(written, " /")
	return strings.TrimSuffix(s.prefix, "POST/") + method + "/" + path
}

// evaluation is a request of the instance's role, or of another principal, and the policies that it meets.
type evaluation struct {
	Policy    json.RawMessage   `json:"policy,omitempty"` // of the principal
	Trust     json.RawMessage   `json:"trust,omitempty"`  // of the role that is to be assumed
	Principal string            `json:"principal"`
	Action    string            `json:"action"`
	Resource  string            `json:"resource"`
	Account   string            `json:"account"` // of the resource
	Context   map[string]string `json:"context,omitempty"`

	situation string
	allowed   bool // what is wanted
}

func invoke(policy json.RawMessage, resource, situation string, allowed bool) evaluation {
	return evaluation{
		Policy: policy, Principal: "arn:aws:sts::123456789012:assumed-role/github-runner/" + rig.InstanceID,
		Action: "execute-api:Invoke", Resource: resource, Account: "123456789012", situation: situation, allowed: allowed,
	}
}

// evaluate has the simulator judge all at once.
func evaluate(t *testing.T, evaluations []evaluation) {
	t.Helper()
	in, err := json.Marshal(evaluations)
	if err != nil {
		t.Fatal(err)
	}
	rig.Tool(t, "../@cloud-copilot/iam-simulate") // a package of npm, beside its programs
	cmd := exec.CommandContext(t.Context(), rig.Tool(t, "node"), "iam.mjs")
	cmd.Stdin = bytes.NewReader(in)
	out := rig.Output(t, cmd)
	var results []string
	if err := json.Unmarshal([]byte(out), &results); err != nil || len(results) != len(evaluations) {
		t.Fatalf("%v: %d results of %d\n%s", err, len(results), len(evaluations), out)
	}
	var situations []string
	for _, e := range evaluations {
		if !slices.Contains(situations, e.situation) {
			situations = append(situations, e.situation)
		}
	}
	for _, situation := range situations {
		t.Run(situation, func(t *testing.T) {
			for i, e := range evaluations {
				switch {
				case e.situation != situation:
				case results[i] != "Allowed" && !strings.HasSuffix(results[i], "Denied"):
					t.Errorf("%s on %s was not evaluated: %s", e.Action, e.Resource, results[i])
				case (results[i] == "Allowed") != e.allowed:
					t.Errorf("%s on %s is %s", e.Action, e.Resource, results[i])
				}
			}
		})
	}
}

// table returns the rows, without backticks, of the README's one table whose header begins with the name.
func table(t *testing.T, name string) [][]string {
	t.Helper()
	_, rest, ok := strings.Cut(rig.ReadFile(t, filepath.Join(examplesIAM, "README.md")), "\n| "+name+" |")
	rest, _, _ = strings.Cut("| "+name+" |"+rest, "\n\n")
	var rows [][]string
	for line := range strings.Lines(rest) {
		rows = append(rows, strings.Split(strings.ReplaceAll(strings.Trim(line, "| \n"), "`", ""), " | "))
	}
	if !ok || len(rows) < 3 {
		t.Fatalf("the README has no table with the header %q", name)
	}
	return slices.Delete(rows, 1, 2)
}

func TestIAMExamplesLetThroughWhatTheirREADMESays(t *testing.T) {
	t.Parallel()
	s := newStack(t)
	rows := table(t, "request")
	var evaluations []evaluation
	for column, name := range rows[0][1:] {
		policy := s.policy(t, name)
		for _, row := range rows[1:] {
			resource, allowed := s.request(row[0]), row[1+column] == "yes"
			evaluations = append(evaluations, invoke(policy, resource, name, allowed))
			for _, change := range [][2]string{
				{"a1b2c3d4e5", "z9y8x7w6v5"}, {"123456789012", "210987654321"}, {rig.Region, "us-east-1"}, {"$default", "test"},
			} {
				evaluations = append(evaluations, invoke(policy, strings.Replace(resource, change[0], change[1], 1), name, false))
			}
		}
	}

	direct := invoke(s.policy(t, "lambda-invoke"), tokenFunction, "lambda-invoke", true)
	direct.Action = "lambda:InvokeFunction"
	evaluations = append(evaluations, direct)
	direct.allowed, direct.Resource = false, tokenFunction+"-other"
	evaluations = append(evaluations, direct)
	direct.Action, direct.Resource = "lambda:GetFunction", tokenFunction
	evaluate(t, append(evaluations, direct))
}

// That the function refuses what such statements let through in another spelling: TestPathIsGitHubsByteForByte.
func TestIAMStatementsNotToWriteLetThroughWhatTheirREADMESays(t *testing.T) {
	t.Parallel()
	s := newStack(t)
	statement := func(text string) json.RawMessage {
		var statements []map[string]any
		if err := json.Unmarshal([]byte("["+s.fill(text)+"]"), &statements); err != nil {
			t.Fatalf("%s: %v", text, err)
		}
		for _, statement := range statements {
			if statement["Effect"] == nil {
				statement["Effect"] = "Allow"
			}
			if statement["Action"] == nil {
				statement["Action"] = "execute-api:Invoke"
			}
		}
		policy, err := json.Marshal(map[string]any{"Version": "2012-10-17", "Statement": statements})
		if err != nil {
			t.Fatal(err)
		}
		return policy
	}
	org := s.policy(t, "org")
	var evaluations []evaluation
	for _, row := range table(t, "statement")[1:] {
		e := invoke(statement(row[0]), row[1], row[0], true)
		switch {
		case strings.HasPrefix(row[1], "execute-api:"):
			e.Action, e.Resource = row[1], s.request("POST /orgs/acme/actions/runners/registration-token")
		case !strings.HasPrefix(row[1], "arn:"):
			e.Resource = s.request(row[1])
		}
		evaluations = append(evaluations, e)
		e.Policy, e.situation, e.allowed = org, "org", false // what should be written
		evaluations = append(evaluations, e)
	}
	for _, row := range table(t, "resource")[1:] {
		policy := statement(fmt.Sprintf(`{"Resource": %q}`, row[0]))
		for _, request := range table(t, "request")[1:] {
			if !strings.HasSuffix(request[0], "/") { // there is no such route
				evaluations = append(evaluations, invoke(policy, s.request(request[0]), row[0], false))
			}
		}
	}
	evaluate(t, evaluations)
}

func TestIAMRoleIsAssumedFromTheOtherAccountAlone(t *testing.T) {
	t.Parallel()
	s := newStack(t)
	right := evaluation{
		Policy:    s.policy(t, "cross-account-caller"),
		Principal: "arn:aws:sts::210987654321:assumed-role/github-runner/" + rig.InstanceID,
		Action:    "sts:AssumeRole", Resource: tokenRoleARN, Account: "123456789012", allowed: true,
		Context: map[string]string{
			"aws:userid": "AROAEXAMPLE:" + rig.InstanceID, "sts:RoleSessionName": rig.InstanceID,
			"aws:PrincipalArn": runnerRoleARN, "aws:PrincipalOrgID": "o-a1b2c3d4e5",
		},
	}
	with := func(key, value string) evaluation {
		e := right
		e.Context = maps.Clone(right.Context)
		e.Context[key] = value
		return e
	}
	by := func(account, role string) evaluation {
		e := with("aws:PrincipalArn", "arn:aws:iam::"+account+":role/"+role)
		e.Principal = "arn:aws:sts::" + account + ":assumed-role/" + role + "/" + rig.InstanceID
		return e
	}
	withoutPolicy, another := right, right
	withoutPolicy.Policy = s.policy(t, "org")
	another.Resource += "-other"
	var evaluations []evaluation
	for _, c := range []struct {
		situation string
		evaluation
		one, organization bool // what the trust policy for one role, and that for the organization, should allow
	}{
		{"the right role", right, true, true},
		{"another role", by("210987654321", "admin"), false, false},
		{"that role in a third account", by("321098765432", "github-runner"), false, true},
		{"another organization", with("aws:PrincipalOrgID", "o-z9y8x7w6v5"), true, false},
		{"the session is named as another instance", with("sts:RoleSessionName", "i-0fedcba9876543210"), false, false},
		{"the session is named as the end of its own", with("sts:RoleSessionName", "f0"), false, false},
		{"the caller's account does not let it", withoutPolicy, false, false},
		{"another role is wanted", another, false, false},
	} {
		allows := map[string]bool{"cross-account-trust": c.one, "cross-account-trust-organization": c.organization}
		for trust, allowed := range allows {
			e := c.evaluation
			e.Trust, e.allowed, e.situation = s.policy(t, trust), allowed, trust+": "+c.situation
			evaluations = append(evaluations, e)
		}
	}
	evaluate(t, evaluations)
}

func TestIAMExamplesAreValid(t *testing.T) {
	t.Parallel()
	s := newStack(t)
	files, err := filepath.Glob(filepath.Join(examplesIAM, "*.json"))
	if err != nil || len(files) == 0 {
		t.Fatal(err, "no files")
	}
	resource := func(kind string, properties map[string]any) map[string]any {
		return map[string]any{"Type": "AWS::IAM::" + kind, "Properties": properties}
	}
	// Each is what the other should be, to see that cfn-lint looks.
	resources := map[string]any{
		"BrokenPolicy": resource("ManagedPolicy", map[string]any{"PolicyDocument": s.policy(t, "cross-account-trust")}),
		"BrokenTrust":  resource("Role", map[string]any{"AssumeRolePolicyDocument": s.policy(t, "org")}),
	}
	for _, file := range files {
		name := strings.TrimSuffix(filepath.Base(file), ".json")
		document := s.policy(t, name)
		if regexp.MustCompile(`<\w+>`).Match(document) {
			t.Errorf("%s has a placeholder that the test does not know", name)
		}
		id := strings.ReplaceAll(name, "-", "")
		if strings.Contains(name, "-trust") {
			resources[id] = resource("Role", map[string]any{"AssumeRolePolicyDocument": document})
		} else {
			resources[id] = resource("ManagedPolicy", map[string]any{"PolicyDocument": document})
		}
	}
	template, err := json.Marshal(map[string]any{"AWSTemplateFormatVersion": "2010-09-09", "Resources": resources})
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), rig.Tool(t, "cfn-lint"),
		"--format", "json", "--include-checks", "I", "--regions", rig.Region)
	cmd.Stdin = bytes.NewReader(template)
	out, _, _ := rig.Run(t, cmd) // the exit status says what was found
	var found []struct {
		Rule     struct{ ID string }
		Message  string
		Location struct{ Path []any }
	}
	if err := json.Unmarshal([]byte(out), &found); err != nil {
		t.Fatalf("cfn-lint: %v\n%s", err, out)
	}
	broken := map[any]bool{}
	for _, f := range found {
		if len(f.Location.Path) < 2 || !strings.HasPrefix(fmt.Sprint(f.Location.Path[1]), "Broken") {
			t.Errorf("%s %v: %s", f.Rule.ID, f.Location.Path, f.Message)
			continue
		}
		broken[f.Location.Path[1]] = true
	}
	if len(broken) != 2 {
		t.Errorf("cfn-lint finds fault with %v only", broken)
	}
}
