package windows_test

import (
	"regexp"
	"strings"
	"testing"

	"runner-token-broker/e2e/rig"
)

const linuxSH = rig.Root + "/examples/user-data/linux.sh"

// Both scripts have the same remedies, but for the names of their variables and of what is Windows's.
func TestBothScriptsHaveTheSameRemedies(t *testing.T) {
	t.Parallel()
	functions := []*regexp.Regexp{
		regexp.MustCompile(`(?s)\nremedy\(\).*?\n}`),
		regexp.MustCompile(`(?s)\nfunction Get-Remedy.*?\n}`),
	}
	arms := []*regexp.Regexp{
		regexp.MustCompile(`(?s)\n\s+([^ ()\n]+)\) echo (.*?) ;;`),
		regexp.MustCompile(`(?s)\n\s+'([^ '\n]+)' \{ return (.*?) \}`),
	}
	var remedies [2]map[string]string
	for i, path := range []string{linuxSH, windowsPS1} {
		remedies[i] = map[string]string{}
		for _, m := range arms[i].FindAllStringSubmatch(functions[i].FindString(rig.ReadFile(t, path)), -1) {
			text := regexp.MustCompile(`['"]( \+| \\)?\n\s*['"]`).ReplaceAllString(m[2], " ")
			text = strings.Join(strings.Fields(strings.Trim(text, `'"`)), " ")
			for windows, linux := range map[string]string{
				"ApiUrl": "API_URL", "Target": "TARGET", "Region": "REGION", "RunnerVersion": "RUNNER_VERSION",
				"RunnerCaFile": "RUNNER_CA_FILE",
			} {
				text = regexp.MustCompile(`\b`+windows+`\b`).ReplaceAllString(text, linux)
			}
			remedies[i][m[1]] = text
		}
	}
	if len(remedies[0]) < 15 {
		t.Fatalf("linux.sh: %q", remedies[0])
	}
	for cause, linux := range remedies[0] {
		t.Run(cause, func(t *testing.T) {
			windows, ok := remedies[1][cause]
			switch cause {
			case "*": // a last line in windows.ps1
				windows, ok = linux, strings.Contains(rig.ReadFile(t, windowsPS1), "'check ApiUrl, the network between")
			case "clock": // each has its programs
				windows = linux
			case "tls": // Windows fetches roots
				windows, _, _ = strings.Cut(windows, "; ")
			}
			if !ok || windows != linux {
				t.Errorf("windows.ps1 says %q, linux.sh %q", windows, linux)
			}
		})
	}
}
