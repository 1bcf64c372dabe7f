package main

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"log"
	"maps"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/secretsmanager"

	"runner-token-broker/internal/local/github"
	"runner-token-broker/internal/local/output"
	"runner-token-broker/internal/local/sigv4"
	"runner-token-broker/internal/secret"
)

var (
	dir  string // for all tests
	self string // the test binary
)

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
	var err error
	if dir, err = os.MkdirTemp("", "local"); err != nil {
		panic(err)
	}
	defer os.RemoveAll(dir)
	if self, err = os.Executable(); err != nil {
		panic(err)
	}
	return m.Run()
}

// function builds the function, once.
var function = sync.OnceValue(func() string {
	path := filepath.Join(dir, "bootstrap")
	build := exec.Command("go", "build", "-ldflags=-w", "-o", path, "../../functions/token")
	if out, err := build.CombinedOutput(); err != nil {
		panic(fmt.Sprintf("%v: %s", err, out))
	}
	return path
})

type environ map[string]string

// execute runs the command to its end.
func execute(ctx context.Context, env environ, args ...string) (status int, stdout, stderr string) {
	var out, errs output.Buffer
	status = command(ctx, args, func(name string) string { return env[name] }, &out, &errs)
	return status, out.String(), errs.String()
}

// running is the command as a process of its own.
type running struct {
	*exec.Cmd
	out, errs output.Buffer
	end       func() error // waits for it
}

func launch(t *testing.T, env environ, args ...string) *running {
	t.Helper()
	r := &running{Cmd: exec.Command(self, args...)}
	r.Env = []string{"TEST_COMMAND=1", "GORACE=atexit_sleep_ms=0"} // the race detector would sleep for a second
	for name, value := range env {
		r.Env = append(r.Env, name+"="+value)
	}
	r.Stdout, r.Stderr = &r.out, &r.errs
	if err := r.Start(); err != nil {
		t.Fatal(err)
	}
	r.end = sync.OnceValue(r.Wait)
	t.Cleanup(func() {
		r.Process.Kill()
		r.end()
	})
	return r
}

// wait returns the first match in one of the outputs.
func wait(t *testing.T, out *output.Buffer, pattern string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	match, err := out.Wait(ctx, pattern)
	if err != nil {
		t.Fatal(err)
	}
	return match
}

type answer struct {
	Token, Code string
	ExpiresIn   int    `json:"expires_in"`
	RunnerURL   string `json:"runner_url"`
}

func parse(t *testing.T, stdout string) (a answer) {
	t.Helper()
	err := json.Unmarshal([]byte(stdout), &a)
	if err != nil || !strings.HasSuffix(stdout, "}\n") {
		t.Fatalf("stdout is %q, want the JSON and a newline: %v", stdout, err)
	}
	return a
}

func TestTokenPrintsTheAnswerAlone(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name string
		env  environ
		url  string // how runner_url ends
	}{
		{"by default", nil, "/acme"},
		{"repository", environ{"TARGET": "repos/acme/widgets", "KIND": "remove-token", "ENVIRONMENTS": "2"},
			"/acme/widgets"},
		{"enterprise", environ{"TARGET": "enterprises/acme-corp", "GITHUB_API_VERSION": "2026-03-10"},
			"/enterprises/acme-corp"},
		{"a proxy", environ{"HTTPS_PROXY": "http://127.0.0.1:1"}, "/acme"},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			status, stdout, stderr := execute(t.Context(), test.env, "token", function())
			if status != 0 {
				t.Fatalf("exit %d: %s", status, stderr)
			}
			a := parse(t, stdout)
			if a.Token == "" || a.ExpiresIn < 3500 || !strings.HasSuffix(a.RunnerURL, test.url) {
				t.Errorf("%s, want a token for %s", stdout, test.url)
			}
			if strings.Contains(stderr, a.Token) {
				t.Error("the token is on stderr, too")
			}
			if !strings.Contains(stderr, "GitHub is a stand-in") || !strings.Contains(stderr, `"outcome":"issued"`) {
				t.Errorf("stderr lacks which GitHub it was, or the function's log: %s", stderr)
			}
		})
	}
}

func TestRefusalIsPrintedAndExits1(t *testing.T) {
	t.Parallel()
	status, stdout, stderr := execute(t.Context(), environ{"ALLOWED_TARGETS": "orgs/other"}, "token", function())
	if a := parse(t, stdout); status != 1 || a.Code != "TargetNotAllowed" {
		t.Errorf("exit %d, %s; %s", status, stdout, stderr)
	}
}

