package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"regexp"
	"slices"
	"strings"
	"unicode/utf8"

	"runner-token-broker/internal/runner"
)

// order is what make user-data was asked for.
type order struct {
	os       string
	script   string  // of examples/user-data
	settings []value // in the order of the table
	extra    string  // lines to run before the script
	detach   bool    // Windows: EC2Launch does not wait
}

type value struct{ name, value string }

// setting is one of the scripts', by its name on Linux. A script that lacks the name has no such setting.
type setting struct {
	name     string
	os       string // if the other system takes other values
	how      string // to set it
	required bool
	check    func(string) error
}

// Where both scripts take a setting, this takes no more than the stricter one.
var settings = []setting{
	{name: "API_URL", how: "the stack's output ApiUrl, https://...", required: true,
		check: like(`https://[A-Za-z0-9.-]+(:[0-9]+)?(/[A-Za-z0-9._-]+)*/?|http://(127\.0\.0\.1|localhost)(:[0-9]+)?/?`)},
	{name: "TARGET", how: "orgs/ORG, repos/OWNER/REPOSITORY or enterprises/ENTERPRISE, in lower case", required: true,
		check: func(s string) error { _, err := runner.ParseTarget(s); return err }},
	{name: "REGION", how: "the API's AWS Region, such as eu-central-1", required: true,
		check: like(`[a-z]{2}(-[a-z]+)+-[0-9]+`)},
	// What is not in these two means something in a systemd unit or to cmd.exe.
	{name: "RUNNER_LABELS", how: `labels separated by commas, in ASCII, without spaces and " % \`,
		check: like(`[!#$&-+--\[\]-~]+(,[!#$&-+--\[\]-~]+)*`)},
	{name: "RUNNER_GROUP", how: `the name of a runner group, in ASCII, without " % \`,
		check: like(`[ !#$&-\[\]-~]+`)},
	{name: "RUNNER_EPHEMERAL", os: "linux", how: "true or false", check: like(`true|false`)},
	{name: "RUNNER_EPHEMERAL", os: "windows", how: "true, which all runners on Windows are", check: like(`true`)},
	{name: "RUNNER_AFTER_JOB", how: "poweroff or stay", check: like(`poweroff|stay`)},
	{name: "RUNNER_IDLE_TIMEOUT", how: "whole seconds, at least 60, or 0 for none",
		check: like(`0|[6-9][0-9]|[1-9][0-9]{2,5}`)},
	{name: "RUNNER_TOKEN_TIMEOUT", how: "whole seconds, at least 1", check: like(`[1-9][0-9]{0,4}`)},
	{name: "RUNNER_VERSION", how: "a version of the runner, such as 2.340.0", check: like(`[0-9]+\.[0-9]+\.[0-9]+`)},
	{name: "RUNNER_SHA256", how: "the checksum of the package, 64 digits and letters from a to f",
		check: like(`[0-9a-f]{64}`)},
	{name: "RUNNER_USER", how: "the name of a user", check: like(`[a-z_][a-z0-9_-]*`)},
	{name: "RUNNER_DIR", os: "linux", how: "an absolute path without spaces", check: like(`/[A-Za-z0-9._/-]+`)},
	{name: "RUNNER_DIR", os: "windows", how: `an absolute path without spaces, such as C:\actions-runner`,
		check: like(`[A-Za-z]:(\\[A-Za-z0-9_.-]+)+`)},
	{name: "RUNNER_CA_FILE", os: "linux", how: "the absolute path of a PEM file, without spaces",
		check: like(`/[A-Za-z0-9._/-]+`)},
	{name: "RUNNER_CA_FILE", os: "windows", how: `the absolute path of a PEM file, without spaces, such as C:\ca.pem`,
		check: like(`[A-Za-z]:(\\[A-Za-z0-9_.-]+)+`)},
}

func like(pattern string) func(string) error {
	whole := regexp.MustCompile(`^(?:` + pattern + `)$`)
	return func(s string) error {
		if !whole.MatchString(s) {
			return fmt.Errorf("it is %.200q", s)
		}
		return nil
	}
}

// declared finds the settings that a script has.
var declared = map[string]*regexp.Regexp{
	"linux":   regexp.MustCompile(`(?m)^: "\$\{(\w+):=`),
	"windows": regexp.MustCompile(`(?m)^\t\[\w+\]\$(\w+)`),
}

var files = map[string]string{"linux": "examples/user-data/linux.sh", "windows": "examples/user-data/windows.ps1"}

// parameter turns a name on Linux into the one on Windows: RUNNER_CA_FILE into RunnerCaFile.
func parameter(name string) string {
	words := strings.Split(strings.ToLower(name), "_")
	for i, w := range words {
		words[i] = strings.ToUpper(w[:1]) + w[1:]
	}
	return strings.Join(words, "")
}

// parseOrder reads what was asked for. Its error names every problem.
func parseOrder(checkout fs.FS, getenv func(string) string) (order, error) {
	o := order{os: getenv("OS")}
	file, ok := files[o.os]
	if !ok {
		return o, fmt.Errorf("OS is %q: set it to linux or windows", o.os)
	}
	script, err := fs.ReadFile(checkout, file)
	if err != nil {
		return o, fmt.Errorf("run this at the root of the checkout: %w", err)
	}
	o.script = string(script)

	var problems []error
	problem := func(format string, args ...any) { problems = append(problems, fmt.Errorf(format, args...)) }

	has := map[string]bool{}
	for _, m := range declared[o.os].FindAllStringSubmatch(o.script, -1) {
		has[m[1]] = true
	}
	for _, s := range settings {
		if s.os != "" && s.os != o.os {
			continue
		}
		given := getenv(s.name)
		if given == "" {
			if s.required {
				problem("%s is not set: set it to %s", s.name, s.how)
			}
			continue
		}
		if err := s.check(given); err != nil {
			problem("%s is malformed: set it to %s (%w)", s.name, s.how, err)
		} else if !has[s.name] && !has[parameter(s.name)] {
			problem("%s is no setting of %s", s.name, file)
		}
		o.settings = append(o.settings, value{s.name, given})
	}

	// What make was given on its command line comes after two hyphens, with $ doubled.
	_, definitions, _ := strings.Cut(getenv("MAKEFLAGS"), "-- ")
	for _, m := range regexp.MustCompile(`(?:^|[^\\] )(RUNNER_\w*)=`).FindAllStringSubmatch(definitions, -1) {
		if !slices.ContainsFunc(settings, func(s setting) bool { return s.name == m[1] }) {
			problem("%s is no setting of %s: is it spelt right?", m[1], file)
		}
	}
	if strings.Contains(definitions, "$") {
		problem("make itself reads a $ on its command line: put that variable before make, as in NAME='a$b' make user-data")
	}

	switch detach := getenv("DETACH"); {
	case detach != "" && detach != "true":
		problem("DETACH is malformed: set it to true (it is %.200q)", detach)
	case detach == "true" && o.os != "windows":
		problem("DETACH is for OS=windows")
	default:
		o.detach = detach == "true"
	}
	if path := getenv("EXTRA"); path != "" {
		extra, err := os.ReadFile(path)
		switch o.extra = strings.TrimRight(string(extra), "\n"); {
		case err != nil:
			problem("EXTRA: set it to a file of lines to run before the script: %w", err)
		case !utf8.Valid(extra) || strings.ContainsRune(o.extra, 0):
			problem("EXTRA: %s is not text in UTF-8", path)
		case o.os == "linux" && strings.ContainsRune(o.extra, '\r'):
			problem("EXTRA: %s has carriage returns, which bash takes for letters: remove them", path)
		}
	}
	return o, errors.Join(problems...)
}
