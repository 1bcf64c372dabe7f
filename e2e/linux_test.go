package e2e_test

import (
	"archive/tar"
	"bytes"
	"cmp"
	"compress/gzip"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"

	"runner-token-broker/internal/local/apigateway"
	"runner-token-broker/internal/local/github"
	"runner-token-broker/internal/local/lambda"
	"runner-token-broker/internal/local/secretsmanager"
	"runner-token-broker/internal/secret"
)

const linuxSH = "../examples/user-data/linux.sh"

// boot is all that an instance sees, on loopback: IMDSv2, GitHub's releases, and the API with the built function behind
// it. IMDS is a handler of ours: AWS's own mock would be one more Go module, and cannot be told to fail and recover.
// Not proven here: useradd and runuser (the runner's user is the one who tests), systemd (systemctl is a stub), the
// real runner's config.sh and svc.sh, GitHub's real release page, libicu.
type boot struct {
	github *github.Server
	dir    string
	env    []string

	mu       sync.Mutex
	creds    aws.Credentials
	imds     func() int            // status of the next answer of IMDS; nil or 0: its own
	api      func() *http.Response // instead of the API's answer, nil: its own; HEAD is not asked
	clock    func() time.Duration  // by which the API's clock is ahead
	posts    int
	checksum string
}

func newBoot(t *testing.T, sessionToken string) *boot {
	t.Helper()
	build := exec.CommandContext(t.Context(), "make", "local")
	build.Dir = ".."
	build.Env = withoutAWS()
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("make local: %v\n%s", err, out)
	}
	pat := newPATs(1)[0]
	b := &boot{github: github.New(pat), dir: t.TempDir(), creds: credentials}
	b.creds.SessionToken = sessionToken
	serve := func(h http.Handler) string {
		s := httptest.NewServer(h)
		t.Cleanup(s.Close)
		return s.URL
	}
	sm := secretsmanager.New(region, credentials)
	sm.Put("pat", pat)
	service, err := lambda.Start(lambda.Function{
		Path: filepath.Join("..", ".build", "local", "bootstrap"),
		Env: map[string]string{
			"ALLOWED_TARGETS": "orgs/acme", "GITHUB_SECRET_ID": "pat",
			"GITHUB_API_URL": serve(b.github), "AWS_ENDPOINT_URL_SECRETS_MANAGER": serve(sm),
		},
		Region: region, Credentials: credentials, Output: io.Discard,
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(service.Close)
	gateway := &apigateway.Gateway{Function: service, Region: region, Credentials: b.creds,
		CallerARN: "arn:aws:sts::123456789012:assumed-role/github-runner/i-0123456789abcdef0"}
	api := serve(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		b.mu.Lock()
		if b.clock != nil {
			w.Header().Set("Date", time.Now().Add(b.clock()).UTC().Format(http.TimeFormat))
		}
		var fault *http.Response
		if r.Method == http.MethodPost {
			b.posts++
			if b.api != nil {
				fault = b.api()
			}
		}
		b.mu.Unlock()
		if fault == nil {
			gateway.ServeHTTP(w, r)
			return
		}
		for name := range fault.Header {
			w.Header().Set(name, fault.Header.Get(name))
		}
		w.WriteHeader(fault.StatusCode)
		io.WriteString(w, fault.Status)
	}))
	me, err := user.Current()
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(filepath.Join(b.dir, "bin"), 0o755); err != nil {
		t.Fatal(err)
	}
	b.write(t, "bin/systemctl", "#!/bin/sh\necho \"$@\" >>"+b.dir+"/systemctl\n")
	b.env = append(withoutAWS(), "PATH="+b.dir+"/bin:"+os.Getenv("PATH"), "TMPDIR="+t.TempDir(),
		"API_URL="+api, "TARGET=orgs/acme", "REGION="+region, "IMDS_URL="+serve(http.HandlerFunc(b.serveIMDS)),
		"RUNNER_USER="+me.Username, "RUNNER_DIR="+b.dir+"/runner", "HOOK_DIR="+b.dir+"/hook", "UNIT_DIR="+b.dir,
		"RUNNER_TOKEN_TIMEOUT=20", "CREDENTIALS_TIMEOUT=20", "CLOCK_TIMEOUT=20", "RETRY_MS=20", "RECORD="+b.dir)
	releases := serve(b.releases(t))
	b.env = append(b.env, "RELEASES_URL="+releases+"/api", "DOWNLOAD_URL="+releases+"/download")
	return b
}

