package e2e_test

import (
	"archive/tar"
	"bytes"
	"cmp"
	"compress/gzip"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"

	"runner-token-broker/internal/local/apigateway"
	"runner-token-broker/internal/secret"
)

const linuxSH = "../examples/user-data/linux.sh"

// boot is all that an instance sees, on loopback: the instance metadata service, GitHub's releases, and the API with the
// built function behind it.
//
// Not here: another user for the runner, systemd (systemctl is a stub), libicu, and GitHub's own runner.
type boot struct {
	*function
	creds aws.Credentials
	dir   string // everything that is written, but for what the script makes in TMPDIR
	env   []string

	mu       sync.Mutex
	checksum string                // of the runner's package, as the release has it
	imds     func(path string) int // the status of IMDS's next answer; nil or 0: its own
	api      func() *http.Response // instead of the API's next answer; nil: its own
	asked    int                   // of IMDS
	posts    int                   // to the API
}

func newBoot(t *testing.T, c aws.Credentials) *boot {
	t.Helper()
	pats := newPATs(1)
	b := &boot{function: startFunction(t, pats, secretsManager(t, pats[0])), creds: c, dir: t.TempDir()}
	serve := func(h http.Handler) string {
		s := httptest.NewServer(h)
		t.Cleanup(s.Close)
		return s.URL
	}
	gateway := &apigateway.Gateway{Function: b.service, Region: region, Credentials: c, CallerARN: callerARN}
	api := serve(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		b.mu.Lock()
		b.posts++
		var fault *http.Response
		if b.api != nil {
			fault = b.api()
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
	imds, err := url.Parse(startIMDS(t, c))
	if err != nil {
		t.Fatal(err)
	}
	proxy := httputil.NewSingleHostReverseProxy(imds)
	metadata := serve(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		b.mu.Lock()
		status := 0
		b.asked++
		if b.imds != nil {
			status = b.imds(r.URL.Path)
		}
		b.mu.Unlock()
		if status != 0 {
			w.WriteHeader(status)
			return
		}
		proxy.ServeHTTP(w, r)
	}))
	releases := serve(b.releases(t))

	me, err := user.Current()
	if err != nil {
		t.Fatal(err)
	}
	// curl and openssl record their arguments, where no secret may be, and sleep how long it was to take.
	b.write(t, "bin/systemctl", `echo "$*" >>"$RECORD/systemctl"`)
	b.write(t, "bin/sleep", `echo "$*" >>"$RECORD/sleep"; exec `+tool(t, "sleep")+` 0.02`)
	b.write(t, "bin/openssl", `echo "$*" >>"$RECORD/openssl"; exec `+tool(t, "openssl")+` "$@"`)
	b.write(t, "bin/curl", `echo "$*" >>"$RECORD/curl"
case "$*:$CURL" in
  *--version:old) echo 'curl 7.81.0 (x86_64-pc-linux-gnu)' ;;
  '-q --help all:bare') echo '     --basic  Use HTTP Basic Authentication' ;;
  *) exec `+tool(t, "curl")+` "$@" ;;
esac`)
	b.env = append(withoutAWS(), "PATH="+b.dir+"/bin:"+os.Getenv("PATH"), "RECORD="+b.dir, "TMPDIR="+t.TempDir(), "CURL=",
		"API_URL="+api, "TARGET=orgs/acme", "REGION="+region, "RUNNER_TOKEN_TIMEOUT=20",
		"RUNNER_USER="+me.Username, "RUNNER_DIR="+b.dir+"/runner", "HOOK="+b.dir+"/hook", "UNIT="+b.dir+"/runner.service",
		"IMDS_URL="+metadata, "RELEASES_URL="+releases+"/api", "DOWNLOAD_URL="+releases+"/download")
	return b
}

// fail makes imds and api decide what goes wrong from now on, and counts requests anew.
func (b *boot) fail(imds func(path string) int, api func() *http.Response) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.imds, b.api, b.asked, b.posts = imds, api, 0, 0
}