func TestCheckPrintsTheReport(t *testing.T) {
	t.Parallel()
	const pat = "ghp_onlyforgithub"
	for _, test := range []struct {
		name     string
		env      environ
		real     string // the PAT that a GitHub of the test knows; "": none is asked
		exit     int
		status   string
		subjects []string // of the targets
	}{
		{name: "by default", status: "ok", subjects: []string{"orgs/acme", "enterprises/acme-corp"}},
		{name: "one target", env: environ{"TARGET": "repos/acme/widgets"}, status: "ok",
			subjects: []string{"repos/acme/widgets"}},
		{name: "a list", env: environ{"ALLOWED_TARGETS": "orgs/a,orgs/b"}, status: "ok",
			subjects: []string{"orgs/a", "orgs/b"}},
		{name: "a list without a name", env: environ{"ALLOWED_TARGETS": "orgs/*"}, status: "warning"},
		{name: "GitHub with a PAT", env: environ{"GITHUB_PAT": pat, "TARGET": "orgs/acme"}, real: pat, status: "ok",
			subjects: []string{"orgs/acme"}},
		{name: "GitHub with a wrong PAT", env: environ{"GITHUB_PAT": pat, "TARGET": "orgs/acme"}, real: "ghp_another",
			exit: 1, status: "failed", subjects: []string{"orgs/acme"}},
		{name: "a target that is not allowed", env: environ{"TARGET": "orgs/x", "ALLOWED_TARGETS": "orgs/a"}, exit: 1},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			env := maps.Clone(test.env)
			if test.real != "" {
				server := httptest.NewServer(github.New(secret.New(test.real)))
				t.Cleanup(server.Close)
				env["GITHUB_API_URL"] = server.URL
			}
			exit, stdout, stderr := execute(t.Context(), env, "check", function())
			var report struct {
				Status   string
				Findings []struct{ Subject string }
			}
			if err := json.Unmarshal([]byte(stdout), &report); err != nil || !strings.HasPrefix(stdout, "{\n  \"") {
				t.Fatalf("exit %d, %q: %v; %s", exit, stdout, err, stderr)
			}
			var subjects []string
			for _, f := range report.Findings {
				if strings.Contains(f.Subject, "/") {
					subjects = append(subjects, f.Subject)
				}
			}
			slices.Sort(subjects)
			slices.Sort(test.subjects)
			if exit != test.exit || report.Status != test.status || !slices.Equal(subjects, test.subjects) {
				t.Errorf("exit %d, %s, want %d and %s of %q", exit, stdout, test.exit, test.status, test.subjects)
			}
			if strings.Contains(stdout+stderr, pat) {
				t.Error("the PAT is printed")
			}
		})
	}
}

func TestWrongSettingsAreNamedWithTheRemedy(t *testing.T) {
	t.Parallel()
	const pat = "ghp_x1y2"
	token, run := []string{"token", "x"}, []string{"run", "x"}
	invoke, api := []string{"sam", "invoke"}, []string{"sam", "start-api"}
	event := environ{"EVENT": "../../events/direct-org.json"}
	for _, test := range []struct {
		name string
		args []string
		env  environ
		want []string
	}{
		{"target without a scope", token, environ{"TARGET": "acme"}, []string{"TARGET", "orgs/ORG"}},
		{"target in upper case", token, environ{"TARGET": "orgs/Acme"}, []string{`write "orgs/acme"`}},
		{"check of a PAT without a target", []string{"check", "x"}, environ{"GITHUB_PAT": pat},
			[]string{"ALLOWED_TARGETS='orgs/ORG"}},
		{"several", token, environ{"KIND": "join", "PORT": "x", "ENVIRONMENTS": "0"},
			[]string{"KIND", "remove-token", "PORT", "ENVIRONMENTS"}},
		{"PAT without a target", token, environ{"GITHUB_PAT": pat}, []string{"TARGET=orgs/ORG"}},
		{"blank PAT", token, environ{"GITHUB_PAT": " \n"}, []string{"GITHUB_PAT is blank"}},
		{"URL without a PAT", token, environ{"GITHUB_API_URL": "https://ghe.example/api/v3"},
			[]string{"GITHUB_API_URL", "GITHUB_PAT"}},
		{"malformed policy", token, environ{"ALLOWED_TARGETS": "orgs/A*"}, []string{"ALLOWED_TARGETS", "entry 1"}},
		{"run with a PAT without a policy", run, environ{"GITHUB_PAT": pat}, []string{"ALLOWED_TARGETS='orgs/ORG"}},
		{"port out of range", run, environ{"PORT": "65536"}, []string{"PORT"}},
		{"Lambda's port in words", run, environ{"LAMBDA_PORT": "x"}, []string{"LAMBDA_PORT"}},
		{"session token that is one", run, environ{"SESSION_TOKEN": "IQoJ"}, []string{"SESSION_TOKEN", "set it to 1"}},
		{"throttle without a burst", run, environ{"THROTTLE": "20"}, []string{"THROTTLE=200/50"}},
		{"throttle of nothing", run, environ{"THROTTLE": "0/1"}, []string{"THROTTLE=200/50"}},
		{"throttle that is no number", run, environ{"THROTTLE": "NaN/1"}, []string{"THROTTLE=200/50"}},
		{"throttle without room", run, environ{"THROTTLE": "1/0"}, []string{"THROTTLE=200/50"}},
		{"SAM without an event", invoke, nil, []string{"EVENT=''", "events/direct-org.json"}},
		{"SAM with a folder for an event", invoke, environ{"EVENT": "../../events"}, []string{"EVENT='../../events'"}},
		{"SAM with a PAT without a policy", invoke, environ{"GITHUB_PAT": pat, "EVENT": event["EVENT"]},
			[]string{"ALLOWED_TARGETS='orgs/ORG"}},
		{"SAM's port out of range", api, environ{"PORT": "65536", "SAM_ENV": "x"}, []string{"PORT"}},
		{"nothing", nil, nil, []string{"usage"}},
		{"another command", []string{"serve", "x"}, nil, []string{"usage"}},
		{"no function", []string{"token"}, nil, []string{"usage"}},
		{"two functions", []string{"token", "x", "y"}, nil, []string{"usage"}},
		{"SAM without a command", []string{"sam"}, nil, []string{"usage"}},
		{"SAM with another command", []string{"sam", "deploy"}, event, []string{"usage"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			status, stdout, stderr := execute(t.Context(), test.env, test.args...)
			if status != 2 || stdout != "" {
				t.Errorf("exit %d, stdout %q, want 2 and nothing", status, stdout)
			}
			for _, want := range test.want {
				if !strings.Contains(stderr, want) {
					t.Errorf("%s lacks %q", stderr, want)
				}
			}
			if strings.Contains(stderr, pat) {
				t.Error("the PAT is printed")
			}
		})
	}
}

