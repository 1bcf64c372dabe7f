package github_test

import (
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/json"
	"io"
	"maps"
	"net/http"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"

	"runner-token-broker/internal/local/github"
	"runner-token-broker/internal/local/network"
)

const (
	orgPermission  = "organization_self_hosted_runners"
	repoPermission = "administration"

	askOrg  = `{"permissions":{"organization_self_hosted_runners":"write"}}`
	askRepo = `{"permissions":{"administration":"write"},"repositories":["widgets"]}`

	repo = "/repos/acme/widgets/actions/runners/registration-token"
)

var newKeys = sync.OnceValue(func() (keys [2]*rsa.PrivateKey) {
	for i := range keys {
		var err error
		if keys[i], err = rsa.GenerateKey(rand.Reader, 2048); err != nil {
			panic(err)
		}
	}
	return keys
})

// newApp is installed in acme, with all repositories and both permissions; in globex, with one of each; and it is
// suspended in initech. hooli has accepted no permission.
func newApp() github.App {
	all := map[string]string{orgPermission: "write", repoPermission: "write"}
	return github.App{
		ID:       1234,
		ClientID: "Iv23liExample",
		Keys:     []*rsa.PublicKey{&newKeys()[0].PublicKey},
		Installations: []github.Installation{
			{ID: 11, Owner: "acme", Permissions: all},
			{ID: 12, Owner: "globex", Permissions: map[string]string{repoPermission: "write", orgPermission: "read"},
				Repositories: []string{"widgets"}},
			{ID: 13, Owner: "initech", Permissions: all, Suspended: true},
			{ID: 14, Owner: "hooli"},
		},
	}
}

func startApp(t *testing.T) stand {
	gh := start(t)
	gh.PutApp(newApp())
	return gh
}

func claims() jwt.MapClaims {
	now := time.Now()
	return jwt.MapClaims{
		"iss": "Iv23liExample", "iat": now.Add(-time.Minute).Unix(), "exp": now.Add(9 * time.Minute).Unix(),
		"jti": rand.Text(),
	}
}

func sign(t *testing.T, method jwt.SigningMethod, key crypto.PrivateKey, claims jwt.MapClaims) string {
	t.Helper()
	signed, err := jwt.NewWithClaims(method, claims).SignedString(key)
	if err != nil {
		t.Fatal(err)
	}
	return signed
}

func newJWT(t *testing.T) string { return sign(t, jwt.SigningMethodRS256, newKeys()[0], claims()) }

// call is a request as the service makes it, with another method, body and credential.
func (s stand) call(t *testing.T, method, path, body, token string) *http.Request {
	t.Helper()
	r := s.request(t, path)
	r.Method = method
	r.Header.Set("Authorization", "Bearer "+token)
	if body != "" {
		r.Body, r.ContentLength = io.NopCloser(strings.NewReader(body)), int64(len(body))
		r.Header.Set("Content-Type", "application/json")
	}
	return r
}

// newToken returns the token of the installation.
func (s stand) newToken(t *testing.T, installation, body string) string {
	t.Helper()
	resp, answer := s.do(t, s.call(t, "POST", "/app/installations/"+installation+"/access_tokens", body, newJWT(t)))
	var got struct{ Token string }
	if err := json.Unmarshal([]byte(answer), &got); err != nil || resp.StatusCode != 201 {
		t.Fatalf("%s %s", resp.Status, answer)
	}
	return got.Token
}

func (s stand) wantNoViolations(t *testing.T) {
	t.Helper()
	if v := s.Violations(); v != nil {
		t.Errorf("violations: %q", v)
	}
}

// wantRefusal wants the status, and the message unless it is "".
func wantRefusal(t *testing.T, resp *http.Response, body string, status int, message string) {
	t.Helper()
	var got struct{ Message string }
	json.Unmarshal([]byte(body), &got)
	if resp.StatusCode != status || message != "" && got.Message != message {
		t.Errorf("%s %s, want %d %s", resp.Status, body, status, message)
	}
}

