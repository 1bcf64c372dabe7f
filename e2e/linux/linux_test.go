package linux_test

import (
	"bytes"
	"cmp"
	"compress/gzip"
	"encoding/json"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"

	"runner-token-broker/e2e/rig"
)

const (
	linuxSH = rig.Root + "/examples/user-data/linux.sh"
	vectors = rig.Root + "/examples/user-data/testdata/sigv4.json"
)

// Both signers, with and without a session token, against a gateway that recomputes the signature.
func TestLinuxTokenOnly(t *testing.T) {
	t.Parallel()
	for _, caller := range []struct {
		name        string
		credentials aws.Credentials
	}{
		{"role", rig.RoleCredentials()},
		{"user", rig.UserCredentials()},
	} {
		t.Run(caller.name, func(t *testing.T) {
			b := newBoot(t, caller.credentials)
			for _, c := range []struct {
				name  string
				curl  string // what the stub of curl claims to be
				signs bool   // itself
			}{
				{"curl signs", "", true},
				{"curl is too old to sign", "old", false},
				{"curl was built without it", "bare", false},
			} {
				t.Run(c.name, func(t *testing.T) {
					os.Remove(filepath.Join(b.dir, "curl"))
					out, errs, status := b.run(t, []string{"CURL=" + c.curl}, linuxSH, "--token-only")
					tokens := b.GitHub.Tokens()
					if status != 0 || len(tokens) == 0 || out != tokens[len(tokens)-1].Reveal()+"\n" {
						t.Errorf("exit %d, %d tokens\n%s", status, len(tokens), errs)
					}
					if signs := strings.Contains(b.recorded(t, "curl"), "--aws-sigv4"); signs != c.signs {
						t.Errorf("curl signs: %v, want %v", signs, c.signs)
					}
					b.keepsSecrets(t, errs)
				})
			}
			if _, err := os.Stat(b.dir + "/runner"); err == nil {
				t.Error("--token-only installed a runner")
			}
		})
	}
}

func TestLinuxRegisters(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name string
		env  []string
		args string // of config.sh, after --url
	}{
		{"as it is", nil, " --name " + rig.InstanceID + " --ephemeral\n"},
		{"with everything", []string{"RUNNER_LABELS=a,b", "RUNNER_GROUP=my group", "RUNNER_VERSION=2.998.0"},
			" --name " + rig.InstanceID + " --ephemeral --labels a,b --runnergroup my group\n"},
		{"not ephemeral", []string{"RUNNER_EPHEMERAL=false"}, " --name " + rig.InstanceID + "\n"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			b := newBoot(t, rig.RoleCredentials())
			// token is exported to see that it does not become a variable of every child; -x to see that nothing is traced.
			out, errs, status := b.run(t, append(c.env, "token=x"), "-x", linuxSH)
			if status != 0 {
				t.Fatalf("exit %d\n%s", status, errs)
			}
			runnerURL := b.GitHubURL + "/acme"
			if got, want := b.recorded(t, "config.args"), "--unattended --replace --url "+runnerURL+c.args; got != want {
				t.Errorf("config.sh got %q, want %q", got, want)
			}
			token := b.GitHub.Tokens()[0].Reveal()
			if !strings.Contains(b.recorded(t, "config.env"), "\nACTIONS_RUNNER_INPUT_TOKEN="+token+"\n") {
				t.Error("config.sh did not get the token in its environment")
			}
			if got, want := b.recorded(t, "svc.args"), "uninstall\ninstall "+b.setting("RUNNER_USER")+"\n"; got != want {
				t.Errorf("svc.sh got %q, want %q", got, want)
			}
			const started = "daemon-reload\nenable runner.service\nstart runner.service " + runnerUnit + "\n"
			if got := b.recorded(t, "systemctl"); got != started {
				t.Errorf("systemctl got %q, want %q", got, started)
			}
			// What config.sh writes, credentials among it, only the runner's user can read.
			if info, err := os.Stat(b.dir + "/runner/.runner"); err != nil || info.Mode().Perm() != 0o600 {
				t.Errorf(".runner: %v, %v", info, err)
			}
			b.keepsSecrets(t, out+errs)
		})
	}
}