func TestPATReachesGitHubAndNothingElse(t *testing.T) {
	t.Parallel()
	pat := secret.New("ghp_onlyforgithub")
	gh := github.New(pat)
	server := httptest.NewServer(gh)
	t.Cleanup(server.Close)
	const proxy = "http://127.0.0.1:1"
	env := environ{
		"GITHUB_PAT":     pat.Reveal() + "\n",
		"GITHUB_API_URL": server.URL + "/api/v3/",
		"TARGET":         "orgs/acme",
		"https_proxy":    proxy,
	}
	t.Run("GitHub", func(t *testing.T) {
		t.Parallel()
		status, stdout, stderr := execute(t.Context(), env, "token", function())
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
	})
	// The test binary, as the function, prints its environment and arguments and ends.
	t.Run("function", func(t *testing.T) {
		t.Parallel()
		status, _, stderr := execute(t.Context(), env, "token", self)
		if status != 1 || !strings.Contains(stderr, "GITHUB_SECRET_ID=local/github") ||
			!strings.Contains(stderr, "https_proxy="+proxy) {
			t.Fatalf("exit %d: %s", status, stderr)
		}
		if strings.Contains(stderr, pat.Reveal()) || strings.Contains(stderr, "GITHUB_PAT=") {
			t.Error("the PAT is in the function's environment or arguments")
		}
	})
	t.Run("function without a PAT", func(t *testing.T) {
		t.Parallel()
		env := environ{"https_proxy": proxy, "SSL_CERT_FILE": "/x"}
		_, _, stderr := execute(t.Context(), env, "token", self)
		if !strings.Contains(stderr, "GITHUB_SECRET_ID=local/github") ||
			strings.Contains(stderr, "https_proxy=") || strings.Contains(stderr, "SSL_CERT_FILE=") {
			t.Errorf("it needs no proxy for the stand-in: %s", stderr)
		}
	})
}

var appKey = sync.OnceValue(func() *rsa.PrivateKey { return newRSA(2048) })

func newRSA(bits int) *rsa.PrivateKey {
	key, err := rsa.GenerateKey(rand.Reader, bits)
	if err != nil {
		panic(err)
	}
	return key
}

// file returns the name of a file with the blocks in PEM.
func file(t *testing.T, blocks ...*pem.Block) string {
	t.Helper()
	var text []byte
	for _, block := range blocks {
		text = append(text, pem.EncodeToMemory(block)...)
	}
	name := filepath.Join(t.TempDir(), "app.pem")
	if err := os.WriteFile(name, text, 0o600); err != nil {
		t.Fatal(err)
	}
	return name
}

func pkcs1(key *rsa.PrivateKey) *pem.Block {
	return &pem.Block{Type: "RSA PRIVATE KEY", Bytes: x509.MarshalPKCS1PrivateKey(key)}
}

