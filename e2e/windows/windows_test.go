package windows_test

import (
	"encoding/json"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"

	"runner-token-broker/e2e/rig"
)

const (
	windowsPS1   = rig.Root + "/examples/user-data/windows.ps1"
	windowsTests = rig.Root + "/examples/user-data/windows.tests.ps1"
)

// script is what powershell.mjs sees in one.
type script struct {
	Errors    []string
	Operators []string
	Functions []struct {
		Name, Text string
		Line       int
	}
	Commands []struct {
		Name       string
		Line       int
		Parameters []string
	}
	Unused []struct { // calls whose output is not used
		Name string
		Line int
	}
}

func parsePowerShell(t *testing.T, path string) script {
	t.Helper()
	// Without the flag V8 optimizes the grammar, for ten seconds after it was used.
	cmd := exec.CommandContext(t.Context(), rig.Tool(t, "node"), "--liftoff-only", "powershell.mjs", path)
	var s script
	if err := json.Unmarshal([]byte(rig.Output(t, cmd)), &s); err != nil {
		t.Fatal(err)
	}
	return s
}

func TestWindowsGrammar(t *testing.T) {
	t.Parallel()
	for _, path := range []string{windowsPS1, windowsTests} {
		t.Run(filepath.Base(path), func(t *testing.T) {
			t.Parallel()
			if s := parsePowerShell(t, path); len(s.Errors) > 0 || len(s.Functions) == 0 {
				t.Errorf("%d functions, %q", len(s.Functions), s.Errors)
			}
		})
	}
	text := rig.ReadFile(t, windowsPS1)
	for _, c := range []struct{ name, old, new string }{
		{"a brace too many", "exit $status", "exit $status }"},
		{"a parenthesis is missing", "while ($true) {", "while ($true {"},
		{"a quote too many", "throw '5 the answer", "throw '5 the' answer"},
		{"an operator of PowerShell 7 for null", "$why = $answer.Error", "$why = $answer.Error ?? ''"},
		{"an operator of PowerShell 7 for conditions", "$status = 0", "$status = $TokenOnly ? 0 : 1"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			if !strings.Contains(text, c.old) {
				t.Fatalf("there is no %q to break", c.old)
			}
			path := filepath.Join(t.TempDir(), "broken.ps1")
			rig.WriteFile(t, path, strings.Replace(text, c.old, c.new, 1), 0o644)
			if s := parsePowerShell(t, path); len(s.Errors) == 0 {
				t.Error("no error")
			}
		})
	}
}

// Commands that ship with Windows PowerShell 5.1 and with PowerShell 7, and the parameters that both have.
var powerShellCommands = map[string]string{
	"Add-Content":       "-ErrorAction",
	"Add-Type":          "-AssemblyName",
	"Copy-Item":         "",
	"ForEach-Object":    "",
	"Get-Content":       "-ErrorAction",
	"Get-FileHash":      "",
	"Get-Random":        "-Maximum",
	"Get-Variable":      "-ValueOnly",
	"Invoke-RestMethod": "-TimeoutSec",
	"Invoke-WebRequest": "-OutFile -TimeoutSec -UseBasicParsing",
	"New-Item":          "-Force -ItemType",
	"Remove-Item":       "-ErrorAction",
	"Set-Content":       "",
	"Set-StrictMode":    "-Version",
	"Start-Sleep":       "-Milliseconds",
	"Test-Path":         "",
	"Where-Object":      "-EQ",
	"gpupdate.exe":      "",
	"$Problem":          "", // the script block of Wait-Until
}

// What writes nothing to the output.
var silent = strings.Fields(`Add-Content Add-Type Copy-Item Invoke-WebRequest Remove-Item Set-Content Set-StrictMode
	Start-Sleep .Dispose .ExtractToDirectory .WaitForExit .WriteLine
	Install-Runner Invoke-Config Register-Runner Register-ShutdownScript Wait-Until Write-Log`)

func TestWindowsCallsWhatBothPowerShellsHave(t *testing.T) {
	t.Parallel()
	s := parsePowerShell(t, windowsPS1)
	var own []string
	for _, f := range s.Functions {
		own = append(own, f.Name)
	}
	for _, c := range s.Commands {
		parameters, ok := powerShellCommands[c.Name]
		if !ok && !slices.Contains(own, c.Name) {
			t.Errorf("line %d: %s", c.Line, c.Name)
		}
		for _, p := range c.Parameters {
			if ok && !slices.Contains(strings.Fields(parameters), p) {
				t.Errorf("line %d: %s %s", c.Line, c.Name, p)
			}
		}
	}
	if len(s.Operators) > 0 {
		t.Errorf("5.1 does not have %q", s.Operators)
	}
}

// $token = .\windows.ps1 -TokenOnly is the token and nothing else.
func TestWindowsLeaksNoOutput(t *testing.T) {
	t.Parallel()
	s := parsePowerShell(t, windowsPS1)
	if len(s.Unused) == 0 {
		t.Error("no call was looked at")
	}
	for _, call := range s.Unused {
		if !slices.Contains(silent, call.Name) {
			t.Errorf("line %d: what %s writes becomes part of what its function returns", call.Line, call.Name)
		}
	}
}

