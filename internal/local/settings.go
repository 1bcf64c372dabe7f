package main

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"

	"golang.org/x/time/rate"

	"runner-token-broker/internal/credential"
	"runner-token-broker/internal/runner"
	"runner-token-broker/internal/secret"
)

// settings is what was asked for.
type settings struct {
	mode         string         // "token", "check", "run" or "sam"
	function     string         // the binary; SAM has its own
	request      runner.Request // the one to make, or that of the example
	check        selfCheck      // the one to make
	port         string         // of the gateway, or of SAM
	lambdaPort   string         // "": there is no such endpoint
	environments int
	sessionToken bool              // whether the caller's keys are temporary
	throttle     *rate.Limiter     // nil: none
	credential   secret.Value      // what the secret holds; zero: GitHub is the stand-in
	env          map[string]string // for the function

	samCommand []string // "local", "invoke" and so on
	samEnv     string   // a file that says what the function calls; "": stand-ins
	samFlags   []string // the user's own
}

// selfCheck is the event that has the function check itself.
type selfCheck struct {
	Check   bool     `json:"check"`
	Targets []string `json:"targets,omitempty"` // none: all that are allowed
}

const usage = "usage: local token|check|run BINARY, or local sam invoke|start-api; " +
	"make token, check, run, sam-invoke and sam-api call it"

// parseSettings reads the arguments and the environment. Its error names every problem and its remedy.
func parseSettings(args []string, getenv func(string) string) (settings, error) {
	if len(args) != 2 {
		return settings{}, errors.New(usage)
	}
	s := settings{mode: args[0]}
	p := problems{getenv: getenv}
	s.port = p.port("PORT", "3000")
	switch {
	case s.mode == "token":
		s.function, s.port = args[1], "0"
		s.environments = p.environments()
	case s.mode == "check":
		s.function, s.port, s.lambdaPort, s.environments = args[1], "0", "0", 1
	case s.mode == "run":
		s.function, s.lambdaPort = args[1], p.port("LAMBDA_PORT", "3001")
		s.environments, s.sessionToken, s.throttle = p.environments(), p.sessionToken(), p.throttle()
	case s.mode == "sam" && args[1] == "invoke":
		s.samCommand = []string{"local", "invoke", "TokenFunction", "--event", p.event()}
	case s.mode == "sam" && args[1] == "start-api":
		s.samCommand = []string{"local", "start-api", "--port", s.port, "--warm-containers", "EAGER"}
	default:
		return settings{}, errors.New(usage)
	}
	if s.mode == "sam" {
		s.samEnv, s.samFlags = getenv("SAM_ENV"), strings.Fields(getenv("SAM_FLAGS"))
	}
	if s.samEnv == "" { // the file says all that follows
		s.credential = p.credential()
		p.targets(&s)
		p.forward(&s)
	}
	return s, errors.Join(p.found...)
}

// problems reads settings and collects what is wrong with them.
type problems struct {
	getenv func(string) string
	found  []error
}

func (p *problems) add(format string, args ...any) {
	p.found = append(p.found, fmt.Errorf(format, args...))
}

func (p *problems) port(name, byDefault string) string {
	port := cmp.Or(p.getenv(name), byDefault)
	n, err := strconv.ParseUint(port, 10, 16)
	if err != nil {
		p.add("%s is %q: set it to a number up to 65535, or to 0 for any port that is free", name, port)
	}
	return strconv.FormatUint(n, 10)
}

func (p *problems) sessionToken() bool {
	wanted, err := strconv.ParseBool(cmp.Or(p.getenv("SESSION_TOKEN"), "0"))
	if err != nil {
		p.add("SESSION_TOKEN is %q: set it to 1 for temporary keys, or leave it out", p.getenv("SESSION_TOKEN"))
	}
	return wanted
}

func (p *problems) throttle() *rate.Limiter {
	value := p.getenv("THROTTLE")
	if value == "" {
		return nil
	}
	perSecond, burst, _ := strings.Cut(value, "/")
	r, err := strconv.ParseFloat(perSecond, 64)
	b, notWhole := strconv.Atoi(burst)
	if errors.Join(err, notWhole) != nil || !(r > 0) || b < 1 {
		p.add("THROTTLE is %q: set it to the template's ThrottlingRateLimit and ThrottlingBurstLimit, "+
			"such as THROTTLE=200/50", value)
	}
	return rate.NewLimiter(rate.Limit(r), b)
}

func (p *problems) environments() int {
	n, err := strconv.Atoi(cmp.Or(p.getenv("ENVIRONMENTS"), "1"))
	if err != nil || n < 1 || n > 100 {
		p.add("ENVIRONMENTS is %q: set it to how many requests are to be served at a time, 1 to 100",
			p.getenv("ENVIRONMENTS"))
	}
	return n
}

func (p *problems) event() string {
	event := p.getenv("EVENT")
	if info, err := os.Stat(event); err != nil || !info.Mode().IsRegular() {
		p.add("EVENT='%s' is no file: try EVENT=events/direct-org.json, or another of events/", event)
	}
	return event
}

