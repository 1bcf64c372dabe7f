package handler

import (
	"fmt"
	"os"
	"path"
	"regexp"
	"strings"
	"testing"

	"runner-token-broker/internal/runner"
)

func text(t *testing.T, name string) string {
	t.Helper()
	b, err := os.ReadFile("../../" + name)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// Whoever answers by code has an answer for each: the README, both scripts, both state machines.
func TestEachCodeIsKnownWhereverCodesAreRead(t *testing.T) {
	readme, direct, gateway := text(t, "README.md"), text(t, "examples/step-functions/scale-out.asl.json"),
		text(t, "examples/step-functions/scale-out-apigateway.asl.json")
	linux := arms(t, text(t, "examples/user-data/linux.sh"), `(?s)\nremedy\(\).*?\n}`, `\n\s+([^ ()]+)\) echo (.*)`)
	windows := arms(t, text(t, "examples/user-data/windows.ps1"), `(?s)\nfunction Get-Remedy.*?\n}`,
		`\n\s+'?([^ '\n]+)'? \{ return (.*)\}`)
	for _, code := range runner.Codes {
		t.Run(string(code), func(t *testing.T) {
			status := answerTo(code).status
			if !strings.Contains(readme, fmt.Sprintf("| `%s` | %d |", code, status)) {
				t.Errorf("README.md has no row with %s and %d", code, status)
			}
			// A direct invocation has no identity that could be missing.
			if code != runner.CallerNotAuthenticated && !strings.Contains(direct, fmt.Sprintf("%q", code)) {
				t.Error("scale-out.asl.json neither retries nor catches it")
			}
			if !strings.Contains(gateway, fmt.Sprintf(`"ApiGateway.%d"`, status)) {
				t.Errorf("scale-out-apigateway.asl.json neither retries nor catches %d", status)
			}
			for name, arms := range map[string][]arm{"linux.sh": linux, "windows.ps1": windows} {
				for i, a := range arms {
					if ok, err := path.Match(a.pattern, string(code)); err != nil {
						t.Fatal(err)
					} else if ok {
						if i == len(arms)-1 {
							t.Errorf("%s has only its last word for it: %s", name, a.says)
						}
						break
					}
				}
			}
		})
	}
}

// arm is one case of a script's remedies.
type arm struct{ pattern, says string }

func arms(t *testing.T, script, function, pattern string) []arm {
	t.Helper()
	var arms []arm
	body := regexp.MustCompile(function).FindString(script)
	for _, m := range regexp.MustCompile(pattern).FindAllStringSubmatch(body, -1) {
		arms = append(arms, arm{m[1], m[2]})
	}
	if len(arms) < 5 {
		t.Fatalf("the remedies were not found, but %q", arms)
	}
	return arms
}
