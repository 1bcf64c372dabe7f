package linux_test

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"

	"runner-token-broker/e2e/rig"
	"runner-token-broker/internal/secret"
)

// boot is an instance that starts: what it sees, GitHub's releases among it, and the folder that it writes to.
//
// Not here: another user for the runner, systemd (systemctl and journalctl are stubs), libicu, and GitHub's own runner.
type boot struct {
	*rig.Instance
	dir string // everything that is written, but for what the script makes in TMPDIR
	env []string

	mu       sync.Mutex
	checksum string // of the runner's package, as the release has it
}

func newBoot(t *testing.T, c aws.Credentials) *boot {
	t.Helper()
	b := &boot{Instance: rig.NewInstance(t, c), dir: t.TempDir()}
	releases := rig.Serve(t, b.releases(t))
	me, err := user.Current()
	if err != nil {
		t.Fatal(err)
	}
	// curl and openssl record their arguments, where no secret may be, and sleep how long it was to take.
	// A file named as a question holds the answer to it.
	b.write(t, "bin/systemctl", `case $1 in
  show) echo invocation ;;
  is-active) cat "$RECORD/is-active" 2>/dev/null || echo active ;;
  is-system-running) cat "$RECORD/is-system-running" 2>/dev/null || echo running ;;
  *) echo "$*" >>"$RECORD/systemctl" ;;
esac`)
	b.write(t, "bin/journalctl", `cat "$RECORD/journal" 2>/dev/null || echo 'Listening for Jobs'`)
	b.write(t, "bin/sleep", `echo "$*" >>"$RECORD/sleep"; exec `+rig.Tool(t, "sleep")+` 0.02`)
	b.write(t, "bin/openssl", `echo "$*" >>"$RECORD/openssl"; exec `+rig.Tool(t, "openssl")+` "$@"`)
	b.write(t, "bin/curl", `echo "$*" >>"$RECORD/curl"
case "$*:$CURL" in
  *--version:old) echo 'curl 7.81.0 (x86_64-pc-linux-gnu)' ;;
  '-q --help all:bare') echo '     --basic  Use HTTP Basic Authentication' ;;
  *) exec `+rig.Tool(t, "curl")+` "$@" ;;
esac`)
	b.env = append(rig.Environ(), "PATH="+b.dir+"/bin:"+asRoot(t, b.dir)+os.Getenv("PATH"),
		"RECORD="+b.dir, "TMPDIR="+t.TempDir(), "CURL=",
		"SSL_CERT_FILE=", "NODE_EXTRA_CA_CERTS=",
		"API_URL="+b.APIURL, "TARGET=orgs/acme", "REGION="+rig.Region, "RUNNER_TOKEN_TIMEOUT=20",
		"RUNNER_USER="+me.Username, "RUNNER_DIR="+b.dir+"/runner", "HOOK="+b.dir+"/hook", "UNIT="+b.dir+"/runner.service",
		"SETTINGS="+b.dir+"/settings.env",
		"IMDS_URL="+b.IMDSURL, "RELEASES_URL="+releases+"/api", "DOWNLOAD_URL="+releases+"/download")
	return b
}

// asRoot returns what comes before the PATH for the script to believe that it is root, if the test is not. A folder of
// its own in dir holds it.
func asRoot(t *testing.T, dir string) string {
	t.Helper()
	if os.Geteuid() == 0 {
		return ""
	}
	if err := os.MkdirAll(dir+"/root", 0o755); err != nil {
		t.Fatal(err)
	}
	rig.WriteFile(t, dir+"/root/id", "#!/bin/sh\n[ \"$1\" = -u ] && echo 0 || exec "+rig.Tool(t, "id")+` "$@"`, 0o755)
	return dir + "/root:"
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

// write makes a script for sh.
func (b *boot) write(t *testing.T, name, text string) {
	t.Helper()
	rig.WriteFile(t, filepath.Join(b.dir, name), "#!/bin/sh\n"+text+"\n", 0o755)
}

// runner is a package in place of GitHub's. Its scripts record what they are given, and insist on what GitHub's do: a
// runner is configured once, and removed only after its service.
var runner = map[string]string{
	"config.sh": `[ "$(id -u)" != 0 ] || [ "$RUNNER_ALLOW_RUNASROOT" ] || { echo 'Must not run with sudo'; exit 1; }
echo "$*" >>"$RECORD/config.args"
env >>"$RECORD/config.env"
[ -z "$HANG" ] || { touch "$RECORD/hangs"; exec /bin/sleep 60; }
case $1 in
  remove)
    [ ! -e .service ] || { echo 'Uninstall service first'; exit 1; }
    [ ! -e "$RECORD/busy" ] || { echo 'Runner is currently running a job and cannot be deleted'; exit 1; }
    rm .runner ;;
  *)
    [ ! -e .runner ] || { echo 'already configured'; exit 1; }
    [ ! -e "$RECORD/too-old" ] || { cat "$RECORD/too-old"; exit 1; }
    while [ "$1" != --name ]; do shift; done
    printf '\357\273\277{\n  "agentId": 1,\n  "agentName": "%s"\n}' "$2" >.runner
    cp bin/svc.sh . ;;
esac
`,
	"bin/svc.sh": `echo "$*" >>"$RECORD/svc.args"
env >>"$RECORD/svc.env"
[ "$1" != install ] || [ -e "$RECORD/svc-fails" ] || echo actions.runner.acme.service >.service
[ "$1" != install ] || [ ! -e "$RECORD/svc-fails" ]
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

// download is where GitHub has the package of a version.
func download(version string) string {
	return "v" + version + "/actions-runner-linux-" + arch + "-" + version + ".tar.gz"
}

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
		mux.HandleFunc("/download/"+download(version), func(w http.ResponseWriter, r *http.Request) { w.Write(tarball) })
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
	return rig.Run(t, b.command(t, env, args...))
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

// keepsSecrets looks for tokens and the secret key in what was printed and in every file. Records of arguments are
// among them, config.sh's record of its environment is not.
func (b *boot) keepsSecrets(t *testing.T, printed string) {
	t.Helper()
	secrets := append(b.GitHub.Tokens(), secret.New(b.Credentials.SecretAccessKey))
	if b.Credentials.SessionToken != "" {
		secrets = append(secrets, secret.New(b.Credentials.SessionToken))
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
