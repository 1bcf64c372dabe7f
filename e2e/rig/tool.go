package rig

import (
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// Root is the checkout, as every package of the tests sees it.
const Root = "../.."

// Tool finds a program that .ci/run installed from PyPI, npm or the Go module proxy, or else one of PATH. Without it
// nothing is tested.
func Tool(t *testing.T, name string) string {
	t.Helper()
	for _, installed := range []string{".venv/bin", ".npm/node_modules/.bin", ".build/bin"} {
		path, err := filepath.Abs(filepath.Join(Root, installed, name))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := os.Stat(path); err == nil {
			return path
		}
	}
	path, err := exec.LookPath(name)
	if err != nil {
		NotTested(t, name+" is missing: see how .ci/run installs it")
	}
	return path
}

// NotTested ends a test that this machine cannot run. With CI=true that is a failure.
func NotTested(t *testing.T, why string) {
	t.Helper()
	if os.Getenv("CI") == "true" {
		t.Fatal(why)
	}
	t.Skip("NOT TESTED: " + why)
}

// Environ is this process's environment without what could lead to a real AWS account or decide what is tested: the
// variables of AWS and of make.
func Environ() []string {
	return slices.DeleteFunc(os.Environ(), func(v string) bool {
		return strings.HasPrefix(v, "AWS_") || strings.HasPrefix(v, "ARCH=") ||
			strings.HasPrefix(v, "MAKE") || strings.HasPrefix(v, "MFLAGS=")
	})
}

// ReadFile returns the text of a file.
func ReadFile(t *testing.T, path string) string {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// WriteFile writes a file, and makes the folders above it.
func WriteFile(t *testing.T, path, text string, mode os.FileMode) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), mode); err != nil {
		t.Fatal(err)
	}
}
