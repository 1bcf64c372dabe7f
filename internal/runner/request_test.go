package runner

import (
	"strings"
	"testing"
)

func TestParsePathTakesGitHubsPaths(t *testing.T) {
	t.Parallel()
	for path, want := range map[string]struct {
		target string
		kind   Kind
	}{
		"orgs/acme/actions/runners/registration-token":             {"orgs/acme", RegistrationToken},
		"repos/acme/widgets/actions/runners/remove-token":          {"repos/acme/widgets", RemoveToken},
		"enterprises/acme-corp/actions/runners/remove-token":       {"enterprises/acme-corp", RemoveToken},
		"repos/actions/runners/actions/runners/remove-token":       {"repos/actions/runners", RemoveToken},
		"repos/acme/.github/actions/runners/registration-token":    {"repos/acme/.github", RegistrationToken},
		"repos/actions/actions/actions/runners/remove-token":       {"repos/actions/actions", RemoveToken},
		"enterprises/actions/actions/runners/registration-token":   {"enterprises/actions", RegistrationToken},
		"orgs/registration-token/actions/runners/remove-token":     {"orgs/registration-token", RemoveToken},
		"repos/runners/actions/actions/runners/registration-token": {"repos/runners/actions", RegistrationToken},
	} {
		t.Run(path, func(t *testing.T) {
			r, err := ParsePath(path)
			if err != nil || r.Target.Path() != want.target || r.Kind != want.kind || r.Fresh || r.Path() != path {
				t.Errorf("ParsePath = %v, %v", r, err)
			}
		})
	}
}

func TestParsePathSaysWhatIsWrong(t *testing.T) {
	t.Parallel()
	for path, says := range map[string]string{
		"": "is not GitHub's", "/": "is not GitHub's", "orgs/acme/actions/runners": "is not GitHub's",
		"actions/runners/remove-token":                  "is not GitHub's",
		"/actions/runners/remove-token":                 "target",
		"/orgs/acme/actions/runners/remove-token":       "target",
		"orgs/acme/actions/runners/":                    "kind",
		"orgs/acme/actions/runners/remove-token/":       "kind",
		"orgs/acme/actions/runners/generate-jitconfig":  "kind",
		"orgs/ACME/actions/runners/remove-token":        `write "orgs/acme"`,
		"orgs/a%6de/actions/runners/remove-token":       "target",
		"orgs/acme//actions/runners/remove-token":       "target",
		"orgs/acme/../x/actions/runners/remove-token":   "target",
		"orgs/acme/actions/runners/remove-token\x00":    "kind",
		"orgs/acme/actions/runners/remove-token?x=1":    "kind",
		"orgs/acme/Actions/runners/remove-token":        "is not GitHub's",
		"orgs/acme/actions/runners/x/actions/runners/y": "target",
	} {
		t.Run(path, func(t *testing.T) {
			r, err := ParsePath(path)
			if err == nil || !strings.Contains(err.Error(), says) || r != (Request{}) {
				t.Errorf("ParsePath = %v, %v, want %q", r, err, says)
			}
		})
	}
}

// What is accepted is its own path, so that IAM authorized just this one.
func FuzzParsePath(f *testing.F) {
	f.Add("orgs/acme/actions/runners/registration-token")
	f.Add("repos/actions/runners/actions/runners/remove-token")
	f.Fuzz(func(t *testing.T, path string) {
		if r, err := ParsePath(path); err == nil && r.Path() != path {
			t.Errorf("%q is taken for %q", path, r.Path())
		}
	})
}