// setting returns a variable of the environment, "" if there is none.
func (b *boot) setting(name string) string {
	for _, v := range b.env {
		if value, ok := strings.CutPrefix(v, name+"="); ok {
			return value
		}
	}
	return ""
}

// requests is how often IMDS and the API were asked.
func (b *boot) requests() (asked, posts int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.asked, b.posts
}

// write makes a script for sh.
func (b *boot) write(t *testing.T, name, text string) {
	t.Helper()
	path := filepath.Join(b.dir, name)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte("#!/bin/sh\n"+text+"\n"), 0o755); err != nil {
		t.Fatal(err)
	}
}

// runner is a package in place of GitHub's. Its scripts record what they are given, and insist on what GitHub's do: a
// runner is configured once, and removed only when it is no service.
var runner = map[string]string{
	"config.sh": `echo "$*" >>"$RECORD/config.args"
env >>"$RECORD/config.env"
[ -z "$HANG" ] || { touch "$RECORD/hangs"; exec /bin/sleep 60; }
case $1 in
  remove)
    [ ! -e .service ] || { echo 'Uninstall service first'; exit 1; }
    rm .runner ;;
  *)
    [ ! -e .runner ] || { echo 'already configured'; exit 1; }
    touch .runner
    cp bin/svc.sh . ;;
esac
`,
	"bin/svc.sh": `echo "$*" >>"$RECORD/svc.args"
env >>"$RECORD/svc.env"
[ "$1" != install ] || echo actions.runner.acme.service >.service
`,
	"bin/installdependencies.sh": "",
}

// pack makes the runner's package of scripts for sh, and its checksum.
func pack(t *testing.T, scripts map[string]string) (tarball []byte, checksum string) {
	t.Helper()
	var buffer bytes.Buffer
	z := gzip.NewWriter(&buffer)
	a := tar.NewWriter(z)
	for name, text := range scripts {
		text = "#!/bin/sh\n" + text
		if err := a.WriteHeader(&tar.Header{Name: name, Mode: 0o755, Size: int64(len(text))}); err != nil {
			t.Fatal(err)
		}
		io.WriteString(a, text)
	}
	if err := errors.Join(a.Close(), z.Close()); err != nil {
		t.Fatal(err)
	}
	sum := sha256.Sum256(buffer.Bytes())
	return buffer.Bytes(), hex.EncodeToString(sum[:])
}

// arch is the machine's, as GitHub calls it.
var arch = map[string]string{"amd64": "x64", "arm64": "arm64"}[runtime.GOARCH]

// release is GitHub's answer, as far as linux.sh reads it.
func release(version, checksum string) string {
	return fmt.Sprintf(`{"tag_name":"v%s","body":"## SHA-256 Checksums\n\n- actions-runner-linux-%s-%[1]s.tar.gz `+
		`<!-- BEGIN SHA linux-%[2]s -->%s<!-- END SHA linux-%[2]s -->\n"}`, version, arch, checksum)
}

func (b *boot) releases(t *testing.T) http.Handler {
	t.Helper()
	var tarball []byte
	tarball, b.checksum = pack(t, runner)
	mux := http.NewServeMux()
	for version, path := range map[string]string{"2.999.1": "/api/latest", "2.998.0": "/api/tags/v2.998.0"} {
		mux.HandleFunc(path, func(w http.ResponseWriter, r *http.Request) {
			b.mu.Lock()
			defer b.mu.Unlock()
			io.WriteString(w, release(version, b.checksum))
		})
		mux.HandleFunc("/download/v"+version+"/actions-runner-linux-"+arch+"-"+version+".tar.gz", func(w http.ResponseWriter, r *http.Request) {
			w.Write(tarball)
		})
	}
	return mux
}

// command is bash with the arguments. Later variables replace earlier ones.
func (b *boot) command(t *testing.T, env []string, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(t.Context(), "bash", args...)
	cmd.Env = append(slices.Clone(b.env), env...)
	return cmd
}

