package e2e_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"runner-token-broker/internal/local/secretsmanager"
)

// block returns the README's one code block in the language.
func block(t *testing.T, language string) string {
	t.Helper()
	text, err := os.ReadFile("../README.md")
	if err != nil {
		t.Fatal(err)
	}
	blocks := regexp.MustCompile("(?s)```"+language+"\n(.*?)```").FindAllStringSubmatch(string(text), -1)
	if len(blocks) != 1 {
		t.Fatalf("the README has %d blocks of %s", len(blocks), language)
	}
	return blocks[0][1]
}

// imds is EC2's instance metadata service, version 2, as far as the README's script asks it.
func imds(w http.ResponseWriter, r *http.Request) {
	const token, role = "imds-token", "/latest/meta-data/iam/security-credentials/"
	switch {
	case r.Method == http.MethodPut && r.URL.Path == "/latest/api/token" && r.Header.Get("X-aws-ec2-metadata-token-ttl-seconds") != "":
		fmt.Fprint(w, token)
	case r.Header.Get("X-aws-ec2-metadata-token") != token:
		w.WriteHeader(http.StatusUnauthorized)
	case r.URL.Path == role:
		fmt.Fprint(w, "github-runner")
	case r.URL.Path == role+"github-runner":
		fmt.Fprintf(w, "{\n  \"Code\" : \"Success\",\n  \"Type\" : \"AWS-HMAC\",\n  \"AccessKeyId\" : %q,\n  \"SecretAccessKey\" : %q,\n  \"Token\" : %q,\n  \"Expiration\" : \"2099-01-01T00:00:00Z\"\n}",
			credentials.AccessKeyID, credentials.SecretAccessKey, credentials.SessionToken)
	default:
		w.WriteHeader(http.StatusNotFound)
	}
}

func TestScriptOfTheREADMEGetsATokenToConfig(t *testing.T) {
	curl := tool(t, "curl")
	pats := newPATs(1)
	secrets := secretsmanager.New(region, credentials)
	secrets.Put("github-pat", pats[0])
	sm, meta := httptest.NewServer(secrets), httptest.NewServer(http.HandlerFunc(imds))
	t.Cleanup(sm.Close)
	t.Cleanup(meta.Close)
	f := startFunction(t, pats, map[string]string{"GITHUB_SECRET_ID": "github-pat", "AWS_ENDPOINT_URL_SECRETS_MANAGER": sm.URL})

	const link = "http://169.254.169.254"
	script := block(t, "bash")
	if !strings.Contains(script, link) {
		t.Fatal("the script asks no metadata service")
	}
	run := func(script string) (string, error) {
		dir := t.TempDir()
		config := "#!/bin/sh\nprintf '%s|' \"$ACTIONS_RUNNER_INPUT_TOKEN\" \"$@\"\n"
		if err := os.WriteFile(filepath.Join(dir, "config.sh"), []byte(config), 0o755); err != nil {
			t.Fatal(err)
		}
		cmd := exec.CommandContext(t.Context(), "bash", "-u")
		cmd.Stdin = strings.NewReader("sleep() { :; }\n" + strings.ReplaceAll(script, link, meta.URL))
		cmd.Dir = dir
		cmd.Env = append(withoutAWS(), "REGION="+region, "API_URL="+f.url, "PATH="+filepath.Dir(curl)+":"+os.Getenv("PATH"))
		out, err := cmd.CombinedOutput()
		return string(out), err
	}

	out, err := run(script)
	if tokens := f.github.Tokens(); err != nil || len(tokens) != 1 ||
		out != tokens[0].Reveal()+"|--unattended|--ephemeral|--url|https://github.com/acme|" {
		t.Errorf("%v: config.sh was given %q", err, out)
	}

	out, err = run(strings.ReplaceAll(script, "/orgs/acme/", "/orgs/other/"))
	if err == nil || strings.Count(out, `"code":"TargetNotAllowed"`) != 1 || strings.Contains(out, "--unattended") {
		t.Errorf("refused: %v, %s", err, out)
	}
}

func TestStateOfTheREADMEIsJSON(t *testing.T) {
	if state := block(t, "json"); !json.Valid([]byte(state)) {
		t.Errorf("%s", state)
	}
}