func TestLinuxSaysWhatFailed(t *testing.T) {
	t.Parallel()
	b := newBoot(t, rig.RoleCredentials())
	full, broken := t.TempDir(), t.TempDir()
	rig.WriteFile(t, full+"/file", "", 0o644)
	rig.WriteFile(t, broken+"/tar", "#!/bin/sh\nexit 2\n", 0o755)
	for _, c := range []struct {
		name   string
		env    string
		imds   func(path string) int
		status int
		says   string
	}{
		{"a folder that is not empty", "RUNNER_DIR=" + full, nil, 7, "is not empty: empty it"},
		{"no download", "DOWNLOAD_URL=http://127.0.0.1:1", nil, 7, "no package"},
		{"a broken tar", "PATH=" + broken + ":" + b.setting("PATH"), nil, 1, "a command failed with 2"},
		{"no instance id", "RUNNER_DIR=" + t.TempDir() + "/a/b", func(path string) int {
			if strings.HasSuffix(path, "/instance-id") {
				return http.StatusNotFound
			}
			return 0
		}, 3, "no instance id"},
	} {
		t.Run(c.name, func(t *testing.T) {
			b.Fail(c.imds, nil)
			_, errs, status := b.run(t, []string{c.env}, linuxSH)
			last := errs[strings.LastIndex(strings.TrimSpace(errs), "\n")+1:]
			if status != c.status || !strings.HasPrefix(last, "runner: ") || !strings.Contains(last, c.says) {
				t.Errorf("exit %d, want %d and %q\n%s", status, c.status, c.says, errs)
			}
			if args := b.recorded(t, "config.args"); args != "" {
				t.Errorf("config.sh got %q", args)
			}
			os.RemoveAll(b.dir + "/runner")
		})
	}
	b.keepsSecrets(t, "")
}

// What systemd would do with the unit, over the life of an instance.
func TestLinuxLeavesAndJoinsAgain(t *testing.T) {
	t.Parallel()
	b := newBoot(t, rig.RoleCredentials())
	_, errs, status := b.run(t, []string{"RUNNER_EPHEMERAL=false", "RUNNER_GROUP=my group"}, linuxSH)
	if status != 0 {
		t.Fatalf("exit %d\n%s", status, errs)
	}
	unit := b.recorded(t, "runner.service")
	if !strings.Contains(unit, "\nBefore=actions.runner.acme.service\n") {
		t.Error("the unit is not bound to the runner's")
	}
	var env []string
	for line := range strings.Lines(b.recorded(t, "settings.env")) {
		name, quoted, _ := strings.Cut(strings.TrimSpace(line), "=")
		value, err := strconv.Unquote(quoted)
		if err != nil {
			t.Errorf("%s: %v", line, err)
		}
		env = append(env, name+"="+value)
	}
	// systemd passes on the unit's variables alone.
	b.env = slices.DeleteFunc(b.env, func(v string) bool {
		name, _, _ := strings.Cut(v, "=")
		return !slices.Contains([]string{"PATH", "RECORD", "TMPDIR"}, name)
	})
	exec := func(verb string) {
		t.Helper()
		_, rest, _ := strings.Cut(unit, "\n"+verb+"=")
		command, _, _ := strings.Cut(rest, "\n")
		if out, errs, status := b.run(t, env, strings.Fields(command)...); status != 0 || out != "" {
			t.Fatalf("%s=%s: exit %d, %q\n%s", verb, command, status, out, errs)
		}
	}
	joined := b.recorded(t, "config.args")
	exec("ExecStartPre")
	if got := b.recorded(t, "config.args"); got != joined {
		t.Errorf("a runner that is registered was configured again: %q", got)
	}
	// However long it is asked to wait: it holds up the shutdown.
	b.Fail(nil, always(rig.Refusal{Status: 503, RetryAfter: "30"}))
	if _, errs, status := b.run(t, append(env, "RUNNER_TOKEN_TIMEOUT=300"), b.dir+"/hook", "--remove"); status != 6 {
		t.Errorf("a limit while stopping: exit %d\n%s", status, errs)
	}
	// The right to remove is not one that comes yet.
	b.Fail(nil, always(rig.Refusal{Status: 403, Body: `{"message":"Forbidden"}`}))
	_, errs, status = b.run(t, env, b.dir+"/hook", "--remove")
	if _, posts := b.Requests(); status != 5 || posts != 1 {
		t.Errorf("without the right to remove: exit %d, asked %d times\n%s", status, posts, errs)
	}
	b.Fail(nil, nil)
	exec("ExecStop")
	if got := b.recorded(t, "config.args"); got != joined+"remove\n" {
		t.Errorf("stopping did not remove the runner: %q", got)
	}
	last := b.GitHub.Requests()[len(b.GitHub.Requests())-1]
	if last.Path != "/orgs/acme/actions/runners/remove-token" {
		t.Errorf("stopping asked for %s", last.Path)
	}
	exec("ExecStop") // when it has left already, as after an ephemeral runner's job
	if got := b.recorded(t, "config.args"); got != joined+"remove\n" {
		t.Errorf("it was removed twice: %q", got)
	}
	exec("ExecStartPre")
	if got := b.recorded(t, "config.args"); got != joined+"remove\n"+joined {
		t.Errorf("starting again did not register the runner: %q", got)
	}
	b.keepsSecrets(t, errs)
}