// run returns what bash printed, and its exit status.
func (b *boot) run(t *testing.T, env []string, args ...string) (stdout, stderr string, status int) {
	t.Helper()
	return run(t, b.command(t, env, args...))
}

// recorded returns a file of the boot, "" if there is none.
func (b *boot) recorded(t *testing.T, name string) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(b.dir, name))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		t.Fatal(err)
	}
	return string(text)
}

// keepsSecrets looks for tokens and the secret key in what was printed and in every file, those of arguments among them,
// but config.sh's record of its environment.
func (b *boot) keepsSecrets(t *testing.T, printed string) {
	t.Helper()
	secrets := append(b.github.Tokens(), secret.New(b.creds.SecretAccessKey))
	if b.creds.SessionToken != "" {
		secrets = append(secrets, secret.New(b.creds.SessionToken))
	}
	files := 0
	for _, s := range secrets {
		if strings.Contains(printed, s.Reveal()) {
			t.Error("a secret was printed")
		}
		err := filepath.WalkDir(b.dir, func(path string, d fs.DirEntry, err error) error {
			if err != nil || !d.Type().IsRegular() || d.Name() == "config.env" {
				return err
			}
			files++
			text, err := os.ReadFile(path)
			if strings.Contains(string(text), s.Reveal()) {
				t.Errorf("%s holds a secret", path)
			}
			return err
		})
		if err != nil || files == 0 {
			t.Errorf("%d files were looked into: %v", files, err)
		}
	}
	if left, err := os.ReadDir(b.setting("TMPDIR")); err != nil || len(left) > 0 {
		t.Errorf("left in the temporary folder: %v, %v", left, err)
	}
}

// Both signers, with and without a session token, against a gateway that recomputes the signature.
func TestLinuxTokenOnly(t *testing.T) {
	for _, session := range []string{"", credentials.SessionToken} {
		c := credentials
		c.SessionToken = session
		b := newBoot(t, c)
		for curl, signs := range map[string]bool{"": true, "old": false, "bare": false} {
			os.Remove(filepath.Join(b.dir, "curl"))
			out, errs, status := b.run(t, []string{"CURL=" + curl}, linuxSH, "--token-only")
			tokens := b.github.Tokens()
			if status != 0 || len(tokens) == 0 || out != tokens[len(tokens)-1].Reveal()+"\n" {
				t.Errorf("%q curl, session token %q: exit %d, %d tokens\n%s", curl, session, status, len(tokens), errs)
			}
			if strings.Contains(b.recorded(t, "curl"), "--aws-sigv4") != signs {
				t.Errorf("%q curl signs: %v, want %v", curl, !signs, signs)
			}
			b.keepsSecrets(t, errs)
		}
		if _, err := os.Stat(b.dir + "/runner"); err == nil {
			t.Error("--token-only installed a runner")
		}
	}
}

func TestLinuxRegisters(t *testing.T) {
	for _, c := range []struct {
		name string
		env  []string
		args string // of config.sh, after --url
	}{
		{"as it is", nil, " --name " + instanceID + " --ephemeral\n"},
		{"with everything", []string{"RUNNER_LABELS=a,b", "RUNNER_GROUP=my group", "RUNNER_VERSION=2.998.0"},
			" --name " + instanceID + " --ephemeral --labels a,b --runnergroup my group\n"},
		{"not ephemeral", []string{"RUNNER_EPHEMERAL=false"}, " --name " + instanceID + "\n"},
	} {
		t.Run(c.name, func(t *testing.T) {
			b := newBoot(t, credentials)
			// token is exported to see that it does not become a variable of every child; -x to see that nothing is traced.
			out, errs, status := b.run(t, append(c.env, "token=x"), "-x", linuxSH)
			if status != 0 {
				t.Fatalf("exit %d\n%s", status, errs)
			}
			runnerURL := b.web + "/acme"
			if got, want := b.recorded(t, "config.args"), "--unattended --replace --url "+runnerURL+c.args; got != want {
				t.Errorf("config.sh got %q, want %q", got, want)
			}
			token := b.github.Tokens()[0].Reveal()
			if !strings.Contains(b.recorded(t, "config.env"), "\nACTIONS_RUNNER_INPUT_TOKEN="+token+"\n") {
				t.Error("config.sh did not get the token in its environment")
			}
			if got := b.recorded(t, "svc.args"); !strings.HasPrefix(got, "install ") || !strings.HasSuffix(got, "\nstart\n") {
				t.Errorf("svc.sh got %q", got)
			}
			// What config.sh writes, credentials among it, is for nobody else.
			if info, err := os.Stat(b.dir + "/runner/.runner"); err != nil || info.Mode().Perm() != 0o600 {
				t.Errorf(".runner: %v, %v", info, err)
			}
			b.keepsSecrets(t, out+errs)
		})
	}
}

