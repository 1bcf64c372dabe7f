package e2e_test

import (
	"archive/tar"
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	sdk "github.com/aws/aws-sdk-go-v2/service/secretsmanager"

	"runner-token-broker/internal/local/secretsmanager"
)

// TestSAMLocal runs the commands of docs/sam-local.md: the SAM CLI, and the built function in a container. Where there is
// no image of Lambda's, busybox takes its place; Docker Desktop and real AWS are not seen here.
func TestSAMLocal(t *testing.T) {
	tool(t, "sam")
	e := startEngine(t)
	e.provideImage(t)

	pats := newPATs(1)
	moto := startMoto(t)
	_, err := moto.client.CreateSecret(t.Context(), &sdk.CreateSecretInput{Name: aws.String("runners/github-pat"), SecretString: aws.String(pats[0].Reveal())})
	if err != nil {
		t.Fatal(err)
	}
	motoURL, err := url.Parse(moto.url)
	if err != nil {
		t.Fatal(err)
	}
	// The local stack and the container share Moto and GitHub.
	f := startFunction(t, pats, map[string]string{"GITHUB_SECRET_ID": "runners/github-pat", "AWS_ENDPOINT_URL_SECRETS_MANAGER": moto.url})
	atMoto := []string{
		"SAM_FLAGS=--add-host localhost:host-gateway",
		"SAM_ENV=" + envFile(t, "../docs/sam-local.stand-ins.env.json", map[string]string{
			"AWS_ENDPOINT_URL_SECRETS_MANAGER": e.serve(t, httputil.NewSingleHostReverseProxy(motoURL)),
			"GITHUB_API_URL":                   e.serve(t, f.github),
		}),
	}

	t.Run("answers every event as the local stack does", func(t *testing.T) {
		// Without an identity, the one thing that the function takes from SAM alone.
		unauthenticated := []string{
			"function-url-refused-unauthenticated.json", "http-api-v2-refused-unauthenticated.json",
			"rest-api-v1-refused-unauthenticated.json", "sam-local-org-registration-token.json",
		}
		files, _ := filepath.Glob("../events/*.json")
		if len(files) == 0 {
			t.Fatal("no events")
		}
		for _, file := range files {
			t.Run(filepath.Base(file), func(t *testing.T) {
				t.Parallel()
				got, printed, status := e.make(t, nil, append(atMoto, "sam-invoke", "EVENT="+strings.TrimPrefix(file, "../"))...)
				if status != 0 {
					t.Fatalf("exit %d\n%s", status, printed)
				}
				want := f.invoke(t, file)
				if slices.Contains(unauthenticated, filepath.Base(file)) {
					if !strings.Contains(want, "CallerNotAuthenticated") {
						t.Errorf("the local stack answers %s", want)
					}
					want = f.invoke(t, "../events/http-api-v2-org-registration-token.json")
				}
				f.same(t, got, want)
			})
		}
	})

	t.Run("serves every route as the local stack does", func(t *testing.T) {
		api := e.api(t, atMoto...)
		for _, target := range []string{"orgs/acme", "repos/acme/widgets", "enterprises/acme-corp", "orgs/other"} {
			for _, kind := range []string{"registration-token", "remove-token"} {
				path := "/" + target + "/actions/runners/" + kind
				got, want := post(t, api+path, nil), f.post(t, path)
				if got.status != want.status {
					t.Errorf("%s: %d, want %d", path, got.status, want.status)
				}
				f.same(t, string(got.body), string(want.body))
			}
		}
		plain := post(t, api+"/orgs/acme/actions/runners/registration-token", http.Header{"Accept": {"text/plain"}})
		f.same(t, string(plain.body), f.github.Tokens()[0].Reveal())
		for _, path := range []string{"/orgs/acme/actions/runners/registration", "/"} {
			got, want := post(t, api+path, nil), f.post(t, path)
			if got.status != 403 || !strings.Contains(string(got.body), "Missing Authentication Token") || want.status != 404 {
				t.Errorf("%s: %d %s, and from the local stack %d", path, got.status, got.body, want.status)
			}
		}
	})

	t.Run("needs no AWS", func(t *testing.T) {
		token := regexp.MustCompile(`"token": ?"[A-Z0-9]{29}"`)
		if out, printed, status := e.make(t, nil, "sam-invoke", "EVENT=events/direct-org.json"); status != 0 || !token.MatchString(out) {
			t.Errorf("exit %d: %s\n%s", status, out, printed)
		}
		if got := post(t, e.api(t)+"/enterprises/acme-corp/actions/runners/remove-token", nil); got.status != 201 || !token.Match(got.body) {
			t.Errorf("%d %s", got.status, got.body)
		}
	})

	t.Run("with GITHUB_PAT calls the GitHub that it is for", func(t *testing.T) {
		env := []string{"GITHUB_PAT=" + pats[0].Reveal(), "GITHUB_API_URL=" + e.serve(t, f.github), "TARGET=orgs/acme"}
		got, printed, status := e.make(t, env, "sam-invoke", "EVENT=events/direct-org.json")
		if status != 0 {
			t.Fatalf("exit %d\n%s", status, printed)
		}
		f.same(t, got, f.invoke(t, "../events/direct-org.json"))
		if strings.Contains(got+printed, pats[0].Reveal()) {
			t.Error("the PAT is printed")
		}
	})

	t.Run("with SAM_ENV reads the secret as the AWS profile", func(t *testing.T) {
		secrets := secretsmanager.New(region, credentials) // answers to these credentials alone
		secrets.Put("runners/github-pat", pats[0])
		aws := e.serve(t, secrets)
		dir := t.TempDir()
		for name, text := range map[string]string{
			"config": "[profile developer]\nregion = " + region + "\n",
			"credentials": fmt.Sprintf("[developer]\naws_access_key_id = %s\naws_secret_access_key = %s\naws_session_token = %s\n",
				credentials.AccessKeyID, credentials.SecretAccessKey, credentials.SessionToken),
		} {
			if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		file := envFile(t, "../docs/sam-local.env.json", map[string]string{"AWS_ENDPOINT_URL_SECRETS_MANAGER": aws, "GITHUB_API_URL": e.serve(t, f.github)})
		env := []string{"AWS_PROFILE=developer", "AWS_CONFIG_FILE=" + dir + "/config", "AWS_SHARED_CREDENTIALS_FILE=" + dir + "/credentials",
			"AWS_ENDPOINT_URL_STS=" + strings.Replace(aws, "localhost", e.gateway, 1)} // SAM's own question stays here
		got, printed, status := e.make(t, env, "sam-invoke", "EVENT=events/direct-repo.json", "SAM_ENV="+file, atMoto[0])
		if status != 0 {
			t.Fatalf("exit %d\n%s", status, printed)
		}
		f.same(t, got, f.invoke(t, "../events/direct-repo.json"))
		if n := secrets.Reads(); n != 1 {
			t.Errorf("the secret was read %d times, want once", n)
		}
	})

	t.Run("sends events that differ from AWS's as listed", func(t *testing.T) { testEvent(t, e) })
}

// testEvent holds SAM's event, as a function of ours gets it, against the samples under events/.
func testEvent(t *testing.T, e *engine) {
	dir := t.TempDir()
	build := exec.CommandContext(t.Context(), "go", "build", "-o", filepath.Join(dir, "bootstrap"), "./testdata/echo")
	build.Env = append(os.Environ(), "CGO_ENABLED=0", "GOOS=linux")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	api := e.api(t, "SAM_FLAGS=--docker-volume-basedir "+dir)
	sample := func(name string) map[string]any {
		t.Helper()
		return parseEvent(t, []byte(readFile(t, "../events/"+name)))
	}
	send := func(like map[string]any) map[string]any {
		t.Helper()
		args := []string{"-sS", "-X", "POST", api + like["rawPath"].(string)}
		for name, value := range like["headers"].(map[string]any) {
			switch strings.ToLower(name) {
			case "host", "x-amzn-trace-id", "x-forwarded-for", "x-forwarded-port", "x-forwarded-proto": // a gateway's
			default:
				args = append(args, "-H", fmt.Sprint(name, ": ", value))
			}
		}
		event, err := exec.CommandContext(t.Context(), tool(t, "curl"), args...).Output()
		if err != nil {
			t.Fatal(err)
		}
		return parseEvent(t, event)
	}
	check := func(title string, got, want []string) {
		t.Helper()
		slices.Sort(want)
		if !slices.Equal(got, want) {
			t.Errorf("%s\n%s\nwant\n%s", title, strings.Join(got, "\n"), strings.Join(want, "\n"))
		}
	}

	ours := sample("sam-local-org-registration-token.json")
	event := send(ours)
	check("SAM's event differs from our sample of it in", differences(event, ours), []string{
		"headers.Host", "headers.X-Forwarded-Port", // the port
		"requestContext.requestId", "requestContext.time", "requestContext.timeEpoch",
	})
	check("SAM's event has of its own", differences(event, send(ours)), nil) // id and time are the process's

	theirs := sample("http-api-v2-org-registration-token.json")
	event = send(theirs)
	lower := map[string]any{}
	for name, value := range event["headers"].(map[string]any) {
		if name == strings.ToLower(name) {
			t.Errorf("header %s is in lower case, as AWS's are", name)
		}
		lower[strings.ToLower(name)] = value
	}
	event["headers"] = lower
	check("Besides the case of its headers, SAM's event differs from AWS's in", differences(event, theirs), []string{
		"requestContext.authorizer: missing", "headers.x-amzn-trace-id: missing", "headers.x-forwarded-for: missing",
		"body: added", "cookies: added", "stageVariables: added", // empty, where AWS leaves them out
		// Who asked whom, and when; timeEpoch in seconds, where AWS counts milliseconds.
		"headers.host", "headers.x-forwarded-port", "headers.x-forwarded-proto",
		"requestContext.apiId", "requestContext.domainName", "requestContext.domainPrefix", "requestContext.http.sourceIp",
		"requestContext.http.userAgent", "requestContext.requestId", "requestContext.time", "requestContext.timeEpoch",
	})
}

func parseEvent(t *testing.T, text []byte) (event map[string]any) {
	t.Helper()
	if err := json.Unmarshal(text, &event); err != nil {
		t.Fatalf("%s: %v", text, err)
	}
	return event
}

// differences returns, sorted, the paths of the values of got that are not the same in want.
func differences(got, want map[string]any) (paths []string) {
	for key, g := range got {
		w, ok := want[key]
		inner, isMap := g.(map[string]any)
		other, areMaps := w.(map[string]any)
		switch {
		case !ok:
			paths = append(paths, key+": added")
		case isMap && areMaps:
			for _, path := range differences(inner, other) {
				paths = append(paths, key+"."+path)
			}
		case !reflect.DeepEqual(g, w):
			paths = append(paths, key)
		}
	}
	for key := range want {
		if _, ok := got[key]; !ok {
			paths = append(paths, key+": missing")
		}
	}
	slices.Sort(paths)
	return paths
}

func TestSAMInvokeWithoutAnEventSaysWhatToDo(t *testing.T) {
	for _, event := range []string{"", "events/none.json", "events"} {
		cmd := exec.CommandContext(t.Context(), "make", "sam-invoke", "EVENT="+event)
		cmd.Dir = ".."
		cmd.Env = withoutAWS()
		out, err := cmd.CombinedOutput()
		if err == nil || !strings.Contains(string(out), "EVENT='"+event+"' is no file: try EVENT=events/direct-org.json") {
			t.Errorf("%q: %v\n%s", event, err, out)
		}
	}
}

// invoke returns the local stack's answer to the event.
func (f *function) invoke(t *testing.T, file string) string {
	t.Helper()
	result, err := f.service.Invoke(t.Context(), []byte(readFile(t, file)))
	if err != nil {
		t.Fatal(err)
	}
	return string(result.Payload)
}

// same wants two answers to be the same but for what each answer has of its own: the token, which must be one of
// GitHub's, its expiry, which must be in an hour, the request id and the stand-in's port.
func (f *function) same(t *testing.T, got, want string) {
	t.Helper()
	var tokens []string
	for _, v := range f.github.Tokens() {
		tokens = append(tokens, v.Reveal())
	}
	if g, w := fold(got, tokens), fold(want, tokens); !reflect.DeepEqual(g, w) {
		t.Errorf("%v\nwant\n%v\nfor %s", g, w, got)
	}
}

var localGitHub = regexp.MustCompile(`^http://(localhost|127\.0\.0\.1):\d+/`)

func fold(v any, tokens []string) any {
	switch v := v.(type) {
	case string:
		var inner any
		switch {
		case slices.Contains(tokens, v):
			return "one of GitHub's tokens"
		case json.Unmarshal([]byte(v), &inner) == nil:
			return fold(inner, tokens)
		}
		return localGitHub.ReplaceAllString(v, "GITHUB/")
	case map[string]any:
		for key, value := range v {
			v[key] = fold(value, tokens)
		}
		if s, ok := v["expires_at"].(string); ok {
			expiry, err := time.Parse(time.RFC3339, s)
			if left := time.Until(expiry); err == nil && left > 50*time.Minute && left <= time.Hour {
				v["expires_at"] = "in an hour"
			}
		}
		if n, ok := v["expires_in"].(float64); ok && n > 3000 && n <= 3600 {
			v["expires_in"] = "an hour"
		}
		if id, ok := v["request_id"].(string); ok && id != "" {
			v["request_id"] = "an id"
		}
	}
	return v
}

// post makes one request that is not signed.
func post(t *testing.T, url string, header http.Header) answer {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), http.MethodPost, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	maps.Copy(r.Header, header)
	return send(t, r)
}

