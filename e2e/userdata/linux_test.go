package userdata_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"runner-token-broker/e2e/rig"
)

// asks prints its settings, and how it was called.
const asks = `#!/usr/bin/env bash
: "${API_URL:=}"
: "${TARGET:=}"
: "${REGION:=}"
: "${RUNNER_LABELS:=}"
: "${RUNNER_GROUP:=}"
: "${RUNNER_DIR:=/opt/actions-runner}"
set -u
printf '<%s>\n' "$API_URL" "$TARGET" "$REGION" "$RUNNER_LABELS" "$RUNNER_GROUP" "$RUNNER_DIR" "$@" "extra=${EXTRA_SET-}"
`

// boot runs Linux user data as cloud-init does: as a file of its own. Bash is named, because a file that was just
// written cannot always be started where other tests start programs at the same time (golang/go#22315).
func boot(t *testing.T, data string, env []string, args ...string) (stdout, stderr string, status int) {
	t.Helper()
	dir := t.TempDir()
	part := filepath.Join(dir, "part-001")
	rig.WriteFile(t, part, unpack(t, data), 0o600)
	cmd := exec.CommandContext(t.Context(), rig.Tool(t, "bash"), append([]string{part}, args...)...)
	cmd.Dir = dir
	cmd.Env = append(rig.Environ(), env...)
	stdout, stderr, status = rig.Run(t, cmd)
	left, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	if len(left) != 1 {
		t.Errorf("it left %v", left)
	}
	return stdout, stderr, status
}

func TestLinuxValuesReachTheScript(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ name, labels, group string }{
		{"plain", "gpu,large", "my group"},
		{"a quote", "it's,'", "it's 'quoted' '"},
		{"commands", "$(touch${IFS}evil),`touch${IFS}evil`", "$(touch evil) `touch evil` ; touch evil & | touch evil > evil"},
		{"variables", "$HOME,${HOME},$$", "$HOME ${HOME:?} $'x'"},
		{"patterns", "*,?,[a-z],{a,b},~", "* ? [a-z] {a,b} ~ !! # not a comment"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			data := generate(t, "linux", asks, "RUNNER_LABELS="+c.labels, "RUNNER_GROUP="+c.group)
			out, errs, status := boot(t, data, nil, "--one", "two")
			var want strings.Builder
			for _, v := range required {
				_, value, _ := strings.Cut(v, "=")
				want.WriteString("<" + value + ">\n")
			}
			want.WriteString("<" + c.labels + ">\n<" + c.group + ">\n</opt/actions-runner>\n<--one>\n<two>\n<extra=>\n")
			if status != 0 || out != want.String() {
				t.Errorf("exit %d, it got %s, want %s\n%s", status, out, &want, errs)
			}
		})
	}
}

func TestLinuxExtraRunsAtBootBeforeTheScript(t *testing.T) {
	t.Parallel()
	const sets = "export EXTRA_SET=yes"
	for _, c := range []struct {
		name, extra string
		args        []string
		status      int
		script      bool   // runs
		set         string // what the script sees of EXTRA_SET
	}{
		{"a variable for the script", sets, nil, 0, true, "yes"},
		{"no line end", "true\n" + sets, nil, 0, true, "yes"},
		{"no more than a comment", "# nothing yet", nil, 0, true, ""},
		{"a document", "cat >/dev/null <<END\nfi\nEND\n" + sets + "\n", nil, 0, true, "yes"},
		{"a line that fails", "(exit 9)\n" + sets, nil, 9, false, ""},
		{"a line that may fail", "(exit 9) || true\n" + sets, nil, 0, true, "yes"},
		{"its own end", "exit 4", nil, 4, false, ""},
		{"a mistake", "if true; then", nil, 2, false, ""},
		// So the script is called when the instance stops.
		{"with an argument", sets, []string{"--remove"}, 0, true, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			out, errs, status := boot(t, generate(t, "linux", asks, extra(t, c.extra)), nil, c.args...)
			if ran := strings.Contains(out, "<orgs/acme>"); status != c.status || ran != c.script {
				t.Errorf("exit %d, the script ran: %v\n%s%s", status, ran, out, errs)
			}
			if c.script && !strings.HasSuffix(out, "<extra="+c.set+">\n") {
				t.Errorf("the script saw %s", out)
			}
		})
	}
}

// From make's command line to a token.
func TestLinuxGetsAToken(t *testing.T) {
	t.Parallel()
	i := rig.NewInstance(t, rig.RoleCredentials())
	data := byMake(t, "linux", "API_URL="+i.APIURL, "TARGET=orgs/acme", "REGION="+rig.Region,
		"RUNNER_GROUP=it's `mine`", "RUNNER_TOKEN_TIMEOUT=20", extra(t, "exit 9"))
	out, errs, status := boot(t, data, []string{"IMDS_URL=" + i.IMDSURL}, "--token-only")
	if tokens := i.GitHub.Tokens(); status != 0 || len(tokens) != 1 || out != tokens[0].Reveal()+"\n" {
		t.Errorf("exit %d, %d tokens\n%s", status, len(tokens), errs)
	}
}

// What the generator takes the script takes too, or the mistake would be seen on the instance only.
func TestLinuxTakesWhatTheGeneratorTakes(t *testing.T) {
	t.Parallel()
	script := rig.ReadFile(t, rig.Root+"/examples/user-data/linux.sh")
	for _, c := range []struct{ name, value string }{
		{"API_URL", "https://api.example.com:8443/a/b-c/"},
		{"API_URL", "http://localhost:3000"},
		{"TARGET", "repos/a_b-c/.x_y-z"},
		{"TARGET", "enterprises/acme-corp"},
		{"REGION", "us-gov-west-1"},
		{"RUNNER_LABELS", "a,b-c,it's,[x]"},
		{"RUNNER_GROUP", "!#$&'()*+,-./:;<=>?@[]^_`{|}~"},
		{"RUNNER_EPHEMERAL", "false"},
		{"RUNNER_TOKEN_TIMEOUT", "1"},
		{"RUNNER_VERSION", "2.340.0"},
		{"RUNNER_SHA256", strings.Repeat("0af", 21) + "9"},
		{"RUNNER_USER", "_runner-1"},
		{"RUNNER_DIR", "/srv/a.b_c-d"},
	} {
		t.Run(c.name+" "+c.value, func(t *testing.T) {
			t.Parallel()
			// It ends at the first thing it needs after the settings: credentials, which nobody serves here.
			data := generate(t, "linux", script, "RUNNER_TOKEN_TIMEOUT=1", c.name+"="+c.value)
			_, errs, status := boot(t, data, []string{"IMDS_URL=http://127.0.0.1:1"}, "--token-only")
			if status != 3 {
				t.Errorf("exit %d: %s", status, errs)
			}
		})
	}
}
