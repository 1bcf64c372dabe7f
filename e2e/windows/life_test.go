package windows_test

import (
	"cmp"
	"crypto/sha256"
	"encoding/pem"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"runner-token-broker/e2e/rig"
)

const (
	stateDir = "Program Files/runner-token-broker/"
	logFile  = "ProgramData/runner-token-broker.log"
)

func TestWindowsRegisters(t *testing.T) {
	t.Parallel()
	m := newMachine(t, rig.RoleCredentials())
	for _, c := range []struct {
		name     string
		settings map[string]any
		args     string // of config.cmd, after --name
	}{
		{"as it is", nil, " --ephemeral\n"},
		{"with everything", map[string]any{"RunnerLabels": "a,b", "RunnerGroup": "my group", "ApiUrl": m.APIURL + "/"},
			" --ephemeral --labels a,b --runnergroup my group\n"},
	} {
		t.Run(c.name, func(t *testing.T) {
			m.reset(t)
			out, errs, status := m.run(t, c.settings)
			last := "runner: the runner is registered and its service started\n"
			if status != 0 || out != "" || !strings.HasSuffix(errs, last) {
				t.Fatalf("exit %d, %q\n%s", status, out, errs)
			}
			want := filepath.Base(m.root) + "/actions-runner: --unattended --replace --runasservice --url " + m.GitHubURL +
				"/acme --name " + rig.InstanceID + c.args
			if got := m.on(t, "record/config.args"); got != want {
				t.Errorf("config.cmd got\n%s, want\n%s", got, want)
			}
			tokens := m.GitHub.Tokens()
			if got := m.on(t, "record/config.tokens"); got != tokens[len(tokens)-1].Reveal()+"\n" {
				t.Error("config.cmd did not get the token in its environment")
			}
			log := m.on(t, logFile)
			if !regexp.MustCompile(`^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ √ Connected to GitHub\n`).MatchString(log) ||
				strings.Count(log, "\n") != strings.Count(errs, "\n") {
				t.Errorf("the log is %q", log)
			}
			call := `C:\Windows\System32\WindowsPowerShell\v1.0\powershell.exe -NoProfile -ExecutionPolicy Bypass -File ` +
				`"C:\Program Files\runner-token-broker\windows.ps1" `
			if got, want := m.on(t, "record/tasks"), "runner-token-broker\n"+call+"-Watch\nat startup: True\n"+
				"S-1-5-18 ServiceAccount\nlimit: 00:00:00\nstart runner-token-broker\n"; got != want {
				t.Errorf("the task is %q, want %q", got, want)
			}
			ini := strings.Replace(m.on(t, "Windows/System32/GroupPolicy/Machine/Scripts/scripts.ini"), "\n0Parameters=", " ", 1)
			if ini != "[Shutdown]\n0CmdLine="+call+"-Remove\n" || m.on(t, "record/gpupdate") != "/target:computer /force\n" {
				t.Errorf("the shutdown script is %q", ini)
			}
			if m.on(t, stateDir+"windows.ps1") != rig.ReadFile(t, windowsPS1) {
				t.Error("the script is not where SYSTEM runs it")
			}
			if left, _ := filepath.Glob(m.root + "/actions-runner.*"); left != nil {
				t.Errorf("%q are left", left)
			}
		})
	}
}

