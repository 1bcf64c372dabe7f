package linux_test

import (
	"cmp"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"maps"
	"math/big"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"runner-token-broker/e2e/rig"
)

const (
	apiHost    = "abc123.execute-api." + rig.Region + ".amazonaws.com"
	runnerUnit = "actions.runner.acme.service"
)

// distribution is one that linux.sh is for.
type distribution struct {
	name, suite string
	packages    string   // libicu, so that GitHub's installdependencies.sh is not called, and what cloud-init expects
	mmdebstrap  []string // more arguments
}

var (
	debian12 = distribution{"debian", "bookworm", "libicu72", nil}
	// Its curl, 7.81, signs no session token.
	ubuntu22 = distribution{"ubuntu-22.04", "jammy", "libicu70,locales,openssh-server", ubuntu}
	ubuntu24 = distribution{"ubuntu-24.04", "noble", "libicu74,locales,openssh-server", ubuntu}
	// The key is Ubuntu's for its archive, F6ECB3762474EDA9D21B7022871920D1991BC93C.
	ubuntu = []string{
		"http://archive.ubuntu.com/ubuntu", "--components=main,universe", "--keyring=testdata/ubuntu.gpg",
	}
)

// debianRunner is the runner of linux_test.go for a user of its own. It refuses root as GitHub's does, and its service
// is a unit of systemd like GitHub's.
func debianRunner() map[string]string {
	files := maps.Clone(runner)
	files["config.sh"] = `RECORD=/record
[ "$(id -u)" != 0 ] || { echo 'Must not run with sudo'; exit 1; }
id -un >>/record/config.user
printf %s "$ACTIONS_RUNNER_INPUT_TOKEN" | grep -slF -f - /proc/[0-9]*/cmdline >>/record/config.leaks
` + runner["config.sh"]
	files["bin/svc.sh"] = `set -e
case $1 in
  install)
    printf '%s\n' '[Unit]' After=network-online.target '[Service]' "ExecStart=$PWD/run.sh" "WorkingDirectory=$PWD" \
      "User=$2" KillMode=process TimeoutStopSec=5min '[Install]' WantedBy=multi-user.target \
      >/etc/systemd/system/` + runnerUnit + `
    systemctl daemon-reload
    systemctl enable ` + runnerUnit + `
    echo ` + runnerUnit + ` >.service
    ;;
  uninstall) ;;
  *) systemctl "$1" ` + runnerUnit + ` ;;
esac
`
	// As GitHub's listener it reads .env, says that it is connected, and after its one job takes its registration away.
	files["run.sh"] = `[ -e .runner ] || { echo 'An error occurred: Not configured'; exit 1; }
[ ! -e .env ] || while IFS= read -r line; do export "$line"; done <.env
env >/record/service.env
echo 'Listening for Jobs'
until [ -e /record/job ]; do sleep 1; done
cp /bin/sleep bin/Runner.Worker
"$PWD/bin/Runner.Worker" 3
rm .runner
`
	files["bin/installdependencies.sh"] = "touch /record/installdependencies\n"
	return files
}

// The first process of a machine, in process and mount namespaces of its own: whatever ends it ends the machine and its
// mounts. A read-only /sys tells nspawn not to wait for udev.
const machine = `mount -t proc proc /proc
mkdir -p /run/systemd
mount -t tmpfs tmpfs /run/systemd
mount -o remount,bind,ro /sys
ip link add internet type veth peer name eth0
ip address add 192.0.2.1/24 dev internet
ip address add 169.254.169.254/32 dev internet
ip link set internet up
for hierarchy in /sys/fs/cgroup/systemd /sys/fs/cgroup/unified; do
  [ ! -d $hierarchy ] || { mkdir $hierarchy/$0 && echo $$ >$hierarchy/$0/cgroup.procs; }
done
exec systemd-nspawn --quiet --register=no --keep-unit --boot --machine=debian --directory="$1" \
  --network-interface=eth0 --resolv-conf=off --timezone=off --console=pipe --notify-ready=yes`