func always(r rig.Refusal) func(int) *rig.Refusal {
	return func(int) *rig.Refusal { return &r }
}

func upTo(times int, r rig.Refusal) func(int) *rig.Refusal {
	return func(n int) *rig.Refusal {
		if n > times {
			return nil
		}
		return &r
	}
}

// coded is a refusal of the service's, the others are API Gateway's.
func coded(status int, code, retryAfter string) rig.Refusal {
	return rig.Refusal{Status: status, Body: fmt.Sprintf(`{"code":%q,"message":"m"}`, code), RetryAfter: retryAfter}
}

// TestLinuxFaults takes time and measures it, so it runs alone.
func TestLinuxFaults(t *testing.T) {
	b := newBoot(t, rig.RoleCredentials())
	forged := b.dir + "/forged"
	gateway := func(status int, message string) rig.Refusal {
		return rig.Refusal{Status: status, Body: fmt.Sprintf(`{"message":%q}`, message)}
	}
	imdsOnce := func(status int) func(string) int {
		return func(string) int {
			defer func() { status = 0 }()
			return status
		}
	}
	noCredentials := func(string) int { return http.StatusNotFound }
	var first []string // how long is slept after the first failure, where neither Retry-After nor the time left decides
	for _, c := range []struct {
		name    string
		imds    func(path string) int
		api     func(n int) *rig.Refusal
		env     string
		timeout string // "20" if empty
		status  int
		says    string // in stderr
		posts   int
		orMore  bool // posts, up to the end of the time
		sleeps  int  // at least so long, in seconds, if any
	}{
		{name: "IMDS answers 401 once", imds: imdsOnce(401), posts: 1},
		{name: "credentials never come", imds: noCredentials, timeout: "2", status: 3, says: "instance profile"},
		{name: "503 twice", api: upTo(2, coded(503, "RateLimited", "5")), says: "503 RateLimited", posts: 3, sleeps: 10},
		{name: "429", api: upTo(1, gateway(429, "Too Many Requests")), posts: 2, sleeps: 1},
		{name: "504", api: upTo(1, gateway(504, "Endpoint request timed out")), posts: 2},
		{name: "500 without a code", api: upTo(1, gateway(500, "Internal Server Error")), posts: 2},
		{name: "500 with a code", api: always(coded(500, "Internal", "")), status: 5, says: "request_id", posts: 1},
		{name: "502 without a code", api: upTo(1, gateway(502, "Bad Gateway")), posts: 2},
		{name: "502 with a code", api: always(coded(502, "CredentialRejected", "")), status: 5,
			says: "put a new one", posts: 1},
		{name: "503 for ever", api: always(coded(503, "Unavailable", "")), timeout: "2", status: 6,
			says: "RUNNER_TOKEN_TIMEOUT=2", posts: 6, orMore: true},
		{name: "Retry-After is too long", api: always(coded(503, "RateLimited", "900")), status: 6,
			says: "asked to wait 900 s. Remedy: ", posts: 1},
		{name: "Retry-After is a date", api: upTo(1, coded(503, "RateLimited", "Wed, 25 Nov 2026 15:16:44 GMT")), posts: 2},
		{name: "IAM does not know the role's policy yet", api: upTo(2, gateway(403, "Forbidden")), posts: 3},
		{name: "the Region is another", env: "REGION=us-east-1", status: 5, says: "API Gateway refused", posts: 5,
			orMore: true, sleeps: 90},
		{name: "the Region is another, and time is up", env: "REGION=us-east-1", timeout: "2", status: 5,
			says: "API Gateway refused", posts: 2, orMore: true},
		{name: "403 with two Dates", api: always(dated("Wed, 25 Nov 2026 15:16:44 GMT", "Wed, 25 Nov 2026 15:16:44 GMT")),
			status: 5, says: "403 without a code: Forbidden; its Date header cannot be read", posts: 1},
		{name: "403 with a Date that is none", api: always(dated("soon")), status: 5, says: "cannot be read", posts: 1},
		{name: "a message with escapes", api: always(rig.Refusal{Status: 400, Body: "{\n" + `  "code": "InvalidRequest",
  "message": "target \"x\\y\" \u0041\u001b\/\n, \\\"code\\\": \\\"X\\\"",
  "request_id": "c6af9ac6"` + "\n}"}), status: 5, posts: 1,
			says: `refused: 400 InvalidRequest: target "x\y" A / , \"code\": \"X\" (request_id c6af9ac6). Remedy: check TARGET`},
		{name: "a long message", api: always(rig.Refusal{Status: 400, Body: `{"code":"InvalidRequest","message":"` +
			strings.Repeat("m", 501) + `","request_id":"c6af9ac6"}`}), status: 5, posts: 1,
			says: ": " + strings.Repeat("m", 500) + " (request_id c6af9ac6)"},
		{name: "API Gateway's request", api: always(rig.Refusal{Status: 404, Body: `{"message":"Not Found"}`,
			Header: http.Header{"Apigw-Requestid": {"JKJaXmPLvHcESHA="}}}), status: 5, posts: 1,
			says: "404 without a code: Not Found (request_id JKJaXmPLvHcESHA=). Remedy: API Gateway has no such path"},
		{name: "a slash after API_URL", env: "API_URL=" + b.APIURL + "/", posts: 1},
		{name: "TargetNotAllowed", env: "TARGET=orgs/other", status: 5, says: "add orgs/other to AllowedTargets", posts: 1},
		{name: "no token", api: upTo(1, rig.Refusal{Status: 201, Body: `{"token":"","runner_url":"https://x.example/acme"}`}),
			status: 5, says: "no token", posts: 1},
		{name: "unreachable", env: "API_URL=http://127.0.0.1:1", timeout: "2", status: 6, says: "curl's error 7"},
		{name: "mute", env: "API_URL=" + mute(t), timeout: "2", status: 6, says: "curl's error 28"},
		{name: "cut off", env: "API_URL=" + hangingUp(t), timeout: "2", status: 6, says: "curl's error 52"},
		{name: "no TLS", env: "API_URL=https" + strings.TrimPrefix(b.APIURL, "http"), timeout: "2", status: 6,
			says: "curl's error 35"},
		{name: "an untrusted certificate", env: "API_URL=" + untrusted(t), status: 5,
			says: "Remedy: the company's CA is not in this machine's store"},
		{name: "no metadata service", env: "IMDS_URL=http://127.0.0.1:1", timeout: "2", status: 3,
			says: "no answer from the metadata service http://127.0.0.1:1. Remedy: in a container set the hop limit"},
		{name: "no role", imds: func(path string) int {
			if strings.HasPrefix(path, "/latest/meta-data/iam") {
				return http.StatusNotFound
			}
			return 0
		}, timeout: "2", status: 3, says: "the instance has no role. Remedy: attach an instance profile"},
		{name: "a role that EC2 cannot assume", env: "IMDS_URL=" + imds(t, "session", "role", `{
			"Code": "AssumeRoleUnauthorizedAccess", "Message": "EC2 cannot assume the role role."}`), timeout: "2", status: 3,
			says: "role: AssumeRoleUnauthorizedAccess: EC2 cannot assume the role role.. Remedy: the role must exist"},
		{name: "a forged session token", env: "IMDS_URL=" + imds(t, "s\"\noutput = \""+forged, "role", "{}"), timeout: "2",
			status: 3, says: "nonsense"},
		{name: "a forged role", env: "IMDS_URL=" + imds(t, "session", "../{user-data,x}", `{"AccessKeyId": "A",
			"SecretAccessKey": "S", "Token": "T"}`), timeout: "2", status: 3, says: "Remedy: attach"},
		{name: "forged keys", env: "IMDS_URL=" + imds(t, "session", "role", `{"AccessKeyId": "A\"\noutput = \"`+forged+`",
			"SecretAccessKey": "S", "Token": "T"}`), timeout: "2", status: 3, says: "no credentials of the role role"},
		{name: "a container of Fargate", imds: noCredentials, env: "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI=/v2/credentials/x",
			status: 3, says: "credentials of a container (Fargate, ECS, EKS). Remedy: this script signs as"},
		{name: "keys in the environment", imds: noCredentials, env: "AWS_ACCESS_KEY_ID=AKIAIOSFODNN7EXAMPLE", status: 3,
			says: "keys in the environment. Remedy: this script signs as"},
		{name: "keys in the environment, and a role", env: "AWS_ACCESS_KEY_ID=AKIAIOSFODNN7EXAMPLE", posts: 1},
	} {
		t.Run(c.name, func(t *testing.T) {
			os.Remove(filepath.Join(b.dir, "sleep"))
			b.Fail(c.imds, c.api)
			start := time.Now()
			env := []string{cmp.Or(c.env, "x="), "RUNNER_TOKEN_TIMEOUT=" + cmp.Or(c.timeout, "20")}
			out, errs, status := b.run(t, env, linuxSH, "--token-only")
			took := time.Since(start)
			if status != c.status || !strings.Contains(errs, c.says) || (out != "") != (status == 0) {
				t.Errorf("exit %d, want %d and %q:\n%s", status, c.status, c.says, errs)
			}
			asked, posts := b.Requests()
			if posts < c.posts || posts > c.posts && !c.orMore {
				t.Errorf("the API was asked %d times, want %d", posts, c.posts)
			}
			if c.timeout != "" && took > 5*time.Second {
				t.Errorf("it took %s, and was given %s s", took, c.timeout)
			}
			if posts > 1 && asked < 3*posts { // token, role, credentials
				t.Errorf("IMDS was asked %d times for %d tries", asked, posts)
			}
			slept := 0.0
			for i, s := range strings.Fields(b.recorded(t, "sleep")) {
				if i == 0 && c.sleeps == 0 && c.timeout == "" {
					first = append(first, s)
				}
				n, err := strconv.ParseFloat(s, 64)
				if err != nil {
					t.Error(err)
				}
				slept += n
			}
			if slept < float64(c.sleeps) || c.sleeps > 0 && slept > 3*float64(c.sleeps) {
				t.Errorf("slept %v s, want at least %d and not much more", slept, c.sleeps)
			}
		})
	}
	if len(first) > 3 && len(slices.Compact(slices.Clone(first))) == 1 {
		t.Errorf("there is no jitter: %v", first)
	}
	if _, err := os.Stat(forged); err == nil {
		t.Error("a metadata service wrote a file")
	}
	b.keepsSecrets(t, "")
}

