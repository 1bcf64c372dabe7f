package main

import (
	"bytes"
	"compress/gzip"
	"crypto/rand"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

var checkout = os.DirFS("../..")

// given is what make user-data needs at least, with more.
func given(more map[string]string) map[string]string {
	all := map[string]string{"OS": "linux", "API_URL": "https://a1b2c3d4e5.execute-api.eu-central-1.amazonaws.com",
		"TARGET": "orgs/acme", "REGION": "eu-central-1"}
	for name, value := range more {
		all[name] = value
	}
	return all
}

func run(environment map[string]string) (stdout, stderr string, status int) {
	var out, errs bytes.Buffer
	status = command(checkout, func(name string) string { return environment[name] }, &out, &errs)
	return out.String(), errs.String(), status
}

func extraFile(t *testing.T, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "extra")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestWhatIsWrongIsNamedAndNothingIsPrinted(t *testing.T) {
	t.Parallel()
	noise := make([]byte, 20000) // it does not get smaller
	rand.Read(noise)
	for i := range noise {
		noise[i] = noise[i]%90 + ' '
	}
	for _, c := range []struct {
		name  string
		given map[string]string
		says  string // on a line that begins with it
	}{
		{"no OS", map[string]string{"OS": ""}, `OS is "": set it to linux or windows`},
		{"another OS", map[string]string{"OS": "Windows_NT"}, `OS is "Windows_NT": set it to linux or windows`},
		{"no API_URL", map[string]string{"API_URL": ""},
			"API_URL is not set: set it to the stack's output ApiUrl, https://..."},
		{"API_URL without TLS", map[string]string{"API_URL": "http://api.example.com"}, "API_URL is malformed: "},
		{"API_URL with a query", map[string]string{"API_URL": "https://a.example.com/?x"}, "API_URL is malformed: "},
		{"API_URL with a line below it", map[string]string{"API_URL": "https://a.example.com\nrm -r /"},
			"API_URL is malformed: "},
		{"no TARGET", map[string]string{"TARGET": ""}, "TARGET is not set: set it to orgs/ORG, "},
		{"TARGET in upper case", map[string]string{"TARGET": "orgs/Acme"},
			`TARGET is malformed: set it to orgs/ORG, repos/OWNER/REPOSITORY or enterprises/ENTERPRISE, in lower case ` +
				`(target "orgs/Acme" has upper case: write "orgs/acme")`},
		{"TARGET of git", map[string]string{"TARGET": "repos/acme/widgets.git"}, "TARGET is malformed: "},
		{"no REGION", map[string]string{"REGION": ""}, "REGION is not set: set it to the API's AWS Region, "},
		{"REGION of the console", map[string]string{"REGION": "Frankfurt"},
			`REGION is malformed: set it to the API's AWS Region, such as eu-central-1 (it is "Frankfurt")`},
		{"labels with a space", map[string]string{"RUNNER_LABELS": "a, b"}, "RUNNER_LABELS is malformed: "},
		{"an empty label", map[string]string{"RUNNER_LABELS": "a,,b"}, "RUNNER_LABELS is malformed: "},
		{"labels beyond ASCII", map[string]string{"RUNNER_LABELS": "größe"}, "RUNNER_LABELS is malformed: "},
		{"a group with a quote", map[string]string{"RUNNER_GROUP": `a"b`}, "RUNNER_GROUP is malformed: "},
		{"a group on two lines", map[string]string{"RUNNER_GROUP": "a\nb"}, "RUNNER_GROUP is malformed: "},
		{"a group with a line end", map[string]string{"RUNNER_GROUP": "a\n"}, "RUNNER_GROUP is malformed: "},
		{"a group with a percent sign", map[string]string{"RUNNER_GROUP": "100%"}, "RUNNER_GROUP is malformed: "},
		{"neither true nor false", map[string]string{"RUNNER_EPHEMERAL": "yes"},
			"RUNNER_EPHEMERAL is malformed: set it to true or false"},
		{"a lasting runner on Windows", map[string]string{"OS": "windows", "RUNNER_EPHEMERAL": "false"},
			"RUNNER_EPHEMERAL is malformed: set it to true, "},
		{"no time", map[string]string{"RUNNER_TOKEN_TIMEOUT": "0"}, "RUNNER_TOKEN_TIMEOUT is malformed: "},
		{"a word for a time", map[string]string{"RUNNER_TOKEN_TIMEOUT": "soon"}, "RUNNER_TOKEN_TIMEOUT is malformed: "},
		{"a tag for a version", map[string]string{"RUNNER_VERSION": "v2.340.0"}, "RUNNER_VERSION is malformed: "},
		{"half a checksum", map[string]string{"RUNNER_SHA256": "abc"}, "RUNNER_SHA256 is malformed: "},
		{"another end", map[string]string{"RUNNER_AFTER_JOB": "reboot"},
			"RUNNER_AFTER_JOB is malformed: set it to poweroff or stay"},
		{"less than a minute", map[string]string{"RUNNER_IDLE_TIMEOUT": "59"}, "RUNNER_IDLE_TIMEOUT is malformed: "},
		{"minutes", map[string]string{"RUNNER_IDLE_TIMEOUT": "10m"}, "RUNNER_IDLE_TIMEOUT is malformed: "},
		{"a file of here", map[string]string{"RUNNER_CA_FILE": "ca.pem"}, "RUNNER_CA_FILE is malformed: "},
		{"a file of Linux on Windows", map[string]string{"OS": "windows", "RUNNER_CA_FILE": "/etc/ca.pem"},
			"RUNNER_CA_FILE is malformed: "},
		{"a user with a space", map[string]string{"RUNNER_USER": "a b"}, "RUNNER_USER is malformed: "},
		{"a folder of Windows on Linux", map[string]string{"RUNNER_DIR": `C:\runner`}, "RUNNER_DIR is malformed: "},
		{"a folder of Linux on Windows", map[string]string{"OS": "windows", "RUNNER_DIR": "/opt/runner"},
			"RUNNER_DIR is malformed: "},
		{"a user on Windows", map[string]string{"OS": "windows", "RUNNER_USER": "acme"},
			"RUNNER_USER is no setting of examples/user-data/windows.ps1"},
		{"a misspelt name", map[string]string{"MAKEFLAGS": "s -- RUNNER_LABLES=x OS=linux"},
			"RUNNER_LABLES is no setting of examples/user-data/linux.sh: is it spelt right?"},
		{"a $ that make took", map[string]string{"MAKEFLAGS": " -- RUNNER_GROUP=a$$b", "RUNNER_GROUP": "a"},
			"make itself reads a $ "},
		{"DETACH without a meaning", map[string]string{"OS": "windows", "DETACH": "1"},
			"DETACH is malformed: set it to true"},
		{"DETACH on Linux", map[string]string{"DETACH": "true"}, "DETACH is for OS=windows"},
		{"EXTRA that is not there", map[string]string{"EXTRA": "nowhere"},
			"EXTRA: set it to a file of lines to run before the script: "},
		{"EXTRA that is not text", map[string]string{"EXTRA": extraFile(t, "\xff\xfe")}, "EXTRA: "},
		{"EXTRA with a NUL", map[string]string{"EXTRA": extraFile(t, "a\x00b")}, "EXTRA: "},
		{"EXTRA of Windows on Linux", map[string]string{"EXTRA": extraFile(t, "true\r\n")}, "EXTRA: "},
		{"too much", map[string]string{"EXTRA": extraFile(t, string(noise))}, "this would be "},
		{"too much on Windows", map[string]string{"OS": "windows", "EXTRA": extraFile(t, string(noise))}, "this would be "},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			out, errs, status := run(given(c.given))
			if status != 2 || out != "" {
				t.Errorf("exit %d, %d bytes printed", status, len(out))
			}
			if !strings.HasPrefix(errs, c.says) || strings.Count(errs, "\n") != 1 {
				t.Errorf("it says %q, want one line that begins with %q", errs, c.says)
			}
		})
	}
	t.Run("all at once", func(t *testing.T) {
		t.Parallel()
		_, errs, _ := run(map[string]string{"OS": "windows", "RUNNER_GROUP": "%", "EXTRA": "nowhere"})
		for _, name := range []string{"API_URL", "TARGET", "REGION", "RUNNER_GROUP", "EXTRA"} {
			if !regexp.MustCompile("(?m)^" + name + "[ :]").MatchString(errs) {
				t.Errorf("%s is not named in %q", name, errs)
			}
		}
	})
	t.Run("outside of the checkout", func(t *testing.T) {
		t.Parallel()
		var out, errs bytes.Buffer
		status := command(os.DirFS(t.TempDir()), func(name string) string { return given(nil)[name] }, &out, &errs)
		if status != 2 || out.Len() > 0 || !strings.HasPrefix(errs.String(), "run this at the root of the checkout: ") {
			t.Errorf("exit %d, %q", status, errs.String())
		}
	})
}