// envFile returns a copy of the documentation's file with values for here.
func envFile(t *testing.T, file string, values map[string]string) string {
	t.Helper()
	var env struct{ TokenFunction map[string]string }
	if err := json.Unmarshal([]byte(readFile(t, file)), &env); err != nil {
		t.Fatalf("%s: %v", file, err)
	}
	maps.Copy(env.TokenFunction, values)
	text, err := json.Marshal(env)
	if err != nil {
		t.Fatal(err)
	}
	copied := filepath.Join(t.TempDir(), "env.json")
	if err := os.WriteFile(copied, text, 0o600); err != nil {
		t.Fatal(err)
	}
	return copied
}

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
	if e.request(http.MethodGet, "/_ping", nil, nil) != nil {
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
	if os.Geteuid() != 0 && os.Getenv("CI") != "true" {
		t.Skip("NOT TESTED: no Docker engine answers, and to start one takes root")
	}
	program := tool(t, "dockerd")
	dir, err := os.MkdirTemp("", "docker") // t.TempDir's path is too long for a socket
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	e := newEngine("unix://" + dir + "/sock")
	background(t, exec.Command(program, "--data-root", dir+"/data", "--exec-root", dir+"/exec", "--pidfile", dir+"/pid", "--host", e.host),
		func() bool { return e.request(http.MethodGet, "/_ping", nil, nil) == nil },
		func(pid int) { syscall.Kill(pid, syscall.SIGTERM) })
	return e
}