func TestAppMakesRunnerTokens(t *testing.T) {
	t.Parallel()
	for _, test := range []struct{ name, base, target, ask, permission string }{
		{"organization", "", "/orgs/acme", askOrg, orgPermission},
		{"repository", "", "/repos/acme/widgets", askRepo, repoPermission},
		{"organization of a GitHub Enterprise Server", "/api/v3", "/orgs/acme", askOrg, orgPermission},
		{"repository of a GitHub Enterprise Server", "/api/v3", "/repos/acme/widgets", askRepo, repoPermission},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			gh := startApp(t)
			jwts := []string{newJWT(t), newJWT(t)}
			_, body := gh.do(t, gh.call(t, "GET", test.base+test.target+"/installation", "", jwts[0]))
			var installation struct {
				ID      int64
				AppID   int64  `json:"app_id"`
				Client  string `json:"client_id"`
				Account struct{ Login string }
			}
			if err := json.Unmarshal([]byte(body), &installation); err != nil || installation.ID != 11 ||
				installation.AppID != 1234 || installation.Client != "Iv23liExample" || installation.Account.Login != "acme" {
				t.Errorf("installation: %s", body)
			}

			_, body = gh.do(t, gh.call(t, "POST", test.base+"/app/installations/11/access_tokens", test.ask, jwts[1]))
			var got struct {
				Token        string
				ExpiresAt    time.Time `json:"expires_at"`
				Permissions  map[string]string
				Repositories []struct {
					FullName string `json:"full_name"`
				}
			}
			if err := json.Unmarshal([]byte(body), &got); err != nil {
				t.Fatalf("token: %v %s", err, body)
			}
			if !regexp.MustCompile(`^ghs_1234_[\w-]{36}\.[\w-]{130}\.[\w-]{342}$`).MatchString(got.Token) {
				t.Errorf("token %q is not of GitHub's form", got.Token)
			}
			if time.Until(got.ExpiresAt).Round(time.Minute) != time.Hour {
				t.Errorf("expires_at %v, want an hour ahead", got.ExpiresAt)
			}
			if !maps.Equal(got.Permissions, map[string]string{test.permission: "write"}) {
				t.Errorf("permissions %v, want %s alone", got.Permissions, test.permission)
			}
			if n := len(got.Repositories); n != strings.Count(test.ask, "widgets") ||
				n == 1 && got.Repositories[0].FullName != "acme/widgets" {
				t.Errorf("repositories %v, want those that were asked for", got.Repositories)
			}

			resp, body := gh.do(t,
				gh.call(t, "POST", test.base+test.target+"/actions/runners/remove-token", "", got.Token))
			var made struct{ Token string }
			if err := json.Unmarshal([]byte(body), &made); err != nil || resp.StatusCode != 201 {
				t.Fatalf("%s %s", resp.Status, body)
			}
			if accepted := resp.Header.Get("X-Accepted-Github-Permissions"); accepted != test.permission+"=write" ||
				resp.Header["X-Oauth-Scopes"] != nil {
				t.Errorf("accepted permissions %q, scopes %q", accepted, resp.Header["X-Oauth-Scopes"])
			}

			var tokens []string
			for _, token := range gh.Tokens() {
				tokens = append(tokens, token.Reveal())
			}
			if want := []string{jwts[0], jwts[1], got.Token, made.Token}; !slices.Equal(tokens, want) {
				t.Errorf("Tokens has %d, want both JWTs, the installation's and the runner's", len(tokens))
			}
			if r := gh.Requests(); len(r) != 3 || r[1].Installation != 0 || r[2].Installation != 11 {
				t.Errorf("Requests are %+v, want the last by installation 11", r)
			}
			gh.wantNoViolations(t)
		})
	}
}

