package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"syscall"
	"testing"

	"runner-token-broker/internal/local/github"
	"runner-token-broker/internal/local/output"
	"runner-token-broker/internal/secret"
)

// function is the built one.
var function string

// The test binary is also a function that cannot start, and the command.
func TestMain(m *testing.M) {
	switch {
	case os.Getenv("AWS_LAMBDA_RUNTIME_API") != "":
		fmt.Fprintln(os.Stderr, "environ:", os.Environ(), "args:", os.Args[1:])
		os.Exit(1)
	case os.Getenv("TEST_COMMAND") != "":
		main()
	}
	os.Exit(test(m))
}

func test(m *testing.M) int {
	dir, err := os.MkdirTemp("", "local")
	if err != nil {
		panic(err)
	}
	defer os.RemoveAll(dir)
	function = filepath.Join(dir, "bootstrap")
	build := exec.Command("go", "build", "-trimpath", "-buildvcs=false", "-tags", "lambda.norpc", "-ldflags=-s -w", "-o", function, "../../functions/token")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		panic(fmt.Sprintf("%v: %s", err, out))
	}
	return m.Run()
}

// execute runs the command to its end.
func execute(t *testing.T, mode, function string, env map[string]string) (status int, stdout, stderr string) {
	t.Helper()
	var out, errs output.Buffer
	getenv := func(name string) string { return env[name] }
	status = command(t.Context(), []string{mode, "-function", function}, getenv, &out, &errs)
	return status, out.String(), errs.String()
}

type answer struct {
	Token, Code string
	ExpiresIn   int    `json:"expires_in"`
	RunnerURL   string `json:"runner_url"`
}

func parse(t *testing.T, stdout string) (a answer) {
	t.Helper()
	if err := json.Unmarshal([]byte(stdout), &a); err != nil || strings.Count(stdout, "\n") != 1 || !strings.HasSuffix(stdout, "\n") {
		t.Fatalf("stdout is %q, want one line of JSON: %v", stdout, err)
	}
	return a
}

func TestTokenPrintsTheAnswerAlone(t *testing.T) {
	for _, env := range []map[string]string{
		{},
		{"TARGET": "repos/acme/widgets", "KIND": "remove-token", "ENVIRONMENTS": "2"},
		{"TARGET": "enterprises/acme-corp", "GITHUB_API_VERSION": "2026-03-10", "HTTPS_PROXY": "http://127.0.0.1:1"},
	} {
		status, stdout, stderr := execute(t, "token", function, env)
		if status != 0 {
			t.Fatalf("%v: exit %d: %s", env, status, stderr)
		}
		a := parse(t, stdout)
		if a.Token == "" || a.ExpiresIn < 3500 {
			t.Errorf("%v: %s", env, stdout)
		}
		if target := env["TARGET"]; target != "" && !strings.HasSuffix(a.RunnerURL, strings.TrimPrefix(target, "repos")) {
			t.Errorf("%v: runner_url %s", env, a.RunnerURL)
		}
		if strings.Contains(stderr, a.Token) {
			t.Errorf("%v: the token is on stderr, too", env)
		}
		if !strings.Contains(stderr, "GitHub is a stand-in") || !strings.Contains(stderr, `"outcome":"issued"`) {
			t.Errorf("%v: stderr lacks which GitHub it was, or the function's log: %s", env, stderr)
		}
	}
}

func TestRefusalIsPrintedAndExits1(t *testing.T) {
	status, stdout, stderr := execute(t, "token", function, map[string]string{"ALLOWED_TARGETS": "orgs/other"})
	if a := parse(t, stdout); status != 1 || a.Code != "TargetNotAllowed" {
		t.Errorf("exit %d, %s; %s", status, stdout, stderr)
	}
}