// dated is a refusal of API Gateway's.
func dated(dates ...string) rig.Refusal {
	return rig.Refusal{Status: 403, Body: `{"message":"Forbidden"}`, Header: http.Header{"Date": dates}}
}

// imds is a metadata service that gives a session token, a role's name and its credentials, whatever they are.
func imds(t *testing.T, session, role, credentials string) string {
	return rig.Serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch path := r.URL.Path; {
		case path == "/latest/api/token":
			io.WriteString(w, session)
		case strings.HasSuffix(path, "/security-credentials/"):
			io.WriteString(w, role)
		default:
			io.WriteString(w, credentials)
		}
	}))
}

// mute takes requests and says nothing.
func mute(t *testing.T) string {
	return rig.Serve(t, http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }))
}

// hangingUp takes requests and ends their connections.
func hangingUp(t *testing.T) string {
	return rig.Serve(t, http.HandlerFunc(func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }))
}

func untrusted(t *testing.T) string {
	s := httptest.NewUnstartedServer(http.NotFoundHandler())
	s.Config.ErrorLog = log.New(io.Discard, "", 0) // it would say that the client left
	s.StartTLS()
	t.Cleanup(s.Close)
	return s.URL
}

// The faults that take real time, which the clocks of the machine decide. It runs alone.
func TestLinuxWaits(t *testing.T) {
	b := newBoot(t, rig.RoleCredentials())
	b.env = append(b.env, "PATH="+os.Getenv("PATH"))
	t.Run("credentials come 10 s late", func(t *testing.T) {
		var first time.Time
		b.Fail(func(string) int {
			if first.IsZero() {
				first = time.Now()
			}
			if time.Since(first) < 10*time.Second {
				return http.StatusNotFound
			}
			return 0
		}, nil)
		out, errs, status := b.run(t, nil, linuxSH, "--token-only")
		if status != 0 || out == "" || time.Since(first) < 10*time.Second {
			t.Errorf("exit %d\n%s", status, errs)
		}
	})

	// The clock of the script, curl and all, is an hour off until somebody sets it.
	faketime := exec.CommandContext(t.Context(), rig.Tool(t, "faketime"), "-f", "+0", "sh", "-c", "printf %s $LD_PRELOAD")
	clock := filepath.Join(b.dir, "clock")
	env := []string{"LD_PRELOAD=" + rig.Output(t, faketime), "FAKETIME_TIMESTAMP_FILE=" + clock, "FAKETIME_NO_CACHE=1"}
	for _, c := range []struct {
		name, offset, timeout string
		setAfter              int // so many tries; 0: never
		status                int
	}{
		{"the clock is fast until it is set", "+1h", "20", 2, 0},
		{"the clock is slow until it is set", "-1h", "20", 2, 0},
		{"the clock stays fast", "+1h", "3", 0, 4},
	} {
		t.Run(c.name, func(t *testing.T) {
			rig.WriteFile(t, clock, c.offset, 0o644)
			b.Fail(nil, func(n int) *rig.Refusal {
				if n == c.setAfter {
					rig.WriteFile(t, clock, "+0", 0o644)
				}
				return nil
			})
			_, errs, status := b.run(t, append(env, "RUNNER_TOKEN_TIMEOUT="+c.timeout), linuxSH, "--token-only")
			if status != c.status || !strings.Contains(errs, "the clock is off by ") {
				t.Errorf("exit %d, want %d\n%s", status, c.status, errs)
			}
		})
	}
}