// credential returns what the secret shall hold for the real GitHub: a PAT, or an App's ID and key. It is zero without
// either.
func (p *problems) credential() secret.Value {
	pat, id, file := p.getenv("GITHUB_PAT"), p.getenv("GITHUB_APP_ID"), p.getenv("GITHUB_APP_KEY_FILE")
	switch isApp := id != "" || file != ""; {
	case pat != "" && isApp:
		p.add("GITHUB_PAT is set, and so is GITHUB_APP_ID or GITHUB_APP_KEY_FILE: unset what is not to be used")
	case isApp:
		return p.app(id, file)
	case pat == "" && p.getenv("GITHUB_API_URL") != "":
		p.add("GITHUB_API_URL is set, and GITHUB_PAT is not: put a personal access token for that GitHub into the " +
			"environment variable GITHUB_PAT, or set GITHUB_APP_ID and GITHUB_APP_KEY_FILE, or unset GITHUB_API_URL to " +
			"use the stand-in")
	case pat != "" && strings.TrimSpace(pat) == "":
		p.add("GITHUB_PAT is blank: put a personal access token into it, or unset it to use the stand-in for GitHub")
	}
	return secret.New(pat)
}

// app returns the App as the secret holds it. Its errors quote nothing of the key.
func (p *problems) app(id, file string) secret.Value {
	if id == "" {
		p.add("GITHUB_APP_ID is not set: set it to the client ID or the App ID that the App's page shows")
	}
	key, err := os.ReadFile(file)
	if err != nil {
		p.add("GITHUB_APP_KEY_FILE: %w: set it to the .pem file that the App's page gave you", err)
	}
	if id == "" || err != nil {
		return secret.Value{}
	}
	field := "client_id"
	if _, err := strconv.ParseUint(id, 10, 64); err == nil {
		field = "app_id"
	}
	text, _ := json.Marshal(map[string]string{field: id, "private_key": string(key)})
	held := secret.New(string(text))
	if _, err := credential.Parse(held); err != nil {
		p.add("GITHUB_APP_ID=%s, GITHUB_APP_KEY_FILE=%s: %s", id, file, runner.AsError(err).Operator())
	}
	return held
}

// targets sets which request is made or shown, and which targets the function allows.
func (p *problems) targets(s *settings) {
	target, allowed := p.getenv("TARGET"), p.getenv("ALLOWED_TARGETS")
	switch {
	case target != "":
		if _, err := runner.ParseTarget(target); err != nil {
			p.add("TARGET: %w; for example TARGET=repos/acme/widgets", err)
		}
	case s.mode == "token" && !s.credential.IsZero():
		p.add("TARGET is required with the real GitHub: set TARGET=orgs/ORG, TARGET=repos/OWNER/REPO or " +
			"TARGET=enterprises/ENTERPRISE")
	}
	switch {
	case allowed != "":
		if _, err := runner.ParsePolicy(allowed); err != nil {
			p.add("ALLOWED_TARGETS: %w", err)
		}
	case s.mode == "token":
		allowed = cmp.Or(target, "orgs/acme")
	case s.credential.IsZero():
		allowed = strings.TrimSpace("orgs/acme repos/acme/* enterprises/acme-corp " + target)
	case target == "":
		p.add("ALLOWED_TARGETS is required with the real GitHub: set ALLOWED_TARGETS='orgs/ORG repos/OWNER/*', " +
			"or TARGET to allow one")
	default:
		allowed = target
	}
	s.check.Check = true
	if target != "" {
		s.check.Targets = []string{target}
	}
	s.env = map[string]string{"ALLOWED_TARGETS": allowed, "METRICS": "off"} // nobody counts them here

	if s.mode == "run" { // for the example
		target = cmp.Or(target, firstOf(allowed))
	}
	s.request.Target, _ = runner.ParseTarget(cmp.Or(target, "orgs/acme"))
	kind, err := runner.ParseKind(cmp.Or(p.getenv("KIND"), string(runner.RegistrationToken)))
	if err != nil {
		p.add("KIND: %w; for example KIND=%s", err, runner.RemoveToken)
	}
	s.request.Kind = kind
}

// forward gives the function those of its own settings that are in the environment.
func (p *problems) forward(s *settings) {
	names := []string{"GITHUB_API_VERSION", "METRICS", "SECRET_TTL", "TOKEN_MIN_LIFE"}
	if !s.credential.IsZero() {
		// The real GitHub may need these. In Go, loopback goes through no proxy.
		names = append(names, "GITHUB_API_URL", "GITHUB_CA_CERTIFICATES", "HTTPS_PROXY", "https_proxy", "NO_PROXY",
			"no_proxy", "SSL_CERT_FILE", "SSL_CERT_DIR")
	}
	for _, name := range names {
		if value := p.getenv(name); value != "" {
			s.env[name] = value
		}
	}
}

// firstOf returns a target that the list allows, or "" if it is empty.
func firstOf(allowed string) string {
	entries := strings.FieldsFunc(allowed, func(r rune) bool { return strings.ContainsRune(", \t\r\n", r) })
	if len(entries) == 0 {
		return ""
	}
	return strings.Replace(entries[0], "*", "example", 1)
}