func pkcs8(t *testing.T, key crypto.PrivateKey) *pem.Block {
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	return &pem.Block{Type: "PRIVATE KEY", Bytes: der}
}

func TestWrongAppIsNamedWithTheRemedy(t *testing.T) {
	t.Parallel()
	const id = "Iv23liExample"
	ec, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	good := file(t, pkcs1(appKey()))
	cut := file(t, pkcs1(appKey()))
	if err := os.Truncate(cut, 800); err != nil {
		t.Fatal(err)
	}
	short := pkcs1(appKey())
	short.Bytes = short.Bytes[:800]
	for _, test := range []struct {
		name     string
		env      environ // besides TARGET
		want     string
		problems int
	}{
		{"PAT and App", environ{"GITHUB_PAT": "ghp_x", "GITHUB_APP_ID": id, "GITHUB_APP_KEY_FILE": good},
			"GITHUB_PAT is set, and so is GITHUB_APP_ID", 1},
		{"PAT and key", environ{"GITHUB_PAT": "ghp_x", "GITHUB_APP_KEY_FILE": good}, "GITHUB_PAT is set", 1},
		{"no key", environ{"GITHUB_APP_ID": id}, "GITHUB_APP_KEY_FILE: ", 1},
		{"no ID", environ{"GITHUB_APP_KEY_FILE": good}, "GITHUB_APP_ID is not set", 1},
		{"blank in the ID", environ{"GITHUB_APP_ID": "Iv23li Example", "GITHUB_APP_KEY_FILE": good},
			`a "client_id" with characters`, 1},
		{"no such file", environ{"GITHUB_APP_ID": id, "GITHUB_APP_KEY_FILE": "missing.pem"}, "open missing.pem", 1},
		{"folder", environ{"GITHUB_APP_ID": id, "GITHUB_APP_KEY_FILE": "."}, "is a directory", 1},
		{"not PEM", environ{"GITHUB_APP_ID": id, "GITHUB_APP_KEY_FILE": "main.go"},
			"GITHUB_APP_KEY_FILE=main.go: the secret has a \"private_key\" that is not PEM", 1},
		{"key cut off", environ{"GITHUB_APP_ID": id, "GITHUB_APP_KEY_FILE": cut}, "or is cut off", 1},
		{"key cut off before it was PEM", environ{"GITHUB_APP_ID": id, "GITHUB_APP_KEY_FILE": file(t, short)},
			"is it cut off", 1},
		{"public key", environ{"GITHUB_APP_ID": id, "GITHUB_APP_KEY_FILE": file(t, &pem.Block{
			Type: "RSA PUBLIC KEY", Bytes: x509.MarshalPKCS1PublicKey(&appKey().PublicKey)})},
			"store the .pem file of the App's page", 1},
		{"key on an elliptic curve", environ{"GITHUB_APP_ID": id, "GITHUB_APP_KEY_FILE": file(t, pkcs8(t, ec))},
			"is not RSA", 1},
		{"short key", environ{"GITHUB_APP_ID": id, "GITHUB_APP_KEY_FILE": file(t, pkcs1(newRSA(1024)))},
			"of 1024 bits", 1},
		{"everything", environ{"GITHUB_APP_KEY_FILE": "missing.pem", "TARGET": "acme"}, "open missing.pem", 3},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			env := environ{"TARGET": "orgs/acme"}
			maps.Copy(env, test.env)
			status, stdout, stderr := execute(t.Context(), env, "token", "x")
			if status != 2 || stdout != "" || !strings.Contains(stderr, test.want) ||
				strings.Count(stderr, "\n") != test.problems {
				t.Errorf("exit %d, stdout %q, %d lines:\n%s, want %s", status, stdout, strings.Count(stderr, "\n"), stderr,
					test.want)
			}
			text, _ := os.ReadFile(env["GITHUB_APP_KEY_FILE"])
			for line := range strings.Lines(string(text)) {
				if line = strings.TrimSpace(line); len(line) == 64 && strings.Contains(stderr, line) {
					t.Error("the key is printed")
				}
			}
		})
	}
}

