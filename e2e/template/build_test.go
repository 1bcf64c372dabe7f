package template_test

import (
	"os/exec"
	"path/filepath"
	"testing"

	"runner-token-broker/e2e/rig"
)

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
	if build(rig.Root) != build(rig.Checkout(t), "GOCACHE="+t.TempDir()) {
		t.Error("two builds differ")
	}
}
