package rig

import (
	"os"
	"path/filepath"
	"testing"
)

// Checkout returns a copy of what make and SAM need of the checkout.
func Checkout(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	for _, name := range []string{"functions", "internal"} {
		if err := os.CopyFS(filepath.Join(dir, name), os.DirFS(filepath.Join(Root, name))); err != nil {
			t.Fatal(err)
		}
	}
	for _, name := range []string{"Makefile", "go.mod", "go.sum", "template.yaml", "samconfig.toml"} {
		WriteFile(t, filepath.Join(dir, name), ReadFile(t, filepath.Join(Root, name)), 0o644)
	}
	return dir
}