func TestLinuxSaysWhatFailed(t *testing.T) {
	b := newBoot(t, credentials)
	full, broken := t.TempDir(), t.TempDir()
	if err := os.WriteFile(full+"/file", nil, 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(broken+"/tar", []byte("#!/bin/sh\nexit 2\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		env    string
		imds   func(string) int
		status int
		says   string
	}{
		{"RUNNER_DIR=" + full, nil, 7, "is not empty: empty it"},
		{"DOWNLOAD_URL=http://127.0.0.1:1", nil, 7, "no package"},
		{"PATH=" + broken + ":" + b.setting("PATH"), nil, 1, "a command failed with 2"},
		{"RUNNER_DIR=" + t.TempDir() + "/a/b", func(path string) int {
			if strings.HasSuffix(path, "/instance-id") {
				return http.StatusNotFound
			}
			return 0
		}, 3, "no instance id"},
	} {
		b.fail(c.imds, nil)
		_, errs, status := b.run(t, []string{c.env}, linuxSH)
		last := errs[strings.LastIndex(strings.TrimSpace(errs), "\n")+1:]
		if status != c.status || !strings.HasPrefix(last, "runner: ") || !strings.Contains(last, c.says) || b.recorded(t, "config.args") != "" {
			t.Errorf("%s: exit %d, want %d and %q\n%s", c.env, status, c.status, c.says, errs)
		}
		os.RemoveAll(b.dir + "/runner")
	}
	b.keepsSecrets(t, "")
}

// What systemd would do with the unit, over the life of an instance.
func TestLinuxLeavesAndJoinsAgain(t *testing.T) {
	b := newBoot(t, credentials)
	_, errs, status := b.run(t, []string{"RUNNER_EPHEMERAL=false", "RUNNER_GROUP=my group"}, linuxSH)
	if status != 0 {
		t.Fatalf("exit %d\n%s", status, errs)
	}
	if got := b.recorded(t, "systemctl"); got != "daemon-reload\nenable --now runner.service\n" {
		t.Errorf("systemctl got %q", got)
	}
	unit := b.recorded(t, "runner.service")
	if !strings.Contains(unit, "\nBefore=actions.runner.acme.service\n") {
		t.Error("the unit is not bound to the runner's")
	}
	var env []string
	for line := range strings.Lines(unit) {
		if quoted, ok := strings.CutPrefix(line, "Environment="); ok {
			v, err := strconv.Unquote(strings.TrimSpace(quoted))
			if err != nil {
				t.Errorf("%s: %v", line, err)
			}
			env = append(env, v)
		}
	}
	// systemd hands on the unit's variables alone.
	var own []string
	for _, v := range b.env {
		if strings.HasPrefix(v, "PATH=") || strings.HasPrefix(v, "RECORD=") || strings.HasPrefix(v, "TMPDIR=") {
			own = append(own, v)
		}
	}
	b.env = own
	exec := func(verb string) {
		t.Helper()
		_, rest, _ := strings.Cut(unit, "\n"+verb+"=")
		command, _, _ := strings.Cut(rest, "\n")
		if out, errs, status := b.run(t, env, strings.Fields(command)...); status != 0 || out != "" {
			t.Fatalf("%s=%s: exit %d, %q\n%s", verb, command, status, out, errs)
		}
	}
	joined := b.recorded(t, "config.args")
	exec("ExecStart")
	if got := b.recorded(t, "config.args"); got != joined {
		t.Errorf("a runner that is registered was configured again: %q", got)
	}
	exec("ExecStop")
	if got := b.recorded(t, "config.args"); got != joined+"remove\n" {
		t.Errorf("stopping did not remove the runner: %q", got)
	}
	last := b.github.Requests()[len(b.github.Requests())-1]
	if last.Path != "/orgs/acme/actions/runners/remove-token" {
		t.Errorf("stopping asked for %s", last.Path)
	}
	// However long it is asked to wait: it holds up the shutdown.
	b.fail(nil, func() *http.Response {
		return &http.Response{StatusCode: 503, Header: http.Header{"Retry-After": {"30"}}}
	})
	if _, errs, status := b.run(t, append(env, "RUNNER_TOKEN_TIMEOUT=300"), b.dir+"/hook", "--remove"); status != 6 {
		t.Errorf("a limit while stopping: exit %d\n%s", status, errs)
	}
	b.fail(nil, nil)
	exec("ExecStart")
	if got := b.recorded(t, "config.args"); got != joined+"remove\n"+joined {
		t.Errorf("starting again did not register the runner: %q", got)
	}
	b.keepsSecrets(t, errs)
}

func TestLinuxFaults(t *testing.T) {
	b := newBoot(t, credentials)
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
	statuses := func(n, status int) func(string) int {
		return func(string) int {
			if n--; n >= 0 {
				return status
			}
			return 0
		}
	}
	const always, several = 1e9, -1
	first := map[string]bool{} // how long is slept after the first failure
	for _, c := range []struct {
		name    string
		imds    func(string) int
		api     func() *http.Response
		env     string
		timeout string // "20" if empty
		status  int
		says    string // in stderr
		posts   int
		sleeps  int // at least so long, in seconds, if any
	}{
		{name: "IMDS 401 once", imds: statuses(1, 401), posts: 1},
		{name: "credentials never", imds: statuses(always, 404), timeout: "2", status: 3, says: "instance profile"},
		{name: "503 twice", api: times(2, response(503, `{"code":"RateLimited","message":"m"}`, "Retry-After", "5")), says: "503 RateLimited", posts: 3, sleeps: 10},
		{name: "429", api: times(1, response(429, `{"message":"Too Many Requests"}`)), posts: 2, sleeps: 1},
		{name: "504", api: times(1, response(504, `{"message":"Endpoint request timed out"}`)), posts: 2},
		{name: "500 without a code", api: times(1, response(500, `{"message":"Internal Server Error"}`)), posts: 2},
		{name: "500 with a code", api: times(always, response(500, `{"code":"Internal","message":"internal error"}`)), status: 5, says: "request_id", posts: 1},
		{name: "502 without a code", api: times(1, response(502, `{"message":"Bad Gateway"}`)), posts: 2},
		{name: "502 with a code", api: times(always, response(502, `{"code":"CredentialRejected","message":"m"}`)), status: 5, says: "put a new one", posts: 1},
		{name: "503 for ever", api: times(always, response(503, `{"code":"Unavailable","message":"m"}`)), timeout: "2", status: 6, says: "RUNNER_TOKEN_TIMEOUT=2", posts: several},
		{name: "Retry-After too long", api: times(always, response(503, `{"code":"RateLimited","message":"m"}`, "Retry-After", "900")), status: 6, says: "RUNNER_TOKEN_TIMEOUT=20", posts: 1},
		{name: "Retry-After a date", api: times(1, response(503, `{"code":"RateLimited","message":"m"}`, "Retry-After", "Wed, 25 Nov 2026 15:16:44 GMT")), posts: 2},
		{name: "Forbidden, the Region is another", env: "REGION=us-east-1", status: 5, says: "API Gateway refused", posts: 1},
		{name: "TargetNotAllowed", env: "TARGET=orgs/other", status: 5, says: "add orgs/other to AllowedTargets", posts: 1},
		{name: "no token", api: times(1, response(201, `{"token":"","runner_url":"https://github.com/acme"}`)), status: 5, says: "no token", posts: 1},
		{name: "unreachable", env: "API_URL=http://127.0.0.1:1", timeout: "2", status: 6, says: "curl's error 7"},
		{name: "mute", env: "API_URL=" + cutOff(t, false), timeout: "2", status: 6, says: "curl's error 28"},
		{name: "cut off", env: "API_URL=" + cutOff(t, true), timeout: "2", status: 6, says: "curl's error 52"},
		{name: "no TLS", env: "API_URL=https" + strings.TrimPrefix(b.setting("API_URL"), "http"), timeout: "2", status: 6, says: "curl's error 35"},
		{name: "a certificate of nobody", env: "API_URL=" + untrusted(t), status: 5, says: "curl's error 60"},
	} {
		t.Run(c.name, func(t *testing.T) {
			os.Remove(filepath.Join(b.dir, "sleep"))
			b.fail(c.imds, c.api)
			start := time.Now()
			out, errs, status := b.run(t, []string{cmp.Or(c.env, "x="), "RUNNER_TOKEN_TIMEOUT=" + cmp.Or(c.timeout, "20")}, linuxSH, "--token-only")
			asked, posts := b.requests()
			if c.posts == several && posts > 5 { // up to the end of the time, however long the waits have become
				c.posts = posts
			}
			if status != c.status || !strings.Contains(errs, c.says) || posts != c.posts || (out != "") != (status == 0) {
				t.Errorf("exit %d after %d tries, want %d after %d and %q:\n%s", status, posts, c.status, c.posts, c.says, errs)
			}
			if took := time.Since(start); c.timeout != "" && took > 5*time.Second {
				t.Errorf("it took %s, and was given %s s", took, c.timeout)
			}
			if posts > 1 && asked < 3*posts { // token, role, credentials
				t.Errorf("IMDS was asked %d times for %d tries", asked, posts)
			}
			slept := 0.0
			for i, s := range strings.Fields(b.recorded(t, "sleep")) {
				if i == 0 && c.sleeps == 0 {
					first[s] = true
				}
				n, err := strconv.ParseFloat(s, 64)
				if err != nil {
					t.Error(err)
				}
				slept += n
			}
			if slept < float64(c.sleeps) {
				t.Errorf("slept %v s, want at least %d", slept, c.sleeps)
			}
		})
	}
	if len(first) < 2 {
		t.Errorf("there is no jitter: %v", first)
	}
	b.keepsSecrets(t, "")
}

// cutOff takes requests and answers none of them.
func cutOff(t *testing.T, hangUp bool) string {
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if hangUp {
			panic(http.ErrAbortHandler)
		}
		<-r.Context().Done()
	}))
	t.Cleanup(s.Close)
	return s.URL
}

