package samlocal_test

import (
	"archive/tar"
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"testing"

	"runner-token-broker/e2e/rig"
)

// engine is Docker.
type engine struct {
	host    string // as in DOCKER_HOST
	gateway string // where containers find this machine
	client  http.Client
}

// startEngine returns the engine that runs, or else starts one and ends it with the test.
func startEngine(t *testing.T) *engine {
	t.Helper()
	e := newEngine(cmp.Or(os.Getenv("DOCKER_HOST"), "unix:///var/run/docker.sock"))
	if !e.answers() {
		e = startDockerd(t)
	}
	if bridge, err := net.InterfaceByName("docker0"); err == nil {
		if addresses, _ := bridge.Addrs(); len(addresses) > 0 {
			e.gateway = addresses[0].(*net.IPNet).IP.String()
		}
	}
	containers := func() (ids []struct{ ID string }) {
		filters := url.QueryEscape(`{"label":["sam.cli.container.type=lambda"]}`)
		if err := e.request(http.MethodGet, "/containers/json?all=1&filters="+filters, nil, &ids); err != nil {
			t.Fatal(err)
		}
		return ids
	}
	before := containers()
	t.Cleanup(func() {
		if after := containers(); len(after) > len(before) {
			t.Errorf("containers are left: %v, of which were there before %v", after, before)
		}
	})
	return e
}

func newEngine(host string) *engine {
	network, address, _ := strings.Cut(host, "://")
	return &engine{host: host, gateway: "127.0.0.1", client: http.Client{Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, network, address)
		},
	}}}
}

func startDockerd(t *testing.T) *engine {
	t.Helper()
	if os.Geteuid() != 0 {
		rig.NotTested(t, "no Docker engine answers, and to start one takes root")
	}
	dir, err := os.MkdirTemp("", "docker") // t.TempDir's path is too long for a socket
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	e := newEngine("unix://" + dir + "/sock")
	cmd := exec.Command(rig.Tool(t, "dockerd"), "--data-root", dir+"/data", "--exec-root", dir+"/exec",
		"--pidfile", dir+"/pid", "--host", e.host)
	rig.Start(t, cmd, syscall.SIGTERM, e.answers)
	return e
}

func (e *engine) answers() bool { return e.request(http.MethodGet, "/_ping", nil, nil) == nil }

// request returns an error for every status but 2xx.
func (e *engine) request(method, path string, body io.Reader, result any) error {
	r, err := http.NewRequest(method, "http://docker"+path, body)
	if err != nil {
		return err
	}
	r.Header.Set("Content-Type", "application/x-tar")
	resp, err := e.client.Do(r)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	switch {
	case err != nil:
		return err
	case resp.StatusCode/100 != 2:
		return fmt.Errorf("%s %s: %s: %s", method, path, resp.Status, text)
	case result != nil:
		return json.Unmarshal(text, result)
	}
	return nil
}

// provideImage makes, for the time of the test, an image that will do, unless Lambda's is there. busybox is all that
// SAM and the function need.
func (e *engine) provideImage(t *testing.T) {
	t.Helper()
	const repo = "public.ecr.aws/lambda/provided"
	arch := map[string]string{"amd64": "x86_64", "arm64": "arm64"}[runtime.GOARCH]
	base, rapid := "al2023-"+arch, "al2023-rapid-"+arch // SAM makes the second from the first
	for _, tag := range []string{base, rapid} {
		if e.request(http.MethodGet, "/images/"+repo+":"+tag+"/json", nil, nil) == nil {
			return
		}
	}
	var image bytes.Buffer
	w := tar.NewWriter(&image)
	add := func(h tar.Header, content []byte) {
		h.Size = int64(len(content))
		if err := w.WriteHeader(&h); err != nil {
			t.Fatal(err)
		}
		w.Write(content)
	}
	const certificates = "etc/ssl/certs/ca-certificates.crt"
	for name, file := range map[string]string{"bin/busybox": rig.Tool(t, "busybox"), certificates: "/" + certificates} {
		content, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		add(tar.Header{Name: name, Mode: 0o755}, content)
	}
	for _, name := range []string{"sh", "mv", "chmod"} {
		add(tar.Header{Typeflag: tar.TypeSymlink, Name: "bin/" + name, Linkname: "busybox"}, nil)
	}
	add(tar.Header{Typeflag: tar.TypeDir, Name: "tmp/", Mode: 0o1777}, nil)
	add(tar.Header{Typeflag: tar.TypeDir, Name: "var/task/", Mode: 0o755}, nil)
	w.Close()
	if err := e.request(http.MethodPost, "/images/create?fromSrc=-&repo="+repo+"&tag="+base, &image, nil); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		for _, tag := range []string{rapid, base} {
			if err := e.request(http.MethodDelete, "/images/"+repo+":"+tag, nil, nil); err != nil {
				t.Error(err)
			}
		}
	})
}

// serve serves until the test ends, and returns the URL for a container that has localhost:host-gateway.
func (e *engine) serve(t *testing.T, h http.Handler) string {
	t.Helper()
	l, err := net.Listen("tcp", e.gateway+":0")
	if err != nil {
		t.Fatal(err)
	}
	s := httptest.NewUnstartedServer(h)
	s.Listener.Close()
	s.Listener = l
	s.Start()
	t.Cleanup(s.Close)
	return fmt.Sprintf("http://localhost:%d", l.Addr().(*net.TCPAddr).Port)
}

// command is make for SAM, without anything that leads to AWS, and with this engine.
func (e *engine) command(t *testing.T, env []string, args ...string) *exec.Cmd {
	t.Helper()
	cmd := exec.Command("make", args...)
	cmd.Dir = rig.Root
	cmd.Env = slices.DeleteFunc(rig.Environ(), func(v string) bool { return strings.HasPrefix(v, "GITHUB_") })
	cmd.Env = append(cmd.Env, "DOCKER_HOST="+e.host, "PATH="+filepath.Dir(rig.Tool(t, "sam"))+":"+os.Getenv("PATH"),
		"SAM_SKIP_PULL_IMAGE=true", "SAM_CLI_TELEMETRY=0", "AWS_DEFAULT_REGION="+rig.Region, "AWS_EC2_METADATA_DISABLED=true",
		"AWS_CONFIG_FILE=/dev/null", "AWS_SHARED_CREDENTIALS_FILE=/dev/null")
	cmd.Env = append(cmd.Env, env...)
	return cmd
}

func (e *engine) make(t *testing.T, env []string, args ...string) (stdout, stderr string, status int) {
	t.Helper()
	return rig.Run(t, e.command(t, env, args...))
}

// api runs make sam-api until the test ends, and returns its URL.
func (e *engine) api(t *testing.T, args ...string) string {
	t.Helper()
	port := rig.FreePort(t)
	url := "http://127.0.0.1:" + port
	cmd := e.command(t, nil, append(slices.Clone(args), "sam-api", "PORT="+port)...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	// SIGINT is what Ctrl-C sends.
	rig.Start(t, cmd, syscall.SIGINT, func() bool { return rig.Answers(url, http.StatusForbidden) })
	return url
}
