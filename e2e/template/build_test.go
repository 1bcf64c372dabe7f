package template_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"runner-token-broker/e2e/rig"
)

// checkout returns a copy of what SAM and make need of the checkout.
func checkout(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	for _, name := range []string{"functions", "internal"} {
		if err := os.CopyFS(filepath.Join(dir, name), os.DirFS(filepath.Join(rig.Root, name))); err != nil {
			t.Fatal(err)
		}
	}
	for _, name := range []string{"Makefile", "go.mod", "go.sum", "template.yaml", "samconfig.toml"} {
		rig.WriteFile(t, filepath.Join(dir, name), rig.ReadFile(t, filepath.Join(rig.Root, name)), 0o644)
	}
	return dir
}

// What was reviewed is what is deployed: the same sources give the same bytes, wherever and whenever they are built.
func TestBuildIsReproducible(t *testing.T) {
	t.Parallel()
	build := func(dir string, env ...string) string {
		artifacts := t.TempDir()
		cmd := exec.CommandContext(t.Context(), "make", "build-TokenFunction", "ARTIFACTS_DIR="+artifacts)
		cmd.Dir = dir
		cmd.Env = append(rig.Environ(), env...)
		rig.Output(t, cmd)
		return rig.ReadFile(t, filepath.Join(artifacts, "bootstrap"))
	}
	// With an empty cache, so that the second is a build and not a copy of the first.
	if build(rig.Root) != build(checkout(t), "GOCACHE="+t.TempDir()) {
		t.Error("two builds differ")
	}
}
