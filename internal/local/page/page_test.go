package page

import (
	"os"
	"path/filepath"
	"testing"
)

func TestOnlyWhatTheCommandWroteIsReplaced(t *testing.T) {
	t.Parallel()
	const other = "<!-- From here on, other writes the page. -->\nits figures\n" + end
	const mine = "<!-- From here on, mine writes the page. -->\n"
	path := filepath.Join(t.TempDir(), "page.md")
	if err := os.WriteFile(path, []byte("head\n"+other+mine+"old\n"+end+"foot\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := Update(path, "mine", "new\n"); err != nil {
		t.Fatal(err)
	}
	got, err := os.ReadFile(path)
	if want := "head\n" + other + mine + "new\n\n" + end + "foot\n"; err != nil || string(got) != want {
		t.Errorf("%v\n%s\nwant\n%s", err, got, want)
	}
	if err := Update(path, "nobody", "new\n"); err == nil {
		t.Error("a page without a place for the figures was taken")
	}
}
