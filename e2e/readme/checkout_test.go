package readme_test

import (
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"runner-token-broker/e2e/rig"
)

// Git for Windows sets core.autocrlf: a carriage return at each line's end breaks a script. .gitattributes forbids it.
func TestCheckoutOnWindowsChangesNoByte(t *testing.T) {
	t.Parallel()
	git := func(dir string, args ...string) string {
		t.Helper()
		cmd := exec.CommandContext(t.Context(), rig.Tool(t, "git"), args...)
		cmd.Dir = dir
		return rig.Output(t, cmd)
	}
	// Of the files as they are, committed or not.
	names := git(rig.Root, "ls-files", "-z", "--cached", "--others", "--exclude-standard")
	dir, checkout := t.TempDir(), t.TempDir()
	want := map[string]string{}
	for name := range strings.SplitSeq(strings.Trim(names, "\x00"), "\x00") {
		text, err := os.ReadFile(filepath.Join(rig.Root, name))
		if errors.Is(err, fs.ErrNotExist) {
			continue // it is deleted, and git does not know that yet
		}
		want[name] = string(text)
		rig.WriteFile(t, filepath.Join(dir, name), want[name], 0o644)
	}
	git(dir, "init", "--quiet")
	git(dir, "config", "core.autocrlf", "true")
	git(dir, "add", "--all")
	git(dir, "checkout-index", "--all", "--prefix="+checkout+"/")
	for name, text := range want {
		if got := rig.ReadFile(t, filepath.Join(checkout, name)); got != text {
			t.Errorf("%s: %d bytes become %d", name, len(text), len(got))
		}
	}
	rig.Output(t, exec.CommandContext(t.Context(), "bash", "-n", filepath.Join(checkout, "examples/user-data/linux.sh")))
}
