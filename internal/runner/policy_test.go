package runner

import (
	"strings"
	"testing"
)

func mustTarget(t testing.TB, s string) Target {
	t.Helper()
	target, err := ParseTarget(s)
	if err != nil {
		t.Fatal(err)
	}
	return target
}

func TestPolicyAllowsWhatIsListedAndNothingElse(t *testing.T) {
	targets := []string{"orgs/acme", "orgs/acme-evil", "orgs/other", "repos/acme/widgets", "repos/acme/gears",
		"repos/acme-evil/widgets", "enterprises/acme", "enterprises/other"}
	for list, allowed := range map[string]string{
		"orgs/acme":                       "orgs/acme",
		"repos/acme/*":                    "repos/acme/widgets repos/acme/gears",
		"repos/acme/gears":                "repos/acme/gears",
		"orgs/*":                          "orgs/acme orgs/acme-evil orgs/other",
		"enterprises/*":                   "enterprises/acme enterprises/other",
		"orgs/acme, enterprises/acme\n":   "orgs/acme enterprises/acme",
		"orgs/acme\trepos/acme/gears":     "orgs/acme repos/acme/gears",
		" orgs/acme ,\n repos/acme/gears": "orgs/acme repos/acme/gears",
	} {
		p, err := ParsePolicy(list)
		if err != nil {
			t.Errorf("ParsePolicy(%q): %v", list, err)
		}
		var got []string
		for _, s := range targets {
			if p.Allows(mustTarget(t, s)) {
				got = append(got, s)
			}
		}
		if strings.Join(got, " ") != allowed {
			t.Errorf("%q allows %q, want %q", list, got, allowed)
		}
	}
}

func TestZeroPolicyAllowsNothing(t *testing.T) {
	if (Policy{}).Allows(mustTarget(t, "orgs/acme")) || (Policy{}).Allows(Target{}) {
		t.Error("the zero Policy allows something")
	}
	if p, _ := ParsePolicy("orgs/*"); p.Allows(Target{}) {
		t.Error("the zero Target is allowed")
	}
}

func TestParsePolicyNamesEveryBadEntry(t *testing.T) {
	for list, want := range map[string][]string{
		"":                        {"entry 1 is empty"},
		" ":                       {"entry 1 is empty"},
		"orgs/acme,":              {"entry 2 is empty"},
		"orgs/acme,,orgs/b":       {"entry 2 is empty"},
		"*":                       {"entry 1"},
		"*/*":                     {"entry 1"},
		"repos/*":                 {"entry 1"},
		"repos/*/*":               {"entry 1"},
		"repos/*/widgets":         {"entry 1"},
		"orgs/acme/*":             {"entry 1"},
		"orgs/acme*":              {"entry 1"},
		"orgs/":                   {"entry 1"},
		"https://github.com/acme": {"entry 1"},
		"orgs/ACME orgs/b Repos/A/*": {`entry 1, "orgs/ACME", has upper case: write "orgs/acme"`,
			`entry 3, "Repos/A/*", has upper case: write "repos/a/*"`},
	} {
		_, err := ParsePolicy(list)
		for _, w := range want {
			if err == nil || !strings.Contains(err.Error(), w) {
				t.Errorf("ParsePolicy(%q): %v, want %q", list, err, w)
			}
		}
	}
}