// Ctrl-C, or a shutdown: whatever it is doing, nothing of the token is left.
func TestLinuxInterrupted(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name   string
		refuse func(n int) *rig.Refusal
		env    []string
		busy   func(*testing.T, *boot) bool
	}{
		{"while it waits to ask again", always(rig.Refusal{Status: 503, RetryAfter: "15"}),
			[]string{"PATH=" + os.Getenv("PATH")}, // to sleep for as long as it says
			func(_ *testing.T, b *boot) bool { _, posts := b.Requests(); return posts > 0 }},
		{"while config.sh runs", nil, []string{"HANG=x"},
			func(t *testing.T, b *boot) bool { return b.recorded(t, "config.env") != "" }},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			b := newBoot(t, rig.RoleCredentials())
			b.Fail(nil, c.refuse)
			cmd := b.command(t, c.env, linuxSH)
			cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // a terminal, and systemd, tell the whole group
			script := rig.Start(t, cmd, syscall.SIGTERM, func() bool { return c.busy(t, b) })
			printed := script.Printed() // ends it
			if cmd.ProcessState.Success() {
				t.Error("exit 0")
			}
			if got := b.recorded(t, "svc.args"); got != "" {
				t.Errorf("svc.sh got %q", got)
			}
			b.keepsSecrets(t, printed)
		})
	}
}