// What SYSTEM does later, with what the first run left. The steps build on each other.
func TestWindowsLife(t *testing.T) {
	t.Parallel()
	m := newMachine(t, rig.RoleCredentials())
	run := func(t *testing.T, settings map[string]any, says string) {
		t.Helper()
		if out, errs, status := m.run(t, settings); status != 0 || out != "" || !strings.Contains(errs, says) {
			t.Fatalf("exit %d, want 0 and %q\n%s", status, says, errs)
		}
	}
	ofSystem := func(mode string) map[string]any { // it knows nothing but the file
		return map[string]any{mode: true, "ApiUrl": "", "Target": "", "Region": "", "ImdsUrl": "http://127.0.0.1:1"}
	}
	// The function makes one token of each kind and hands it out again.
	registration, removal := 0, 1
	got := func(t *testing.T, kind int) {
		t.Helper()
		given := strings.Fields(m.on(t, "record/config.tokens"))
		if tokens := m.GitHub.Tokens(); len(tokens) <= kind || given[len(given)-1] != tokens[kind].Reveal() {
			t.Errorf("config.cmd did not get token %d of %d", kind, len(tokens))
		}
	}
	t.Run("nothing is there to remove or to watch", func(t *testing.T) {
		run(t, ofSystem("Remove"), "no runner is registered here")
		run(t, ofSystem("Watch"), "no runner is registered here")
	})
	t.Run("it joins", func(t *testing.T) {
		run(t, map[string]any{"RunnerIdleTimeout": "60"}, "service started")
		got(t, registration)
	})
	t.Run("a second run changes nothing", func(t *testing.T) {
		_, before := m.Requests()
		run(t, nil, "the runner is registered already")
		if _, posts := m.Requests(); posts != before || m.downloads != 1 {
			t.Errorf("the API was asked %d times, %d downloads", posts-before, m.downloads)
		}
	})
	t.Run("at shutdown it leaves, by a program that jobs cannot change", func(t *testing.T) {
		m.write(t, "actions-runner/config.cmd", "echo taken over; exit 1")
		run(t, ofSystem("Remove"), "the runner is removed")
		got(t, removal)
		if got := m.on(t, "record/config.args"); !strings.HasSuffix(got, "\nrunner-token-broker/runner: remove\n") {
			t.Errorf("config.cmd got %q", got)
		}
		if m.on(t, "record/sc") != "delete actions.runner.acme.i\n" {
			t.Error("the service is still there")
		}
		run(t, ofSystem("Remove"), "no runner is registered here")
	})
	t.Run("it was a reboot: the instance goes off, because nobody comes", func(t *testing.T) {
		run(t, ofSystem("Watch"), "the runner's service has ended without a job")
		if got := m.on(t, "record/shutdown"); got != "/s /f /t 0\n" {
			t.Errorf("shutdown got %q", got)
		}
		m.remove(t, "record/shutdown")
	})
	t.Run("user data that runs at every boot joins again, without a download", func(t *testing.T) {
		m.write(t, "actions-runner/config.cmd", rig.ReadFile(t, "config.sh")) // no job was there
		run(t, map[string]any{"RunnerIdleTimeout": "60"}, "service started")
		got(t, registration)
		if m.downloads != 1 {
			t.Errorf("%d downloads", m.downloads)
		}
	})
	t.Run("no job comes: it leaves, and the instance goes off", func(t *testing.T) {
		run(t, ofSystem("Watch"), "no job within RunnerIdleTimeout=60 s")
		got(t, removal)
		if got := m.on(t, "record/shutdown"); got != "/s /f /t 0\n" {
			t.Errorf("shutdown got %q", got)
		}
	})
	t.Run("a job comes and is done: the instance goes off, and is not used again", func(t *testing.T) {
		run(t, nil, "service started")
		m.remove(t, "actions-runner/.runner")
		m.write(t, "service", "actions.runner.acme.i\nStopped\n")
		m.write(t, "actions-runner/_diag/Runner_20261126-030000-utc.log", "Job build completed with result: Failed\n")
		run(t, ofSystem("Watch"), "the runner has had its job: Failed")
		if got := m.on(t, "record/shutdown"); got != "/s /f /t 0\n/s /f /t 0\n" {
			t.Errorf("shutdown got %q", got)
		}
		run(t, ofSystem("Remove"), "no runner is registered here")
		_, errs, status := m.run(t, nil)
		if status != 7 || !strings.Contains(errs, `a job has used C:\actions-runner: launch a new instance`) {
			t.Errorf("exit %d\n%s", status, errs)
		}
	})
}

