package linux_test

import (
	"bytes"
	"cmp"
	"encoding/pem"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"runner-token-broker/e2e/rig"
)

// joins is what config.sh gets when an ephemeral runner joins.
func (b *boot) joins() string {
	return "--unattended --replace --url " + b.GitHubURL + "/acme --name " + rig.InstanceID + " --ephemeral\n"
}

// lastLine is the reason, as the console shows it.
func lastLine(stderr string) string {
	lines := strings.Split(strings.TrimSpace(stderr), "\n")
	return lines[len(lines)-1]
}

// User data runs again if it was cut off, in an instance made of this one's image, and at every boot if it is told to.
func TestLinuxRunsAgain(t *testing.T) {
	t.Parallel()
	const nowhere = "RELEASES_URL=http://127.0.0.1:1"
	other := strings.Replace(`{"agentName": "NAME"}`, "NAME", "i-0fedcba9876543210", 1)
	for _, c := range []struct {
		name   string
		first  bool                        // a whole run comes first
		left   func(t *testing.T, b *boot) // and then this is what is left
		env    string
		joins  bool   // it registers
		svc    string // what svc.sh gets
		says   string
		status int
	}{
		{name: "registered and running", first: true, left: func(*testing.T, *boot) {}, says: "taking up what it left"},
		{name: "undone", first: true, left: func(t *testing.T, b *boot) { b.remove(t, "runner/.runner") }, joins: true},
		{name: "after the job", first: true, left: func(t *testing.T, b *boot) {
			b.remove(t, "runner/.runner")
			b.write(t, "journal", "")
			rig.WriteFile(t, b.dir+"/is-active", "inactive\n", 0o644)
			if _, errs, status := b.run(t, []string{"RUNNER_SERVICE=" + runnerUnit}, b.dir+"/hook", "--watch"); status != 0 {
				t.Fatalf("exit %d\n%s", status, errs)
			}
		}, status: 7, says: "a job has used "},
		{name: "an image of an instance", first: true, left: func(t *testing.T, b *boot) {
			rig.WriteFile(t, b.dir+"/runner/.runner", other, 0o600)
		}, joins: true, says: "of the instance which this image was made of"},
		{name: "cut off before the service", first: true, left: func(t *testing.T, b *boot) {
			b.remove(t, "runner.service", "runner/.service")
		}, svc: "uninstall\ninstall USER\n"},
		{name: "cut off between the service and the unit", first: true, left: func(t *testing.T, b *boot) {
			b.remove(t, "runner.service")
		}},
		{name: "cut off while unpacking", left: func(t *testing.T, b *boot) {
			b.unpack(t, "runner.new")
			b.write(t, "runner.new/of-an-old-version", "")
		}, env: "x=", joins: true, svc: "uninstall\ninstall USER\n"},
		{name: "an image with the runner", left: func(t *testing.T, b *boot) { b.unpack(t, "runner") }, joins: true,
			svc: "uninstall\ninstall USER\n", says: "is used"},
		{name: "somebody else's registration", left: func(t *testing.T, b *boot) {
			b.unpack(t, "runner")
			rig.WriteFile(t, b.dir+"/runner/.runner", other, 0o600)
		}, status: 7, says: "registered by another name"},
		{name: "somebody else's files", left: func(t *testing.T, b *boot) {
			b.unpack(t, "runner")
			b.remove(t, "runner/config.sh")
		}, status: 7, says: "is not empty"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			b := newBoot(t, rig.RoleCredentials())
			if c.first {
				if _, errs, status := b.run(t, nil, linuxSH); status != 0 {
					t.Fatalf("exit %d\n%s", status, errs)
				}
				b.remove(t, "config.args", "svc.args")
			}
			c.left(t, b)
			if c.env == "" {
				c.env = nowhere // no package is fetched
			}
			b.Fail(nil, nil)
			_, errs, status := b.run(t, []string{c.env}, linuxSH)
			if status != c.status || !strings.Contains(errs, c.says) {
				t.Errorf("exit %d, want %d and %q\n%s", status, c.status, c.says, errs)
			}
			joined := ""
			if c.joins {
				joined = b.joins()
			}
			if got := b.recorded(t, "config.args"); got != joined {
				t.Errorf("config.sh got %q, want %q", got, joined)
			}
			if _, posts := b.Requests(); (posts > 0) != c.joins {
				t.Errorf("the API was asked %d times", posts)
			}
			// Where jobs may have run, root runs nothing of the runner's.
			if got, want := b.recorded(t, "svc.args"), strings.ReplaceAll(c.svc, "USER", b.setting("RUNNER_USER")); got != want {
				t.Errorf("svc.sh got %q, want %q", got, want)
			}
			starts := strings.HasSuffix(b.recorded(t, "systemctl"), "start runner.service "+runnerUnit+"\n")
			if starts != (c.status == 0) {
				t.Errorf("systemctl got %q", b.recorded(t, "systemctl"))
			}
			for _, name := range []string{"/runner.new", "/runner/of-an-old-version"} {
				if _, err := os.Stat(b.dir + name); err == nil {
					t.Errorf("%s is there", name)
				}
			}
			b.keepsSecrets(t, errs)
		})
	}
}