func TestAppIsInTheSecretAlone(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name, id string
		key      *pem.Block
		want     map[string]any // besides the key
	}{
		{"client ID", "Iv23liExample", pkcs1(appKey()), map[string]any{"client_id": "Iv23liExample"}},
		{"App ID", "1234", pkcs8(t, appKey()), map[string]any{"app_id": "1234"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			env := environ{"GITHUB_APP_ID": test.id, "GITHUB_APP_KEY_FILE": file(t, test.key), "TARGET": "orgs/acme"}
			s, err := parseSettings([]string{"token", "x"}, func(name string) string { return env[name] })
			if err != nil {
				t.Fatal(err)
			}
			var st stack
			defer st.close()
			var said bytes.Buffer
			role, err := st.standIns(s, "127.0.0.1", log.New(&said, "", 0))
			if err != nil {
				t.Fatal(err)
			}
			if s.env["GITHUB_API_URL"] != "" || said.String() != "GitHub is the real one\n" {
				t.Errorf("GitHub is %q: %s", s.env["GITHUB_API_URL"], &said)
			}
			sm := secretsmanager.New(secretsmanager.Options{
				Region:       region,
				BaseEndpoint: aws.String(s.env["AWS_ENDPOINT_URL_SECRETS_MANAGER"]),
				Credentials:  aws.CredentialsProviderFunc(func(context.Context) (aws.Credentials, error) { return role, nil }),
			})
			out, err := sm.GetSecretValue(t.Context(),
				&secretsmanager.GetSecretValueInput{SecretId: aws.String(s.env["GITHUB_SECRET_ID"])})
			if err != nil {
				t.Fatal(err)
			}
			var held map[string]any
			if err := json.Unmarshal([]byte(aws.ToString(out.SecretString)), &held); err != nil {
				t.Fatal(err)
			}
			if held["private_key"] != string(pem.EncodeToMemory(test.key)) {
				t.Error("the secret's private_key is not the file")
			}
			delete(held, "private_key")
			if !maps.Equal(held, test.want) {
				t.Errorf("besides the key, the secret holds %v, want %v", held, test.want)
			}
		})
	}
	// The test binary, as the function, prints its environment and arguments and ends.
	t.Run("not in the function's environment", func(t *testing.T) {
		t.Parallel()
		name := file(t, pkcs1(appKey()))
		env := environ{"GITHUB_APP_ID": "1234", "GITHUB_APP_KEY_FILE": name, "TARGET": "orgs/acme"}
		_, _, stderr := execute(t.Context(), env, "token", self)
		if !strings.Contains(stderr, "GITHUB_SECRET_ID=local/github") || strings.Contains(stderr, "GITHUB_APP") ||
			strings.Contains(stderr, "PRIVATE KEY") {
			t.Errorf("the App is in it, or it was not printed: %s", stderr)
		}
	})
}

func TestAppMakesATokenOfTheRealGitHub(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name, id string
		key      *pem.Block
		target   string
	}{
		{"client ID", "Iv23liExample", pkcs1(appKey()), "orgs/acme"},
		{"App ID", "1234", pkcs8(t, appKey()), "repos/acme/widgets"},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			gh := github.New()
			gh.PutApp(github.App{
				ID: 1234, ClientID: "Iv23liExample", Keys: []*rsa.PublicKey{&appKey().PublicKey},
				Installations: []github.Installation{{ID: 11, Owner: "acme", Permissions: map[string]string{
					"organization_self_hosted_runners": "write", "administration": "write",
				}}},
			})
			server := httptest.NewServer(gh)
			t.Cleanup(server.Close)
			env := environ{
				"GITHUB_APP_ID":       test.id,
				"GITHUB_APP_KEY_FILE": file(t, test.key),
				"GITHUB_API_URL":      server.URL + "/api/v3",
				"TARGET":              test.target,
			}
			status, stdout, stderr := execute(t.Context(), env, "token", function())
			if status != 0 {
				t.Fatalf("exit %d: %s%s", status, stdout, stderr)
			}
			tokens := gh.Tokens()
			if last := tokens[len(tokens)-1].Reveal(); parse(t, stdout).Token != last {
				t.Error("the token is not the one that this GitHub made")
			}
			for _, token := range tokens {
				if strings.Contains(stderr, token.Reveal()) {
					t.Error("a token or a JWT is printed")
				}
			}
			if v := gh.Violations(); v != nil {
				t.Errorf("violations: %q", v)
			}
		})
	}
}

func TestFunctionThatCannotStartIsHeard(t *testing.T) {
	t.Parallel()
	for _, mode := range []string{"token", "run"} {
		t.Run(mode, func(t *testing.T) {
			t.Parallel()
			env := environ{"TOKEN_MIN_LIFE": "soon"}
			status, stdout, stderr := execute(t.Context(), env, mode, function())
			if status != 1 || stdout != "" || !strings.Contains(stderr, "TOKEN_MIN_LIFE") ||
				!strings.Contains(stderr, "did not start") {
				t.Errorf("exit %d, %q: %s", status, stdout, stderr)
			}
			missing := filepath.Join(dir, "missing")
			status, _, stderr = execute(t.Context(), nil, mode, missing)
			if status != 1 || !strings.Contains(stderr, missing) {
				t.Errorf("exit %d: %s", status, stderr)
			}
		})
	}
}