func TestJWTIsVerified(t *testing.T) {
	t.Parallel()
	const (
		undecoded = "A JSON web token could not be decoded"
		issued    = "'Issued at' claim ('iat') must be an Integer representing the time that the assertion was issued"
		expired   = "'Expiration time' claim ('exp') must be a numeric value representing the future time at which the " +
			"assertion expires"
		tooFar = "'Expiration time' claim ('exp') is too far in the future"
	)
	set := func(name string, value any) func(*testing.T) string {
		return func(t *testing.T) string {
			c := claims()
			if c[name] = value; value == nil {
				delete(c, name)
			}
			return sign(t, jwt.SigningMethodRS256, newKeys()[0], c)
		}
	}
	at := func(name string, offset time.Duration) func(*testing.T) string {
		return set(name, time.Now().Add(offset).Unix())
	}
	by := func(method jwt.SigningMethod, key crypto.PrivateKey) func(*testing.T) string {
		return func(t *testing.T) string { return sign(t, method, key, claims()) }
	}
	for _, test := range []struct {
		name    string
		jwt     func(*testing.T) string
		status  int
		message string
	}{
		{"by client ID", newJWT, 200, ""},
		{"by ID", set("iss", "1234"), 200, ""},
		{"by ID as a number", set("iss", 1234), 200, ""},
		{"by another App", set("iss", "Iv23liOther"), 404, "Integration not found"},
		{"by nobody", set("iss", nil), 401, undecoded},
		{"of another key", by(jwt.SigningMethodRS256, newKeys()[1]), 401, undecoded},
		{"of another algorithm", by(jwt.SigningMethodRS512, newKeys()[0]), 401, undecoded},
		{"of the public key as a password",
			by(jwt.SigningMethodHS256, x509.MarshalPKCS1PublicKey(&newKeys()[0].PublicKey)), 401, undecoded},
		{"unsigned", by(jwt.SigningMethodNone, jwt.UnsafeAllowNoneSignatureType), 401, undecoded},
		{"a PAT", func(*testing.T) string { return pat.Reveal() }, 401, undecoded},
		{"cut off", func(t *testing.T) string { return newJWT(t)[:300] }, 401, undecoded},
		{"issued by a clock that is a little ahead", at("iat", 50*time.Second), 200, ""},
		{"issued in the future", at("iat", 2*time.Minute), 401, issued},
		{"issued at no time", set("iat", nil), 401, issued},
		{"expired", at("exp", -time.Second), 401, expired},
		{"without an end", set("exp", nil), 401, expired},
		{"for ten minutes", at("exp", 10*time.Minute), 200, ""},
		{"for longer", at("exp", 10*time.Minute+5*time.Second), 401, tooFar},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			gh := startApp(t)
			resp, body := gh.do(t, gh.call(t, "GET", "/orgs/acme/installation", "", test.jwt(t)))
			wantRefusal(t, resp, body, test.status, test.message)
			gh.wantNoViolations(t)
		})
	}
}

func TestJWTIsGoodOnce(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name string
		hook *github.Answer // to the first
	}{
		{"after an answer", nil},
		{"after a failure", github.Refusal(502, "")},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			gh := startApp(t)
			gh.OnRequest(func(*http.Request) *github.Answer { return test.hook })
			first := claims()
			token := sign(t, jwt.SigningMethodRS256, newKeys()[0], first)
			gh.do(t, gh.call(t, "GET", "/orgs/acme/installation", "", token))
			gh.OnRequest(nil)
			resp, body := gh.do(t, gh.call(t, "GET", "/orgs/acme/installation", "", token))
			wantRefusal(t, resp, body, 404, "Not Found")

			second := claims()
			second["jti"] = first["jti"]
			token = sign(t, jwt.SigningMethodRS256, newKeys()[0], second)
			resp, body = gh.do(t, gh.call(t, "GET", "/repos/acme/widgets/installation", "", token))
			wantRefusal(t, resp, body, 404, "Not Found")
		})
	}
}

func TestKeysOfAnAppRotate(t *testing.T) {
	t.Parallel()
	gh := startApp(t)
	app := newApp()
	for _, test := range []struct {
		name string
		keys []int
		want [2]int // statuses for a JWT of either key
	}{
		{"old", []int{0}, [2]int{200, 401}},
		{"both", []int{0, 1}, [2]int{200, 200}},
		{"new", []int{1}, [2]int{401, 200}},
		{"none", nil, [2]int{401, 401}},
	} {
		t.Run(test.name, func(t *testing.T) {
			app.Keys = nil
			for _, i := range test.keys {
				app.Keys = append(app.Keys, &newKeys()[i].PublicKey)
			}
			gh.PutApp(app)
			for i, want := range test.want {
				token := sign(t, jwt.SigningMethodRS256, newKeys()[i], claims())
				resp, body := gh.do(t, gh.call(t, "GET", "/orgs/acme/installation", "", token))
				wantRefusal(t, resp, body, want, "")
			}
		})
	}
}

