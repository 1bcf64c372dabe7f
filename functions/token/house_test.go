package main

import (
	"os/exec"
	"slices"
	"strings"
	"testing"
)

// The rooms of the house and who may enter them. Only what is linked into the function counts, not tests.
func TestPackagesKeepToTheirRooms(t *testing.T) {
	const module = "runner-token-broker/"
	users := func(of string) []string {
		out, err := exec.Command("go", "list", "-f", `{{.ImportPath}}{{range .Imports}} {{.}}{{end}}`, module+"functions/...", module+"internal/...").Output()
		if err != nil {
			t.Fatal(err)
		}
		var users []string
		for line := range strings.Lines(string(out)) {
			imports := strings.Fields(line)
			room := strings.TrimPrefix(imports[0], module)
			if !strings.HasPrefix(room, "internal/local") && slices.ContainsFunc(imports[1:], func(s string) bool { return strings.HasPrefix(s, of) }) {
				users = append(users, room)
			}
		}
		return users
	}
	for of, want := range map[string][]string{
		"github.com/aws/aws-sdk-go-v2":  {"functions/token", "internal/secretsmanager"},
		"github.com/aws/smithy-go":      {"internal/secretsmanager"},
		"github.com/aws/aws-lambda-go":  {"functions/token", "internal/handler"},
		"github.com/google/go-github":   {"internal/github"},
		"net/http":                      {"functions/token", "internal/github", "internal/handler", "internal/secretsmanager"}, // the last two: its names of statuses
		module + "internal/handler":     {"functions/token"},
		module + "internal/github":      {"functions/token"},
		module + "internal/local":       nil,
		"github.com/getkin/kin-openapi": nil,
	} {
		if got := users(of); !slices.Equal(got, want) {
			t.Errorf("%s is used by %q, want %q", of, got, want)
		}
	}
	if got := imports(t, module+"internal/runner"); !slices.Equal(got, []string{module + "internal/secret"}) {
		t.Errorf("the core knows %q, want secret alone", got)
	}
	if got := imports(t, module+"internal/secret"); len(got) > 0 {
		t.Errorf("secret knows %q", got)
	}
}

func imports(t *testing.T, pkg string) []string {
	out, err := exec.Command("go", "list", "-f", `{{join .Imports "\n"}}`, pkg).Output()
	if err != nil {
		t.Fatal(err)
	}
	return slices.DeleteFunc(strings.Fields(string(out)), func(s string) bool { return !strings.HasPrefix(s, "runner-token-broker/") })
}