// debian is a container that boots Debian or Ubuntu: its systemd, then its cloud-init with the data source for EC2. Its
// network card leads to a host that is IMDS, GitHub and API Gateway. So the user data is linux.sh as a reader has it.
//
// Not proven here: EC2's kernel, disk, network and DHCP, the distribution's image for EC2, GitHub's real runner.
// cloud-init does not see EC2's BIOS and asks IMDS without a session token; linux.sh asks with one.
type debian struct {
	*boot
	root        string
	internet    http.Handler
	certificate tls.Certificate
	tunnels     tunnels // through the proxy, port 3128

	nspawn  *exec.Cmd
	systemd string        // the process id of it, as nspawn sees it
	off     chan struct{} // closed when the machine is
}

// newDebian makes one with user data. It knows GitHub's and API Gateway's names, unless it is to have a proxy, and has
// their CA in a file.
func newDebian(t *testing.T, from distribution, userData string, proxied bool) *debian {
	t.Helper()
	tree := from.tree(t)
	for _, name := range []string{"systemd-nspawn", "ip", "nsenter", "journalctl"} {
		rig.Tool(t, name)
	}
	d := &debian{boot: newBoot(t, rig.RoleCredentials()), root: t.TempDir()}
	if out, err := exec.CommandContext(t.Context(), "tar", "-xf", tree, "-C", d.root).CombinedOutput(); err != nil {
		t.Fatalf("tar: %v\n%s", err, out)
	}
	d.dir = d.root + "/record"
	if err := errors.Join(os.Mkdir(d.dir, 0), os.Chmod(d.dir, 0o1777)); err != nil {
		t.Fatal(err)
	}
	var ca string
	d.certificate, ca = certify(t, apiHost, "api.github.com", "github.com")
	hosts := "127.0.0.1 localhost debian\n"
	if !proxied {
		hosts += "192.0.2.1 " + apiHost + " api.github.com github.com\n"
	}
	for name, text := range map[string]string{
		"etc/company.pem": ca,
		"etc/hostname":    "debian\n",
		"etc/hosts":       hosts,
		"etc/resolv.conf": "nameserver 127.0.0.1\n", // where nothing answers, so that the script is told at once
		"etc/network/interfaces": "auto eth0\niface eth0 inet static\n" +
			"  address 192.0.2.2/24\n  gateway 192.0.2.1\n",
		"etc/cloud/cloud.cfg.d/99_test.cfg": "datasource_list: [Ec2]\ndatasource: {Ec2: {strict_id: false}}\n" +
			"network: {config: disabled}\nlocale: C.UTF-8\n",
	} {
		path := filepath.Join(d.root, name)
		os.Remove(path) // it may be a link
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	d.internet = d.newInternet(t, userData)
	return d
}

// tree has the mirrors asked once. It has what linux.sh meets in the distribution's image for EC2.
func (d distribution) tree(t *testing.T) string {
	t.Helper()
	mmdebstrap := rig.Tool(t, "mmdebstrap")
	if os.Geteuid() != 0 {
		rig.NotTested(t, "only root can boot a container")
	}
	packages := "ca-certificates,cloud-init,curl,dbus,ifupdown,iproute2," + d.packages + ",openssl,systemd,systemd-sysv"
	path, err := filepath.Abs(fmt.Sprintf(rig.Root+"/.build/%s-%.6x.tar", d.name, sha256.Sum256([]byte(packages))))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(path); err != nil {
		partial := filepath.Dir(path) + "/" + d.name + ".tar" // mmdebstrap goes by how the name ends
		args := []string{"--variant=minbase", "--include=" + packages, d.suite, partial}
		rig.Output(t, exec.CommandContext(t.Context(), mmdebstrap, append(args, d.mmdebstrap...)...))
		if err := os.Rename(partial, path); err != nil {
			t.Fatal(err)
		}
	}
	return path
}

func certify(t *testing.T, hosts ...string) (certificate tls.Certificate, ca string) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "internet"}, DNSNames: hosts,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	ca = string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, ca
}