func (b *boot) write(t *testing.T, name, text string) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(b.dir, name), []byte(text), 0o755); err != nil {
		t.Fatal(err)
	}
}

func (b *boot) serveIMDS(w http.ResponseWriter, r *http.Request) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.imds != nil {
		if status := b.imds(); status != 0 {
			w.WriteHeader(status)
			return
		}
	}
	const token = "imds-session-token=="
	if r.URL.Path == "/latest/api/token" {
		if r.Method != http.MethodPut || r.Header.Get("X-Aws-Ec2-Metadata-Token-Ttl-Seconds") == "" {
			w.WriteHeader(http.StatusBadRequest)
			return
		}
		io.WriteString(w, token)
		return
	}
	if r.Header.Get("X-Aws-Ec2-Metadata-Token") != token {
		w.WriteHeader(http.StatusUnauthorized)
		return
	}
	switch r.URL.Path {
	case "/latest/meta-data/instance-id":
		io.WriteString(w, "i-0123456789abcdef0")
	case "/latest/meta-data/iam/security-credentials/":
		io.WriteString(w, "github-runner")
	case "/latest/meta-data/iam/security-credentials/github-runner":
		session := ""
		if b.creds.SessionToken != "" {
			session = fmt.Sprintf("\n  \"Token\" : %q,", b.creds.SessionToken)
		}
		fmt.Fprintf(w, "{\n  \"Code\" : \"Success\",\n  \"AccessKeyId\" : %q,\n  \"SecretAccessKey\" : %q,%s\n  \"Expiration\" : \"2030-01-01T00:00:00Z\"\n}",
			b.creds.AccessKeyID, b.creds.SecretAccessKey, session)
	default:
		w.WriteHeader(http.StatusNotFound)
	}
}

// releases is a runner of ours: its scripts record what they were given.
func (b *boot) releases(t *testing.T) http.Handler {
	var tarball bytes.Buffer
	z := gzip.NewWriter(&tarball)
	a := tar.NewWriter(z)
	for name, text := range map[string]string{
		"config.sh":                  "#!/bin/sh\necho \"$@\" >>$RECORD/config.args\nenv >>$RECORD/config.env\n",
		"svc.sh":                     "#!/bin/sh\necho \"$@\" >>$RECORD/svc.args\nenv >>$RECORD/svc.env\n",
		"bin/installdependencies.sh": "#!/bin/sh\n",
	} {
		if err := a.WriteHeader(&tar.Header{Name: name, Mode: 0o755, Size: int64(len(text))}); err != nil {
			t.Fatal(err)
		}
		io.WriteString(a, text)
	}
	a.Close()
	z.Close()
	sum := sha256.Sum256(tarball.Bytes())
	b.checksum = hex.EncodeToString(sum[:])
	arch := map[string]string{"amd64": "x64", "arm64": "arm64"}[runtime.GOARCH]
	mux := http.NewServeMux()
	mux.HandleFunc("/api/latest", func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprintf(w, `{"tag_name":"v2.999.1","body":"actions-runner <!-- BEGIN SHA linux-%s -->%s<!-- END SHA linux-%s -->"}`, arch, b.checksum, arch)
	})
	mux.HandleFunc("/download/v2.999.1/actions-runner-linux-"+arch+"-2.999.1.tar.gz", func(w http.ResponseWriter, r *http.Request) {
		w.Write(tarball.Bytes())
	})
	return mux
}

// run returns what the script printed and its exit status.
func (b *boot) run(t *testing.T, env []string, args ...string) (stdout, stderr string, status int) {
	t.Helper()
	return b.exec(t, env, append([]string{linuxSH}, args...)...)
}

func (b *boot) exec(t *testing.T, env []string, args ...string) (stdout, stderr string, status int) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "bash", args...)
	cmd.Env = append(slices.Clone(b.env), env...)
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	if err := cmd.Run(); err != nil && cmd.ProcessState == nil {
		t.Fatal(err)
	}
	return out.String(), errs.String(), cmd.ProcessState.ExitCode()
}

