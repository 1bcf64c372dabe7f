package e2e_test

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// tool finds a program that .ci/run installed from PyPI, npm or the Go module proxy, or else one of PATH. Without it the
// test is skipped, or fails where CI=true.
func tool(t *testing.T, name string) string {
	t.Helper()
	for _, installed := range []string{".venv/bin", ".npm/node_modules/.bin", ".build/bin"} {
		path, err := filepath.Abs(filepath.Join("..", installed, name))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := os.Stat(path); err == nil {
			return path
		}
	}
	if path, err := exec.LookPath(name); err == nil {
		return path
	}
	if os.Getenv("CI") == "true" {
		t.Fatalf("%s is missing: .ci/run installs it", name)
	}
	t.Skipf("NOT TESTED: %s is missing: see how .ci/run installs it", name)
	return ""
}

// withoutAWS is this process's environment without settings that could lead to a real AWS account or decide what is
// tested: the AWS variables and make's.
func withoutAWS() []string {
	return slices.DeleteFunc(os.Environ(), func(v string) bool {
		return strings.HasPrefix(v, "AWS_") || strings.HasPrefix(v, "ARCH=") || strings.HasPrefix(v, "MAKE") || strings.HasPrefix(v, "MFLAGS=")
	})
}

func readFile(t *testing.T, path string) string {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// run returns what a command printed, and its exit status.
func run(t *testing.T, cmd *exec.Cmd) (stdout, stderr string, status int) {
	t.Helper()
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	if err := cmd.Run(); err != nil && cmd.ProcessState == nil {
		t.Fatal(err)
	}
	return out.String(), errs.String(), cmd.ProcessState.ExitCode()
}