func (d *debian) newInternet(t *testing.T, userData string) http.Handler {
	t.Helper()
	to := func(address string) http.Handler {
		target, err := url.Parse(address)
		if err != nil {
			t.Fatal(err)
		}
		return &httputil.ReverseProxy{Rewrite: func(r *httputil.ProxyRequest) {
			r.SetURL(target)
			r.Out.Host = r.In.Host // it is signed
		}}
	}
	tarball, checksum := pack(t, debianRunner())
	mux := http.NewServeMux()
	mux.Handle(apiHost+"/", to(d.APIURL))
	mux.HandleFunc("api.github.com/repos/actions/runner/releases/latest", func(w http.ResponseWriter, r *http.Request) {
		io.WriteString(w, release("2.999.1", checksum))
	})
	mux.HandleFunc("github.com/actions/runner/releases/download/"+download("2.999.1"),
		func(w http.ResponseWriter, r *http.Request) { w.Write(tarball) })
	mux.Handle("169.254.169.254/latest/", to(d.IMDSURL))
	mux.HandleFunc("169.254.169.254/{version}/{path...}", func(w http.ResponseWriter, r *http.Request) { // cloud-init
		text, found := map[string]string{
			"user-data": userData, "meta-data/": "instance-id", "meta-data/instance-id": rig.InstanceID,
		}[r.PathValue("path")]
		if !found {
			w.WriteHeader(http.StatusNotFound)
		}
		io.WriteString(w, text)
	})
	return mux
}

// start switches the machine on, and returns when systemd has nothing left to start, the user data included.
func (d *debian) start(t *testing.T) {
	t.Helper()
	d.off = make(chan struct{})
	socket := t.TempDir() + "/notify"
	notify, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: socket, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	cgroup := "runner-token-broker-" + strconv.Itoa(os.Getpid())
	d.nspawn = exec.Command("sh", "-ec", machine, cgroup, d.root)
	d.nspawn.Env = append(os.Environ(), "NOTIFY_SOCKET="+socket)
	if d.nspawn.Stderr, err = os.Create(d.dir + "/console"); err != nil {
		t.Fatal(err)
	}
	d.nspawn.Stdout = d.nspawn.Stderr
	d.nspawn.SysProcAttr = &syscall.SysProcAttr{
		Unshareflags: syscall.CLONE_NEWNS, Cloneflags: syscall.CLONE_NEWPID, Pdeathsig: syscall.SIGKILL,
	}
	started := make(chan error)
	go func() {
		defer close(d.off)
		defer notify.Close()
		runtime.LockOSThread() // and never unlocked: the thread ends with this function, and the network with the thread
		err := syscall.Unshare(syscall.CLONE_NEWNET)
		web, webErr := net.Listen("tcp4", ":80")
		tlsWeb, tlsErr := tls.Listen("tcp4", ":443", &tls.Config{Certificates: []tls.Certificate{d.certificate}})
		proxy, proxyErr := net.Listen("tcp4", ":3128")
		if err = cmp.Or(err, webErr, tlsErr, proxyErr); err == nil {
			d.tunnels.open()
			tunnels := tls.NewListener(&d.tunnels, &tls.Config{Certificates: []tls.Certificate{d.certificate}})
			for _, s := range []struct {
				net.Listener
				http.Handler
			}{{web, d.internet}, {tlsWeb, d.internet}, {tunnels, d.internet}, {proxy, &d.tunnels}} {
				server := &http.Server{Handler: s.Handler}
				defer server.Close()
				go server.Serve(s.Listener)
			}
			err = d.nspawn.Start()
		}
		if started <- err; err == nil {
			d.nspawn.Wait()
			exec.Command("sh", "-c", "find /sys/fs/cgroup/*/"+cgroup+" -depth -type d -delete").Run()
		}
	}()
	if err := <-started; err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		d.nspawn.Process.Kill()
		<-d.off
	})
	notify.SetReadDeadline(time.Now().Add(2 * time.Minute))
	for buffer := make([]byte, 4096); ; {
		n, err := notify.Read(buffer)
		if err != nil {
			t.Fatalf("Debian did not boot: %v\n%s", err, d.recorded(t, "console"))
		}
		for line := range strings.Lines(string(buffer[:n])) {
			switch name, value, _ := strings.Cut(strings.TrimSpace(line), "="); name {
			case "X_NSPAWN_LEADER_PID":
				d.systemd = value
			case "READY":
				notify.SetReadDeadline(time.Time{})
				go io.Copy(io.Discard, notify) // or systemd waits until it can say more
				return
			}
		}
	}
}