func (b *boot) recorded(t *testing.T, name string) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(b.dir, name))
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// Both signers, with and without a session token, against a gateway that recomputes the signature.
func TestLinuxTokenOnly(t *testing.T) {
	for _, session := range []string{"", "IQoJb3JpZ2luX2VjE/+abc=="} {
		b := newBoot(t, session)
		for _, signer := range []string{"curl", "openssl"} {
			out, errs, status := b.run(t, []string{"SIGNER=" + signer}, "--token-only")
			tokens := b.github.Tokens()
			if status != 0 || len(tokens) == 0 || out != tokens[len(tokens)-1].Reveal()+"\n" {
				t.Errorf("%s, session token %q: exit %d, %d tokens\n%s", signer, session, status, len(tokens), errs)
			}
		}
		if _, err := os.Stat(b.dir + "/runner"); err == nil {
			t.Error("--token-only installed a runner")
		}
	}
}

func TestLinuxRegisters(t *testing.T) {
	for _, ephemeral := range []string{"true", "false"} {
		t.Run("ephemeral-"+ephemeral, func(t *testing.T) {
			b := newBoot(t, "IQoJ/+==")
			// token is exported to see that it does not become a variable of every child; -x to see that nothing is traced.
			out, errs, status := b.exec(t, []string{"RUNNER_LABELS=a,b", "RUNNER_GROUP=my group", "RUNNER_EPHEMERAL=" + ephemeral, "token=x"}, "-x", linuxSH)
			if status != 0 {
				t.Fatalf("exit %d\n%s", status, errs)
			}
			want := "--unattended --replace --url https://github.com/acme --name i-0123456789abcdef0 --ephemeral --labels a,b --runnergroup my group\n"
			if ephemeral == "false" {
				want = strings.Replace(want, " --ephemeral", "", 1)
			}
			// runner_url follows GITHUB_API_URL, which is the stand-in's.
			args := b.recorded(t, "config.args")
			if _, rest, _ := strings.Cut(args, "--url "); rest != "" {
				url, _, _ := strings.Cut(rest, " ")
				want = strings.Replace(want, "https://github.com/acme", url, 1)
				if !strings.HasSuffix(url, "/acme") {
					t.Errorf("--url %s", url)
				}
			}
			if args != want {
				t.Errorf("config.sh got %q, want %q", args, want)
			}
			token := b.github.Tokens()[0].Reveal()
			if !strings.Contains(b.recorded(t, "config.env"), "\nACTIONS_RUNNER_INPUT_TOKEN="+token+"\n") {
				t.Error("config.sh did not get the token in its environment")
			}
			if got := b.recorded(t, "svc.args"); !strings.HasPrefix(got, "install ") || !strings.HasSuffix(got, "\nstart\n") {
				t.Errorf("svc.sh got %q", got)
			}
			if ephemeral == "false" {
				b.leave(t)
			}
			b.holdsNoToken(t, out+errs)
		})
	}
}

// leave runs what systemd would run when the instance stops.
func (b *boot) leave(t *testing.T) {
	t.Helper()
	unit := b.recorded(t, "github-runner-remove.service")
	_, rest, _ := strings.Cut(unit, "ExecStop=")
	command, _, _ := strings.Cut(rest, "\n")
	settings := strings.Split(strings.TrimSpace(b.recorded(t, "hook/settings")), "\n")
	out, errs, status := b.exec(t, settings, strings.Fields(command)...)
	if status != 0 {
		t.Fatalf("%s: exit %d\n%s", command, status, errs)
	}
	if out != "" || !strings.HasSuffix(b.recorded(t, "config.args"), "\nremove\n") || len(b.github.Tokens()) != 2 {
		t.Errorf("the hook did not remove the runner: %q", b.recorded(t, "config.args"))
	}
	if got := b.recorded(t, "systemctl"); got != "daemon-reload\nenable --now github-runner-remove.service\n" {
		t.Errorf("systemctl got %q", got)
	}
}

