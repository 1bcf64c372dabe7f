package userdata_test

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"runner-token-broker/e2e/rig"
)

// prints tells what it got, and ends with 5.
const prints = `param(
	[string]$ApiUrl,
	[string]$Target,
	[string]$Region,
	[string]$RunnerLabels,
	[string]$RunnerGroup,
	[string]$RunnerDir = 'C:\actions-runner',
	[int]$RunnerTokenTimeout = 300
)
$ApiUrl, $Target, $Region, $RunnerLabels, $RunnerGroup, $RunnerDir, ($RunnerTokenTimeout + 1), $env:EXTRA_SET,
	$PSCommandPath, $args.Count | ForEach-Object { "<$_>" }
exit 5
`

// machine is what Windows user data finds and leaves.
type machine struct{ programFiles, programData string }

func newMachine(t *testing.T) machine {
	return machine{t.TempDir(), t.TempDir()}
}

// boot runs Windows user data as EC2Launch does: what is between the tags is dot-sourced from a file.
func (m machine) boot(t *testing.T, data string) (stdout, stderr string, status int) {
	t.Helper()
	pwsh, err := exec.LookPath("pwsh")
	if err != nil {
		t.Skip("NOT PROVEN: no pwsh here")
	}
	_, text, _ := strings.Cut(data, "<powershell>\n")
	text, _, found := strings.Cut(text, "</powershell>\n")
	if !found {
		t.Fatalf("no pair of tags in %s", data)
	}
	file := filepath.Join(t.TempDir(), "UserScript.ps1")
	rig.WriteFile(t, file, text, 0o600)
	bin := t.TempDir()
	rig.WriteFile(t, filepath.Join(bin, "whoami.exe"), "#!/bin/sh\necho Mandatory Label S-1-16-8192\n", 0o755)
	cmd := exec.CommandContext(t.Context(), pwsh, "-NonInteractive", "-ExecutionPolicy", "Unrestricted", "-Command",
		"$EC2Launch_Execution_Mode = 'attached'; . '"+file+"'; exit $LASTEXITCODE")
	cmd.Env = append(rig.Environ(), "ProgramFiles="+m.programFiles, "ProgramData="+m.programData, "NO_COLOR=1",
		"PATH="+bin+":"+os.Getenv("PATH"))
	return rig.Run(t, cmd)
}

func (m machine) log(t *testing.T) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(m.programData, "runner-token-broker.log"))
	if err != nil && !os.IsNotExist(err) {
		t.Fatal(err)
	}
	return string(text)
}

// logged wants one line with the words in the log and in stderr, or none.
func (m machine) logged(t *testing.T, words, stderr string) {
	t.Helper()
	log := m.log(t)
	lines := 0
	if words != "" {
		lines = 1
	}
	if strings.Count(log, "\n") != lines || !strings.Contains(log, words) || !strings.Contains(stderr, words) {
		t.Errorf("log: %s\nstderr: %s", log, stderr)
	}
}

func TestWindowsValuesReachTheScript(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ name, labels, group string }{
		{"plain", "gpu,large", "my group"},
		{"a quote", "it's,'", "it's 'quoted' '"},
		{"commands", "$(evil),`evil", "$(evil) `evil` ; evil & | evil > evil"},
		{"variables", "$HOME,${HOME},$$", "$HOME ${HOME} $env:PATH @args #"},
		{"patterns", "*,?,[a-z],@{a=1}", "* ? [a-z] {a,b} ~ # not a comment"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			m := newMachine(t)
			data := generate(t, "windows", prints,
				"RUNNER_LABELS="+c.labels, "RUNNER_GROUP="+c.group, "RUNNER_TOKEN_TIMEOUT=41")
			for range 2 { // EC2Launch runs it again if it was interrupted
				out, errs, status := m.boot(t, data)
				var want strings.Builder
				for _, v := range required {
					_, value, _ := strings.Cut(v, "=")
					want.WriteString("<" + value + ">\n")
				}
				want.WriteString("<" + c.labels + ">\n<" + c.group + ">\n<C:\\actions-runner>\n<42>\n<>\n<" +
					m.programFiles + "/runner-token-broker/windows.ps1>\n<0>\n")
				if status != 5 || out != want.String() || m.log(t) != "" {
					t.Errorf("exit %d, it got %s, want %s\n%s", status, out, &want, errs)
				}
			}
		})
	}
}