func TestLinuxWrongChecksum(t *testing.T) {
	t.Parallel()
	b := newBoot(t, rig.RoleCredentials())
	good, wrong := b.checksum, strings.Repeat("0", 64)
	for _, c := range []struct {
		name             string
		release, setting string
	}{
		{"of the release", wrong, ""},
		{"of the setting", good, wrong},
	} {
		t.Run(c.name, func(t *testing.T) {
			b.mu.Lock()
			b.checksum = c.release
			b.mu.Unlock()
			_, errs, status := b.run(t, []string{"RUNNER_SHA256=" + c.setting}, linuxSH)
			if status != 7 || !strings.Contains(errs, "checksum") || b.GitHub.Tokens() != nil {
				t.Errorf("exit %d, %d tokens\n%s", status, len(b.GitHub.Tokens()), errs)
			}
			if _, err := os.Stat(b.dir + "/runner"); err == nil {
				t.Error("there is a folder for the runner")
			}
			b.keepsSecrets(t, errs) // and leaves nothing behind
		})
	}
	t.Run("with version and checksum GitHub is not asked for the release", func(t *testing.T) {
		env := []string{"RUNNER_VERSION=2.998.0", "RUNNER_SHA256=" + good, "RELEASES_URL=http://127.0.0.1:1"}
		if _, errs, status := b.run(t, env, linuxSH); status != 0 {
			t.Errorf("exit %d\n%s", status, errs)
		}
	})
}