func (b *boot) remove(t *testing.T, names ...string) {
	t.Helper()
	for _, name := range names {
		if err := os.Remove(filepath.Join(b.dir, name)); err != nil {
			t.Fatal(err)
		}
	}
}

// unpack makes a folder as the runner's package has it.
func (b *boot) unpack(t *testing.T, name string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Join(b.dir, name, "bin"), 0o755); err != nil {
		t.Fatal(err)
	}
	for file, text := range runner {
		b.write(t, filepath.Join(name, file), text)
	}
}

// What fails after config.sh leaves no runner at GitHub that nobody serves, or says so.
func TestLinuxUndoes(t *testing.T) {
	t.Parallel()
	const again, stays = "runner: the registration was removed again\n", "runner: the registration stays: "
	const restless = "RUNNER_TOKEN_TIMEOUT=2"
	const versionEnded = "runner: GitHub has ended this version of the runner: leave RUNNER_VERSION empty, or renew the " +
		"image"
	for _, c := range []struct {
		name    string
		file    string // a file of the boot, see there
		text    string
		api     func(n int) *rig.Refusal
		removes bool
		says    string
		status  int // 8 if 0
		last    string
	}{
		{name: "no service", file: "svc-fails", removes: true, says: again, last: "svc.sh install failed"},
		{name: "no service and no remove-token", file: "svc-fails", says: stays, last: "svc.sh install failed",
			api: func(n int) *rig.Refusal {
				if n == 1 {
					return nil
				}
				return &rig.Refusal{Status: 503}
			}},
		{name: "the service ends", file: "is-active", text: "failed", removes: true, says: again,
			last: "the runner's service has ended: see journalctl -u " + runnerUnit},
		{name: "GitHub ends the version", file: "is-active", text: "inactive", removes: true, says: again,
			status: 7, last: versionEnded},
		{name: "GitHub ends the version a little later", file: "later", removes: true, says: again,
			status: 7, last: versionEnded},
		{name: "GitHub refuses the version", file: "too-old",
			text:   "The minimum runner version required to register with GitHub Actions is now 2.329.0.",
			status: 7, last: versionEnded},
		// It goes on trying.
		{name: "no connection", file: "journal", text: "Connecting...", last: "not connected after a minute"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			b := newBoot(t, rig.RoleCredentials())
			b.Fail(nil, c.api)
			rig.WriteFile(t, filepath.Join(b.dir, c.file), c.text+"\n", 0o644)
			if c.file == "later" {
				b.write(t, "bin/systemctl", `[ $1 != is-active ] || { [ ! -e "$RECORD/is-active" ] || { echo inactive; exit; }
echo active; touch "$RECORD/is-active"; }`)
			}
			if c.file != "too-old" && c.last == versionEnded {
				rig.WriteFile(t, b.dir+"/journal", "Listening for Jobs\n"+
					"An error occurred: Runner version v2.335.1 is deprecated and cannot receive messages.\n", 0o644)
			}
			_, errs, status := b.run(t, []string{restless}, linuxSH)
			if status != cmp.Or(c.status, 8) || !strings.Contains(errs, c.says) || !strings.Contains(lastLine(errs), c.last) {
				t.Errorf("exit %d, want %q, and at last %q\n%s", status, c.says, c.last, errs)
			}
			if removes := strings.HasSuffix(b.recorded(t, "config.args"), "\nremove\n"); removes != c.removes {
				t.Errorf("config.sh got %q", b.recorded(t, "config.args"))
			}
			if strings.Contains(errs, "its service started") {
				t.Errorf("it is not:\n%s", errs)
			}
			b.keepsSecrets(t, errs)
		})
	}
}