func TestPortInUseIsSaid(t *testing.T) {
	t.Parallel()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	_, port, _ := net.SplitHostPort(l.Addr().String())
	for _, setting := range []string{"PORT", "LAMBDA_PORT"} {
		t.Run(setting, func(t *testing.T) {
			env := environ{"PORT": "0", "LAMBDA_PORT": "0"}
			env[setting] = port
			status, _, stderr := execute(t.Context(), env, "run", function())
			if status != 1 || !strings.Contains(stderr, "\n"+setting+"="+port+": ") ||
				!strings.Contains(stderr, "set it to another port") {
				t.Errorf("exit %d: %s", status, stderr)
			}
		})
	}
}

func TestRunServesUntilItIsStopped(t *testing.T) {
	t.Parallel()
	for _, signal := range []os.Signal{os.Interrupt, syscall.SIGTERM} {
		t.Run(signal.String(), func(t *testing.T) {
			t.Parallel()
			local := launch(t, environ{"PORT": "0", "LAMBDA_PORT": "0", "ENVIRONMENTS": "2"}, "run", function())
			paste := wait(t, &local.errs, `(?m)^curl .*\n`)
			gateway, lambda := url(paste), url(wait(t, &local.errs, `(?m)^AWS_.*\n`))
			for path, want := range map[string]string{
				"/orgs/acme/actions/runners/registration-token":  `403 {"message":"Forbidden"}`,
				"/orgs/acme/actions/runners/registration-token/": `404 {"message":"Not Found"}`,
			} {
				if got := unsigned(t, gateway+path); got != want {
					t.Errorf("unsigned %s: %s, want %s", path, got, want)
				}
			}
			testCurl(t, paste)

			if err := local.Process.Signal(signal); err != nil {
				t.Fatal(err)
			}
			if err := local.end(); err != nil {
				t.Errorf("it ends with %v\n%s", err, &local.errs)
			}
			for _, url := range []string{gateway, lambda} {
				if conn, err := net.Dial("tcp", strings.TrimPrefix(url, "http://")); err == nil {
					conn.Close()
					t.Errorf("%s still listens", url)
				}
			}
		})
	}
}

func url(text string) string { return regexp.MustCompile(`http://127\.0\.0\.1:\d+`).FindString(text) }

func TestRunSaysHowToCallIt(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name      string
		env       environ
		temporary bool
		payload   string
	}{
		{"permanent keys", nil, false, `{"target":"orgs/acme"}`},
		{"temporary keys", environ{"SESSION_TOKEN": "1", "TARGET": "repos/acme/widgets", "KIND": "remove-token"},
			true, `{"target":"repos/acme/widgets","kind":"remove-token"}`},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			env := environ{"PORT": "0", "LAMBDA_PORT": "0"}
			maps.Copy(env, test.env)
			local := launch(t, env, "run", function())
			paste := wait(t, &local.errs, `(?m)^AWS_.*\n`)
			testCurl(t, wait(t, &local.errs, `(?m)^curl .*\n`))
			if !strings.Contains(local.errs.String(), "IAM policies are not there") {
				t.Errorf("it does not say what is not there: %s", &local.errs)
			}

			c, args := pasteAWS(t, paste)
			want := []string{"lambda", "invoke", "--region", "us-east-1", "--endpoint-url", url(paste), "--function-name",
				"token", "--cli-binary-format", "raw-in-base64-out", "--payload", test.payload, "/dev/stdout"}
			if !slices.Equal(args, want) {
				t.Errorf("aws %q, want %q", args, want)
			}
			if strings.HasPrefix(c.AccessKeyID, "ASIA") != test.temporary || (c.SessionToken != "") != test.temporary {
				t.Errorf("access key %s, session token %q", c.AccessKeyID, c.SessionToken)
			}
			req, err := http.NewRequestWithContext(t.Context(), http.MethodPost,
				url(paste)+"/2015-03-31/functions/token/invocations", strings.NewReader(test.payload))
			if err != nil {
				t.Fatal(err)
			}
			if err := sigv4.Sign(req, []byte(test.payload), c, "us-east-1", "lambda"); err != nil {
				t.Fatal(err)
			}
			resp, err := http.DefaultClient.Do(req)
			if err != nil {
				t.Fatal(err)
			}
			defer resp.Body.Close()
			var a answer
			if err := json.NewDecoder(resp.Body).Decode(&a); err != nil || a.Token == "" {
				t.Errorf("%s %+v: %v", resp.Status, a, err)
			}
		})
	}
}