// background starts a command, waits until it is ready, and stops it when the test ends.
func background(t *testing.T, cmd *exec.Cmd, ready func() bool, stop func(pid int)) {
	t.Helper()
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		cmd.Wait()
	}()
	t.Cleanup(func() {
		stop(cmd.Process.Pid)
		<-ended
		if t.Failed() {
			t.Logf("%s printed:\n%s", cmd, &out)
		}
	})
	for deadline := time.Now().Add(time.Minute); !ready(); pause(t) {
		select {
		case <-ended:
			t.Fatalf("%s: %s", cmd, cmd.ProcessState)
		default:
			if time.Now().After(deadline) {
				t.Fatalf("%s does not serve", cmd)
			}
		}
	}
}

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

// provideImage makes, for the time of the test, an image that will do, unless Lambda's is there: busybox is all that SAM
// and the function need of it.
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
	for name, file := range map[string]string{"bin/busybox": tool(t, "busybox"), "etc/ssl/certs/ca-certificates.crt": "/etc/ssl/certs/ca-certificates.crt"} {
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
	cmd.Dir = ".."
	cmd.Env = slices.DeleteFunc(withoutAWS(), func(v string) bool { return strings.HasPrefix(v, "GITHUB_") })
	cmd.Env = append(cmd.Env, "PATH="+filepath.Dir(tool(t, "sam"))+":"+os.Getenv("PATH"), "DOCKER_HOST="+e.host,
		"SAM_SKIP_PULL_IMAGE=true", "SAM_CLI_TELEMETRY=0", "AWS_DEFAULT_REGION="+region, "AWS_EC2_METADATA_DISABLED=true",
		"AWS_CONFIG_FILE=/dev/null", "AWS_SHARED_CREDENTIALS_FILE=/dev/null")
	cmd.Env = append(cmd.Env, env...)
	return cmd
}

func (e *engine) make(t *testing.T, env []string, args ...string) (stdout, stderr string, status int) {
	t.Helper()
	return run(t, e.command(t, env, args...))
}

// api runs make sam-api until the test ends, and returns its URL.
func (e *engine) api(t *testing.T, args ...string) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	port := l.Addr().(*net.TCPAddr).Port
	l.Close()
	url := fmt.Sprint("http://127.0.0.1:", port)
	cmd := e.command(t, nil, append(args, "sam-api", fmt.Sprint("PORT=", port))...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	background(t, cmd, func() bool {
		resp, err := http.Get(url)
		if err == nil {
			resp.Body.Close()
		}
		return err == nil
	}, func(pid int) { syscall.Kill(-pid, syscall.SIGINT) }) // as Ctrl-C does
	return url
}