func TestLinuxSettings(t *testing.T) {
	t.Parallel()
	above := t.TempDir() // those of the cases have their names, which are no good for RUNNER_DIR
	run := func(t *testing.T, env ...string) (stderr string, status int) {
		t.Helper()
		dir, err := os.MkdirTemp(above, "")
		if err != nil {
			t.Fatal(err)
		}
		cmd := exec.CommandContext(t.Context(), "bash", linuxSH)
		cmd.Env = append(rig.Environ(), "PATH="+asRoot(t, dir)+os.Getenv("PATH"),
			"API_URL=http://127.0.0.1:1", "TARGET=orgs/acme", "REGION="+rig.Region,
			"IMDS_URL=http://127.0.0.1:1", "RELEASES_URL=http://127.0.0.1:1", "RUNNER_DIR="+dir+"/runner")
		cmd.Env = append(cmd.Env, env...)
		out, errs, status := rig.Run(t, cmd)
		if out != "" {
			t.Errorf("stdout is %q", out)
		}
		if _, err := os.Stat(dir + "/runner"); err == nil {
			t.Error("something was done")
		}
		return errs, status
	}
	for _, env := range []string{
		"API_URL=", "API_URL=http://example.com", "API_URL=https://x.example/a?b",
		"TARGET=", "TARGET=orgs/Acme", "TARGET=acme", "TARGET=orgs/acme/",
		"REGION=", "REGION=Frankfurt",
		"RUNNER_LABELS=a b", "RUNNER_LABELS=ä", "RUNNER_LABELS=a,", `RUNNER_LABELS=a"`,
		"RUNNER_LABELS=a%i", `RUNNER_LABELS=\`,
		`RUNNER_GROUP=a"b`, "RUNNER_GROUP=größe", "RUNNER_GROUP=a\nb", "RUNNER_EPHEMERAL=yes",
		"RUNNER_VERSION=latest", "RUNNER_SHA256=xyz", "RUNNER_USER=a b", "RUNNER_DIR=runner",
		"RUNNER_TOKEN_TIMEOUT=5m", "RUNNER_TOKEN_TIMEOUT=0", "RUNNER_TOKEN_TIMEOUT=-1", "RUNNER_TOKEN_TIMEOUT=soon",
		"RUNNER_AFTER_JOB=halt", "RUNNER_IDLE_TIMEOUT=59", "RUNNER_IDLE_TIMEOUT=-1", "RUNNER_IDLE_TIMEOUT=1h",
		"RUNNER_CA_FILE=ca.pem", "RUNNER_CA_FILE=/etc/hostname", "RUNNER_CA_FILE=/none.pem",
		"IMDS_URL=nonsense", "RELEASES_URL=nonsense", "DOWNLOAD_URL=nonsense",
		"http_proxy=proxy:3128", `https_proxy=http://a"b`, `no_proxy=\`,
	} {
		t.Run(env, func(t *testing.T) {
			t.Parallel()
			errs, status := run(t, env)
			name, value, _ := strings.Cut(env, "=")
			want := "runner: " + name + " is malformed: set it to "
			if value == "" {
				want = "runner: " + name + " is not set: set it to "
			}
			if !strings.HasPrefix(errs, want) || strings.Count(errs, "\n") != 1 || status != 2 {
				t.Errorf("exit %d: %s", status, errs)
			}
		})
	}
	for env, want := range map[string]string{
		"TARGET=repos/acme/widgets.git": "runner: TARGET is malformed: set it without .git at its end\n",
		"HTTPS_PROXY=proxy:3128":        "runner: https_proxy is malformed: set it to a proxy's URL, http://HOST:PORT\n",
	} {
		t.Run(env, func(t *testing.T) {
			t.Parallel()
			if errs, status := run(t, env); errs != want || status != 2 {
				t.Errorf("exit %d: %s", status, errs)
			}
		})
	}
	t.Run("three at once", func(t *testing.T) {
		t.Parallel()
		errs, status := run(t, "API_URL=", "TARGET=Acme", "REGION=")
		if strings.Count(errs, "\n") != 3 || status != 2 {
			t.Errorf("exit %d: %s", status, errs)
		}
	})
}

// The signer in sh under each shell, against botocore's signatures.
func TestLinuxSigner(t *testing.T) {
	t.Parallel()
	_, rest, _ := strings.Cut(rig.ReadFile(t, linuxSH), "# --- signer")
	signer, _, found := strings.Cut("# --- signer"+rest, "# --- end of signer")
	if !found {
		t.Fatal("the signer is not marked")
	}
	var cases []struct {
		Name, Host, Path, Region, Date, Authorization string
		AccessKey                                     string `json:"access_key"`
		SecretKey                                     string `json:"secret_key"`
		SessionToken                                  string `json:"session_token"`
	}
	if err := json.Unmarshal([]byte(rig.ReadFile(t, vectors)), &cases); err != nil || len(cases) == 0 {
		t.Fatalf("%d vectors: %v", len(cases), err)
	}
	for _, shell := range [][]string{{"bash"}, {"dash"}, {"busybox", "sh"}} {
		for _, c := range cases {
			t.Run(shell[0]+"/"+c.Name, func(t *testing.T) {
				t.Parallel()
				args := append(slices.Clone(shell[1:]), "-c", "set -eu\n"+signer+"\nauthorization \"$@\"", "signer",
					c.Host, c.Path, c.Region, c.Date, c.AccessKey, c.SecretKey, c.SessionToken)
				got := rig.Output(t, exec.CommandContext(t.Context(), rig.Tool(t, shell[0]), args...))
				if got != c.Authorization {
					t.Errorf("\n got %s\nwant %s", got, c.Authorization)
				}
			})
		}
	}
}

// The vectors are what botocore makes today.
func TestVectorsAreBotocores(t *testing.T) {
	t.Parallel()
	got := rig.Output(t, exec.CommandContext(t.Context(), rig.Tool(t, "python"), "sigv4_vectors.py"))
	if want := rig.ReadFile(t, vectors); got != want || strings.Count(want, `"authorization"`) < 5 {
		t.Errorf("%s is not what sigv4_vectors.py prints", vectors)
	}
}

// EC2 takes 16 KiB of user data (the User Guide's "Run commands when you launch an EC2 instance"), and cloud-init
// unpacks gzip. The reader's own values and lines come on top.
func TestLinuxIsUserData(t *testing.T) {
	t.Parallel()
	var packed bytes.Buffer
	z := gzip.NewWriter(&packed)
	io.WriteString(z, rig.ReadFile(t, linuxSH))
	if err := z.Close(); err != nil || packed.Len() > 12<<10 {
		t.Errorf("it is packed in %d bytes: %v", packed.Len(), err)
	}
}