// pasteAWS runs the line that a user pastes, in a shell with a stale session token. A script takes the place of the AWS
// CLI, and says what it would be given.
func pasteAWS(t *testing.T, line string) (aws.Credentials, []string) {
	t.Helper()
	bin := t.TempDir()
	script := `#!/bin/sh
printf '%s\n' "$AWS_ACCESS_KEY_ID" "$AWS_SECRET_ACCESS_KEY" "$AWS_SESSION_TOKEN" "$@"
`
	if err := os.WriteFile(filepath.Join(bin, "aws"), []byte(script), 0o755); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("sh", "-c", line)
	cmd.Env = []string{"PATH=" + bin + ":" + os.Getenv("PATH"), "AWS_SESSION_TOKEN=stale"}
	out, err := cmd.Output()
	said := strings.Split(strings.TrimSuffix(string(out), "\n"), "\n")
	if err != nil || len(said) < 4 {
		t.Fatalf("%s%v: %q", line, err, said)
	}
	return aws.Credentials{AccessKeyID: said[0], SecretAccessKey: said[1], SessionToken: said[2]}, said[3:]
}

func TestRunThrottlesWhenAskedTo(t *testing.T) {
	t.Parallel()
	local := launch(t, environ{"PORT": "0", "LAMBDA_PORT": "0", "THROTTLE": "0.001/2"}, "run", function())
	path := url(wait(t, &local.errs, `(?m)^curl .*\n`)) + "/orgs/acme/actions/runners/registration-token"
	for i, want := range []string{
		`403 {"message":"Forbidden"}`, `403 {"message":"Forbidden"}`, `429 {"message":"Too Many Requests"}`,
	} {
		if got := unsigned(t, path); got != want {
			t.Errorf("request %d: %s, want %s", i+1, got, want)
		}
	}
}

func unsigned(t *testing.T, url string) string {
	t.Helper()
	resp, err := http.Post(url, "", http.NoBody)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return fmt.Sprintf("%d %s", resp.StatusCode, body)
}

// testCurl runs the line that a user pastes.
func testCurl(t *testing.T, paste string) {
	t.Helper()
	help, _ := exec.Command("curl", "--help", "all").Output()
	switch {
	case bytes.Contains(help, []byte("aws-sigv4")):
	case os.Getenv("CI") == "true":
		t.Fatal("curl with --aws-sigv4 (7.86 or later) is not on this machine")
	default:
		return
	}
	out, err := exec.Command("sh", "-c", paste).Output()
	var a answer
	if json.Unmarshal(out, &a); err != nil || a.Token == "" {
		t.Errorf("%s%v: %s", paste, err, out)
	}
	out, _ = exec.Command("sh", "-c", strings.Replace(paste, "/acme", "/other", 1)).Output()
	if !bytes.Contains(out, []byte("TargetNotAllowed")) {
		t.Errorf("another target: %s", out)
	}
	out, _ = exec.Command("sh", "-c", regexp.MustCompile(`--user \S+`).ReplaceAllString(paste, "${0}x")).Output()
	if string(out) != `{"message":"Forbidden"}` {
		t.Errorf("a wrong secret: %s", out)
	}
}