func TestWrongSettingsAreNamedWithTheRemedy(t *testing.T) {
	for _, test := range []struct {
		mode string
		env  map[string]string
		want []string
	}{
		{"token", map[string]string{"TARGET": "acme"}, []string{"TARGET", "orgs/ORG"}},
		{"token", map[string]string{"TARGET": "orgs/Acme"}, []string{`write "orgs/acme"`}},
		{"token", map[string]string{"KIND": "join", "PORT": "x", "ENVIRONMENTS": "0"}, []string{"KIND", "remove-token", "PORT", "ENVIRONMENTS"}},
		{"token", map[string]string{"GITHUB_PAT": "ghp_x1y2"}, []string{"TARGET=orgs/ORG"}},
		{"token", map[string]string{"GITHUB_PAT": " \n"}, []string{"GITHUB_PAT is blank"}},
		{"token", map[string]string{"GITHUB_API_URL": "https://ghe.example/api/v3"}, []string{"GITHUB_API_URL", "GITHUB_PAT"}},
		{"token", map[string]string{"ALLOWED_TARGETS": "orgs/A*"}, []string{"ALLOWED_TARGETS", "entry 1"}},
		{"run", map[string]string{"GITHUB_PAT": "ghp_x1y2"}, []string{"ALLOWED_TARGETS='orgs/ORG"}},
		{"run", map[string]string{"PORT": "65536"}, []string{"PORT"}},
		{"serve", nil, []string{"usage"}},
	} {
		status, stdout, stderr := execute(t, test.mode, function, test.env)
		if status != 2 || stdout != "" {
			t.Errorf("%s %v: exit %d, stdout %q, want 2 and nothing", test.mode, test.env, status, stdout)
		}
		for _, want := range test.want {
			if !strings.Contains(stderr, want) {
				t.Errorf("%s %v: %s lacks %q", test.mode, test.env, stderr, want)
			}
		}
		if strings.Contains(stderr, "ghp_x1y2") {
			t.Errorf("%s: the PAT is printed", test.mode)
		}
	}
	for _, args := range [][]string{nil, {"sam"}, {"token"}, {"token", "-function"}, {"token", "-nonsense"}, {"token", "-function", "x", "y"}} {
		errs := new(output.Buffer)
		if status := command(t.Context(), args, func(string) string { return "" }, io.Discard, errs); status != 2 || !strings.Contains(errs.String(), "usage") {
			t.Errorf("%v: exit %d, %s", args, status, errs)
		}
	}
}

func TestPATReachesGitHubAndNothingElse(t *testing.T) {
	pat := secret.New("ghp_onlyforgithub")
	gh := github.New(pat)
	server := httptest.NewServer(gh)
	defer server.Close()
	env := map[string]string{
		"GITHUB_PAT":     pat.Reveal() + "\n",
		"GITHUB_API_URL": server.URL + "/api/v3/",
		"TARGET":         "orgs/acme",
		"https_proxy":    "http://127.0.0.1:1",
	}
	status, stdout, stderr := execute(t, "token", function, env)
	if status != 0 {
		t.Fatalf("exit %d: %s", status, stderr)
	}
	a := parse(t, stdout)
	if tokens := gh.Tokens(); len(tokens) != 1 || tokens[0].Reveal() != a.Token {
		t.Error("the token is not the one that this GitHub made")
	}
	if requests := gh.Requests(); len(requests) != 1 || requests[0].Authorization != pat.SHA256() {
		t.Errorf("requests %v, want one with the PAT", requests)
	}
	if v := gh.Violations(); v != nil {
		t.Errorf("violations: %q", v)
	}
	if strings.Contains(stdout+stderr, pat.Reveal()) {
		t.Error("the PAT is printed")
	}

	// The test binary, as the function, prints its environment and arguments and ends.
	self, _ := os.Executable()
	status, _, stderr = execute(t, "token", self, env)
	if status != 1 || !strings.Contains(stderr, "GITHUB_SECRET_ID=local/github-pat") || !strings.Contains(stderr, "https_proxy=http://127.0.0.1:1") {
		t.Fatalf("exit %d: %s", status, stderr)
	}
	if strings.Contains(stderr, pat.Reveal()) || strings.Contains(stderr, "GITHUB_PAT=") {
		t.Error("the PAT is in the function's environment or arguments")
	}
	_, _, stderr = execute(t, "token", self, map[string]string{"https_proxy": "http://127.0.0.1:1", "SSL_CERT_FILE": "/x"})
	if !strings.Contains(stderr, "GITHUB_SECRET_ID=local/github-pat") || strings.Contains(stderr, "https_proxy=") || strings.Contains(stderr, "SSL_CERT_FILE=") {
		t.Errorf("without GITHUB_PAT the function needs no proxy: %s", stderr)
	}
}