func TestWindowsEndsWithTheStatusAndSaysWhatWasThrown(t *testing.T) {
	t.Parallel()
	const params = "param(\n\t[string]$ApiUrl,\n\t[string]$Target,\n\t[string]$Region\n)\n"
	for _, c := range []struct {
		name   string
		script string
		status int
		says   string // in the log and in stderr
	}{
		{"it went well", params + "exit 0", 0, ""},
		{"a setting", params + "exit 2", 2, ""},
		{"a reboot, which EC2Launch makes", params + "exit 3010", 3010 & 0xff, ""}, // Linux keeps eight bits
		{"nothing said", params + "'fine'", 1, ""},
		{"thrown", params + "throw 'no disk'", 1, "no disk"},
		{"an unknown command", params + "Get-Nothing", 1, "Get-Nothing"},
		{"a number wanted", strings.Replace(params, "[string]$Region", "[int]$Region", 1) + "exit 0", 1, "Region"},
		{"a line before its parameters", "$x = 1\n" + params + "exit 0", 1, "param"},
		{"a brace that is missing", params + "if ($true) { exit 0", 1, "windows.ps1:6"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			m := newMachine(t)
			_, errs, status := m.boot(t, generate(t, "windows", c.script))
			if status != c.status {
				t.Errorf("exit %d, want %d\n%s", status, c.status, errs)
			}
			m.logged(t, c.says, errs)
		})
	}
	t.Run("no folder", func(t *testing.T) {
		t.Parallel()
		m := newMachine(t)
		m.programFiles = filepath.Join(m.programData, "a file")
		rig.WriteFile(t, m.programFiles, "", 0o600)
		out, _, status := m.boot(t, generate(t, "windows", prints))
		line := regexp.MustCompile(`^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ .*runner-token-broker.*\n$`)
		if log := m.log(t); status != 1 || out != "" || !line.MatchString(log) {
			t.Errorf("exit %d, log: %s", status, log)
		}
	})
}

func TestWindowsExtraRunsBeforeTheScript(t *testing.T) {
	t.Parallel()
	const sets = "$env:EXTRA_SET = 'yes'"
	for _, c := range []struct {
		name, extra string
		status      int    // 5 is the script's
		set         string // what the script sees of EXTRA_SET
		says        string
	}{
		{"a variable for the script", sets, 5, "yes", ""},
		{"carriage returns", "'x'\r\n" + sets + "\r\n", 5, "yes", ""},
		{"letters beyond ASCII", "$env:EXTRA_SET = 'größer'", 5, "größer", ""},
		{"a tag of EC2Launch", "$env:EXTRA_SET = '</powershell>'", 5, "</powershell>", ""},
		{"what the head uses", "$status = 0; $settings = @{}; $dir = 'C:\\'; $packed = 1; " + sets, 5, "yes", ""},
		{"a program that fails before the last", "/bin/false\n/bin/true\n" + sets, 5, "yes", ""},
		{"a program that fails at the end", "/bin/sh -c 'exit 9'", 9, "", "extra.ps1 ended with 9"},
		{"its own end", "exit 4", 4, "", "extra.ps1 ended with 4"},
		{"thrown", "throw 'no docker'", 1, "", "no docker"},
		{"a cmdlet that fails", "Get-Item /nowhere\n" + sets, 1, "", "/nowhere"},
		{"a mistake", "if ($true) {", 1, "", "extra.ps1:1"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			m := newMachine(t)
			out, errs, status := m.boot(t, generate(t, "windows", prints, extra(t, c.extra)))
			if ran := strings.Contains(out, "<orgs/acme>"); status != c.status || ran != (c.status == 5) {
				t.Errorf("exit %d, the script ran: %v\n%s%s", status, ran, out, errs)
			}
			if c.status == 5 && !strings.Contains(out, "<"+c.set+">\n") {
				t.Errorf("the script saw %s", out)
			}
			m.logged(t, c.says, errs)
		})
	}
}

// What the generator takes the script takes too.
func TestWindowsTakesWhatTheGeneratorTakes(t *testing.T) {
	t.Parallel()
	pwsh, err := exec.LookPath("pwsh")
	if err != nil {
		t.Skip("NOT PROVEN: no pwsh here")
	}
	file, err := filepath.Abs(rig.Root + "/examples/user-data/windows.ps1")
	if err != nil {
		t.Fatal(err)
	}
	data := generate(t, "windows", rig.ReadFile(t, file), "API_URL=https://api.example.com:8443/a/b-c",
		"TARGET=repos/a_b-c/.x_y-z", "REGION=us-gov-west-1", "RUNNER_LABELS=a,b-c,it's,[x]",
		"RUNNER_GROUP=!#$&'()*+,-./:;<=>?@[]^_`{|}~ 0aZ", "RUNNER_EPHEMERAL=true", "RUNNER_VERSION=2.340.0",
		"RUNNER_SHA256="+strings.Repeat("0af", 21)+"9", `RUNNER_DIR=D:\a.b_c-d\e`, "RUNNER_TOKEN_TIMEOUT=99999")
	settings, _, found := strings.Cut(data, "$packed")
	_, settings, _ = strings.Cut(settings, "$settings")
	if !found || strings.Count(settings, " = ") != 11 {
		t.Fatalf("the settings are%s", settings)
	}
	cmd := exec.CommandContext(t.Context(), pwsh, "-NoProfile", "-NonInteractive", "-Command",
		"$settings"+settings+"; . '"+file+"' -FunctionsOnly @settings; Get-SettingProblem; 'looked at'")
	cmd.Env = append(rig.Environ(), "NO_COLOR=1")
	if out := rig.Output(t, cmd); out != "looked at\n" {
		t.Error(out)
	}
}

