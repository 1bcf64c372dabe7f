package e2e_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// tool finds a program of the virtual environment that .ci/run makes, or else of PATH. Without it the test is skipped,
// or fails where CI=true.
func tool(t *testing.T, name string) string {
	t.Helper()
	path, err := filepath.Abs(filepath.Join("..", ".venv", "bin", name))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(path); err == nil {
		return path
	}
	if path, err := exec.LookPath(name); err == nil {
		return path
	}
	if os.Getenv("CI") == "true" {
		t.Fatalf("%s is missing: .ci/run installs it", name)
	}
	t.Skipf("NOT TESTED: %s is missing. Install it: python3 -m venv .venv && .venv/bin/pip install -r e2e/requirements.txt", name)
	return ""
}

// withoutAWS is this process's environment without settings that could lead to a real AWS account or decide what is
// tested: the AWS variables and make's.
func withoutAWS() []string {
	return slices.DeleteFunc(os.Environ(), func(v string) bool {
		return strings.HasPrefix(v, "AWS_") || strings.HasPrefix(v, "ARCH=") || strings.HasPrefix(v, "MAKE") || strings.HasPrefix(v, "MFLAGS=")
	})
}
