package main

import (
	"cmp"
	"errors"
	"flag"
	"fmt"
	"io"
	"strconv"
	"strings"

	"runner-token-broker/internal/runner"
	"runner-token-broker/internal/secret"
)

// settings is what was asked for.
type settings struct {
	mode         string   // "token", "run" or "sam"
	function     string   // the binary
	command      []string // of SAM
	target, kind string   // of the one request, or of the example
	port         string
	environments int
	pat          secret.Value      // zero: GitHub is the stand-in
	env          map[string]string // for the function
}

func (s settings) path() string { return "/" + s.target + "/actions/runners/" + s.kind }

const usage = "usage: local token|run -function BINARY, or local sam COMMAND...; make token, run, sam-invoke and sam-api call it so"

// parseSettings reads the arguments and the environment. Its error names every problem and how to solve it.
func parseSettings(args []string, getenv func(string) string) (settings, error) {
	var s settings
	flags := flag.NewFlagSet("local", flag.ContinueOnError)
	flags.SetOutput(io.Discard) // the error says it
	flags.StringVar(&s.function, "function", "", "")
	if len(args) == 0 {
		return settings{}, errors.New(usage)
	}
	s.mode = args[0]
	switch s.mode {
	case "token", "run":
		if err := flags.Parse(args[1:]); err != nil {
			return settings{}, fmt.Errorf("%w\n%s", err, usage)
		}
	case "sam":
		s.command = args[1:]
	}
	if (s.function == "" || flags.NArg() > 0) && len(s.command) == 0 {
		return settings{}, errors.New(usage)
	}

	var problems []error
	problem := func(format string, args ...any) { problems = append(problems, fmt.Errorf(format, args...)) }

	s.pat = secret.New(getenv("GITHUB_PAT"))
	if !s.pat.IsZero() && strings.TrimSpace(s.pat.Reveal()) == "" {
		problem("GITHUB_PAT is blank: put a personal access token into it, or unset it to use the stand-in for GitHub")
	}
	if s.pat.IsZero() && getenv("GITHUB_API_URL") != "" {
		problem("GITHUB_API_URL is set and GITHUB_PAT is not: put a personal access token for that GitHub into the environment " +
			"variable GITHUB_PAT, or unset GITHUB_API_URL to use the stand-in")
	}

	s.target = getenv("TARGET")
	if s.target != "" {
		if _, err := runner.ParseTarget(s.target); err != nil {
			problem("TARGET: %w; for example TARGET=repos/acme/widgets", err)
		}
	} else if s.mode == "token" && !s.pat.IsZero() {
		problem("TARGET is required with GITHUB_PAT: set TARGET=orgs/ORG, TARGET=repos/OWNER/REPO or TARGET=enterprises/ENTERPRISE")
	}
	s.kind = cmp.Or(getenv("KIND"), string(runner.RegistrationToken))
	if _, err := runner.ParseKind(s.kind); err != nil {
		problem("KIND: %w; for example KIND=%s", err, runner.RemoveToken)
	}

	allowed := getenv("ALLOWED_TARGETS")
	switch {
	case allowed != "":
	case s.mode != "token" && s.pat.IsZero():
		allowed = "orgs/acme repos/acme/* enterprises/acme-corp"
		if s.target != "" {
			allowed += " " + s.target
		}
	case s.mode != "token" && s.target == "":
		problem("ALLOWED_TARGETS is required with GITHUB_PAT: set ALLOWED_TARGETS='orgs/ORG repos/OWNER/*', or TARGET to allow one")
	default:
		allowed = cmp.Or(s.target, "orgs/acme")
	}
	if _, err := runner.ParsePolicy(getenv("ALLOWED_TARGETS")); getenv("ALLOWED_TARGETS") != "" && err != nil {
		problem("ALLOWED_TARGETS: %w", err)
	}
	if s.mode == "run" { // for the example
		s.target = cmp.Or(s.target, firstOf(allowed))
	}
	s.target = cmp.Or(s.target, "orgs/acme")

	s.port = cmp.Or(getenv("PORT"), "3000")
	if n, err := strconv.ParseUint(s.port, 10, 16); err != nil {
		problem("PORT is %q: set it to a number up to 65535, or to 0 for any port that is free", s.port)
	} else {
		s.port = strconv.FormatUint(n, 10)
	}
	var err error
	if s.environments, err = strconv.Atoi(cmp.Or(getenv("ENVIRONMENTS"), "1")); err != nil || s.environments < 1 || s.environments > 100 {
		problem("ENVIRONMENTS is %q: set it to how many requests are to be served at a time, 1 to 100", getenv("ENVIRONMENTS"))
	}

	s.env = map[string]string{"ALLOWED_TARGETS": allowed}
	pass := []string{"GITHUB_API_VERSION", "SECRET_TTL", "TOKEN_MIN_LIFE"}
	if !s.pat.IsZero() {
		// What it may take to reach the real GitHub. In Go, loopback goes through no proxy.
		pass = append(pass, "GITHUB_API_URL", "HTTPS_PROXY", "https_proxy", "NO_PROXY", "no_proxy",
			"SSL_CERT_FILE", "SSL_CERT_DIR")
	}
	for _, name := range pass {
		if value := getenv(name); value != "" {
			s.env[name] = value
		}
	}
	return s, errors.Join(problems...)
}

// firstOf returns a target that the list allows.
func firstOf(allowed string) string {
	entries := strings.FieldsFunc(allowed, func(r rune) bool { return r == ',' || r == ' ' || r == '\t' || r == '\n' })
	if len(entries) == 0 {
		return ""
	}
	return strings.Replace(entries[0], "*", "example", 1)
}