// The unit's main process. It ends the instance when the runner has ended.
func TestLinuxEndsTheInstance(t *testing.T) {
	t.Parallel()
	const off = "poweroff\n"
	jobDone := func(t *testing.T, b *boot) {
		b.remove(t, "runner/.runner")
		rig.WriteFile(t, b.dir+"/is-active", "inactive\n", 0o644)
	}
	ended := func(t *testing.T, b *boot) { rig.WriteFile(t, b.dir+"/is-active", "failed\n", 0o644) }
	for _, c := range []struct {
		name      string
		env       []string
		happens   func(t *testing.T, b *boot)
		systemctl string
		removes   bool
		says      string
	}{
		{name: "after the job", happens: jobDone, systemctl: off, says: "has had its job"},
		{name: "after the job where it stays", env: []string{"RUNNER_AFTER_JOB=stay"}, happens: jobDone,
			says: "has had its job"},
		{name: "without a job", happens: ended, systemctl: off, says: "ended without a job"},
		{name: "for its version", happens: func(t *testing.T, b *boot) {
			ended(t, b)
			rig.WriteFile(t, b.dir+"/journal", "Runner version v2 is deprecated and cannot receive messages.\n", 0o644)
		}, systemctl: off, says: "no job: GitHub has ended this version"},
		{name: "the machine stops", happens: func(t *testing.T, b *boot) {
			ended(t, b)
			rig.WriteFile(t, b.dir+"/is-system-running", "stopping\n", 0o644)
		}},
		{name: "no job in time", env: []string{"RUNNER_IDLE_TIMEOUT=60"}, happens: func(*testing.T, *boot) {},
			systemctl: off, removes: true, says: "no job within RUNNER_IDLE_TIMEOUT=60 s"},
		{name: "no job in time for one that is not ephemeral",
			env:     []string{"RUNNER_IDLE_TIMEOUT=60", "RUNNER_EPHEMERAL=false"},
			happens: func(*testing.T, *boot) {}, systemctl: off, removes: true},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			b := newBoot(t, rig.RoleCredentials())
			if _, errs, status := b.run(t, nil, linuxSH); status != 0 {
				t.Fatalf("exit %d\n%s", status, errs)
			}
			b.remove(t, "config.args", "systemctl")
			c.happens(t, b)
			env := append(c.env, "RUNNER_SERVICE="+runnerUnit)
			_, errs, status := b.run(t, env, b.dir+"/hook", "--watch")
			if status != 0 || !strings.Contains(errs, c.says) {
				t.Errorf("exit %d, want %q\n%s", status, c.says, errs)
			}
			if got := b.recorded(t, "systemctl"); got != c.systemctl {
				t.Errorf("systemctl got %q, want %q", got, c.systemctl)
			}
			if got := b.recorded(t, "config.args"); (got == "remove\n") != c.removes {
				t.Errorf("config.sh got %q", got)
			}
			b.keepsSecrets(t, errs)
		})
	}
}

