package samlocal_test

import (
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"net/http/httputil"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"runner-token-broker/e2e/rig"
	"runner-token-broker/internal/local/secretsmanager"
)

// TestSAMLocal runs the commands of docs/sam-local.md: the SAM CLI, and the built function in a container. Where there
// is no image of Lambda's, busybox takes its place. Docker Desktop and real AWS are not seen here.
func TestSAMLocal(t *testing.T) {
	rig.Tool(t, "sam")
	e := startEngine(t)
	e.provideImage(t)

	pats := rig.NewPATs(1)
	moto := rig.StartMoto(t)
	moto.CreateSecret(t, "runners/github-pat", pats[0])
	motoURL, err := url.Parse(moto.URL)
	if err != nil {
		t.Fatal(err)
	}
	// The local stack and the container share Moto and GitHub.
	f := rig.StartFunction(t, pats, map[string]string{
		"GITHUB_SECRET_ID":                 "runners/github-pat",
		"AWS_ENDPOINT_URL_SECRETS_MANAGER": moto.URL,
	})
	atMoto := []string{
		"SAM_FLAGS=--add-host localhost:host-gateway",
		"SAM_ENV=" + envFile(t, rig.Root+"/docs/sam-local.stand-ins.env.json", map[string]string{
			"AWS_ENDPOINT_URL_SECRETS_MANAGER": e.serve(t, httputil.NewSingleHostReverseProxy(motoURL)),
			"GITHUB_API_URL":                   e.serve(t, f.GitHub),
		}),
	}

	t.Run("answers every event as the local stack does", func(t *testing.T) {
		// Without an identity, the one thing that the function takes from SAM alone.
		unauthenticated := []string{
			"function-url-refused-unauthenticated.json", "http-api-v2-refused-unauthenticated.json",
			"rest-api-v1-refused-unauthenticated.json", "sam-local-org-registration-token.json",
		}
		files, _ := filepath.Glob(rig.Root + "/events/*.json")
		if len(files) == 0 {
			t.Fatal("no events")
		}
		for _, file := range files {
			name := filepath.Base(file)
			t.Run(name, func(t *testing.T) {
				t.Parallel()
				got, printed, status := e.make(t, nil, append(slices.Clone(atMoto), "sam-invoke", "EVENT=events/"+name)...)
				if status != 0 {
					t.Fatalf("exit %d\n%s", status, printed)
				}
				want := f.Invoke(t, event(t, name))
				if slices.Contains(unauthenticated, name) {
					if !strings.Contains(want, "CallerNotAuthenticated") {
						t.Errorf("the local stack answers %s", want)
					}
					want = f.Invoke(t, event(t, "http-api-v2-org-registration-token.json"))
				}
				same(t, f, got, want)
			})
		}
	})

	t.Run("serves every route as the local stack does", func(t *testing.T) {
		api := e.api(t, atMoto...)
		for _, target := range []string{"orgs/acme", "repos/acme/widgets", "enterprises/acme-corp", "orgs/other"} {
			for _, kind := range []string{"registration-token", "remove-token"} {
				path := "/" + target + "/actions/runners/" + kind
				t.Run(target+"/"+kind, func(t *testing.T) {
					got, want := post(t, api+path, nil), f.Post(t, path)
					if got.Status != want.Status {
						t.Errorf("%d, want %d", got.Status, want.Status)
					}
					same(t, f, string(got.Body), string(want.Body))
				})
			}
		}
		t.Run("as text", func(t *testing.T) {
			plain := post(t, api+"/orgs/acme/actions/runners/registration-token", http.Header{"Accept": {"text/plain"}})
			same(t, f, string(plain.Body), f.GitHub.Tokens()[0].Reveal())
		})
		for _, path := range []string{"/orgs/acme/actions/runners/registration", "/"} {
			t.Run("not "+path, func(t *testing.T) {
				got, want := post(t, api+path, nil), f.Post(t, path)
				if got.Status != 403 || !strings.Contains(string(got.Body), "Missing Authentication Token") || want.Status != 404 {
					t.Errorf("%d %s, and from the local stack %d", got.Status, got.Body, want.Status)
				}
			})
		}
	})

	t.Run("needs no AWS", func(t *testing.T) {
		token := regexp.MustCompile(`"token": ?"[A-Z0-9]{29}"`)
		out, printed, status := e.make(t, nil, "sam-invoke", "EVENT=events/direct-org.json")
		if status != 0 || !token.MatchString(out) {
			t.Errorf("exit %d: %s\n%s", status, out, printed)
		}
		got := post(t, e.api(t)+"/enterprises/acme-corp/actions/runners/remove-token", nil)
		if got.Status != 201 || !token.Match(got.Body) {
			t.Errorf("%d %s", got.Status, got.Body)
		}
	})

	t.Run("with GITHUB_PAT calls the GitHub that it is for", func(t *testing.T) {
		env := []string{"GITHUB_PAT=" + pats[0].Reveal(), "GITHUB_API_URL=" + e.serve(t, f.GitHub), "TARGET=orgs/acme"}
		got, printed, status := e.make(t, env, "sam-invoke", "EVENT=events/direct-org.json")
		if status != 0 {
			t.Fatalf("exit %d\n%s", status, printed)
		}
		same(t, f, got, f.Invoke(t, event(t, "direct-org.json")))
		if strings.Contains(got+printed, pats[0].Reveal()) {
			t.Error("the PAT is printed")
		}
	})

	t.Run("with SAM_ENV reads the secret as the AWS profile", func(t *testing.T) {
		c := rig.RoleCredentials()
		secrets := secretsmanager.New(rig.Region, c) // answers to these credentials alone
		secrets.Put("runners/github-pat", pats[0])
		aws := e.serve(t, secrets)
		dir := t.TempDir()
		rig.WriteFile(t, dir+"/config", "[profile developer]\nregion = "+rig.Region+"\n", 0o600)
		rig.WriteFile(t, dir+"/credentials", fmt.Sprintf("[developer]\n"+
			"aws_access_key_id = %s\naws_secret_access_key = %s\naws_session_token = %s\n",
			c.AccessKeyID, c.SecretAccessKey, c.SessionToken), 0o600)
		file := envFile(t, rig.Root+"/docs/sam-local.env.json", map[string]string{
			"AWS_ENDPOINT_URL_SECRETS_MANAGER": aws, "GITHUB_API_URL": e.serve(t, f.GitHub),
		})
		env := []string{"AWS_PROFILE=developer",
			"AWS_CONFIG_FILE=" + dir + "/config", "AWS_SHARED_CREDENTIALS_FILE=" + dir + "/credentials",
			"AWS_ENDPOINT_URL_STS=" + strings.Replace(aws, "localhost", e.gateway, 1)} // SAM's own question stays here
		got, printed, status := e.make(t, env, "sam-invoke", "EVENT=events/direct-repo.json", "SAM_ENV="+file, atMoto[0])
		if status != 0 {
			t.Fatalf("exit %d\n%s", status, printed)
		}
		same(t, f, got, f.Invoke(t, event(t, "direct-repo.json")))
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
	rig.Output(t, build)
	api := e.api(t, "SAM_FLAGS=--docker-volume-basedir "+dir)
	sample := func(name string) map[string]any {
		t.Helper()
		return parseEvent(t, event(t, name))
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
		return parseEvent(t, rig.Output(t, exec.CommandContext(t.Context(), rig.Tool(t, "curl"), args...)))
	}
	check := func(title string, got, want []string) {
		t.Helper()
		slices.Sort(want)
		if !slices.Equal(got, want) {
			t.Errorf("%s\n%s\nwant\n%s", title, strings.Join(got, "\n"), strings.Join(want, "\n"))
		}
	}

	ours := sample("sam-local-org-registration-token.json")
	sent := send(ours)
	check("SAM's event differs from our sample of it in", differences(sent, ours), []string{
		"headers.Host", "headers.X-Forwarded-Port", // the port
		"requestContext.requestId", "requestContext.time", "requestContext.timeEpoch",
	})
	check("SAM's event has of its own", differences(sent, send(ours)), nil) // id and time are the process's

	theirs := sample("http-api-v2-org-registration-token.json")
	sent = send(theirs)
	lower := map[string]any{}
	for name, value := range sent["headers"].(map[string]any) {
		if name == strings.ToLower(name) {
			t.Errorf("header %s is in lower case, as AWS's are", name)
		}
		lower[strings.ToLower(name)] = value
	}
	sent["headers"] = lower
	check("Besides the case of its headers, SAM's event differs from AWS's in", differences(sent, theirs), []string{
		"requestContext.authorizer: missing", "headers.x-amzn-trace-id: missing", "headers.x-forwarded-for: missing",
		"body: added", "cookies: added", "stageVariables: added", // empty, where AWS leaves them out
		// Who asked whom, and when; timeEpoch in seconds, where AWS counts milliseconds.
		"headers.host", "headers.x-forwarded-port", "headers.x-forwarded-proto",
		"requestContext.apiId", "requestContext.domainName", "requestContext.domainPrefix", "requestContext.http.sourceIp",
		"requestContext.http.userAgent", "requestContext.requestId", "requestContext.time", "requestContext.timeEpoch",
	})
}

// event returns a sample of events/.
func event(t *testing.T, name string) string {
	t.Helper()
	return rig.ReadFile(t, filepath.Join(rig.Root, "events", name))
}

func parseEvent(t *testing.T, text string) (event map[string]any) {
	t.Helper()
	if err := json.Unmarshal([]byte(text), &event); err != nil {
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
	t.Parallel()
	for _, c := range []struct{ name, event string }{
		{"none", ""},
		{"a file that is not there", "events/none.json"},
		{"a folder", "events"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			cmd := exec.CommandContext(t.Context(), "make", "sam-invoke", "EVENT="+c.event)
			cmd.Dir = rig.Root
			cmd.Env = rig.Environ()
			_, errs, status := rig.Run(t, cmd)
			if status == 0 || !strings.Contains(errs, "EVENT='"+c.event+"' is no file: try EVENT=events/direct-org.json") {
				t.Errorf("exit %d\n%s", status, errs)
			}
		})
	}
}

// same wants two answers to be the same but for what each answer has of its own: the token, which must be one of
// GitHub's, its expiry, which must be in an hour, the request id and the stand-in's port.
func same(t *testing.T, f *rig.Function, got, want string) {
	t.Helper()
	var tokens []string
	for _, v := range f.GitHub.Tokens() {
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
func post(t *testing.T, url string, header http.Header) rig.Answer {
	t.Helper()
	return rig.Send(t, rig.NewPost(t, url, "", header))
}

// envFile returns a copy of the documentation's file with values for here.
func envFile(t *testing.T, file string, values map[string]string) string {
	t.Helper()
	var env struct{ TokenFunction map[string]string }
	if err := json.Unmarshal([]byte(rig.ReadFile(t, file)), &env); err != nil {
		t.Fatalf("%s: %v", file, err)
	}
	maps.Copy(env.TokenFunction, values)
	text, err := json.Marshal(env)
	if err != nil {
		t.Fatal(err)
	}
	copied := filepath.Join(t.TempDir(), "env.json")
	rig.WriteFile(t, copied, string(text), 0o600)
	return copied
}
