// Every arrow points down: functions/token -> {handler, github, secretsmanager, kms, credential, doctor, shared} ->
// network -> runner -> secret. The rooms of one floor do not know each other. Each alone sees the package from outside
// that it is for.
package architecture

import (
	"os/exec"
	"slices"
	"strings"
	"testing"
)

const module = "runner-token-broker/"

// rooms are the packages that are linked into the function, with the rooms that each may enter.
var rooms = map[string][]string{
	"functions/token": {
		"internal/credential", "internal/doctor", "internal/github", "internal/handler", "internal/kms",
		"internal/network", "internal/runner", "internal/secretsmanager", "internal/shared",
	},
	"internal/handler":        {"internal/runner", "internal/secret"},
	"internal/github":         {"internal/network", "internal/runner", "internal/secret"},
	"internal/secretsmanager": {"internal/network", "internal/runner", "internal/secret"},
	"internal/kms":            {"internal/network", "internal/runner"},
	"internal/credential":     {"internal/runner", "internal/secret"},
	"internal/doctor":         {"internal/runner"},
	"internal/shared":         {"internal/runner", "internal/secret"},
	"internal/network":        {"internal/runner", "internal/secret"},
	"internal/runner":         {"internal/secret"},
	"internal/secret":         nil,
}

// owners are the packages from outside that some rooms alone may see.
var owners = map[string][]string{
	"github.com/aws/aws-sdk-go-v2":  {"functions/token", "internal/kms", "internal/secretsmanager"},
	"github.com/aws/smithy-go":      {"functions/token", "internal/network"},
	"github.com/aws/aws-lambda-go":  {"functions/token", "internal/handler"},
	"github.com/google/go-github":   {"internal/github"},
	"github.com/golang-jwt/jwt":     {"internal/credential"},
	"github.com/getkin/kin-openapi": nil, // of the stand-ins
	"os":                            {"functions/token"},
	// handler and secretsmanager for its names of statuses.
	"net/http": {"internal/github", "internal/handler", "internal/kms", "internal/network", "internal/secretsmanager"},
}

// imports are what each package that is linked into the function imports, tests aside.
func imports(t *testing.T) map[string][]string {
	t.Helper()
	out, err := exec.Command("go", "list", "-deps", "-f", `{{.ImportPath}}{{range .Imports}} {{.}}{{end}}`,
		module+"functions/...").Output()
	if err != nil {
		t.Fatal(err)
	}
	all := map[string][]string{}
	for line := range strings.Lines(string(out)) {
		fields := strings.Fields(line)
		if room, ours := strings.CutPrefix(fields[0], module); ours {
			all[room] = fields[1:]
		}
	}
	return all
}

func TestArrowsPointDown(t *testing.T) {
	t.Parallel()
	all := imports(t)
	for room := range all {
		if _, ok := rooms[room]; !ok {
			t.Errorf("%s is a room that is not in the list above", room)
		}
	}
	for room, want := range rooms {
		var got []string
		for _, imported := range all[room] {
			if other, ours := strings.CutPrefix(imported, module); ours {
				got = append(got, other)
			}
		}
		if !slices.Equal(got, want) {
			t.Errorf("%s enters %q, want %q", room, got, want)
		}
	}
}

func TestWhatIsFromOutsideHasItsRooms(t *testing.T) {
	t.Parallel()
	all := imports(t)
	for outside, want := range owners {
		var got []string
		for room, imported := range all {
			if slices.ContainsFunc(imported, func(s string) bool { return s == outside || strings.HasPrefix(s, outside+"/") }) {
				got = append(got, room)
			}
		}
		if slices.Sort(got); !slices.Equal(got, want) {
			t.Errorf("%s is used by %q, want %q", outside, got, want)
		}
	}
}
