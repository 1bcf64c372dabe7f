package readme_test

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"

	"runner-token-broker/e2e/rig"
)

// blocks returns the code blocks of a page: those with four spaces before each line, and those between fences whose
// language is bash.
func blocks(t *testing.T, page string) []string {
	t.Helper()
	var found []string
	block, fence, before := "", "", ""
	for line := range strings.Lines(rig.ReadFile(t, filepath.Join(rig.Root, page)) + "\n") {
		code, indented := strings.CutPrefix(line, "    ")
		switch language, isFence := strings.CutPrefix(line, "```"); {
		case isFence && fence == "":
			fence = strings.TrimSpace(language) + "."
		case isFence:
			fence = ""
		case fence == "bash.":
			block += line
			continue
		case fence == "" && indented && (block != "" || before == "\n"):
			block += code
			continue
		}
		if block != "" {
			found = append(found, block)
		}
		block, before = "", line
	}
	return found
}

// command returns the one block of a page that begins so.
func command(t *testing.T, page, begins string) string {
	t.Helper()
	var found []string
	for _, block := range blocks(t, page) {
		if strings.HasPrefix(block, begins) {
			found = append(found, block)
		}
	}
	if len(found) != 1 {
		t.Fatalf("%s has %d blocks that begin with %q", page, len(found), begins)
	}
	return found[0]
}

// shell returns bash with the commands, an aws that asks the endpoint, and the environment's variables.
func shell(t *testing.T, dir, endpoint, commands string, env ...string) *exec.Cmd {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "bash", "-euo", "pipefail", "-c", commands)
	cmd.Dir = dir
	path := []string{rig.AWSCLI(t), filepath.Dir(rig.Tool(t, "sam")), filepath.Dir(rig.Tool(t, "curl")), os.Getenv("PATH")}
	cmd.Env = append(append(rig.Environ(), "PATH="+strings.Join(path, ":"), "AWS_ENDPOINT_URL="+endpoint,
		"AWS_DEFAULT_REGION="+rig.Region, "SAM_CLI_TELEMETRY=0", "SAM_CLI_POLL_DELAY=0.1"), env...)
	return cmd
}

// keys are the variables of the AWS CLI for credentials.
func keys(c aws.Credentials) []string {
	env := []string{"AWS_ACCESS_KEY_ID=" + c.AccessKeyID, "AWS_SECRET_ACCESS_KEY=" + c.SecretAccessKey}
	if c.SessionToken != "" {
		env = append(env, "AWS_SESSION_TOKEN="+c.SessionToken)
	}
	return env
}

func TestCurlOfTheREADMEGetsAToken(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name        string
		credentials aws.Credentials
		inProfile   bool
		env         []string
	}{
		{"with a role's profile", rig.RoleCredentials(), true, nil},
		{"with a user's profile", rig.UserCredentials(), true, nil},
		{"with a user's profile and an old session's token", rig.UserCredentials(), true, []string{"AWS_SESSION_TOKEN=old"}},
		{"with a role's keys in the environment", rig.RoleCredentials(), false, keys(rig.RoleCredentials())},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			f := rig.NewFunction(t)
			file := filepath.Join(t.TempDir(), "credentials")
			profile := "[default]\n"
			if c.inProfile {
				for _, v := range keys(c.credentials) {
					name, value, _ := strings.Cut(v, "=")
					profile += fmt.Sprintf("%s = %s\n", strings.ToLower(name), value)
				}
			}
			rig.WriteFile(t, file, profile, 0o600)
			env := append([]string{"AWS_SHARED_CREDENTIALS_FILE=" + file, "REGION=" + rig.Region,
				"API_URL=" + rig.Serve(t, f.API(c.credentials))}, c.env...)
			out := rig.Output(t, shell(t, "", "http://127.0.0.1:1", command(t, "README.md", "keys=$(aws configure"), env...))
			var answer struct{ Token string }
			if err := json.Unmarshal([]byte(out), &answer); err != nil {
				t.Fatalf("%s: %v", out, err)
			}
			if tokens := f.GitHub.Tokens(); len(tokens) != 1 || answer.Token != tokens[0].Reveal() {
				t.Errorf("of %d tokens it got %q", len(tokens), answer.Token)
			}
		})
	}
}

// The README's sample is an answer as it comes, but for its values.
func TestSampleOfTheREADMEIsAnAnswer(t *testing.T) {
	t.Parallel()
	value := regexp.MustCompile(`: ("[^"]*"|\d+)`)
	form := func(text string) string { return value.ReplaceAllString(strings.TrimSpace(text), ": -") }
	f := rig.NewFunction(t)
	want := form(string(f.Post(t, "/orgs/acme/actions/runners/registration-token").Body))
	if got := form(command(t, "README.md", "{")); got != want {
		t.Errorf("%s\nwant\n%s", got, want)
	}
}

// The block's other line, make test, is CI's.
func TestTokenOfTheREADME(t *testing.T) {
	t.Parallel()
	first, _, _ := strings.Cut(command(t, "README.md", "make token\n"), "\n")
	out := rig.Output(t, shell(t, rig.Root, "http://127.0.0.1:1", first))
	var answer struct{ Token string }
	if err := json.Unmarshal([]byte(out), &answer); err != nil || answer.Token == "" {
		t.Errorf("%q: %v", out, err)
	}
}

func TestReadingAPATForMakeToken(t *testing.T) {
	t.Parallel()
	pats := rig.NewPATs(1)
	f := rig.StartFunction(t, pats, map[string]string{"GITHUB_SECRET_ID": "none"}) // for its GitHub
	cmd := shell(t, rig.Root, "http://127.0.0.1:1", command(t, "README.md", "(read -rs GITHUB_PAT"),
		"GITHUB_API_URL="+f.GitHubURL)
	cmd.Stdin = strings.NewReader(pats[0].Reveal() + "\n")
	out, errs, status := rig.Run(t, cmd)
	tokens := f.GitHub.Tokens()
	if status != 0 || len(tokens) != 1 || !strings.Contains(out, tokens[0].Reveal()) {
		t.Errorf("exit %d, %d tokens\n%s%s", status, len(tokens), out, errs)
	}
	if strings.Contains(out+errs, pats[0].Reveal()) {
		t.Error("the PAT is printed")
	}
}