func TestFunctionThatCannotStartIsHeard(t *testing.T) {
	for _, mode := range []string{"token", "run"} {
		status, stdout, stderr := execute(t, mode, function, map[string]string{"TOKEN_MIN_LIFE": "soon", "PORT": "0"})
		if status != 1 || stdout != "" || !strings.Contains(stderr, "TOKEN_MIN_LIFE") || !strings.Contains(stderr, "did not start") {
			t.Errorf("%s: exit %d, %q: %s", mode, status, stdout, stderr)
		}
		if status, _, stderr := execute(t, mode, function+"-missing", map[string]string{"PORT": "0"}); status != 1 || !strings.Contains(stderr, "bootstrap-missing") {
			t.Errorf("%s: exit %d: %s", mode, status, stderr)
		}
	}
}

func TestPortInUseIsSaid(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	_, port, _ := net.SplitHostPort(l.Addr().String())
	if status, _, stderr := execute(t, "run", function, map[string]string{"PORT": port}); status != 1 || !strings.Contains(stderr, "port "+port+" is in use") {
		t.Errorf("exit %d: %s", status, stderr)
	}
}

// TestRunServesUntilItIsStopped runs the command as a process of its own, with the signal that stops it.
func TestRunServesUntilItIsStopped(t *testing.T) {
	for _, signal := range []os.Signal{os.Interrupt, syscall.SIGTERM} {
		errs := new(output.Buffer)
		self, _ := os.Executable()
		cmd := exec.Command(self, "run", "-function", function)
		cmd.Env = []string{"TEST_COMMAND=1", "PORT=0", "ENVIRONMENTS=2"}
		cmd.Stdout, cmd.Stderr = errs, errs
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		stopped := sync.OnceValue(cmd.Wait)
		t.Cleanup(func() { cmd.Process.Kill(); stopped() })

		paste, err := errs.Wait(t.Context(), `(?m)^curl .*\n`)
		if err != nil {
			t.Fatal(err)
		}
		url := regexp.MustCompile(`http://127\.0\.0\.1:\d+`).FindString(paste)
		for path, want := range map[string]string{
			"/orgs/acme/actions/runners/registration-token":  `403 {"message":"Forbidden"}`,
			"/orgs/acme/actions/runners/registration-token/": `404 {"message":"Not Found"}`,
		} {
			resp, err := http.Post(url+path, "", http.NoBody)
			if err != nil {
				t.Fatal(err)
			}
			body, _ := io.ReadAll(resp.Body)
			resp.Body.Close()
			if got := fmt.Sprint(resp.StatusCode, " ", string(body)); got != want {
				t.Errorf("unsigned %s: %s, want %s", path, got, want)
			}
		}
		if hasCurl(t) {
			out, err := exec.Command("sh", "-c", paste).Output()
			var a answer
			if json.Unmarshal(out, &a); err != nil || a.Token == "" {
				t.Errorf("%s%v: %s", paste, err, out)
			}
			if out, _ := exec.Command("sh", "-c", strings.Replace(paste, "orgs/acme", "orgs/other", 1)).Output(); !bytes.Contains(out, []byte("TargetNotAllowed")) {
				t.Errorf("another target: %s", out)
			}
			if out, _ := exec.Command("sh", "-c", strings.Replace(paste, " -d", "x -d", 1)).Output(); string(out) != `{"message":"Forbidden"}` {
				t.Errorf("a wrong secret: %s", out)
			}
		}

		if err := cmd.Process.Signal(signal); err != nil {
			t.Fatal(err)
		}
		if err := stopped(); err != nil {
			t.Errorf("after %s: %v\n%s", signal, err, errs)
		}
		if conn, err := net.Dial("tcp", strings.TrimPrefix(url, "http://")); err == nil {
			conn.Close()
			t.Errorf("after %s it still listens", signal)
		}
	}
}