func TestInstallationIsFoundByTarget(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		path      string
		id        int64 // 0: not found
		selection string
		suspended bool
	}{
		{path: "/orgs/acme", id: 11, selection: "all"},
		{path: "/repos/acme/anything", id: 11, selection: "all"},
		{path: "/orgs/globex", id: 12, selection: "selected"},
		{path: "/repos/globex/widgets", id: 12, selection: "selected"},
		{path: "/repos/globex/gadgets"},
		{path: "/orgs/initech", id: 13, selection: "all", suspended: true},
		{path: "/orgs/hooli", id: 14, selection: "all"},
		{path: "/orgs/other"},
		{path: "/orgs/gone"}, // does not exist, see below
		{path: "/enterprises/acme"},
	} {
		t.Run(test.path, func(t *testing.T) {
			t.Parallel()
			gh := startApp(t)
			if test.path == "/orgs/gone" {
				app := newApp()
				app.Installations[0].Owner = "gone"
				gh.PutApp(app)
				gh.Restrict("orgs/acme")
			}
			resp, body := gh.do(t, gh.call(t, "GET", test.path+"/installation", "", newJWT(t)))
			gh.wantNoViolations(t)
			if test.id == 0 {
				wantRefusal(t, resp, body, 404, "Not Found")
				return
			}
			var got struct {
				ID          int64
				Selection   string  `json:"repository_selection"`
				SuspendedAt *string `json:"suspended_at"`
			}
			if err := json.Unmarshal([]byte(body), &got); err != nil || got.ID != test.id ||
				got.Selection != test.selection || (got.SuspendedAt != nil) != test.suspended {
				t.Errorf("%s %s, want %d, %s, suspended: %t", resp.Status, body, test.id, test.selection, test.suspended)
			}
		})
	}
}

func TestInstallationTokenIsRefusedInGitHubsWords(t *testing.T) {
	t.Parallel()
	const notGranted = "The permissions requested are not granted to this installation."
	for _, test := range []struct {
		name, installation, ask string
		status                  int
		message                 string
	}{
		{"granted", "11", askOrg, 201, ""},
		{"repository granted", "12", askRepo, 201, ""},
		{"no such installation", "99", askOrg, 404, "Not Found"},
		{"another App's installation", "21", askOrg, 404, "Not Found"},
		{"suspended", "13", askOrg, 403, "This installation has been suspended"},
		{"permission to read only", "12", askOrg, 422, notGranted},
		{"no permission", "14", askRepo, 422, notGranted},
		{"repository not selected", "12", strings.Replace(askRepo, "widgets", "gadgets", 1), 422,
			"There is at least one repository that does not exist or is not accessible to the parent installation."},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			gh := startApp(t)
			gh.PutApp(github.App{ID: 5678, ClientID: "Iv23liOther",
				Installations: []github.Installation{{ID: 21, Owner: "acme"}}})
			path := "/app/installations/" + test.installation + "/access_tokens"
			resp, body := gh.do(t, gh.call(t, "POST", path, test.ask, newJWT(t)))
			wantRefusal(t, resp, body, test.status, test.message)
			gh.wantNoViolations(t)
		})
	}
}