// holdsNoToken looks for the tokens in what was printed and in every file but config.sh's record of its environment.
func (b *boot) holdsNoToken(t *testing.T, printed string) {
	t.Helper()
	for _, token := range append(b.github.Tokens(), secret.New(b.creds.SecretAccessKey)) {
		if strings.Contains(printed, token.Reveal()) {
			t.Error("a secret was printed")
		}
		files := 0
		filepath.WalkDir(b.dir, func(path string, d os.DirEntry, err error) error {
			if err == nil && d.Type().IsRegular() && d.Name() != "config.env" {
				files++
				if text, err := os.ReadFile(path); err != nil || strings.Contains(string(text), token.Reveal()) {
					t.Errorf("%s holds a secret (%v)", path, err)
				}
			}
			return nil
		})
		if files == 0 {
			t.Error("no file was looked into")
		}
	}
}

func TestLinuxFaults(t *testing.T) {
	b := newBoot(t, "IQoJ/+==")
	response := func(status int, body string, header ...string) *http.Response {
		r := &http.Response{StatusCode: status, Status: body, Header: http.Header{}}
		for i := 0; i+1 < len(header); i += 2 {
			r.Header.Set(header[i], header[i+1])
		}
		return r
	}
	times := func(n int, r *http.Response) func() *http.Response {
		return func() *http.Response {
			if n--; n >= 0 {
				return r
			}
			return nil
		}
	}
	statuses := func(n, status int) func() int {
		return func() int {
			if n--; n >= 0 {
				return status
			}
			return 0
		}
	}
	for _, c := range []struct {
		name   string
		imds   func() int
		api    func() *http.Response
		clock  func() time.Duration
		env    string
		status int
		says   string // in stderr
		posts  int
	}{
		{name: "credentials late", imds: statuses(6, 404), posts: 1},
		{name: "IMDS 401 once", imds: statuses(1, 401), posts: 1},
		{name: "credentials never", imds: statuses(1e9, 404), env: "CREDENTIALS_TIMEOUT=1", status: 3, says: "instance profile"},
		{name: "503 twice", api: times(2, response(503, `{"code":"RateLimited","message":"m"}`, "Retry-After", "1")), says: "503 RateLimited", posts: 3},
		{name: "502 without a code", api: times(1, response(502, `{"message":"Bad Gateway"}`)), posts: 2},
		{name: "502 with a code", api: times(9, response(502, `{"code":"CredentialRejected","message":"m"}`)), status: 5, says: "put a new one", posts: 1},
		{name: "Retry-After too long", api: times(9, response(503, `{"code":"RateLimited","message":"m"}`, "Retry-After", "900")), status: 6, says: "RUNNER_TOKEN_TIMEOUT=20", posts: 1},
		{name: "Forbidden", api: times(9, response(403, `{"message":"Forbidden"}`)), status: 5, says: "API Gateway refused", posts: 1},
		{name: "TargetNotAllowed", env: "TARGET=orgs/other", status: 5, says: "add orgs/other to AllowedTargets", posts: 1},
		{name: "no token", api: times(1, response(201, `{"token":""}`)), status: 5, says: "no token", posts: 1},
		{name: "clock off", clock: func() time.Duration { return time.Hour }, env: "CLOCK_TIMEOUT=1", status: 4, says: "chrony"},
		{name: "clock off at first", clock: func() func() time.Duration {
			n := 0
			return func() time.Duration {
				if n++; n < 3 {
					return time.Hour
				}
				return 0
			}
		}(), says: "the clock is off", posts: 1},
		{name: "unreachable", env: "API_URL=http://127.0.0.1:1", status: 6, says: "curl's error 7"},
	} {
		t.Run(c.name, func(t *testing.T) {
			b.mu.Lock()
			b.imds, b.api, b.clock, b.posts = c.imds, c.api, c.clock, 0
			b.mu.Unlock()
			env := []string{cmp.Or(c.env, "x=")}
			if c.name == "unreachable" {
				env = append(env, "RUNNER_TOKEN_TIMEOUT=1")
			}
			out, errs, status := b.run(t, env, "--token-only")
			if status != c.status || !strings.Contains(errs, c.says) || b.posts != c.posts || (out != "") != (status == 0) {
				t.Errorf("exit %d after %d tries, want %d after %d and %q:\n%s", status, b.posts, c.status, c.posts, c.says, errs)
			}
		})
	}
}