func TestWindowsFunctionsRunAnywhere(t *testing.T) {
	t.Parallel()
	windows := regexp.MustCompile(
		`\$env:|\w\\\w|\.exe|Windows|GroupPolicy|ZipFile|Invoke-(WebRequest|RestMethod|Config)`)
	tested := rig.ReadFile(t, windowsTests)
	text := rig.ReadFile(t, windowsPS1)
	_, rest, _ := strings.Cut(text, "# From here to")
	_, alone, found := strings.Cut(rest, "\n# Windows alone\n")
	if !found {
		t.Fatal("the part for Windows alone is not marked")
	}
	portable := 0
	for _, f := range parsePowerShell(t, windowsPS1).Functions {
		if f.Name == "Write-Log" || strings.Contains(alone, f.Text) {
			continue
		}
		portable++
		if call := windows.FindString(f.Text); call != "" && f.Name != "Get-SettingProblem" {
			t.Errorf("%s, line %d: %s is Windows's own", f.Name, f.Line, call)
		}
		if !strings.Contains(tested, f.Name) && !slices.Contains([]string{"Get-Hash", "ConvertTo-Hex"}, f.Name) {
			t.Errorf("windows.tests.ps1 does not test %s", f.Name)
		}
	}
	if portable < 10 {
		t.Errorf("%d functions", portable)
	}
}

func TestWindowsIsUserData(t *testing.T) {
	t.Parallel()
	text := rig.ReadFile(t, windowsPS1)
	const tags = "<powershell>\r\n</powershell>\r\n"
	// A checkout on Windows may turn LF into CRLF, and the settings take some.
	if size := len(text) + strings.Count(text, "\n") + len(tags); size > 16384-100 {
		t.Errorf("%d bytes, EC2 takes 16384", size)
	}
	// 5.1 reads a file without a byte order mark as ANSI.
	for _, path := range []string{windowsPS1, windowsTests} {
		if odd := regexp.MustCompile(`[^\t\n -~]`).FindString(rig.ReadFile(t, path)); odd != "" {
			t.Errorf("%s: %q is not ASCII with LF", path, odd)
		}
	}
	// EC2Launch v1 takes the first of each, even in a comment.
	launch := regexp.MustCompile(`(?i)</?(powershell|script|persist|runAsLocalSystem|detach)\w*>`)
	if tag := launch.FindString(text); tag != "" {
		t.Errorf("%s is a tag of EC2Launch", tag)
	}
}

func TestWindowsUnderPwsh(t *testing.T) {
	t.Parallel()
	pwsh, err := exec.LookPath("pwsh")
	if err != nil {
		t.Log("NOT PROVEN: no pwsh here, so windows.tests.ps1 and windows.ps1 -TokenOnly were not run")
		return
	}
	run := func(t *testing.T, script string, args ...string) (stdout, stderr string, status int) {
		t.Helper()
		args = append([]string{"-NoProfile", "-NonInteractive", "-File", script}, args...)
		cmd := exec.CommandContext(t.Context(), pwsh, args...)
		cmd.Env = rig.Environ()
		stdout, stderr, status = rig.Run(t, cmd)
		return strings.TrimRight(stdout, "\r\n"), stderr, status
	}
	t.Run("windows.tests.ps1", func(t *testing.T) {
		out, errs, status := run(t, windowsTests)
		if status != 0 || !regexp.MustCompile(`(?m)^\d{2,} passed, 0 failed$`).MatchString(out) {
			t.Errorf("exit %d\n%s\n%s", status, out, errs)
		}
		t.Log(out)
	})
	for _, c := range []struct {
		name        string
		credentials aws.Credentials
	}{
		{"a token with a role", rig.RoleCredentials()},
		{"a token with a user's keys", rig.UserCredentials()},
	} {
		t.Run(c.name, func(t *testing.T) {
			i := rig.NewInstance(t, c.credentials)
			args := func(target string) []string {
				return []string{"-TokenOnly", "-ApiUrl", i.APIURL, "-Target", target, "-Region", rig.Region,
					"-ImdsUrl", i.IMDSURL, "-RunnerTokenTimeout", "20"}
			}
			out, errs, status := run(t, windowsPS1, args("orgs/acme")...)
			if tokens := i.GitHub.Tokens(); status != 0 || len(tokens) != 1 || out != tokens[0].Reveal() {
				t.Errorf("exit %d, %d tokens\n%s", status, len(tokens), errs)
			}
			out, errs, status = run(t, windowsPS1, args("orgs/other")...)
			if status != 5 || out != "" || !strings.Contains(errs, "403 TargetNotAllowed") {
				t.Errorf("a refusal: exit %d\n%s", status, errs)
			}
		})
	}
	t.Run("no settings", func(t *testing.T) {
		out, errs, status := run(t, windowsPS1, "-TokenOnly")
		if status != 2 || out != "" || strings.Count(errs, " is not set: ") != 3 {
			t.Errorf("exit %d\n%s", status, errs)
		}
	})
}