func TestCallOfAnAppThatBreaksAPromiseIsAViolation(t *testing.T) {
	t.Parallel()
	const find, create = "/orgs/acme/installation", "/app/installations/11/access_tokens"
	ask := func(body string) func(*http.Request) {
		return func(r *http.Request) {
			r.Body, r.ContentLength = io.NopCloser(strings.NewReader(body)), int64(len(body))
		}
	}
	for _, test := range []struct {
		name, path string
		change     func(*http.Request)
	}{
		{"token not narrowed", create, ask("{}")},
		{"token asked without a body", create, ask("")},
		{"token with no permission", create, ask(`{"permissions":{}}`)},
		{"token with two permissions", create,
			ask(`{"permissions":{"organization_self_hosted_runners":"write","administration":"write"}}`)},
		{"token with another permission", create, ask(`{"permissions":{"contents":"write"}}`)},
		{"token with permission to read", create, ask(`{"permissions":{"organization_self_hosted_runners":"read"}}`)},
		{"organization's token with a repository", create,
			ask(`{"permissions":{"organization_self_hosted_runners":"write"},"repositories":["widgets"]}`)},
		{"repository's token for all repositories", create, ask(`{"permissions":{"administration":"write"}}`)},
		{"repository's token for no repository", create,
			ask(`{"permissions":{"administration":"write"},"repositories":[]}`)},
		{"repository's token for two repositories", create,
			ask(`{"permissions":{"administration":"write"},"repositories":["widgets","gadgets"]}`)},
		{"repository by ID", create, ask(`{"permissions":{"administration":"write"},"repository_ids":[1]}`)},
		{"unknown field", create, ask(strings.Replace(askOrg, "{", `{"a":1,`, 1))},
		{"body that is no JSON", create, ask("permissions")},
		{"body of no type", create, func(r *http.Request) { r.Header.Del("Content-Type") }},
		{"installation that is no number", "/app/installations/acme/access_tokens", ask(askOrg)},
		{"search with a body", find, func(r *http.Request) { ask("{}")(r) }},
		{"search with a type", find, func(r *http.Request) { r.Header.Set("Content-Type", "application/json") }},
		{"search in upper case", "/orgs/Acme/installation", func(*http.Request) {}},
		{"search by user", "/users/acme/installation", func(*http.Request) {}},
		{"enterprise of a GitHub Enterprise Server", "/api/v3/enterprises/acme/installation", func(*http.Request) {}},
		{"JWT without jti", find, func(r *http.Request) {
			c := claims()
			delete(c, "jti")
			r.Header.Set("Authorization", "Bearer "+sign(t, jwt.SigningMethodRS256, newKeys()[0], c))
		}},
		{"token asked by a JWT without jti", create, func(r *http.Request) {
			c := claims()
			delete(c, "jti")
			r.Header.Set("Authorization", "Bearer "+sign(t, jwt.SigningMethodRS256, newKeys()[0], c))
		}},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			gh := startApp(t)
			r := gh.call(t, "GET", test.path, "", newJWT(t))
			if strings.HasSuffix(test.path, "access_tokens") {
				r = gh.call(t, "POST", test.path, askOrg, newJWT(t))
			}
			test.change(r)
			token, _ := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
			resp, _ := gh.do(t, r)
			v := gh.Violations()
			if resp.StatusCode != 599 || len(v) != 1 {
				t.Errorf("%s, violations %q, want 599 and one", resp.Status, v)
			}
			if strings.Contains(strings.Join(v, ""), token) {
				t.Error("the violation has the JWT")
			}
		})
	}
}

func TestInstallationTokenIsGoodForItsTargetAlone(t *testing.T) {
	t.Parallel()
	const (
		other = "Resource not accessible by integration"
		bad   = "Bad credentials"
	)
	acme := func(change func(*github.Installation)) func(*github.Server) {
		return func(gh *github.Server) {
			app := newApp()
			change(&app.Installations[0])
			gh.PutApp(app)
		}
	}
	nothing := func(*github.Server) {}
	for _, test := range []struct {
		name, ask, path string
		meanwhile       func(*github.Server)
		status          int
		message         string
	}{
		{"organization", askOrg, org, nothing, 201, ""},
		{"another organization", askOrg, strings.Replace(org, "acme", "globex", 1), nothing, 403, other},
		{"repository with an organization's token", askOrg, repo, nothing, 403, other},
		{"enterprise", askOrg, "/enterprises/acme/actions/runners/registration-token", nothing, 403, other},
		{"repository", askRepo, repo, nothing, 201, ""},
		{"another repository", askRepo, strings.Replace(repo, "widgets", "gadgets", 1), nothing, 403, other},
		{"a repository of that name elsewhere", askRepo, strings.Replace(repo, "acme", "globex", 1), nothing, 403, other},
		{"organization with a repository's token", askRepo, org, nothing, 403, other},
		{"permission withdrawn", askOrg, org, acme(func(i *github.Installation) { delete(i.Permissions, orgPermission) }),
			403, other},
		{"repository no longer selected", askRepo, repo,
			acme(func(i *github.Installation) { i.Repositories = []string{"gadgets"} }), 403, other},
		{"suspended", askOrg, org, acme(func(i *github.Installation) { i.Suspended = true }), 401, bad},
		{"deleted", askOrg, org, acme(func(i *github.Installation) { i.ID = 99 }), 401, bad},
		{"revoked", askOrg, org, (*github.Server).RevokeInstallationTokens, 401, bad},
		{"target gone", askOrg, org, func(gh *github.Server) { gh.Restrict("orgs/globex") }, 404, "Not Found"},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			gh := startApp(t)
			token := gh.newToken(t, "11", test.ask)
			test.meanwhile(gh.Server)
			resp, body := gh.do(t, gh.call(t, "POST", test.path, "", token))
			wantRefusal(t, resp, body, test.status, test.message)
			gh.wantNoViolations(t)
		})
	}
	t.Run("expired", func(t *testing.T) {
		t.Parallel()
		gh := startApp(t)
		gh.OnRequest(func(r *http.Request) *github.Answer {
			if strings.HasSuffix(r.URL.Path, "/access_tokens") {
				return &github.Answer{Life: -time.Second}
			}
			return nil
		})
		resp, body := gh.do(t, gh.call(t, "POST", org, "", gh.newToken(t, "11", askOrg)))
		wantRefusal(t, resp, body, 401, bad)
	})
	t.Run("not a JWT's", func(t *testing.T) {
		t.Parallel()
		gh := startApp(t)
		resp, body := gh.do(t, gh.call(t, "POST", org, "", newJWT(t)))
		wantRefusal(t, resp, body, 401, bad)
	})
	t.Run("a PAT's as before", func(t *testing.T) {
		t.Parallel()
		gh := startApp(t)
		if resp, body := gh.do(t, gh.request(t, org)); resp.StatusCode != 201 {
			t.Errorf("%s %s", resp.Status, body)
		}
	})
}