func TestLinuxWrongChecksum(t *testing.T) {
	b := newBoot(t, "IQoJ/+==")
	b.checksum = strings.Repeat("0", 64)
	_, errs, status := b.run(t, nil)
	if _, err := os.Stat(b.dir + "/runner"); status != 7 || !strings.Contains(errs, "checksum") || err == nil || b.posts > 0 {
		t.Errorf("exit %d, %d tries, runner's directory: %v\n%s", status, b.posts, err, errs)
	}
}

func TestLinuxSettings(t *testing.T) {
	for _, env := range []string{"API_URL=", "API_URL=http://example.com", "TARGET=", "TARGET=orgs/Acme", "TARGET=acme", "REGION=", "REGION=Frankfurt",
		"RUNNER_LABELS=a b", "RUNNER_EPHEMERAL=yes", "RUNNER_VERSION=latest", "RUNNER_SHA256=1", "RUNNER_TOKEN_TIMEOUT=5m", "RETRY_MS=0", "SIGNER=aws"} {
		dir := t.TempDir()
		cmd := exec.CommandContext(t.Context(), "bash", linuxSH)
		cmd.Env = append(withoutAWS(), "API_URL=http://127.0.0.1:1", "TARGET=orgs/acme", "REGION="+region, "IMDS_URL=http://127.0.0.1:1", "RUNNER_DIR="+dir+"/runner", env)
		out, _ := cmd.CombinedOutput()
		name, _, _ := strings.Cut(env, "=")
		if !strings.HasPrefix(string(out), "runner: "+name+" is ") || cmd.ProcessState.ExitCode() != 2 {
			t.Errorf("%s: exit %d: %s", env, cmd.ProcessState.ExitCode(), out)
		}
	}
}

// The signer in sh under each shell that is here, against botocore.
func TestLinuxSigner(t *testing.T) {
	text, err := os.ReadFile(linuxSH)
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(text), "# --- signer")
	signer, _, found := strings.Cut("# --- signer"+rest, "# --- end of signer")
	if !found {
		t.Fatal("the signer is not marked")
	}
	const host, path, date = "abc123.execute-api.eu-central-1.amazonaws.com", "/repos/acme/a.b_c-d/actions/runners/registration-token", "20261124T020304Z"
	for _, session := range []string{"", "IQoJb3JpZ2luX2VjE/+abc=="} {
		for _, key := range []string{credentials.SecretAccessKey, strings.Repeat("longerThanABlock", 5)} {
			args := []string{host, path, region, date, credentials.AccessKeyID, key, session}
			const botocore = `
import sys, datetime
import botocore.auth, botocore.awsrequest, botocore.credentials
host, path, region, date, key, secret, token = sys.argv[1:]
now = datetime.datetime.strptime(date, "%Y%m%dT%H%M%SZ")
for name in ("get_current_datetime", "_utcnow"):
    if hasattr(botocore.auth, name): setattr(botocore.auth, name, lambda *a, **k: now)
r = botocore.awsrequest.AWSRequest("POST", "https://" + host + path, data=b"")
botocore.auth.SigV4Auth(botocore.credentials.Credentials(key, secret, token or None), "execute-api", region).add_auth(r)
assert r.context["timestamp"] == date, r.context
print(r.headers["Authorization"], end="")`
			want, err := exec.CommandContext(t.Context(), tool(t, "python"), append([]string{"-c", botocore}, args...)...).Output()
			if err != nil {
				t.Fatalf("botocore: %v %s", err, err.(*exec.ExitError).Stderr)
			}
			for _, shell := range [][]string{{"bash"}, {"dash"}, {"busybox", "sh"}} {
				if _, err := exec.LookPath(shell[0]); err != nil {
					t.Logf("NOT TESTED: %s is missing", shell[0])
					continue
				}
				command := append(slices.Clone(shell), "-c", "set -eu\n"+signer+"\nauthorization \"$@\"", "signer")
				got, err := exec.CommandContext(t.Context(), command[0], append(command[1:], args...)...).CombinedOutput()
				if err != nil || string(got) != string(want) {
					t.Errorf("%s: %v\n got %s\nwant %s", shell, err, got, want)
				}
			}
		}
	}
}

func TestLinuxShellcheck(t *testing.T) {
	if out, err := exec.CommandContext(t.Context(), tool(t, "shellcheck"), linuxSH).CombinedOutput(); err != nil {
		t.Errorf("%v\n%s", err, out)
	}
}