// do runs a command in the machine, as root.
func (d *debian) do(t *testing.T, stdin string, command ...string) string {
	t.Helper()
	args := []string{"-t", strconv.Itoa(d.nspawn.Process.Pid), "-p", "-m", "nsenter", "-t", d.systemd, "-a"}
	cmd := exec.CommandContext(t.Context(), "nsenter", append(args, command...)...)
	cmd.Stdin = strings.NewReader(stdin)
	out, err := cmd.CombinedOutput()
	if cmd.ProcessState == nil {
		t.Fatal(err)
	}
	return string(out)
}

// powerOff ends the machine as systemd does, and returns its journal.
func (d *debian) powerOff(t *testing.T) string {
	t.Helper()
	d.do(t, "", "systemctl", "poweroff")
	return d.goesOff(t, time.Minute)
}

// goesOff waits until the machine is off, and returns its journal.
func (d *debian) goesOff(t *testing.T, within time.Duration) string {
	t.Helper()
	select {
	case <-d.off:
	case <-time.After(within):
		t.Fatalf("not off after %s\n%s", within, d.recorded(t, "console"))
	}
	out, err := exec.CommandContext(t.Context(), "journalctl", "--directory="+d.root+"/var/log/journal", "--all").Output()
	if err != nil {
		t.Fatal(err)
	}
	return string(out)
}

// tunnels is a proxy for HTTPS, and the listener behind it.
type tunnels struct {
	mu    sync.Mutex
	hosts []string
	conns chan net.Conn
	done  chan struct{}
}

func (p *tunnels) open() { p.conns, p.done = make(chan net.Conn), make(chan struct{}) }

func (p *tunnels) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.Method != http.MethodConnect {
		http.Error(w, "not a tunnel", http.StatusForbidden)
		return
	}
	p.mu.Lock()
	p.hosts = append(p.hosts, r.Host)
	p.mu.Unlock()
	conn, _, err := http.NewResponseController(w).Hijack()
	if err != nil {
		return
	}
	io.WriteString(conn, "HTTP/1.1 200 Connection established\r\n\r\n")
	select {
	case p.conns <- conn:
	case <-p.done:
		conn.Close()
	}
}

func (p *tunnels) Accept() (net.Conn, error) {
	select {
	case conn := <-p.conns:
		return conn, nil
	case <-p.done:
		return nil, net.ErrClosed
	}
}

func (p *tunnels) Close() error {
	close(p.done)
	return nil
}

func (p *tunnels) Addr() net.Addr { return &net.TCPAddr{} }

// packed is user data as make user-data makes it, for launch templates. The lines run before the script.
func packed(t *testing.T, lines string, settings ...string) string {
	t.Helper()
	extra := t.TempDir() + "/extra"
	rig.WriteFile(t, extra, lines, 0o644)
	cmd := exec.CommandContext(t.Context(), "make", append(settings, "-s", "user-data", "OS=linux", "EXTRA="+extra,
		"API_URL=https://"+apiHost, "TARGET=orgs/acme", "REGION="+rig.Region, "RUNNER_CA_FILE=/etc/company.pem")...)
	cmd.Dir = rig.Root
	return rig.Output(t, cmd)
}

// filledIn is the script with its variables set in it.
func filledIn(t *testing.T, settings map[string]string) string {
	t.Helper()
	script := rig.ReadFile(t, linuxSH)
	for name, value := range settings {
		setting := regexp.MustCompile(`(\$\{` + name + `:=)[^}]*}`)
		if len(setting.FindAllString(script, -1)) != 1 {
			t.Fatalf("%s is not set once", name)
		}
		script = setting.ReplaceAllString(script, "${1}"+value+"}")
	}
	return script
}

// equal fails if what was seen is not what was wanted.
func equal(t *testing.T, what, got, want string) {
	t.Helper()
	if got != want {
		t.Errorf("%s: got %q, want %q", what, got, want)
	}
}

// boots starts the machine and wants a runner in it, as the user data's work.
func (d *debian) boots(t *testing.T) {
	t.Helper()
	d.start(t)
	if got := d.do(t, "", "cloud-init", "status"); got != "status: done\n" {
		t.Fatalf("cloud-init: %s\n%s", got, rig.ReadFile(t, d.root+"/var/log/cloud-init-output.log"))
	}
	d.serves(t)
}