func untrusted(t *testing.T) string {
	s := httptest.NewUnstartedServer(http.NotFoundHandler())
	s.Config.ErrorLog = log.New(io.Discard, "", 0) // it would say that the client left
	s.StartTLS()
	t.Cleanup(s.Close)
	return s.URL
}

// The faults that take real time: nothing but the clocks of the machine decides.
func TestLinuxWaits(t *testing.T) {
	b := newBoot(t, credentials)
	b.env = append(b.env, "PATH="+os.Getenv("PATH"))
	var first time.Time
	b.fail(func(string) int {
		if first.IsZero() {
			first = time.Now()
		}
		if time.Since(first) < 10*time.Second {
			return http.StatusNotFound
		}
		return 0
	}, nil)
	if out, errs, status := b.run(t, nil, linuxSH, "--token-only"); status != 0 || out == "" || time.Since(first) < 10*time.Second {
		t.Errorf("credentials 10 s late: exit %d\n%s", status, errs)
	}

	// The clock of the script, curl and all, is an hour off until somebody sets it.
	clock := filepath.Join(b.dir, "clock")
	set := func(offset string) {
		if err := os.WriteFile(clock, []byte(offset), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	preload, err := exec.CommandContext(t.Context(), tool(t, "faketime"), "-f", "+0", "sh", "-c", "printf %s $LD_PRELOAD").Output()
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		offset, timeout string
		tries, status   int // the clock is set after so many
	}{{"+1h", "20", 2, 0}, {"-1h", "20", 2, 0}, {"+1h", "3", 1e9, 4}} {
		set(c.offset)
		b.fail(nil, func() *http.Response {
			if b.posts == c.tries {
				set("+0")
			}
			return nil
		})
		_, errs, status := b.run(t, []string{"RUNNER_TOKEN_TIMEOUT=" + c.timeout, "LD_PRELOAD=" + string(preload),
			"FAKETIME_TIMESTAMP_FILE=" + clock, "FAKETIME_NO_CACHE=1"}, linuxSH, "--token-only")
		if off := strings.Contains(errs, "the clock is off by "); status != c.status || !off {
			t.Errorf("the clock is %s off: exit %d\n%s", c.offset, status, errs)
		}
	}
}

// Ctrl-C, or a shutdown: whatever it is doing, nothing of the token is left.
func TestLinuxInterrupted(t *testing.T) {
	for _, hang := range []string{"asking", "config.sh"} {
		t.Run(hang, func(t *testing.T) {
			b := newBoot(t, credentials)
			env := []string{"HANG=x"}
			if hang == "asking" {
				env = append(env, "PATH="+os.Getenv("PATH")) // to sleep for as long as it says
				b.fail(nil, func() *http.Response {
					return &http.Response{StatusCode: 503, Header: http.Header{"Retry-After": {"15"}}}
				})
			}
			cmd := b.command(t, env, linuxSH)
			var out bytes.Buffer
			cmd.Stdout, cmd.Stderr = &out, &out
			cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // a terminal, and systemd, tell the whole group
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			ended := make(chan error, 1)
			go func() { ended <- cmd.Wait() }()
			for busy := false; !busy; {
				select {
				case err := <-ended:
					t.Fatalf("%v\n%s", err, &out)
				default:
					pause(t)
				}
				_, posts := b.requests()
				busy = hang == "asking" && posts > 0 || b.recorded(t, "config.env") != ""
			}
			if err := syscall.Kill(-cmd.Process.Pid, syscall.SIGTERM); err != nil {
				t.Fatal(err)
			}
			if err := <-ended; err == nil {
				t.Errorf("exit 0\n%s", &out)
			}
			if got := b.recorded(t, "svc.args"); got != "" {
				t.Errorf("svc.sh got %q", got)
			}
			b.keepsSecrets(t, out.String())
		})
	}
}

func TestLinuxWrongChecksum(t *testing.T) {
	b := newBoot(t, credentials)
	good := b.checksum
	for _, env := range []string{"RUNNER_SHA256=", "RUNNER_SHA256=" + strings.Repeat("0", 64)} {
		b.mu.Lock()
		b.checksum = good
		if env == "RUNNER_SHA256=" {
			b.checksum = strings.Repeat("0", 64)
		}
		b.mu.Unlock()
		_, errs, status := b.run(t, []string{env}, linuxSH)
		if _, err := os.Stat(b.dir + "/runner"); status != 7 || !strings.Contains(errs, "checksum") || err == nil || b.github.Tokens() != nil {
			t.Errorf("%s: exit %d, runner's directory: %v\n%s", env, status, err, errs)
		}
		b.keepsSecrets(t, errs) // and leaves nothing behind
	}
	// With version and checksum nobody is asked for the release.
	_, errs, status := b.run(t, []string{"RUNNER_VERSION=2.998.0", "RUNNER_SHA256=" + good, "RELEASES_URL=http://127.0.0.1:1"}, linuxSH)
	if status != 0 {
		t.Errorf("exit %d\n%s", status, errs)
	}
}

func TestLinuxSettings(t *testing.T) {
	run := func(env ...string) (string, int) {
		dir := t.TempDir()
		cmd := exec.CommandContext(t.Context(), "bash", linuxSH)
		cmd.Env = append(withoutAWS(), "API_URL=http://127.0.0.1:1", "TARGET=orgs/acme", "REGION="+region,
			"IMDS_URL=http://127.0.0.1:1", "RELEASES_URL=http://127.0.0.1:1", "RUNNER_DIR="+dir+"/runner")
		cmd.Env = append(cmd.Env, env...)
		out, _ := cmd.CombinedOutput()
		if _, err := os.Stat(dir + "/runner"); err == nil {
			t.Errorf("%s: something was done", env)
		}
		return string(out), cmd.ProcessState.ExitCode()
	}
	for _, env := range []string{"API_URL=", "API_URL=http://example.com", "API_URL=https://x.example/a?b", "TARGET=", "TARGET=orgs/Acme", "TARGET=acme",
		"TARGET=orgs/acme/", "REGION=", "REGION=Frankfurt", "RUNNER_LABELS=a b", `RUNNER_GROUP=a"b`, "RUNNER_EPHEMERAL=yes", "RUNNER_VERSION=latest",
		"RUNNER_USER=a b", "RUNNER_DIR=runner", "RUNNER_TOKEN_TIMEOUT=5m", "RUNNER_TOKEN_TIMEOUT=0"} {
		out, status := run(env)
		name, value, _ := strings.Cut(env, "=")
		want := "runner: " + name + " is malformed: set it to "
		if value == "" {
			want = "runner: " + name + " is not set: set it to "
		}
		if !strings.HasPrefix(out, want) || strings.Count(out, "\n") != 1 || status != 2 {
			t.Errorf("%s: exit %d: %s", env, status, out)
		}
	}
	if out, status := run("API_URL=", "TARGET=Acme", "REGION="); strings.Count(out, "\n") != 3 || status != 2 {
		t.Errorf("three bad settings: exit %d: %s", status, out)
	}
}

// The signer in sh under each shell, against botocore's signatures.
func TestLinuxSigner(t *testing.T) {
	_, rest, _ := strings.Cut(readFile(t, linuxSH), "# --- signer")
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
	if err := json.Unmarshal([]byte(readFile(t, vectors)), &cases); err != nil || len(cases) == 0 {
		t.Fatalf("%d vectors: %v", len(cases), err)
	}
	for _, c := range cases {
		for _, shell := range [][]string{{"bash"}, {"dash"}, {"busybox", "sh"}} {
			args := append(slices.Clone(shell[1:]), "-c", "set -eu\n"+signer+"\nauthorization \"$@\"", "signer",
				c.Host, c.Path, c.Region, c.Date, c.AccessKey, c.SecretKey, c.SessionToken)
			got, err := exec.CommandContext(t.Context(), tool(t, shell[0]), args...).CombinedOutput()
			if err != nil || string(got) != c.Authorization {
				t.Errorf("%s, %s: %v\n got %s\nwant %s", c.Name, shell, err, got, c.Authorization)
			}
		}
	}
}

func TestLinuxShellcheck(t *testing.T) {
	if out, err := exec.CommandContext(t.Context(), tool(t, "shellcheck"), linuxSH).CombinedOutput(); err != nil {
		t.Errorf("%v\n%s", err, out)
	}
}

// EC2 refuses user data above 16 KiB (the User Guide's "Run commands when you launch an EC2 instance"), and the reader's
// own values come on top.
func TestLinuxIsUserData(t *testing.T) {
	if room := 16<<10 - len(readFile(t, linuxSH)); room < 300 {
		t.Errorf("there are %d bytes left for the reader's values", room)
	}
}