// A job, and a runner that GitHub has just given one, are left alone, and so is one that somebody restarts.
func TestLinuxDoesNotEndTheInstance(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name  string
		env   string
		until func(t *testing.T, b *boot) (stop func()) // until stop, the instance stays on
		ends  string                                    // what then is said, if it goes off
	}{
		{"while a job runs", "RUNNER_IDLE_TIMEOUT=60", func(t *testing.T, b *boot) func() {
			worker := b.dir + "/runner/bin.2.999.1/Runner.Worker"
			if err := os.MkdirAll(filepath.Dir(worker), 0o755); err != nil {
				t.Fatal(err)
			}
			if err := exec.Command("cp", rig.Tool(t, "sleep"), worker).Run(); err != nil {
				t.Fatal(err)
			}
			job := exec.Command(worker, "60")
			if err := job.Start(); err != nil {
				t.Fatal(err)
			}
			stop := sync.OnceFunc(func() { job.Process.Kill(); job.Wait() })
			t.Cleanup(stop)
			return stop
		}, "no job within"},
		{"while GitHub refuses to remove it", "RUNNER_IDLE_TIMEOUT=60", func(t *testing.T, b *boot) func() {
			rig.WriteFile(t, b.dir+"/busy", "", 0o644)
			return func() { b.remove(t, "busy") }
		}, "no job within"},
		{"while it is restarted", "RUNNER_IDLE_TIMEOUT=0", func(t *testing.T, b *boot) func() {
			b.write(t, "bin/systemctl", `[ $1 != is-active ] || { [ -e "$RECORD/is-active" ] && echo failed && exit
echo $(($(cat "$RECORD/n") + 1)) >"$RECORD/n"; [ $(($(cat "$RECORD/n") % 2)) = 0 ] && echo active || echo inactive; }
[ $1 != poweroff ] || echo poweroff >>"$RECORD/systemctl"`)
			rig.WriteFile(t, b.dir+"/n", "0\n", 0o644)
			return func() { rig.WriteFile(t, b.dir+"/is-active", "", 0o644) }
		}, "ended without a job"},
		{"while one that is not ephemeral is stopped", "RUNNER_EPHEMERAL=false", func(t *testing.T, b *boot) func() {
			rig.WriteFile(t, b.dir+"/is-active", "inactive\n", 0o644)
			return func() { rig.WriteFile(t, b.dir+"/is-system-running", "stopping\n", 0o644) }
		}, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			b := newBoot(t, rig.RoleCredentials())
			if _, errs, status := b.run(t, nil, linuxSH); status != 0 {
				t.Fatalf("exit %d\n%s", status, errs)
			}
			b.remove(t, "sleep", "systemctl")
			stop := c.until(t, b)
			var errs bytes.Buffer
			watch := b.command(t, []string{c.env, "RUNNER_SERVICE=" + runnerUnit}, b.dir+"/hook", "--watch")
			watch.Stderr = &errs
			if err := watch.Start(); err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { watch.Process.Signal(syscall.SIGKILL) })
			rig.Await(t, time.Minute, "ten minutes, as it counts", func() bool {
				return strings.Count(b.recorded(t, "sleep"), "\n") > 120
			})
			if got := b.recorded(t, "systemctl"); strings.Contains(got, "poweroff") {
				t.Errorf("systemctl got %q", got)
			}
			stop()
			watch.Wait()
			off := strings.Contains(b.recorded(t, "systemctl"), "poweroff")
			if !strings.Contains(errs.String(), c.ends) || off != (c.ends != "") {
				t.Errorf("systemctl got %q\n%s", b.recorded(t, "systemctl"), &errs)
			}
		})
	}
}

// Only what must get there does: config.sh, the service and the jobs all read .env.
func TestLinuxEnvironment(t *testing.T) {
	t.Parallel()
	b := newBoot(t, rig.RoleCredentials())
	var mu sync.Mutex
	var proxied []string
	proxy := rig.Serve(t, &httputil.ReverseProxy{Rewrite: func(r *httputil.ProxyRequest) {
		mu.Lock()
		defer mu.Unlock()
		proxied = append(proxied, r.In.URL.Path)
		r.Out.Host = r.In.Host // it is signed
	}})
	env := []string{"HTTP_PROXY=" + proxy, "no_proxy=x.example, .internal", "SHELLOPTS=allexport",
		"ACTIONS_RUNNER_HOOK_JOB_STARTED=/hook.sh", "ACTIONS_RUNNER_INPUT_TOKEN=x", "RUNNER_ALLOW_RUNASROOT=1", "OTHER=x"}
	// What is exported under these names must not become every child's.
	for _, name := range []string{"answer", "body", "creds", "session", "token", "secret_key",
		"session_token", "imds_token"} {
		env = append(env, name+"=x")
	}
	for range 2 {
		if _, errs, status := b.run(t, env, linuxSH); status != 0 {
			t.Fatalf("exit %d\n%s", status, errs)
		}
	}
	got := strings.Split(strings.TrimSpace(b.recorded(t, "runner/.env")), "\n")
	slices.Sort(got)
	want := []string{"ACTIONS_RUNNER_HOOK_JOB_STARTED=/hook.sh", "HTTP_PROXY=" + proxy, "RUNNER_ALLOW_RUNASROOT=1",
		"http_proxy=" + proxy, "no_proxy=x.example, .internal"}
	if !slices.Equal(got, want) {
		t.Errorf(".env is %q, want %q", got, want)
	}
	mu.Lock()
	defer mu.Unlock()
	for path, through := range map[string]bool{
		"/orgs/acme/actions/runners/registration-token": true, "/api/latest": true,
		"/download/" + download("2.999.1"): true, "/latest/api/token": false,
	} {
		if slices.Contains(proxied, path) != through {
			t.Errorf("%s through the proxy: %v", path, !through)
		}
	}
	for what, text := range map[string]string{"secret key": b.Credentials.SecretAccessKey,
		"session token": b.Credentials.SessionToken, "options of the shell": "SHELLOPTS", "IMDS's token": "imds_token=",
		"answer": `"runner_url"`} {
		if strings.Contains(b.recorded(t, "config.env"), text) {
			t.Errorf("config.sh got the %s", what)
		}
	}
	settings := b.recorded(t, "settings.env")
	if !strings.Contains(settings, "\nhttp_proxy=\""+proxy+"\"\n") {
		t.Error("the unit does not get the proxy")
	}
	if info, err := os.Stat(b.dir + "/settings.env"); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("all can read the proxy's password: %v, %v", info, err)
	}
}