func (d *debian) serves(t *testing.T) {
	t.Helper()
	equal(t, "the service and its user", d.do(t, "", "sh", "-c", "systemctl is-active "+runnerUnit+" github-runner"+
		" && stat -c %U /proc/$(systemctl show -P MainPID "+runnerUnit+")"), "active\nactive\ngithub-runner\n")
}

// lastPath is what GitHub was asked for last.
func (d *debian) lastPath() string {
	requests := d.GitHub.Requests()
	return requests[len(requests)-1].Path
}

// The user data runs by itself and as root, and what it starts outlives it. A runner that had no job leaves when the
// machine stops, while the network is still there, and joins when it starts. After its job the machine goes off.
func TestDebianEphemeral(t *testing.T) {
	for _, from := range []distribution{debian12, ubuntu22, ubuntu24} {
		t.Run(from.name, func(t *testing.T) { livesOnce(t, newDebian(t, from, packed(t, "echo own >>/record/own"), false)) })
	}
}

func livesOnce(t *testing.T, d *debian) {
	t.Helper()
	joins := d.joins()
	d.boots(t)
	equal(t, "config.sh's arguments", d.recorded(t, "config.args"), joins)
	token := d.GitHub.Tokens()[0].Reveal()
	if !strings.Contains(d.recorded(t, "config.env"), "\nACTIONS_RUNNER_INPUT_TOKEN="+token+"\n") {
		t.Error("config.sh did not get the token in its environment")
	}
	if _, err := os.Stat(d.dir + "/installdependencies"); err == nil {
		t.Error("libicu was not seen")
	}
	// As docs/user-data.md says.
	asked := d.do(t, "", "bash", "/var/lib/cloud/instance/scripts/part-001", "--token-only")
	equal(t, "asking again", asked, token+"\n")
	secrets := strings.Join([]string{token, d.Credentials.SecretAccessKey, d.Credentials.SessionToken}, "\n")
	inMemory := d.do(t, secrets, "grep", "-rslF", "-D", "skip", "-f", "-", "/run", "/tmp", "/dev/shm")
	equal(t, "secrets in memory", inMemory, "")
	printed := d.do(t, "", "sh", "-c", "cat /proc/[0-9]*/cmdline /proc/[0-9]*/environ")
	if !strings.Contains(printed, "systemd-journald") {
		t.Errorf("the processes were not seen: %q", printed)
	}

	journal := d.powerOff(t) // as when EC2 stops or terminates it, whoever asked for that
	equal(t, "config.sh's arguments", d.recorded(t, "config.args"), joins+"remove\n")
	equal(t, "GitHub was asked for", d.lastPath(), "/orgs/acme/actions/runners/remove-token")
	stopped := strings.Index(journal, runnerUnit+": Deactivated")
	left := strings.Index(journal, "github-runner.service: Deactivated")
	network := strings.Index(journal, "networking.service: Deactivated")
	if stopped < 0 || left < stopped || network < left {
		t.Errorf("not in the order of runner, leaving and network:\n%s", journal)
	}

	d.start(t) // as a warm pool does
	equal(t, "config.sh's arguments", d.recorded(t, "config.args"), joins+"remove\n"+joins)
	d.serves(t)
	rig.WriteFile(t, d.dir+"/job", "", 0o644)
	journal = d.goesOff(t, time.Minute)
	equal(t, "config.sh's arguments", d.recorded(t, "config.args"), joins+"remove\n"+joins)
	for _, said := range []string{"runner: the runner has had its job", "runner: the instance goes off"} {
		if !strings.Contains(journal, said) {
			t.Errorf("nobody says %q:\n%s", said, journal)
		}
	}

	d.start(t)
	equal(t, "the unit of one that had its job", d.do(t, "", "systemctl", "is-active", "github-runner"), "failed\n")
	equal(t, "config.sh's arguments", d.recorded(t, "config.args"), joins+"remove\n"+joins)
	journal = d.powerOff(t)
	equal(t, "config.sh's users", d.recorded(t, "config.user"), strings.Repeat("github-runner\n", 3))
	equal(t, "the lines before the script", d.recorded(t, "own"), "own\n")
	equal(t, "arguments with a token", d.recorded(t, "config.leaks"), "")
	d.dir = d.root
	d.keepsSecrets(t, printed+journal)
}