// A variable's value in MAKEFLAGS is not a name, and what GitHub's runner sets for its jobs is not for this.
func TestOthersVariablesAreLeftAlone(t *testing.T) {
	t.Parallel()
	out, errs, status := run(given(map[string]string{"RUNNER_OS": "Linux", "RUNNER_TEMP": "/tmp",
		"MAKEFLAGS": `s -- RUNNER_GROUP=a\ RUNNER_B=c BUILD=.build`, "RUNNER_GROUP": "a RUNNER_B=c"}))
	if status != 0 || out == "" {
		t.Error(errs)
	}
}

// A new setting of a script needs a row in the table, or nobody could set it.
func TestEachSettingOfTheScriptsIsKnown(t *testing.T) {
	t.Parallel()
	for system, file := range files {
		t.Run(system, func(t *testing.T) {
			t.Parallel()
			script, err := os.ReadFile("../../" + file)
			if err != nil {
				t.Fatal(err)
			}
			found := 0
			for _, m := range declared[system].FindAllStringSubmatch(string(script), -1) {
				name := m[1]
				ours := regexp.MustCompile(`^(API_URL|TARGET|REGION|RUNNER_\w+|ApiUrl|Target|Region|Runner\w+)$`)
				if !ours.MatchString(name) || name == "RUNNER_SERVICE" {
					continue // for tests and mirrors, or set by the script
				}
				found++
				if !slices.ContainsFunc(settings, func(s setting) bool {
					return (s.name == name || parameter(s.name) == name) && (s.os == "" || s.os == system)
				}) {
					t.Errorf("%s has %s, and the table has not", file, name)
				}
			}
			if found < 10 {
				t.Errorf("%d settings were found in %s", found, file)
			}
		})
	}
}

