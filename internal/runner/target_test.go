package runner

import (
	"strings"
	"testing"
)

func TestParseTargetTakesGitHubsNamesInLowerCase(t *testing.T) {
	for _, s := range []string{
		"orgs/acme", "orgs/a", "orgs/4u", "orgs/acme-", "orgs/mona-cat_octo", "orgs/" + strings.Repeat("a", 39),
		"repos/acme/widgets", "repos/acme/.github", "repos/acme/-", "repos/acme/a.b_c-d", "repos/acme/.git.x",
		"repos/actions/runners", "repos/acme/" + strings.Repeat("r", 100),
		"enterprises/acme-corp", "enterprises/42", "enterprises/" + strings.Repeat("e", 100),
	} {
		target, err := ParseTarget(s)
		if err != nil || target.Path() != s {
			t.Errorf("ParseTarget(%q) = %q, %v", s, target.Path(), err)
		}
	}
}

func TestParseTargetRefusesWhatCouldReachAnotherPath(t *testing.T) {
	for _, s := range []string{
		"", "/", "orgs", "orgs/", "/orgs/acme", "orgs/acme/", "orgs//acme", "orgs/acme/x", "org/acme", "users/acme",
		"orgs/-acme", "orgs/_acme", "orgs/.acme", "orgs/ac.me", "orgs/" + strings.Repeat("a", 40),
		"orgs/acme?x=1", "orgs/acme#f", "orgs/acme;x=1", "orgs/acme%2Fx", "orgs/acme\x00", "orgs/acme\n", " orgs/acme",
		"orgs/..", "orgs/.", "orgs/*", "orgs/äcme", "orgs/acm\u212a\u00e9",
		"repos/acme", "repos/acme/", "repos//widgets", "repos/acme/.", "repos/acme/..", "repos/acme/widgets.git",
		"repos/acme/widgets/", "repos/acme/widgets/x", "repos/acme/a%2e%2e", "repos/acme/a\\b", "repos/acme/a b",
		"repos/acme/" + strings.Repeat("r", 101), "repos/acme/../evil/r", "repos/acme/*",
		"enterprises/", "enterprises/-x", "enterprises/a_b", "enterprises/a.b", "enterprises/" + strings.Repeat("e", 101),
	} {
		if target, err := ParseTarget(s); err == nil {
			t.Errorf("ParseTarget(%q) = %q, want an error", s, target.Path())
		}
	}
}

func TestParseTargetGivesTheLowerCaseSpelling(t *testing.T) {
	for s, want := range map[string]string{"orgs/ACME": `"orgs/acme"`, "Repos/Acme/Widgets": `"repos/acme/widgets"`} {
		if _, err := ParseTarget(s); err == nil || !strings.Contains(err.Error(), "write "+want) {
			t.Errorf("ParseTarget(%q): %v, want the spelling %s", s, err, want)
		}
	}
	if _, err := ParseTarget("orgs/ACME/.."); err == nil || strings.Contains(err.Error(), "write") {
		t.Errorf("a spelling is suggested that is refused itself: %v", err)
	}
}

func TestURLPathIsWhatTheRunnerRegistersAt(t *testing.T) {
	for s, want := range map[string]string{
		"orgs/acme": "/acme", "repos/acme/widgets": "/acme/widgets", "enterprises/acme-corp": "/enterprises/acme-corp",
		"orgs/orgs": "/orgs", "repos/repos/repos": "/repos/repos", "enterprises/orgs": "/enterprises/orgs",
	} {
		target, err := ParseTarget(s)
		if err != nil || target.URLPath() != want {
			t.Errorf("%s: %q, %v, want %q", s, target.URLPath(), err, want)
		}
	}
}

// Whatever is accepted is its own path, keeps to its segments, and needs no escaping.
func FuzzParseTarget(f *testing.F) {
	for _, s := range []string{"orgs/acme", "repos/acme/widgets", "enterprises/acme-corp", "orgs/ACME", "repos/a/..",
		"orgs/a%2fb"} {
		f.Add(s)
	}
	segments := map[string]int{"orgs": 2, "repos": 3, "enterprises": 2}
	f.Fuzz(func(t *testing.T, s string) {
		target, err := ParseTarget(s)
		if err != nil {
			if target != (Target{}) {
				t.Errorf("ParseTarget(%q) fails and returns %q", s, target.Path())
			}
			return
		}
		if target.Path() != s {
			t.Errorf("ParseTarget(%q) = %q", s, target.Path())
		}
		parts := strings.Split(s, "/")
		if len(parts) != segments[parts[0]] {
			t.Errorf("%q has %d segments", s, len(parts))
		}
		for _, part := range parts {
			if part == "" || part == "." || part == ".." || strings.Trim(part, "abcdefghijklmnopqrstuvwxyz0123456789._-") != "" {
				t.Errorf("%q has the segment %q", s, part)
			}
		}
	})
}
