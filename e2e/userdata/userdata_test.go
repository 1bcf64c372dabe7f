package userdata_test

import (
	"bytes"
	"compress/gzip"
	"io"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"runner-token-broker/e2e/rig"
)

var required = []string{
	"API_URL=https://a1b2c3d4e5.execute-api.eu-central-1.amazonaws.com", "TARGET=orgs/acme", "REGION=" + rig.Region,
}

var build = sync.OnceValues(func() ([]byte, error) {
	cmd := exec.Command("go", "build", "-o", ".build/e2e/user-data", "./internal/userdata")
	cmd.Dir = rig.Root
	return cmd.CombinedOutput()
})

// generate runs what make user-data runs, with variables in its environment, for a script of the test's own.
func generate(t *testing.T, system, script string, variables ...string) string {
	t.Helper()
	if out, err := build(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	dir := t.TempDir()
	for _, file := range []string{"linux.sh", "windows.ps1"} {
		rig.WriteFile(t, filepath.Join(dir, "examples/user-data", file), script, 0o644)
	}
	generator, err := filepath.Abs(filepath.Join(rig.Root, ".build/e2e/user-data"))
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), generator)
	cmd.Dir = dir
	cmd.Env = append(append(append(rig.Environ(), "OS="+system), required...), variables...)
	return rig.Output(t, cmd)
}

// byMake runs make user-data for the script of the examples, with variables on its command line.
func byMake(t *testing.T, system string, variables ...string) string {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "make", append([]string{"user-data", "OS=" + system}, variables...)...)
	cmd.Dir = rig.Root
	cmd.Env = rig.Environ()
	return rig.Output(t, cmd)
}

// extra writes a file for EXTRA.
func extra(t *testing.T, lines string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "extra")
	rig.WriteFile(t, path, lines, 0o600)
	return "EXTRA=" + path
}

// unpack does what cloud-init does with user data in gzip.
func unpack(t *testing.T, data string) string {
	t.Helper()
	z, err := gzip.NewReader(strings.NewReader(data))
	if err != nil {
		t.Fatal(err)
	}
	var text bytes.Buffer
	if _, err := io.Copy(&text, z); err != nil {
		t.Fatal(err)
	}
	return text.String()
}