// Nothing but a proxy leads out, which script, unit and service use. Nobody has a job, so the machine goes off.
func TestDebianBehindAProxyHasNoJob(t *testing.T) {
	const proxy = "http://192.0.2.1:3128"
	d := newDebian(t, debian12, packed(t, "export HTTPS_PROXY="+proxy, "RUNNER_IDLE_TIMEOUT=60"), true)
	d.boots(t)
	if env := d.recorded(t, "service.env"); !strings.Contains(env, "\nhttps_proxy="+proxy+"\n") ||
		!strings.Contains(env, "\nSSL_CERT_FILE=/etc/github-runner-ca.pem\n") {
		t.Errorf("the service has %q", env)
	}
	journal := d.goesOff(t, 2*time.Minute)
	equal(t, "config.sh's arguments", d.recorded(t, "config.args"), d.joins()+"remove\n")
	equal(t, "GitHub was asked for", d.lastPath(), "/orgs/acme/actions/runners/remove-token")
	if !strings.Contains(journal, "runner: no job within RUNNER_IDLE_TIMEOUT=60 s") {
		t.Errorf("it went off for another reason:\n%s", journal)
	}
	d.tunnels.mu.Lock()
	defer d.tunnels.mu.Unlock()
	slices.Sort(d.tunnels.hosts)
	equal(t, "through the proxy", strings.Join(d.tunnels.hosts, " "),
		strings.Repeat(apiHost+":443 ", 2)+"api.github.com:443 github.com:443")
	d.dir = d.root
	d.keepsSecrets(t, journal)
}

// A runner that stays leaves with each stop of the machine and joins with each start. User data that runs again finds
// all in order.
func TestDebianLasting(t *testing.T) {
	d := newDebian(t, debian12, filledIn(t, map[string]string{"API_URL": "https://" + apiHost, "TARGET": "orgs/acme",
		"REGION": rig.Region, "RUNNER_EPHEMERAL": "false", "RUNNER_CA_FILE": "/etc/company.pem"}), false)
	joins := strings.Replace(d.joins(), " --ephemeral", "", 1)
	d.boots(t)
	equal(t, "config.sh's arguments", d.recorded(t, "config.args"), joins)
	process := d.do(t, "", "systemctl", "show", "-P", "MainPID", runnerUnit)
	again := d.do(t, "", "sh", "-c", "bash /var/lib/cloud/instance/scripts/part-001; echo $?")
	if !strings.HasSuffix(again, "runner: the runner is registered and its service started\n0\n") {
		t.Errorf("the user data again: %s", again)
	}
	equal(t, "config.sh's arguments", d.recorded(t, "config.args"), joins)
	equal(t, "the service's process", d.do(t, "", "systemctl", "show", "-P", "MainPID", runnerUnit), process)
	if err := os.Remove(d.root + "/etc/company.pem"); err != nil { // the unit has its own
		t.Fatal(err)
	}
	journal := d.powerOff(t)
	equal(t, "config.sh's arguments", d.recorded(t, "config.args"), joins+"remove\n")
	d.Fail(nil, always(rig.Refusal{Status: http.StatusServiceUnavailable, RetryAfter: "900"}))
	d.start(t)
	equal(t, "the unit in an outage", d.do(t, "", "systemctl", "is-active", "github-runner"), "failed\n")
	d.Fail(nil, nil)
	// As docs/user-data.md says.
	equal(t, "restarting", d.do(t, "", "systemctl", "restart", "github-runner", "actions.runner.*"), "")
	equal(t, "config.sh's arguments", d.recorded(t, "config.args"), joins+"remove\n"+joins)
	d.serves(t)
	journal += d.powerOff(t)
	equal(t, "config.sh's users", d.recorded(t, "config.user"), strings.Repeat("github-runner\n", 4))
	equal(t, "arguments with a token", d.recorded(t, "config.leaks"), "")
	d.dir = d.root
	d.keepsSecrets(t, journal)
}
