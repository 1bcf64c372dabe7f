package e2e_test

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
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

func TestScriptOfTheREADMEGetsATokenToConfig(t *testing.T) {
	curl := tool(t, "curl")
	pats := newPATs(1)
	imds := startIMDS(t, credentials)
	f := startFunction(t, pats, secretsManager(t, pats[0]))

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
		cmd.Stdin = strings.NewReader("sleep() { :; }\n" + strings.ReplaceAll(script, link, imds))
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