func TestPutAppCopies(t *testing.T) {
	t.Parallel()
	gh := start(t)
	app := newApp()
	app.Installations[1].Permissions[orgPermission] = "write"
	gh.PutApp(app)
	app.Installations[0].Suspended = true
	app.Installations[1].Repositories[0] = "gadgets"
	delete(app.Installations[1].Permissions, orgPermission)
	gh.newToken(t, "11", askOrg)
	gh.newToken(t, "12", askOrg)
	gh.newToken(t, "12", askRepo)
}

func TestAnswersToAppsCanBeChanged(t *testing.T) {
	t.Parallel()
	gh := startApp(t)
	for _, test := range []struct {
		name   string
		answer github.Answer
		ok     bool // something arrives
		status int
	}{
		{"refused", *github.Refusal(503, "Unavailable"), true, 503},
		{"reset", github.Answer{Fault: network.Reset}, false, 0},
		{"without a token", github.Answer{Status: 201, Body: "{}"}, true, 599},
		{"without a token, meant so", github.Answer{Status: 201, Body: "{}", Broken: true}, true, 201},
	} {
		t.Run(test.name, func(t *testing.T) {
			seen := make(chan string, 1)
			gh.OnRequest(func(r *http.Request) *github.Answer {
				body, _ := io.ReadAll(r.Body)
				seen <- string(body)
				return &test.answer
			})
			path := "/app/installations/11/access_tokens"
			resp, err := gh.client.Do(gh.call(t, "POST", path, askOrg, newJWT(t)))
			if (err == nil) != test.ok || test.ok && resp.StatusCode != test.status {
				t.Errorf("%v %v, want %d", resp, err, test.status)
			}
			if err == nil {
				resp.Body.Close()
			}
			if body := <-seen; body != askOrg {
				t.Errorf("the hook saw the body %q", body)
			}
		})
	}
}

func TestConcurrentUseByApps(t *testing.T) {
	t.Parallel()
	gh := startApp(t)
	var wg sync.WaitGroup
	for range 8 {
		create := gh.call(t, "POST", "/app/installations/11/access_tokens", askRepo, newJWT(t))
		find := gh.call(t, "GET", "/orgs/acme/installation", "", newJWT(t))
		use := gh.call(t, "POST", org, "", gh.newToken(t, "11", askOrg))
		wg.Go(func() { gh.PutApp(newApp()) })
		wg.Go(gh.RevokeInstallationTokens)
		for _, r := range []*http.Request{create, find, use} {
			wg.Go(func() {
				if resp, err := gh.client.Do(r); err != nil {
					t.Error(err)
				} else {
					resp.Body.Close()
				}
			})
		}
	}
	wg.Wait()
	gh.wantNoViolations(t)
}
