package e2e_test

import (
	"bytes"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

const (
	windowsPS1   = "../examples/user-data/windows.ps1"
	windowsTests = "../examples/user-data/windows.tests.ps1"
	vectors      = "../examples/user-data/testdata/sigv4.json"
)

// Not proven here, where no PowerShell can be installed: that windows.ps1 runs. What is proven: PowerShell's grammar, as
// tree-sitter has it, takes it; it calls nothing that one of both PowerShells lacks; no call leaks into what a function
// returns; EC2 takes it as user data. With a pwsh on the PATH its functions and -TokenOnly are run too.

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
	Unused []struct { // calls whose output nobody takes
		Name string
		Line int
	}
}

func parsePowerShell(t *testing.T, path string) script {
	t.Helper()
	var out, errs bytes.Buffer
	// Without the flag V8 optimizes the grammar, for ten seconds after it was used.
	cmd := exec.CommandContext(t.Context(), tool(t, "node"), "--liftoff-only", "powershell.mjs", path)
	cmd.Stdout, cmd.Stderr = &out, &errs
	if err := cmd.Run(); err != nil {
		t.Fatalf("powershell.mjs: %v\n%s", err, &errs)
	}
	var s script
	if err := json.Unmarshal(out.Bytes(), &s); err != nil {
		t.Fatal(err)
	}
	return s
}

func TestWindowsGrammar(t *testing.T) {
	for _, path := range []string{windowsPS1, windowsTests} {
		if s := parsePowerShell(t, path); len(s.Errors) > 0 || len(s.Functions) == 0 {
			t.Errorf("%s: %d functions, %q", path, len(s.Functions), s.Errors)
		}
	}
	text := readFile(t, windowsPS1)
	for _, broken := range [][2]string{
		{"exit $status", "exit $status }"},
		{"while ($true) {", "while ($true {"},
		{"throw '5 the answer", "throw '5 the' answer"},
		{"$why = $answer.Error", "$why = $answer.Error ?? ''"}, // PowerShell 7 only
		{"$status = 0", "$status = $TokenOnly ? 0 : 1"},        // PowerShell 7 only
	} {
		if !strings.Contains(text, broken[0]) {
			t.Fatalf("there is no %q to break", broken[0])
		}
		path := filepath.Join(t.TempDir(), "broken.ps1")
		if err := os.WriteFile(path, []byte(strings.Replace(text, broken[0], broken[1], 1)), 0o644); err != nil {
			t.Fatal(err)
		}
		if s := parsePowerShell(t, path); len(s.Errors) == 0 {
			t.Errorf("no error with %s", broken[1])
		}
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
var silent = strings.Fields(`Add-Content Add-Type Copy-Item Invoke-WebRequest Remove-Item Set-Content Set-StrictMode Start-Sleep
	.Dispose .ExtractToDirectory .WaitForExit .WriteLine
	Install-Runner Invoke-Config Register-Runner Register-ShutdownScript Wait-Until Write-Log`)

func TestWindowsCallsWhatBothPowerShellsHave(t *testing.T) {
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
	windows := regexp.MustCompile(`\$env:|\w\\\w|\.exe|Windows|GroupPolicy|ZipFile|Invoke-(WebRequest|RestMethod|Config)`)
	tested := readFile(t, windowsTests)
	text := readFile(t, windowsPS1)
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
	text := readFile(t, windowsPS1)
	const tags = "<powershell>\r\n</powershell>\r\n"
	// A checkout on Windows may turn LF into CRLF, and the settings take some.
	if size := len(text) + strings.Count(text, "\n") + len(tags); size > 16384-100 {
		t.Errorf("%d bytes, EC2 takes 16384", size)
	}
	// 5.1 reads a file without a byte order mark as ANSI.
	for _, path := range []string{windowsPS1, windowsTests} {
		if odd := regexp.MustCompile(`[^\t\n -~]`).FindString(readFile(t, path)); odd != "" {
			t.Errorf("%s: %q is not ASCII with LF", path, odd)
		}
	}
	// EC2Launch v1 takes the first of each, be it in a comment.
	if tag := regexp.MustCompile(`(?i)</?(powershell|script|persist|runAsLocalSystem|detach)\w*>`).FindString(text); tag != "" {
		t.Errorf("%s is a tag of EC2Launch", tag)
	}
}

// The vectors are what botocore makes today.
func TestVectorsAreBotocores(t *testing.T) {
	out, err := exec.CommandContext(t.Context(), tool(t, "python"), "sigv4_vectors.py").Output()
	if err != nil {
		t.Fatal(err)
	}
	if want := readFile(t, vectors); string(out) != want || strings.Count(want, `"authorization"`) < 5 {
		t.Errorf("%s is not what sigv4_vectors.py prints", vectors)
	}
}

func TestWindowsUnderPwsh(t *testing.T) {
	pwsh, err := exec.LookPath("pwsh")
	if err != nil {
		t.Log("NOT PROVEN: no pwsh here, so windows.tests.ps1 and windows.ps1 -TokenOnly were not run")
		return
	}
	run := func(script string, args ...string) (stdout, stderr string, status int) {
		cmd := exec.CommandContext(t.Context(), pwsh, append([]string{"-NoProfile", "-NonInteractive", "-File", script}, args...)...)
		cmd.Env = withoutAWS()
		stdout, stderr, status = run(t, cmd)
		return strings.TrimRight(stdout, "\r\n"), stderr, status
	}
	out, errs, status := run(windowsTests)
	if status != 0 || !regexp.MustCompile(`(?m)^\d{2,} passed, 0 failed$`).MatchString(out) {
		t.Errorf("windows.tests.ps1: exit %d\n%s\n%s", status, out, errs)
	}

	for _, session := range []string{"", credentials.SessionToken} {
		c := credentials
		c.SessionToken = session
		b := newBoot(t, c)
		args := func(target string) []string {
			return []string{"-TokenOnly", "-ApiUrl", b.setting("API_URL"), "-Target", target, "-Region", region, "-ImdsUrl", b.setting("IMDS_URL"), "-RunnerTokenTimeout", "20"}
		}
		out, errs, status := run(windowsPS1, args("orgs/acme")...)
		if tokens := b.github.Tokens(); status != 0 || len(tokens) != 1 || out != tokens[0].Reveal() {
			t.Errorf("session token %q: exit %d, %d tokens\n%s", session, status, len(tokens), errs)
		}
		out, errs, status = run(windowsPS1, args("orgs/other")...)
		if status != 5 || out != "" || !strings.Contains(errs, "403 TargetNotAllowed") {
			t.Errorf("a refusal: exit %d\n%s", status, errs)
		}
	}
	if out, errs, status := run(windowsPS1, "-TokenOnly"); status != 2 || out != "" || strings.Count(errs, " is not set: ") != 3 {
		t.Errorf("no settings: exit %d\n%s", status, errs)
	}
}