// Every exit status but those of the token, which the next test has.
func TestWindowsSaysWhatFailed(t *testing.T) {
	t.Parallel()
	m := newMachine(t, rig.RoleCredentials())
	good := m.release
	noZip := []byte("PK no zip")
	sum := "9b2fcb7e40d5d0a4cf40a7a6b4b6b0c4ffd6a4f1a43c1aac5e4d0e5df2ff60c8" // of nothing here
	for _, c := range []struct {
		name      string
		settings  map[string]any
		env       string
		before    func(t *testing.T)
		imds      func(path string) int
		status    int
		says      string // at the end
		config    bool   // was called
		downloads int
		orMore    bool // downloads, up to the end of the time
	}{
		{name: "no administrator", env: "ELEVATED=no", status: 2, says: "run this as administrator"},
		{name: "a setting", settings: map[string]any{"RunnerAfterJob": "halt"}, status: 2,
			says: "RunnerAfterJob is malformed: set it to poweroff or stay"},
		{name: "no instance id", imds: func(path string) int {
			if strings.HasSuffix(path, "/instance-id") {
				return http.StatusNotFound
			}
			return 0
		}, status: 3, says: "no instance id"},
		{name: "a folder that is not empty", before: func(t *testing.T) { m.write(t, "actions-runner/file", "") },
			status: 7, says: `C:\actions-runner is not empty: empty it, or set RunnerDir`},
		{name: "a runner that is configured", before: func(t *testing.T) {
			m.write(t, "actions-runner/config.cmd", "")
			m.write(t, "actions-runner/.runner", "")
		}, status: 7, says: "holds a runner that is configured"},
		{name: "no release", settings: map[string]any{"ReleasesUrl": m.url + "/none"}, status: 7,
			says: "there is no " + m.url + "/none/latest: check RunnerVersion"},
		{name: "no such version", settings: map[string]any{"RunnerVersion": "2.1.0", "RunnerSha256": sum}, status: 7,
			says: "/v2.1.0/actions-runner-win-x64-2.1.0.zip: check RunnerVersion"},
		{name: "a release without a checksum", before: func(*testing.T) { m.release = `{"tag_name":"v2.999.1","assets":[]}` },
			status: 7, says: "no release with a checksum"},
		{name: "releases are out of reach", settings: map[string]any{"ReleasesUrl": "http://127.0.0.1:1"}, status: 7,
			says: "(if GitHub limits this address, set RunnerVersion and RunnerSha256) (after 120 s)"},
		{name: "a wrong checksum", settings: map[string]any{"RunnerSha256": sum}, status: 7, downloads: 2,
			says: "the checksum of actions-runner-win-x64-2.999.1.zip is wrong: the package is not used"},
		{name: "a wrong checksum, with the version",
			settings: map[string]any{"RunnerSha256": sum, "RunnerVersion": "2.999.1"}, status: 7, downloads: 2,
			says: "the checksum of actions-runner-win-x64-2.999.1.zip is wrong"},
		{name: "a package that cannot be unpacked", before: func(*testing.T) {
			m.serve = func(w http.ResponseWriter) { w.Write(noZip) }
			m.release = regexp.MustCompile(`[0-9a-f]{64}`).ReplaceAllString(good, fmt.Sprintf("%x", sha256.Sum256(noZip)))
		}, status: 7, says: "the package cannot be unpacked: ", downloads: 1},
		{name: "a download that stalls", env: "SPEED=10", before: func(*testing.T) {
			m.serve = func(w http.ResponseWriter) {
				w.Header().Set("Content-Length", "1000000")
				w.Write(make([]byte, 1000))
				w.(http.Flusher).Flush()
				<-t.Context().Done()
			}
		}, status: 7, says: "the download stalled", downloads: 2, orMore: true}, // 30 s each
		{name: "config.cmd fails", env: "CONFIG=fails", status: 8, says: "config.cmd failed with 1", config: true,
			downloads: 1},
		{name: "a runner that is too old to register", env: "CONFIG=is old", status: 7,
			says: "GitHub has ended this version of the runner: leave RunnerVersion empty", config: true, downloads: 1},
		{name: "a runner whose version has ended", env: "CONFIG=registers what ends", status: 7,
			says: "GitHub has ended this version of the runner: leave RunnerVersion empty", config: true, downloads: 1},
		{name: "a registration without a service", env: "CONFIG=makes no service", status: 8,
			says: "config.cmd failed with 1", config: true, downloads: 1},
		{name: "gpupdate", env: "GPUPDATE=1", status: 8, says: "gpupdate failed with 1: said", downloads: 1},
	} {
		t.Run(c.name, func(t *testing.T) {
			m.reset(t)
			m.mu.Lock()
			m.release = good
			if c.before != nil {
				c.before(t)
			}
			m.mu.Unlock()
			m.Fail(c.imds, nil)
			tokens := len(m.GitHub.Tokens())
			_, errs, status := m.run(t, c.settings, cmp.Or(c.env, "x="))
			last := errs[strings.LastIndex(strings.TrimSpace(errs), "\n")+1:]
			if status != c.status || !strings.HasPrefix(last, "runner: ") || !strings.Contains(last, c.says) {
				t.Errorf("exit %d, want %d and %q\n%s", status, c.status, c.says, errs)
			}
			if got := m.on(t, "record/config.args") != ""; got != c.config {
				t.Errorf("config.cmd was called: %v", got)
			}
			// No token is spent on what cannot be, and none for a registration that stays.
			if n := len(m.GitHub.Tokens()) - tokens; n > 0 && !c.config {
				t.Errorf("%d tokens", n)
			}
			if c.config {
				if _, err := os.Stat(m.root + "/actions-runner/.runner"); err == nil {
					t.Error("a registration is left")
				}
			}
			if m.downloads < c.downloads || m.downloads > c.downloads && !c.orMore {
				t.Errorf("%d downloads, want %d", m.downloads, c.downloads)
			}
			if left, _ := filepath.Glob(m.root + "/actions-runner.zip"); left != nil {
				t.Errorf("%q are left", left)
			}
		})
	}
	t.Run("with version and checksum GitHub is not asked for the release", func(t *testing.T) {
		m.reset(t)
		m.Fail(nil, nil)
		settings := map[string]any{"RunnerVersion": "2.999.1", "ReleasesUrl": "http://127.0.0.1:1",
			"RunnerSha256": strings.ToUpper(regexp.MustCompile(`[0-9a-f]{64}`).FindString(good))}
		if _, errs, status := m.run(t, settings); status != 0 {
			t.Errorf("exit %d\n%s", status, errs)
		}
	})
	t.Run("an image's runner is used as it is", func(t *testing.T) {
		m.reset(t)
		m.write(t, "actions-runner/config.cmd", rig.ReadFile(t, "config.sh"))
		m.write(t, "actions-runner/bin/Runner.Listener.exe", "image")
		m.write(t, "actions-runner/.env", "LANG=x\nACTIONS_RUNNER_RETURN_VERSION_DEPRECATED_EXIT_CODE=1\n")
		if _, errs, status := m.run(t, nil); status != 0 || m.downloads != 0 {
			t.Errorf("exit %d, %d downloads\n%s", status, m.downloads, errs)
		}
		if got := m.on(t, "record/env"); got != "LANG=x\n" { // with the other the service host never ends
			t.Errorf(".env is %q", got)
		}
	})
	t.Run("what an interrupted run left is replaced", func(t *testing.T) {
		m.reset(t)
		m.write(t, "actions-runner.new/config.cmd", "half")
		m.write(t, "actions-runner.zip", "half")
		m.write(t, stateDir+"runner/bin/half", "half")
		if _, errs, status := m.run(t, nil); status != 0 {
			t.Errorf("exit %d\n%s", status, errs)
		}
		if m.on(t, stateDir+"runner/bin/half") != "" || m.on(t, "actions-runner.zip") != "" {
			t.Error("it is still there")
		}
	})
	t.Run("config.cmd hangs", func(t *testing.T) {
		m.reset(t)
		_, errs, status := m.run(t, nil, "CONFIG=hangs", "SPEED=300")
		if status != 8 || !strings.Contains(errs, "config.cmd did not end within 600 s") {
			t.Errorf("exit %d\n%s", status, errs)
		}
		if got := m.on(t, "record/taskkill"); !strings.HasPrefix(got, "/T /F /PID ") {
			t.Errorf("taskkill got %q", got)
		}
	})
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

// coded is a refusal of the service's, gateway one of API Gateway's.
func coded(status int, code, retryAfter string) rig.Refusal {
	return rig.Refusal{Status: status, RetryAfter: retryAfter,
		Body: fmt.Sprintf("{\n  \"code\": %q,\n  \"message\": \"m \\\"x\\\"\",\n  \"request_id\": \"r-1\"\n}", code)}
}

func gateway(status int, message string) rig.Refusal {
	return rig.Refusal{Status: status, Body: fmt.Sprintf(`{"message":%q}`, message)}
}

// The faults that linux.sh is tested with.
func TestWindowsFaults(t *testing.T) {
	t.Parallel()
	m := newMachine(t, rig.RoleCredentials())
	once := func(status int) func(string) int {
		return func(string) int {
			defer func() { status = 0 }()
			return status
		}
	}
	tls := httptest.NewUnstartedServer(http.NotFoundHandler())
	tls.Config.ErrorLog = discard
	tls.StartTLS()
	t.Cleanup(tls.Close)
	anHourAgo := time.Now().Add(-time.Hour).UTC().Format(http.TimeFormat)
	for _, c := range []struct {
		name     string
		imds     func(path string) int
		api      func(n int) *rig.Refusal
		settings map[string]any
		status   int
		says     string // in stderr
		posts    int    // -1: any number
		sleeps   int    // at least so long, in seconds
	}{
		{name: "IMDS answers 401 once", imds: once(401), posts: 1, says: "the instance has no role; next try"},
		{name: "credentials never come", imds: func(string) int { return 404 }, status: 3,
			says: "attach an instance profile"},
		{name: "no metadata service", settings: map[string]any{"ImdsUrl": "http://127.0.0.1:1"}, status: 3,
			says: "no answer from the metadata service http://127.0.0.1:1"},
		{name: "503 twice", api: upTo(2, coded(503, "RateLimited", "5")), posts: 3, sleeps: 10,
			says: `503 RateLimited: m "x" (request_id r-1); next try`},
		{name: "429", api: upTo(1, gateway(429, "Too Many Requests")), posts: 2, sleeps: 1},
		{name: "504", api: upTo(1, gateway(504, "Endpoint request timed out")), posts: 2},
		{name: "500 without a code", api: upTo(1, gateway(500, "Internal Server Error")), posts: 2},
		{name: "500 with a code", api: always(coded(500, "Internal", "")), status: 5, says: "request_id", posts: 1},
		{name: "502 without a code", api: upTo(1, gateway(502, "Bad Gateway")), posts: 2},
		{name: "502 with a code", api: always(coded(502, "CredentialRejected", "")), status: 5, says: "put a new one",
			posts: 1},
		{name: "503 for ever", api: always(coded(503, "Unavailable", "")), status: 6, posts: -1, sleeps: 5,
			says: "RunnerTokenTimeout=20 s: 503 Unavailable: m \"x\" (request_id r-1). Remedy: wait: GitHub or"},
		{name: "Retry-After is too long", api: always(coded(503, "RateLimited", "900")), status: 6, posts: 1,
			says: "it asked to wait 900 s"},
		{name: "Retry-After is a date", api: upTo(1, coded(503, "RateLimited", "Wed, 25 Nov 2026 15:16:44 GMT")), posts: 2},
		{name: "a message of a megabyte", api: always(gateway(400, strings.Repeat("x", 1<<20))), status: 5, posts: 1,
			says: strings.Repeat("x", 500) + ". Remedy"},
		{name: "a policy that comes late", api: upTo(3, gateway(403, "Forbidden")), posts: 4, sleeps: 5,
			says: "403 without a code: Forbidden"},
		{name: "the Region is another", settings: map[string]any{"Region": "us-east-1", "RunnerTokenTimeout": "300"},
			status: 5, says: "Remedy: API Gateway refused: allow the role execute-api:Invoke on exactly", posts: -1,
			sleeps: 80},
		{name: "TargetNotAllowed", settings: map[string]any{"Target": "orgs/other"}, status: 5,
			says: "add orgs/other to AllowedTargets", posts: 1},
		{name: "no token", api: always(rig.Refusal{Status: 201, Body: `{"token":"","runner_url":"https://x.example/acme"}`}),
			status: 5, says: "no token", posts: 1},
		{name: "unreachable", settings: map[string]any{"ApiUrl": "http://127.0.0.1:1"}, status: 6, says: "no answer: "},
		{name: "no such host", settings: map[string]any{"ApiUrl": "https://api.invalid"}, status: 6, says: "no answer: "},
		{name: "mute", settings: map[string]any{"ApiUrl": mute(t), "RunnerTokenTimeout": "3"}, status: 6,
			says: "no answer within "},
		{name: "cut off", settings: map[string]any{"ApiUrl": hangingUp(t)}, status: 6, says: "no answer: "},
		{name: "no TLS", settings: map[string]any{"ApiUrl": "https" + strings.TrimPrefix(m.APIURL, "http")}, status: 6,
			says: "no answer: "},
		{name: "an untrusted certificate", settings: map[string]any{"ApiUrl": tls.URL}, status: 5,
			says: "the certificate of 127.0.0.1 is not trusted. Remedy: the company's CA is not in this machine's store"},
		{name: "the clock is off", settings: map[string]any{"ApiUrl": dated(t, anHourAgo)}, status: 4,
			says: "the clock is off by 3"},
		{name: "a Date that is none", settings: map[string]any{"ApiUrl": dated(t, "yesterday")}, status: 5,
			says: "its Date header cannot be read"},
	} {
		t.Run(c.name, func(t *testing.T) {
			os.Remove(m.root + "/record/sleep")
			m.Fail(c.imds, c.api)
			settings := map[string]any{"TokenOnly": true}
			for name, value := range c.settings {
				settings[name] = value
			}
			out, errs, status := m.run(t, settings)
			if status != c.status || !strings.Contains(errs, c.says) || (out != "") != (status == 0) {
				t.Errorf("exit %d, want %d and %q:\n%.2000s", status, c.status, c.says, errs)
			}
			asked, posts := m.Requests()
			if c.posts >= 0 && posts != c.posts {
				t.Errorf("the API was asked %d times, want %d", posts, c.posts)
			}
			if posts > 1 && asked < 3*posts { // token, role, credentials
				t.Errorf("IMDS was asked %d times for %d tries", asked, posts)
			}
			slept := 0.0
			for _, s := range strings.Fields(m.on(t, "record/sleep")) {
				var n float64
				fmt.Sscan(s, &n)
				slept += n
			}
			if slept < float64(c.sleeps) {
				t.Errorf("slept %v s, want at least %d", slept, c.sleeps)
			}
			if m.on(t, logFile) != "" {
				t.Error("-TokenOnly wrote to the log")
			}
		})
	}
}

func TestWindowsProxy(t *testing.T) {
	t.Parallel()
	m := newMachine(t, rig.RoleCredentials())
	var went []string
	through := func() []string { // since the last call
		m.mu.Lock()
		defer m.mu.Unlock()
		urls := went
		went = nil
		return urls
	}
	forward := &httputil.ReverseProxy{Rewrite: func(*httputil.ProxyRequest) {}}
	proxy := rig.Serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		m.mu.Lock()
		went = append(went, r.URL.String()+" "+r.Header.Get("Proxy-Authorization"))
		m.mu.Unlock()
		if r.Header.Get("Proxy-Authorization") == "" {
			w.Header().Set("Proxy-Authenticate", "Basic realm=x")
			w.WriteHeader(http.StatusProxyAuthRequired)
			return
		}
		forward.ServeHTTP(w, r)
	}))
	proxy = strings.Replace(proxy, "http://", "http://me:pass%20word@", 1)
	_, errs, status := m.run(t, nil, "http_proxy="+proxy, "HTTPS_PROXY="+proxy, "NO_PROXY=x.example",
		"ACTIONS_RUNNER_HOOK_JOB_STARTED=C:\\hook.ps1", "ACTIONS_RUNNER_INPUT_X=y")
	if status != 0 {
		t.Fatalf("exit %d\n%s", status, errs)
	}
	urls := through()
	api := m.APIURL + "/orgs/acme/actions/runners/registration-token"
	for _, url := range []string{api, m.url + "/api/latest", m.url + "/asset"} {
		if !slices.Contains(urls, url+" Basic bWU6cGFzcyB3b3Jk") {
			t.Errorf("%s did not go through the proxy: %q", url, urls)
		}
	}
	for _, url := range urls {
		if strings.HasPrefix(url, m.IMDSURL) {
			t.Errorf("%s went through the proxy", url)
		}
	}
	want := "http_proxy=" + proxy + "\nhttps_proxy=" + proxy + "\nno_proxy=x.example\n" +
		"ACTIONS_RUNNER_HOOK_JOB_STARTED=C:\\hook.ps1\n"
	if got := m.on(t, "record/env"); got != want {
		t.Errorf(".env is %q, want %q", got, want)
	}
	t.Run("SYSTEM leaves through it, too", func(t *testing.T) {
		if _, errs, status := m.run(t, map[string]any{"Remove": true}); status != 0 {
			t.Fatalf("exit %d\n%s", status, errs)
		}
		if urls := through(); len(urls) == 0 || !strings.Contains(urls[0], "/remove-token") {
			t.Errorf("%q went through the proxy", urls)
		}
	})
	t.Run("but for what no_proxy names", func(t *testing.T) {
		m.run(t, map[string]any{"TokenOnly": true}, "http_proxy="+proxy, "no_proxy=127.0.0.1")
		if urls := through(); len(urls) > 0 {
			t.Errorf("%q went through the proxy", urls)
		}
	})
}

func TestWindowsCompanyCA(t *testing.T) {
	t.Parallel()
	m := newMachine(t, rig.RoleCredentials())
	api := httptest.NewUnstartedServer(m.API(m.Credentials))
	api.Config.ErrorLog = discard
	api.StartTLS()
	t.Cleanup(api.Close)
	ca := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: api.Certificate().Raw})
	m.write(t, "ca.pem", "the company's\n"+string(ca))
	settings := map[string]any{"ApiUrl": api.URL}
	if _, errs, status := m.run(t, settings); status != 5 || !strings.Contains(errs, "is not trusted") {
		t.Errorf("without the file: exit %d\n%s", status, errs)
	}
	settings["RunnerCaFile"] = `C:\ca.pem`
	if _, errs, status := m.run(t, settings); status != 0 {
		t.Errorf("with the file: exit %d\n%s", status, errs)
	}
	if got := m.on(t, "record/env"); got != `NODE_EXTRA_CA_CERTS=C:\Program Files\runner-token-broker\ca.pem`+"\n" {
		t.Errorf(".env is %q", got)
	}
	if m.on(t, stateDir+"ca.pem") == "" {
		t.Error("jobs have no ca.pem")
	}
}