// The company's CA counts besides the system's, for the script, config.sh, the unit, the service and the jobs.
func TestLinuxCompanyCA(t *testing.T) {
	t.Parallel()
	b := newBoot(t, rig.RoleCredentials())
	api, err := url.Parse(b.APIURL)
	if err != nil {
		t.Fatal(err)
	}
	secure := httptest.NewTLSServer(&httputil.ReverseProxy{Rewrite: func(r *httputil.ProxyRequest) {
		r.SetURL(api)
		r.Out.Host = r.In.Host
	}})
	t.Cleanup(secure.Close)
	file := t.TempDir() + "/company.pem"
	ca := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: secure.Certificate().Raw})
	rig.WriteFile(t, file, string(ca), 0o600)
	env := []string{"API_URL=" + secure.URL, "RUNNER_CA_FILE=" + file}
	for _, args := range [][]string{{linuxSH, "--token-only"}, {linuxSH}} {
		if _, errs, status := b.run(t, env, args...); status != 0 {
			t.Fatalf("%q: exit %d\n%s", args, status, errs)
		}
	}
	bundle := b.dir + "/settings-ca.pem"
	for file, line := range map[string]string{
		"settings.env": "RUNNER_CA_FILE=\"" + bundle + "\"\n", "runner/.env": "NODE_EXTRA_CA_CERTS=" + bundle + "\n",
		"config.env": "SSL_CERT_FILE=" + bundle + "\n",
	} {
		if !strings.Contains(b.recorded(t, file), line) {
			t.Errorf("%s has no %q", file, line)
		}
	}
	all := b.recorded(t, "settings-ca.pem")
	if !strings.HasSuffix(all, string(ca)) {
		t.Error("the company's CA is not in the bundle")
	}
	system, err := os.ReadFile("/etc/ssl/certs/ca-certificates.crt")
	if err == nil && !strings.HasPrefix(all, string(system)) {
		t.Error("the system's CAs are not in the bundle")
	}
	if info, err := os.Stat(bundle); err != nil || info.Mode().Perm() != 0o644 {
		t.Errorf("the runner's user cannot read it: %v, %v", info, err)
	}
	// The unit has nothing but its settings.
	env = []string{"API_URL=" + secure.URL, "RUNNER_CA_FILE=" + bundle}
	if _, errs, status := b.run(t, env, b.dir+"/hook", "--remove"); status != 0 {
		t.Errorf("--remove: exit %d\n%s", status, errs)
	}
}

// What the user data has before and after the script is not the unit's to run again.
func TestLinuxKeepsToItself(t *testing.T) {
	t.Parallel()
	b := newBoot(t, rig.RoleCredentials())
	userData := b.dir + "/part-001"
	rig.WriteFile(t, userData, "#!/bin/bash\nexport RUNNER_LABELS=a\necho before >>$RECORD/own\n"+rig.ReadFile(t, linuxSH)+
		"echo after >>$RECORD/own\n", 0o700)
	if _, errs, status := b.run(t, nil, userData); status != 0 {
		t.Fatalf("exit %d\n%s", status, errs)
	}
	if _, errs, status := b.run(t, nil, b.dir+"/hook", "--remove"); status != 0 {
		t.Errorf("exit %d\n%s", status, errs)
	}
	if got := b.recorded(t, "own"); got != "before\nafter\n" {
		t.Errorf("the reader's lines ran: %q", got)
	}
	if got := b.recorded(t, "config.args"); !strings.HasSuffix(got, " --labels a\nremove\n") {
		t.Errorf("config.sh got %q", got)
	}
}

