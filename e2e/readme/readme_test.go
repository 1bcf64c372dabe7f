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

// block returns the README's one code block in the language.
func block(t *testing.T, language string) string {
	t.Helper()
	text := rig.ReadFile(t, rig.Root+"/README.md")
	blocks := regexp.MustCompile("(?s)```"+language+"\n(.*?)```").FindAllStringSubmatch(text, -1)
	if len(blocks) != 1 {
		t.Fatalf("the README has %d blocks of %s", len(blocks), language)
	}
	return blocks[0][1]
}

func TestCurlOfTheREADMEGetsAToken(t *testing.T) {
	t.Parallel()
	script := block(t, "bash")
	for _, c := range []struct {
		name        string
		credentials aws.Credentials
	}{
		{"with a role", rig.RoleCredentials()},
		{"with a user's keys", rig.UserCredentials()},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			f := rig.NewFunction(t)
			dir := t.TempDir()
			// What the AWS CLI prints.
			export := fmt.Sprintf("#!/bin/sh\n[ \"$*\" = 'configure export-credentials --format env' ] || exit 2\n"+
				"echo export AWS_ACCESS_KEY_ID=%s\necho export AWS_SECRET_ACCESS_KEY=%s\n",
				c.credentials.AccessKeyID, c.credentials.SecretAccessKey)
			if c.credentials.SessionToken != "" {
				export += "echo export AWS_SESSION_TOKEN=" + c.credentials.SessionToken + "\n"
			}
			rig.WriteFile(t, filepath.Join(dir, "aws"), export, 0o755)
			cmd := exec.CommandContext(t.Context(), "bash", "-e")
			cmd.Stdin = strings.NewReader(script)
			cmd.Env = append(rig.Environ(), "REGION="+rig.Region, "API_URL="+rig.Serve(t, f.API(c.credentials)),
				"PATH="+dir+":"+filepath.Dir(rig.Tool(t, "curl"))+":"+os.Getenv("PATH"))
			out, errs, status := rig.Run(t, cmd)
			if status != 0 {
				t.Fatalf("exit %d: %s%s", status, out, errs)
			}
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
