package e2e_test

import (
	"fmt"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"runner-token-broker/internal/local/apigateway"
)

// block returns the README's one code block in the language.
func block(t *testing.T, language string) string {
	t.Helper()
	blocks := regexp.MustCompile("(?s)```"+language+"\n(.*?)```").FindAllStringSubmatch(readFile(t, "../README.md"), -1)
	if len(blocks) != 1 {
		t.Fatalf("the README has %d blocks of %s", len(blocks), language)
	}
	return blocks[0][1]
}

func TestCurlOfTheREADMEGetsAToken(t *testing.T) {
	curl := tool(t, "curl")
	script := block(t, "bash")
	for _, session := range []string{credentials.SessionToken, ""} {
		pats := newPATs(1)
		f := startFunction(t, pats, secretsManager(t, pats[0]))
		c := credentials
		c.SessionToken = session
		api := httptest.NewServer(&apigateway.Gateway{Function: f.service, Region: region, Credentials: c, CallerARN: callerARN})
		t.Cleanup(api.Close)

		dir := t.TempDir()
		// What the AWS CLI prints; a user's own keys have no session token.
		export := fmt.Sprintf("#!/bin/sh\n[ \"$*\" = 'configure export-credentials --format env' ] || exit 2\n"+
			"echo export AWS_ACCESS_KEY_ID=%s\necho export AWS_SECRET_ACCESS_KEY=%s\n", c.AccessKeyID, c.SecretAccessKey)
		if session != "" {
			export += "echo export AWS_SESSION_TOKEN=" + session + "\n"
		}
		if err := os.WriteFile(filepath.Join(dir, "aws"), []byte(export), 0o755); err != nil {
			t.Fatal(err)
		}
		cmd := exec.CommandContext(t.Context(), "bash", "-e")
		cmd.Stdin = strings.NewReader(script)
		cmd.Env = append(withoutAWS(), "REGION="+region, "API_URL="+api.URL, "PATH="+dir+":"+filepath.Dir(curl)+":"+os.Getenv("PATH"))
		out, err := cmd.CombinedOutput()
		if tokens := f.github.Tokens(); err != nil || len(tokens) != 1 || !strings.Contains(string(out), `"token":"`+tokens[0].Reveal()+`"`) {
			t.Errorf("%v: %s", err, out)
		}
	}
}