func TestTheSameIsAskedForTheSameIsPrinted(t *testing.T) {
	t.Parallel()
	for _, system := range []string{"linux", "windows"} {
		t.Run(system, func(t *testing.T) {
			t.Parallel()
			asked := given(map[string]string{"OS": system, "EXTRA": extraFile(t, "echo hello")})
			first, _, _ := run(asked)
			second, errs, status := run(asked)
			if status != 0 || first != second {
				t.Errorf("exit %d, it differs: %s", status, errs)
			}
		})
	}
	out, _, _ := run(given(nil))
	z, err := gzip.NewReader(strings.NewReader(out))
	if err != nil {
		t.Fatal(err)
	}
	if h := z.Header; !h.ModTime.IsZero() || h.Name != "" || h.Comment != "" || h.Extra != nil {
		t.Errorf("the header has %+v", h)
	}
}

func TestThereIsRoomLeft(t *testing.T) {
	t.Parallel()
	for system, room := range map[string]int{"linux": 4000, "windows": 1500} {
		t.Run(system, func(t *testing.T) {
			t.Parallel()
			out, errs, status := run(given(map[string]string{"OS": system}))
			if status != 0 || len(out) > limit-room {
				t.Errorf("exit %d, %d bytes of %d leave less than %d", status, len(out), limit, room)
			}
			if !regexp.MustCompile(`^\d+ bytes of user data: \d{4,5} of EC2's 16384 are left\n$`).MatchString(errs) {
				t.Errorf("it says %q", errs)
			}
		})
	}
}

// How the values come through bash and PowerShell is tested in e2e/userdata. This is what cloud-init and EC2Launch see.
func TestLinuxBeginsAsAScriptOfCloudInit(t *testing.T) {
	t.Parallel()
	out, errs, status := run(given(map[string]string{"RUNNER_GROUP": "it's"}))
	if status != 0 {
		t.Fatal(errs)
	}
	z, err := gzip.NewReader(strings.NewReader(out))
	if err != nil {
		t.Fatal(err)
	}
	text, err := io.ReadAll(z)
	if err != nil {
		t.Fatal(err)
	}
	begins := bytes.HasPrefix(text, []byte("#!/usr/bin/env bash\n"))
	if !begins || !bytes.Contains(text, []byte(`export RUNNER_GROUP='it'\''s'`)) {
		t.Errorf("it begins with %.300q", text)
	}
}

func TestWindowsIsOnePairOfTagsInASCII(t *testing.T) {
	t.Parallel()
	out, errs, status := run(given(map[string]string{"OS": "windows", "RUNNER_GROUP": "it's $(evil)",
		"DETACH": "true", "EXTRA": extraFile(t, "'</powershell> größer'")}))
	if status != 0 {
		t.Fatal(errs)
	}
	if odd := regexp.MustCompile(`[^\t\n -~]`).FindString(out); odd != "" {
		t.Errorf("%q is in it", odd)
	}
	tags := regexp.MustCompile(`(?i)</?(powershell|script|persist|detach|runAsLocalSystem)\w*>`).FindAllString(out, -1)
	if want := []string{"<powershell>", "</powershell>", "<detach>", "</detach>"}; !slices.Equal(tags, want) {
		t.Errorf("the tags are %q, want %q", tags, want)
	}
	if !strings.Contains(out, "RunnerGroup = 'it''s $(evil)'\n") || strings.Contains(out, "RUNNER_GROUP") {
		t.Errorf("%.600s", out)
	}
}

func TestStripTakesNothingButComments(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ name, script, want string }{
		{"a line", "a\n\t# note\n#\n# it's\nb\n", "a\nb\n"},
		{"the end of a line", "a # note\nb\t# note > c\n", "a\nb\n"},
		{"empty lines and indentation", "a {\n\n\t \n\t\tb\n}\n", "a {\nb\n}\n"},
		{"in a string", "'a # b'\n\"# c\"\n", "'a # b'\n\"# c\"\n"},
		{"in a word", "a#b\n", "a#b\n"},
		{"with a quote it stays", "a # it's\n", "a # it's\n"},
		{"a comment of several lines", "<# a\n\tb\n\t#>\nc\n", "<# a\nb\n#>\nc\n"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			if got := strip(c.script); got != c.want {
				t.Errorf("%q becomes %q, want %q", c.script, got, c.want)
			}
		})
	}
}