// A shell takes SAM's place.
func TestSAMIsGivenWhatTheFunctionNeedsAndNoMore(t *testing.T) {
	t.Setenv("AWS_PROFILE", "developer")
	t.Setenv("ALLOWED_TARGETS", "orgs/acme")
	for _, pat := range []string{"", "ghp_onlyforgithub"} {
		t.Setenv("GITHUB_PAT", pat)
		out, errs := new(output.Buffer), new(output.Buffer)
		if status := command(t.Context(), []string{"sam", "sh", "-c", `echo "$@"; env`, "sh", "local"}, os.Getenv, out, errs); status != 0 {
			t.Fatalf("exit %d: %s", status, errs)
		}
		for _, want := range []string{
			`^local --add-host localhost:host-gateway\n`, `\nAWS_ENDPOINT_URL_SECRETS_MANAGER=http://localhost:\d+\n`, `\nGITHUB_SECRET_ID=local/github-pat\n`,
			`\nALLOWED_TARGETS=orgs/acme\n`, `\nAWS_ACCESS_KEY_ID=ASIA`,
		} {
			if !regexp.MustCompile(want).MatchString(out.String()) {
				t.Errorf("GITHUB_PAT %q: no %s in %s", pat, want, out)
			}
		}
		if standIn := strings.Contains(out.String(), "\nGITHUB_API_URL=http://localhost:"); standIn != (pat == "") {
			t.Errorf("GITHUB_PAT %q: GitHub is a stand-in: %t", pat, standIn)
		}
		if strings.Contains(out.String(), "AWS_PROFILE") || strings.Contains(out.String()+errs.String(), "ghp_") {
			t.Errorf("GITHUB_PAT %q: more than it needs: %s", pat, out)
		}
	}
}

func TestSAMIsInterruptedAndItsStatusCounts(t *testing.T) {
	const script = `trap 'echo ended; exit %d' INT; echo ready; while :; do sleep 0.1; done`
	for exit, want := range map[int]int{0: 0, 3: 1} {
		ctx, stop := context.WithCancel(t.Context())
		out, errs := new(output.Buffer), new(output.Buffer)
		status := make(chan int, 1)
		go func() {
			status <- command(ctx, []string{"sam", "sh", "-c", fmt.Sprintf(script, exit)}, func(string) string { return "" }, out, errs)
		}()
		if _, err := out.Wait(t.Context(), "ready"); err != nil {
			t.Error(err)
		}
		stop()
		if got := <-status; got != want || out.String() != "ready\nended\n" {
			t.Errorf("exit %d, want %d: %s%s", got, want, out, errs)
		}
	}
	out, errs := new(output.Buffer), new(output.Buffer)
	if status := command(t.Context(), []string{"sam", "no-such-command"}, func(string) string { return "" }, out, errs); status != 1 || !strings.Contains(errs.String(), "no-such-command") {
		t.Errorf("exit %d: %s", status, errs)
	}
}

func TestInterruptedTokenIsNoSuccess(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	out, errs := new(output.Buffer), new(output.Buffer)
	if status := command(ctx, []string{"token", "-function", function}, func(string) string { return "" }, out, errs); status != 1 || out.String() != "" {
		t.Errorf("exit %d, %s", status, out)
	}
}

func hasCurl(t *testing.T) bool {
	help, _ := exec.Command("curl", "--help", "all").Output()
	has := bytes.Contains(help, []byte("aws-sigv4"))
	if !has && os.Getenv("CI") == "true" {
		t.Error("curl with --aws-sigv4 (7.86 or later) is not on this machine")
	}
	return has
}
