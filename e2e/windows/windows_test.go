package windows_test

import (
	"bytes"
	"compress/gzip"
	"encoding/base64"
	"encoding/json"
	"os"
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
	Types []struct {
		Name string
		Line int
	}
	Long   []int      // the lines of strings over several lines
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
		{"a brace too many", "\nexit $status", "\nexit $status }"},
		{"a parenthesis is missing", "while ($true) {", "while ($true {"},
		{"a quote too many", "throw '5 the answer", "throw '5 the' answer"},
		{"an operator of PowerShell 7 for null", "$copy = $response.", "$copy = $null ?? $response."},
		{"an operator of PowerShell 7 for conditions", "$script:status = 0", "$script:status = $TokenOnly ? 0 : 1"},
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
	"Add-Content":                  "-ErrorAction",
	"Add-Type":                     "-AssemblyName",
	"Convert-Path":                 "",
	"ConvertFrom-Json":             "",
	"ConvertTo-Json":               "",
	"Copy-Item":                    "-ErrorAction -Force -Recurse",
	"ForEach-Object":               "",
	"Get-ChildItem":                "-ErrorAction",
	"Get-Content":                  "-ErrorAction",
	"Get-FileHash":                 "",
	"Get-Process":                  "-ErrorAction",
	"Get-Random":                   "-Maximum",
	"Get-Service":                  "-ErrorAction",
	"Get-Variable":                 "-ValueOnly",
	"New-Item":                     "-Force -ItemType",
	"New-ScheduledTaskAction":      "-Argument -Execute",
	"New-ScheduledTaskPrincipal":   "-LogonType -UserId",
	"New-ScheduledTaskSettingsSet": "-AllowStartIfOnBatteries -ExecutionTimeLimit",
	"New-ScheduledTaskTrigger":     "-AtStartup",
	"Out-String":                   "",
	"Register-ScheduledTask":       "-Force -TaskName", // and what is splatted: Action, Trigger, Principal, Settings
	"Remove-Item":                  "-ErrorAction -Force -Recurse",
	"Rename-Item":                  "",
	"Select-Object":                "-First -Last -Unique",
	"Set-Content":                  "",
	"Set-Item":                     "",
	"Set-StrictMode":               "-Version",
	"Set-Variable":                 "-Scope",
	"Sort-Object":                  "",
	"Start-ScheduledTask":          "-TaskName",
	"Start-Sleep":                  "-Milliseconds",
	"Test-Path":                    "",
	"Where-Object":                 "-NE",
	"gpupdate.exe":                 "",
	"sc.exe":                       "",
	"shutdown.exe":                 "",
	"taskkill.exe":                 "",
	"whoami.exe":                   "",
	"$Problem":                     "", // the script block of Wait-Until
}

// Types of .NET Framework 4.7 and of .NET, by PowerShell's short names where it has some.
var types = strings.Fields(`BitConverter Console Convert DateTime DateTimeOffset Diagnostics.Process
	Diagnostics.ProcessStartInfo Diagnostics.Stopwatch Environment Globalization.CultureInfo IO.Compression.ZipFile IO.File
	Math Net.Http.ByteArrayContent Net.Http.HttpClient Net.Http.HttpClientHandler Net.Http.HttpCompletionOption
	Net.Http.HttpMethod Net.Http.HttpRequestMessage Net.NetworkCredential Net.ServicePointManager Net.WebException
	Net.WebProxy OperationCanceledException Security.Cryptography.HMACSHA256 Security.Cryptography.SHA256
	Security.Cryptography.X509Certificates.X509Certificate2 Security.Cryptography.X509Certificates.X509Store
	Text.Encoding TimeSpan Uri bool byte[] int ordered regex string switch void`)