// Before anything is asked for.
func TestLinuxNeedsRootAndAFile(t *testing.T) {
	t.Parallel()
	b := newBoot(t, rig.RoleCredentials())
	for _, c := range []struct {
		name, id, stdin string
		args            []string
		says            string
	}{
		{"not root", "1000", "", []string{linuxSH}, "runner: not root: run this as root\n"},
		{"not a file", "0", rig.ReadFile(t, linuxSH), []string{"-s"},
			"runner: not a file: run this from a file that stays\n"},
	} {
		t.Run(c.name, func(t *testing.T) {
			b.write(t, "bin/id", "echo "+c.id)
			cmd := b.command(t, nil, c.args...)
			cmd.Stdin = strings.NewReader(c.stdin)
			if _, errs, status := rig.Run(t, cmd); status != 2 || errs != c.says {
				t.Errorf("exit %d\n%s", status, errs)
			}
		})
	}
	if asked, posts := b.Requests(); asked+posts != 0 {
		t.Errorf("IMDS was asked %d times, the API %d times", asked, posts)
	}
}

// No wait is without an end. The stubs shorten what the script asks for, and nothing else.
func TestLinuxWaitsEnd(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name   string
		stubs  map[string]string
		env    func(t *testing.T) []string
		status int
		says   string
		lines  int // that say so
	}{
		{"a download that stalls", map[string]string{"curl": `exec curl $(echo "$*" | sed 's/--retry 5/--retry 1/
s/--retry-delay 2/--retry-delay 0/; s/--speed-time 30/--speed-time 1/')`}, func(t *testing.T) []string {
			return []string{"RUNNER_VERSION=2.998.0", "RUNNER_SHA256=" + strings.Repeat("0", 64), "DOWNLOAD_URL=" + stalling(t)}
		}, 7, "no package from http", 1},
		{"config.sh hangs", map[string]string{"timeout": `exec timeout $(echo "$*" | sed 's/ 180 / 1 /')`},
			func(*testing.T) []string { return []string{"HANG=x"} }, 8, "config.sh failed", 1},
		{"libicu comes late", map[string]string{"ldconfig": "", "dnf": `echo "$*" >>"$RECORD/dnf"
[ $(wc -l <"$RECORD/dnf") = 3 ]`}, func(*testing.T) []string { return nil }, 0, "libicu cannot be installed yet", 2},
		{"libicu never comes", map[string]string{"ldconfig": "", "dnf": "exit 1"},
			func(*testing.T) []string { return nil }, 7, "libicu cannot be installed yet", 13},
		{"libicu's installation hangs", map[string]string{"ldconfig": "", "dnf": "exec /bin/sleep 60",
			"timeout": `exec timeout $(echo "$*" | sed 's/ 120 / 0.1 /')`},
			func(*testing.T) []string { return nil }, 7, "which the runner needs, cannot be installed", 1},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			b := newBoot(t, rig.RoleCredentials())
			for name, text := range c.stubs {
				if c := regexp.MustCompile(`exec (curl|timeout) `); c.MatchString(text) {
					text = c.ReplaceAllString(text, "exec "+rig.Tool(t, name)+" ")
				}
				b.write(t, "bin/"+name, text)
			}
			start := time.Now()
			_, errs, status := b.run(t, c.env(t), linuxSH)
			if status != c.status || strings.Count(errs, c.says) != c.lines {
				t.Errorf("exit %d, want %d, and %d times %q\n%s", status, c.status, c.lines, c.says, errs)
			}
			if took := time.Since(start); took > 30*time.Second {
				t.Errorf("it took %s", took)
			}
		})
	}
}

// stalling begins to answer.
func stalling(t *testing.T) string {
	return rig.Serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Length", "1000000")
		fmt.Fprintf(w, "%1000d", 0)
		w.(http.Flusher).Flush()
		<-r.Context().Done()
	}))
}

// A package that arrives damaged is fetched once more.
func TestLinuxDamagedPackage(t *testing.T) {
	t.Parallel()
	b := newBoot(t, rig.RoleCredentials())
	tarball, checksum := pack(t, runner)
	served := 0
	mirror := rig.Serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if served++; served == 1 {
			io.WriteString(w, "damaged")
			return
		}
		w.Write(tarball)
	}))
	env := []string{"RUNNER_VERSION=2.998.0", "RUNNER_SHA256=" + strings.ToUpper(checksum), "DOWNLOAD_URL=" + mirror}
	_, errs, status := b.run(t, env, linuxSH)
	if status != 0 || served != 2 || !strings.Contains(errs, "is wrong: once more") {
		t.Errorf("exit %d, fetched %d times\n%s", status, served, errs)
	}
}
