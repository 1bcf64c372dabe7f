package e2e_test

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

// What was reviewed is what is deployed: the same sources give the same bytes, wherever and whenever they are built.
func TestBuildIsReproducible(t *testing.T) {
	checkout := t.TempDir()
	for _, name := range []string{"functions", "internal"} {
		if err := os.CopyFS(filepath.Join(checkout, name), os.DirFS(filepath.Join("..", name))); err != nil {
			t.Fatal(err)
		}
	}
	for _, name := range []string{"Makefile", "go.mod", "go.sum"} {
		text, err := os.ReadFile(filepath.Join("..", name))
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(checkout, name), text, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	build := func(dir string, env ...string) []byte {
		artifacts := t.TempDir()
		cmd := exec.CommandContext(t.Context(), "make", "build-TokenFunction", "ARTIFACTS_DIR="+artifacts)
		cmd.Dir = dir
		cmd.Env = append(withoutAWS(), env...)
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
		bootstrap, err := os.ReadFile(filepath.Join(artifacts, "bootstrap"))
		if err != nil {
			t.Fatal(err)
		}
		return bootstrap
	}
	// With an empty cache, so that the second is a build and no copy of the first.
	if !bytes.Equal(build(".."), build(checkout, "GOCACHE="+t.TempDir())) {
		t.Error("two builds differ")
	}
}
