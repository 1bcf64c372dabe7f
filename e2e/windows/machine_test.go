package windows_test

import (
	"archive/zip"
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"

	"runner-token-broker/e2e/rig"
)

// pwsh finds PowerShell 7. Where there is none, nothing of the script is run.
func pwsh(t *testing.T) string {
	t.Helper()
	path, err := exec.LookPath("pwsh")
	if err != nil {
		t.Skip("NOT PROVEN: no pwsh here, so windows.ps1 was not run")
	}
	return path
}

// machine is an instance with PowerShell and, by machine.ps1, what else Windows has. GitHub's releases are on it, too.
type machine struct {
	*rig.Instance
	root string // drive C:
	url  string // of the releases

	mu        sync.Mutex
	downloads int
	serve     func(w http.ResponseWriter) // in place of the package
	release   string                      // in place of GitHub's description of the newest one
}

func newMachine(t *testing.T, c aws.Credentials) *machine {
	t.Helper()
	pwsh(t)
	m := &machine{Instance: rig.NewInstance(t, c), root: t.TempDir()}
	m.reset(t)
	pack := runnerPackage(t)
	sum := sha256.Sum256(pack)
	m.release = fmt.Sprintf(`{"tag_name": "v2.999.1", "body": "<!-- BEGIN SHA win-x64 -->%x<!-- END"}`, sum)
	mux := http.NewServeMux()
	mux.HandleFunc("/api/latest", func(w http.ResponseWriter, _ *http.Request) {
		m.mu.Lock()
		defer m.mu.Unlock()
		io.WriteString(w, m.release)
	})
	mux.HandleFunc("/download/v2.999.1/actions-runner-win-x64-2.999.1.zip", func(w http.ResponseWriter, r *http.Request) {
		http.Redirect(w, r, "/asset", http.StatusFound) // as GitHub does
	})
	mux.HandleFunc("/asset", func(w http.ResponseWriter, _ *http.Request) {
		m.mu.Lock()
		m.downloads++
		serve := m.serve
		m.mu.Unlock()
		if serve != nil {
			serve(w)
			return
		}
		w.Write(pack)
	})
	m.url = rig.Serve(t, mux)
	return m
}

// runnerPackage is in place of GitHub's.
func runnerPackage(t *testing.T) []byte {
	t.Helper()
	var b bytes.Buffer
	z := zip.NewWriter(&b)
	for name, text := range map[string]string{
		"config.cmd": rig.ReadFile(t, "config.sh"), "bin/Runner.Listener.exe": "original", "run.cmd": "",
	} {
		w, err := z.Create(name)
		if err != nil {
			t.Fatal(err)
		}
		io.WriteString(w, text)
	}
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// reset makes it a new machine, as far as its disk goes.
func (m *machine) reset(t *testing.T) {
	t.Helper()
	entries, err := os.ReadDir(m.root)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if err := os.RemoveAll(filepath.Join(m.root, e.Name())); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Mkdir(filepath.Join(m.root, "record"), 0o755); err != nil {
		t.Fatal(err)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.downloads, m.serve = 0, nil
}

// run runs the script with settings on top of those that it needs here; env is added to the environment.
func (m *machine) run(t *testing.T, settings map[string]any, env ...string) (stdout, stderr string, status int) {
	t.Helper()
	all := map[string]any{
		"ApiUrl": m.APIURL, "Target": "orgs/acme", "Region": rig.Region, "ImdsUrl": m.IMDSURL,
		"ReleasesUrl": m.url + "/api", "DownloadUrl": m.url + "/download", "RunnerTokenTimeout": "20",
	}
	maps.Copy(all, settings)
	text, err := json.Marshal(all)
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), pwsh(t), "-NoProfile", "-NonInteractive", "-File", "machine.ps1")
	cmd.Env = slices.DeleteFunc(rig.Environ(), func(v string) bool { // a proxy of this machine's is not the test's
		return strings.Contains(strings.ToLower(strings.SplitN(v, "=", 2)[0]), "proxy")
	})
	cmd.Env = append(cmd.Env, "ROOT="+m.root, "SETTINGS="+string(text), "SPEED=1", "HOME="+m.root)
	cmd.Env = append(cmd.Env, env...)
	stdout, stderr, status = rig.Run(t, cmd)
	m.keepsSecrets(t, stderr)
	return strings.TrimRight(stdout, "\r\n"), stderr, status
}

// on returns a file of drive C:, "" if there is none.
func (m *machine) on(t *testing.T, path string) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(m.root, path))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		t.Fatal(err)
	}
	return string(text)
}

func (m *machine) write(t *testing.T, path, text string) {
	t.Helper()
	rig.WriteFile(t, filepath.Join(m.root, path), text, 0o644)
}

func (m *machine) remove(t *testing.T, path string) {
	t.Helper()
	if err := os.Remove(filepath.Join(m.root, path)); err != nil {
		t.Fatal(err)
	}
}

// keepsSecrets looks for tokens and the role's keys in what was printed, in the log and in every other file, but for
// the record of what config.cmd had in its environment.
func (m *machine) keepsSecrets(t *testing.T, printed string) {
	t.Helper()
	secrets := []string{m.Credentials.SecretAccessKey}
	if m.Credentials.SessionToken != "" {
		secrets = append(secrets, m.Credentials.SessionToken)
	}
	for _, token := range m.GitHub.Tokens() {
		secrets = append(secrets, token.Reveal())
	}
	texts := map[string]string{"stderr": printed}
	err := filepath.WalkDir(m.root, func(path string, d fs.DirEntry, err error) error {
		if err == nil && d.Type().IsRegular() && d.Name() != "config.tokens" {
			texts[path] = rig.ReadFile(t, path)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	for where, text := range texts {
		for _, s := range secrets {
			if strings.Contains(text, s) {
				t.Errorf("%s holds a secret", where)
			}
		}
	}
}