// tokens returns what PowerShell reads in a file: all but comments and empty lines.
func tokens(t *testing.T, path string) string {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "pwsh", "-NoProfile", "-NonInteractive", "-Command", `
		$tokens, $errors = $null, $null
		[void][Management.Automation.Language.Parser]::ParseFile('`+path+`', [ref]$tokens, [ref]$errors)
		$last = 'NewLine'
		foreach ($t in $tokens | Where-Object Kind -NE Comment) {
			if ($t.Kind -ne 'NewLine' -or $last -ne 'NewLine') { "$($t.Kind) $($t.Text)" }
			$last = $t.Kind
		}
		exit $errors.Count`)
	cmd.Env = append(rig.Environ(), "NO_COLOR=1")
	return rig.Output(t, cmd)
}

// diff returns the first line that differs.
func diff(t *testing.T, want, got string) string {
	t.Helper()
	wants, gots := strings.Split(want, "\n"), strings.Split(got, "\n")
	for i := range min(len(wants), len(gots)) {
		if wants[i] != gots[i] {
			return gots[i] + ", want " + wants[i]
		}
	}
	return "one ends earlier"
}

// The script of the examples, from make's command line. It takes the settings, and ends where it looks at Windows, or
// for a role: its default of IMDS is another, where nobody answers.
func TestWindowsRunsTheScript(t *testing.T) {
	t.Parallel()
	i := rig.NewInstance(t, rig.RoleCredentials())
	script := rig.ReadFile(t, rig.Root+"/examples/user-data/windows.ps1")
	const imds = "http://169.254.169.254"
	if !strings.Contains(script, "'"+imds+"'") {
		t.Fatalf("%s is not the default", imds)
	}
	script = strings.ReplaceAll(script, imds, "http://127.0.0.1:1")
	m := newMachine(t)
	data := generate(t, "windows", script, "API_URL="+i.APIURL, "RUNNER_TOKEN_TIMEOUT=1")
	_, errs, status := m.boot(t, data)
	says := map[int]string{2: "run this as administrator", 3: "http://127.0.0.1:1"}[status]
	if log := m.log(t); says == "" || !strings.Contains(log, says) {
		t.Errorf("exit %d\nlog: %s\nstderr: %s", status, log, errs)
	}
	written := filepath.Join(m.programFiles, "runner-token-broker/windows.ps1")
	if !strings.HasPrefix(rig.ReadFile(t, written), "\ufeff") {
		t.Error("the file has no byte order mark")
	}
	source := filepath.Join(t.TempDir(), "windows.ps1")
	rig.WriteFile(t, source, script, 0o600)
	if got, want := tokens(t, written), tokens(t, source); got != want || strings.Count(want, "\n") < 1000 {
		t.Errorf("the file has other tokens than the script:\n%s", diff(t, want, got))
	}
	if got := byMake(t, "windows", required...); !strings.HasPrefix(got, "<powershell>\n") {
		t.Errorf("make prints %.100q", got)
	}
}

// 5.1 must understand the head, which is not tried there.
func TestWindowsHeadIsOf51(t *testing.T) {
	t.Parallel()
	_, text, _ := strings.Cut(generate(t, "windows", prints, extra(t, "'x'")), "<powershell>\n")
	text, _, _ = strings.Cut(text, "</powershell>")
	file := filepath.Join(t.TempDir(), "head.ps1")
	rig.WriteFile(t, file, text, 0o600)
	var head struct {
		Errors, Operators []string
		Commands          []struct{ Name string }
	}
	cmd := exec.CommandContext(t.Context(), rig.Tool(t, "node"), "--liftoff-only", "../windows/powershell.mjs", file)
	if err := json.Unmarshal([]byte(rig.Output(t, cmd)), &head); err != nil {
		t.Fatal(err)
	}
	var commands []string
	for _, c := range head.Commands {
		commands = append(commands, c.Name)
	}
	slices.Sort(commands)
	if commands = slices.Compact(commands); len(head.Errors)+len(head.Operators) > 0 ||
		!slices.Equal(commands[max(0, len(commands)-3):], []string{"Add-Content", "Join-Path", "New-Item"}) {
		t.Errorf("%q, %q, commands %q", head.Errors, head.Operators, commands)
	}
	types := regexp.MustCompile(`\[([A-Z][\w.]+)\]`).FindAllStringSubmatch(text, -1)
	has := []string{"IO.MemoryStream", "Convert", "IO.Compression.GZipStream", "IO.Compression.CompressionMode",
		"IO.StreamReader", "IO.File", "Text.Encoding", "Console", "DateTime"} // in mscorlib and System, which are loaded
	for _, m := range types {
		if !slices.Contains(has, m[1]) {
			t.Errorf("%s need not be loaded in 5.1", m[1])
		}
	}
	if len(types) < len(has) {
		t.Errorf("%d types were found", len(types))
	}
}