// What writes nothing to the output.
var silent = strings.Fields(`Add-Content Add-Type Copy-Item Remove-Item Set-Content Set-Item Set-StrictMode Set-Variable
	Start-ScheduledTask Start-Sleep .Add .Close .Dispose .ExtractToDirectory .Open .WaitForExit .WriteLine
	Clear-Registration Copy-Program Install-Runner Invoke-Config Invoke-Script Register-Runner Register-ShutdownScript
	Register-Watch Remove-Runner Remove-Service Save-Package Save-State Set-Environment Start-Runner Wait-Until
	Wait-Listener Watch-Runner Write-Log`)

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
	for _, used := range s.Types {
		if !slices.Contains(types, used.Name) {
			t.Errorf("line %d: [%s]", used.Line, used.Name)
		}
	}
	if len(s.Types) < 20 {
		t.Errorf("%d types were looked at", len(s.Types))
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

func TestWindowsIsUserData(t *testing.T) {
	t.Parallel()
	text := rig.ReadFile(t, windowsPS1)
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
	// Terraform's templatefile takes ${ and %{, CloudFormation's Fn::Sub takes ${.
	if odd := regexp.MustCompile(`[$%]\{.*`).FindString(text); odd != "" {
		t.Errorf("%s would be replaced in a template", odd)
	}
	// So whoever packs it may leave out indentation and the lines of comments.
	if s := parsePowerShell(t, windowsPS1); len(s.Long) > 0 {
		t.Errorf("the strings at %v go over several lines", s.Long)
	}
	var packed bytes.Buffer
	z, err := gzip.NewWriterLevel(&packed, gzip.BestCompression)
	if err != nil {
		t.Fatal(err)
	}
	z.Write(regexp.MustCompile(`(?m)^\s*(#.*)?\n|^\t+`).ReplaceAll([]byte(text), nil))
	z.Close()
	// In base64 and with a head of a kilobyte, 1,500 bytes of what EC2 takes are left for the reader's own lines.
	if size := base64.StdEncoding.EncodedLen(packed.Len()); size > 13800 {
		t.Errorf("packed it has %d bytes", size)
	}
}

func TestWindowsUnderPwsh(t *testing.T) {
	t.Parallel()
	pwsh := pwsh(t)
	run := func(t *testing.T, env []string, args ...string) (stdout, stderr string, status int) {
		t.Helper()
		cmd := exec.CommandContext(t.Context(), pwsh, append([]string{"-NoProfile", "-NonInteractive"}, args...)...)
		cmd.Env = append(rig.Environ(), env...)
		stdout, stderr, status = rig.Run(t, cmd)
		return strings.TrimRight(stdout, "\r\n"), stderr, status
	}
	t.Run("windows.tests.ps1", func(t *testing.T) {
		out, errs, status := run(t, nil, "-Command", "Import-Module Pester -MinimumVersion 5.0; "+
			"$result = Invoke-Pester "+windowsTests+" -PassThru -Output None; "+
			"$result.Failed | Format-List ExpandedPath, ErrorRecord; "+
			"'{0} passed, {1} failed, {2} not run' -f $result.PassedCount, $result.FailedCount, $result.NotRunCount; "+
			"exit $result.FailedCount + $result.FailedContainersCount")
		if strings.Contains(errs, "Pester") && strings.Contains(errs, "not loaded") {
			rig.NotTested(t, "Pester 5 is missing: Install-Module Pester")
		}
		if status != 0 || !regexp.MustCompile(`(?m)^1\d\d passed, 0 failed, 0 not run$`).MatchString(out) {
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
				return []string{"-File", windowsPS1, "-TokenOnly", "-ApiUrl", i.APIURL, "-Target", target, "-Region", rig.Region,
					"-ImdsUrl", i.IMDSURL, "-RunnerTokenTimeout", "20"}
			}
			out, errs, status := run(t, nil, args("orgs/acme")...)
			if tokens := i.GitHub.Tokens(); status != 0 || len(tokens) != 1 || out != tokens[0].Reveal() {
				t.Errorf("exit %d, %d tokens\n%s", status, len(tokens), errs)
			}
			out, errs, status = run(t, nil, args("orgs/other")...)
			if status != 5 || out != "" || !strings.Contains(errs, "403 TargetNotAllowed") {
				t.Errorf("a refusal: exit %d\n%s", status, errs)
			}
		})
	}
	for _, c := range []struct {
		name string
		args []string
		says []string
	}{
		{"no settings", nil, []string{"ApiUrl is not set: ", "Target is not set: ", "Region is not set: "}},
		{"a number that is none", []string{"-RunnerTokenTimeout", "soon"}, []string{"RunnerTokenTimeout is malformed: "}},
		{"a parameter that is none", []string{"-RunnerLable", "x"}, []string{"-RunnerLable x is unknown: "}},
	} {
		t.Run(c.name, func(t *testing.T) {
			out, errs, status := run(t, nil, append([]string{"-File", windowsPS1, "-TokenOnly"}, c.args...)...)
			if status != 2 || out != "" || !strings.HasPrefix(errs, "runner: ") {
				t.Errorf("exit %d\n%s", status, errs)
			}
			for _, says := range c.says {
				if !strings.Contains(errs, says) {
					t.Errorf("it does not say %q: %s", says, errs)
				}
			}
		})
	}
	t.Run("under AppLocker the log says so", func(t *testing.T) {
		dir := t.TempDir()
		_, _, status := run(t, []string{"ProgramData=" + dir}, "-Command",
			"$ExecutionContext.SessionState.LanguageMode = 'ConstrainedLanguage'; "+windowsPS1+"; exit $LASTEXITCODE")
		log, err := os.ReadFile(dir + "/runner-token-broker.log")
		if status != 1 || err != nil || !strings.HasSuffix(string(log), "allow the script in AppLocker or WDAC\n") {
			t.Errorf("exit %d, the log is %q: %v", status, log, err)
		}
	})
	t.Run("dot-sourced, as by EC2Launch, the status arrives", func(t *testing.T) {
		_, errs, status := run(t, nil, "-Command", ". "+windowsPS1+" -TokenOnly; exit $LASTEXITCODE")
		if status != 2 {
			t.Errorf("exit %d\n%s", status, errs)
		}
	})
}