// programs returns a PATH on which shell scripts take the places of make and SAM.
func programs(t *testing.T, makeScript, samScript string) (path string) {
	t.Helper()
	bin := t.TempDir()
	for name, script := range map[string]string{"make": makeScript, "sam": samScript} {
		if err := os.WriteFile(filepath.Join(bin, name), []byte("#!/bin/sh\n"+script+"\n"), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	return bin + ":" + os.Getenv("PATH")
}

func TestSAMIsGivenWhatTheFunctionNeedsAndNoMore(t *testing.T) {
	t.Parallel()
	const (
		pat    = "ghp_onlyforgithub"
		event  = "../../events/direct-org.json"
		invoke = "local invoke TokenFunction --event " + event
		github = `GITHUB_API_URL=http://localhost:\d+`
	)
	arch := map[string]string{"amd64": "x86_64", "arm64": "arm64"}[runtime.GOARCH]
	built := " --template template.yaml --docker-volume-basedir .build/" + arch +
		" --parameter-overrides Architecture=" + arch
	standIns := []string{ // in the environment
		`AWS_ENDPOINT_URL_SECRETS_MANAGER=http://localhost:\d+`, `AWS_ACCESS_KEY_ID=ASIA\w+`, `AWS_SESSION_TOKEN=\w+`,
		"AWS_DEFAULT_REGION=us-east-1", "GITHUB_SECRET_ID=local/github", "ALLOWED_TARGETS=orgs/acme",
	}
	for _, test := range []struct {
		name    string
		env     environ
		command string
		args    string // of sam
		want    []string
		without []string
	}{
		{"invoke", environ{"EVENT": event}, "invoke",
			invoke + built + " --add-host localhost:host-gateway",
			append(standIns, github), []string{"AWS_PROFILE"}},
		{"start-api", environ{"PORT": "3001"}, "start-api",
			"local start-api --port 3001 --warm-containers EAGER" + built + " --add-host localhost:host-gateway",
			append(standIns, github), []string{"AWS_PROFILE"}},
		{"start-api by default", nil, "start-api",
			"local start-api --port 3000 --warm-containers EAGER" + built + " --add-host localhost:host-gateway",
			append(standIns, github), []string{"AWS_PROFILE"}},
		{"a PAT", environ{"EVENT": event, "GITHUB_PAT": pat}, "invoke",
			invoke + built + " --add-host localhost:host-gateway",
			standIns, []string{"AWS_PROFILE", "GITHUB_API_URL"}},
		{"the user's flags", environ{"EVENT": event, "SAM_FLAGS": "--debug --skip-pull-image"}, "invoke",
			invoke + built + " --add-host localhost:host-gateway --debug --skip-pull-image",
			append(standIns, github), []string{"AWS_PROFILE"}},
		{"the user's environment", environ{"EVENT": event, "SAM_ENV": "my.json", "SAM_FLAGS": "--debug"}, "invoke",
			invoke + built + " --env-vars my.json --debug",
			[]string{"AWS_PROFILE=developer", "ALLOWED_TARGETS=orgs/acme"},
			[]string{"AWS_ENDPOINT_URL_SECRETS_MANAGER", "GITHUB_SECRET_ID"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			env := environ{
				"AWS_PROFILE": "developer", "ALLOWED_TARGETS": "orgs/acme",
				"PATH": programs(t, `echo make "$@"`, `echo "$@"; env`),
			}
			for name, value := range test.env {
				env[name] = value
			}
			local := launch(t, env, "sam", test.command)
			if err := local.end(); err != nil {
				t.Fatalf("%v: %s", err, &local.errs)
			}
			out, errs := local.out.String(), local.errs.String()
			if !strings.HasPrefix(errs, "make -s build ARCH="+arch+"\n") {
				t.Errorf("the function is not built first: %s", errs)
			}
			if got, _, _ := strings.Cut(out, "\n"); got != test.args {
				t.Errorf("sam %s, want\nsam %s", got, test.args)
			}
			for _, want := range test.want {
				if !regexp.MustCompile("(?m)^" + want + "$").MatchString(out) {
					t.Errorf("no %s in %s", want, out)
				}
			}
			for _, name := range test.without {
				if strings.Contains(out, "\n"+name+"=") {
					t.Errorf("%s is there: %s", name, out)
				}
			}
			if strings.Contains(out+errs, pat) {
				t.Error("the PAT is in SAM's environment, or printed")
			}
		})
	}
}

func TestSAMIsInterruptedAndItsStatusCounts(t *testing.T) {
	t.Parallel()
	const script = `trap 'echo ended; exit %d' INT; echo ready; while :; do sleep 0.05; done`
	for exit, want := range map[int]int{0: 0, 3: 1} {
		t.Run(fmt.Sprintf("exit %d", exit), func(t *testing.T) {
			t.Parallel()
			env := environ{"PATH": programs(t, "", fmt.Sprintf(script, exit))}
			local := launch(t, env, "sam", "start-api")
			wait(t, &local.out, "ready\n")
			if err := local.Process.Signal(os.Interrupt); err != nil {
				t.Fatal(err)
			}
			local.end()
			if got := local.ProcessState.ExitCode(); got != want || local.out.String() != "ready\nended\n" {
				t.Errorf("exit %d, want %d: %s%s", got, want, &local.out, &local.errs)
			}
		})
	}
}

func TestSAMIsNotRunWithoutTheFunction(t *testing.T) {
	t.Parallel()
	local := launch(t, environ{"PATH": programs(t, "echo no compiler; exit 2", "echo run")}, "sam", "start-api")
	local.end()
	got := local.ProcessState.ExitCode()
	if errs := local.errs.String(); got != 1 || local.out.String() != "" || !strings.Contains(errs, "no compiler") {
		t.Errorf("exit %d, %s: %s", got, &local.out, errs)
	}
}

func TestMissingSAMIsSaid(t *testing.T) {
	t.Parallel()
	path := programs(t, "", "")
	bin, _, _ := strings.Cut(path, ":")
	if err := os.Remove(filepath.Join(bin, "sam")); err != nil {
		t.Fatal(err)
	}
	local := launch(t, environ{"PATH": bin}, "sam", "start-api")
	local.end()
	if got := local.ProcessState.ExitCode(); got != 1 || !strings.Contains(local.errs.String(), `"sam"`) {
		t.Errorf("exit %d: %s", got, &local.errs)
	}
}

func TestInterruptedTokenIsNotASuccess(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if status, stdout, stderr := execute(ctx, nil, "token", self); status != 1 || stdout != "" {
		t.Errorf("exit %d, %s: %s", status, stdout, stderr)
	}
}
