package main

import (
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"maps"
	mathrand "math/rand/v2"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/kms/types"

	"runner-token-broker/internal/local/github"
	"runner-token-broker/internal/local/kms"
	"runner-token-broker/internal/local/lambda"
	"runner-token-broker/internal/local/network"
	"runner-token-broker/internal/secret"
)

// appKey is one for all tests: making one takes long.
var appKey = sync.OnceValue(func() *rsa.PrivateKey {
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		panic(err)
	}
	return key
})

func appPEM() string {
	return string(pem.EncodeToMemory(&pem.Block{
		Type: "RSA PRIVATE KEY", Bytes: x509.MarshalPKCS1PrivateKey(appKey()),
	}))
}

// anApp is installed at acme, and may make tokens for the organization and its repositories.
func anApp(change func(*github.App)) github.App {
	app := github.App{ID: 123, ClientID: "Iv23liAbC", Keys: []*rsa.PublicKey{&appKey().PublicKey},
		Installations: []github.Installation{{ID: 7, Owner: "acme", Permissions: map[string]string{
			"organization_self_hosted_runners": "write", "administration": "write",
		}}}}
	if change != nil {
		change(&app)
	}
	return app
}

// hold puts a credential of the fields into the secret.
func (s *stack) hold(fields map[string]any) {
	s.Helper()
	text, err := json.Marshal(fields)
	if err != nil {
		s.Fatal(err)
	}
	s.secrets.Put("github-pat", secret.New(string(text)))
}

// startApp starts the function with an App's key in the secret. At its end no part of the key may have been printed.
func startApp(t *testing.T, fields map[string]any, options ...func(*lambda.Function)) *stack {
	t.Helper()
	s := start(t, nil, options...)
	s.pats = append(s.pats, strings.Split(appPEM(), "\n")[1:5]...)
	s.github.PutApp(anApp(nil))
	all := map[string]any{"client_id": "Iv23liAbC", "private_key": appPEM()}
	maps.Copy(all, fields)
	maps.DeleteFunc(all, func(_ string, value any) bool { return value == nil })
	s.hold(all)
	return s
}

func TestAGitHubAppMakesTokens(t *testing.T) {
	t.Parallel()
	for name, fields := range map[string]map[string]any{
		"by client id":    {},
		"by app id":       {"client_id": nil, "app_id": 123},
		"installation":    {"installation_id": 7},
		"\\n written out": {"private_key": strings.ReplaceAll(appPEM(), "\n", `\n`)},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := startApp(t, fields)
			if r := s.post("orgs/acme"); r.StatusCode != 201 || r.line["credential"] != "app" {
				t.Errorf("%+v", r)
			}
			calls := 3 // installation, its token, the runner's
			if fields["installation_id"] != nil {
				calls--
			}
			if n := len(s.github.Requests()); n != calls {
				t.Errorf("%d calls, want %d", n, calls)
			}
			r := s.direct("repos/acme/widgets", `"kind":"remove-token"`)
			if r.Token == "" || len(s.github.Requests()) != calls+2 {
				t.Errorf("%+v, %d calls", r, len(s.github.Requests()))
			}
			if r := s.direct("repos/acme/widgets"); r.Token == "" || len(s.github.Requests()) != calls+3 { // its token is cached
				t.Errorf("%+v, %d calls", r, len(s.github.Requests()))
			}
		})
	}
}

func TestWhatKeepsAnAppFromMakingTokens(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name   string
		app    func(*github.App)
		fields map[string]any
		target string
		status int
		code   string
		cause  string
	}{
		{name: "not installed", app: func(a *github.App) { a.Installations = nil },
			status: 404, code: "TargetNotFound", cause: "app-not-installed"},
		{name: "wrong installation", fields: map[string]any{"installation_id": 8},
			status: 404, code: "TargetNotFound", cause: "app-not-installed"},
		{name: "suspended", app: func(a *github.App) { a.Installations[0].Suspended = true },
			status: 502, code: "CredentialForbidden", cause: "app-suspended"},
		{name: "permission not accepted", app: func(a *github.App) {
			a.Installations[0].Permissions = map[string]string{"administration": "write"}
		}, status: 502, code: "CredentialForbidden", cause: "not-approved"},
		{name: "repository not chosen", app: func(a *github.App) { a.Installations[0].Repositories = []string{"gears"} },
			target: "repos/acme/widgets", status: 404, code: "TargetNotFound", cause: "app-not-installed"},
		{name: "repository not chosen, installation given", fields: map[string]any{"installation_id": 7},
			app:    func(a *github.App) { a.Installations[0].Repositories = []string{"gears"} },
			target: "repos/acme/widgets", status: 404, code: "TargetNotFound", cause: "app-without-repository"},
		{name: "another key", app: func(a *github.App) { a.Keys = nil },
			status: 502, code: "CredentialRejected", cause: "app-key-rejected"},
		{name: "unknown App", fields: map[string]any{"client_id": "Iv23other"},
			status: 502, code: "CredentialRejected", cause: "app-key-rejected"},
		{name: "enterprise", target: "enterprises/acme-corp",
			status: 502, code: "CredentialForbidden", cause: "app-and-enterprise"},
		{name: "truncated key", fields: map[string]any{"private_key": appPEM()[:500]},
			status: 500, code: "CredentialMissing", cause: "secret-malformed"},
		{name: "PAT and App", fields: map[string]any{"token": "ghp_thisMustNotBeSeen0"},
			status: 500, code: "CredentialMissing", cause: "secret-malformed"},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			s := startApp(t, test.fields)
			s.github.PutApp(anApp(test.app))
			target := test.target
			if target == "" {
				target = "orgs/acme"
			}
			r := s.post(target)
			if r.StatusCode != test.status || r.Code != test.code || r.line["cause"] != test.cause {
				t.Errorf("%+v, want %d %s, %s", r, test.status, test.code, test.cause)
			}
			calls := len(s.github.Requests())
			if again := s.direct(target); again.ErrorType != test.code || len(s.github.Requests()) != calls {
				t.Errorf("%+v after %d more calls: a refusal is remembered", again, len(s.github.Requests())-calls)
			}
		})
	}
}

func TestARevokedInstallationTokenIsMadeAnewOnce(t *testing.T) {
	t.Parallel()
	s := startApp(t, nil)
	s.post("orgs/acme")
	s.github.RevokeInstallationTokens()
	if r := s.direct("orgs/acme", `"kind":"remove-token"`); r.Token == "" || s.secrets.Reads() != 1 {
		t.Errorf("%+v after %d reads", r, s.secrets.Reads())
	}
}

// What the owner of one organization does is no trouble of the others with the same App.
func TestASuspendedInstallationIsOneOwnersTrouble(t *testing.T) {
	t.Parallel()
	s := startApp(t, nil, func(f *lambda.Function) {
		f.Env["ALLOWED_TARGETS"], f.Env["TOKEN_MIN_LIFE"] = "orgs/acme orgs/other", "1h"
	})
	two := func(suspended bool) github.App {
		return anApp(func(a *github.App) {
			other := a.Installations[0]
			other.ID, other.Owner = 8, "other"
			a.Installations[0].Suspended = suspended
			a.Installations = append(a.Installations, other)
		})
	}
	s.github.PutApp(two(false))
	s.post("orgs/acme")
	s.github.PutApp(two(true))
	if r := s.post("orgs/acme"); r.Code != "CredentialForbidden" || r.line["cause"] != "app-suspended" {
		t.Errorf("%+v", r)
	}
	if r := s.post("orgs/other"); r.StatusCode != 201 {
		t.Errorf("%+v", r)
	}
}

// startKMS starts the function with an App whose key is in KMS under alias/github-app.
func startKMS(t *testing.T, key kms.Key) (*stack, *kms.Server) {
	t.Helper()
	var server *kms.Server
	s := startApp(t, map[string]any{"private_key": nil, "kms_key_id": "alias/github-app"}, func(f *lambda.Function) {
		server = kms.New("us-east-1", aws.Credentials(f.Credentials))
		srv := httptest.NewServer(server)
		t.Cleanup(srv.Close)
		f.Env["AWS_ENDPOINT_URL_KMS"] = srv.URL
	})
	server.Put("alias/github-app", key)
	return s, server
}

func TestAGitHubAppWhoseKeyNobodyCanRead(t *testing.T) {
	t.Parallel()
	s, server := startKMS(t, kms.Key{Private: appKey()})
	if r := s.post("orgs/acme"); r.StatusCode != 201 || r.line["credential"] != "app" {
		t.Errorf("%+v", r)
	}
	s.direct("orgs/acme", `"kind":"remove-token"`)
	if n := server.Signs(); n != 2 {
		t.Errorf("%d signatures, want one for each of the App's own calls", n)
	}
}

func TestWhatKeepsKMSFromSigning(t *testing.T) {
	t.Parallel()
	small, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		name   string
		key    kms.Key
		answer *kms.Answer
		status int
		code   string
		cause  string
	}{
		{name: "denied", answer: &kms.AccessDenied, status: 500, code: "CredentialMissing", cause: "kms-denied"},
		{
			name: "disabled", key: kms.Key{State: types.KeyStateDisabled}, status: 500, code: "CredentialMissing",
			cause: "kms-key-disabled",
		},
		{name: "expired material", key: kms.Key{State: types.KeyStatePendingImport},
			status: 500, code: "CredentialMissing", cause: "kms-key-unusable"},
		{name: "for encryption", key: kms.Key{Usage: types.KeyUsageTypeEncryptDecrypt},
			status: 500, code: "CredentialMissing", cause: "kms-key-wrong-kind"},
		{name: "throttled", answer: &kms.Throttled, status: 503, code: "Unavailable", cause: "kms-unavailable"},
		{name: "down", answer: &kms.Down, status: 503, code: "Unavailable", cause: "kms-unavailable"},
		{name: "a middlebox's 403", answer: &kms.Answer{Status: 403}, status: 503, code: "Unavailable", cause: "not-kms"},
		{name: "cut off", answer: &kms.Answer{Fault: network.Truncate}, status: 503, code: "Unavailable", cause: "network"},
		{
			name: "not the App's", key: kms.Key{Private: small}, status: 502, code: "CredentialRejected",
			cause: "app-key-rejected",
		},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			if test.key.Private == nil {
				test.key.Private = appKey()
			}
			s, server := startKMS(t, test.key)
			server.OnSign(func(string) *kms.Answer { return test.answer })
			if r := s.post("orgs/acme"); r.StatusCode != test.status || r.Code != test.code || r.line["cause"] != test.cause {
				t.Errorf("%+v, want %d %s, %s", r, test.status, test.code, test.cause)
			}
		})
	}
}

func TestSeveralCredentialsInOneSecret(t *testing.T) {
	t.Parallel()
	s := startApp(t, nil)
	pat := s.pats[0]
	s.hold(map[string]any{"credentials": []map[string]any{
		{"targets": []string{"repos/acme/widgets"}, "token": pat},
		{"targets": []string{"orgs/acme"}, "client_id": "Iv23liAbC", "private_key": appPEM()},
		{"targets": []string{"enterprises/*"}, "token": pat},
	}})
	for target, want := range map[string]string{
		"repos/acme/widgets": "pat 1", "enterprises/acme-corp": "pat 3", "orgs/acme": "app 2",
	} {
		if r := s.post(target); r.StatusCode != 201 || r.line["credential"] != want {
			t.Errorf("%s: %+v, want %s", target, r, want)
		}
	}
	if r := s.post("repos/acme/gears"); r.Code != "CredentialMissing" || r.line["cause"] != "no-credential-for-target" {
		t.Errorf("%+v", r)
	}
	// What fails is one account's trouble.
	s.github.OnRequest(func(r *http.Request) *github.Answer {
		if strings.Contains(r.URL.Path, "/repos/") {
			return github.Refusal(429, "slow down")
		}
		return nil
	})
	if r := s.direct("repos/acme/widgets", `"kind":"remove-token"`); r.ErrorType != "RateLimited" {
		t.Errorf("%+v", r)
	}
	r := s.direct("enterprises/acme-corp", `"kind":"remove-token"`)
	if r.ErrorType != "RateLimited" || r.line["credential"] != "pat 3" { // the same PAT
		t.Errorf("%+v", r)
	}
	if r := s.direct("orgs/acme", `"kind":"remove-token"`); r.Token == "" {
		t.Errorf("%+v", r)
	}
}

// For any order of requests, rotations, revocations, suspensions and failures: GitHub is asked for a runner's token
// with the credential alone that the target has been given to.
func TestNoTokenIsMadeWithTheCredentialOfAnother(t *testing.T) {
	t.Parallel()
	for seed := range uint64(4) {
		t.Run(fmt.Sprint("seed ", seed), func(t *testing.T) {
			t.Parallel()
			random := mathrand.New(mathrand.NewPCG(seed, 3))
			s := startApp(t, nil, func(f *lambda.Function) {
				f.Env["SECRET_TTL"], f.Env["TOKEN_MIN_LIFE"] = "1ns", "1h" // each request reads the secret and asks GitHub
			})
			s.pats = append(s.pats, "ghp_thisMustNotBeSeenA", "ghp_thisMustNotBeSeenB")
			a, b := secret.New("ghp_thisMustNotBeSeenA"), secret.New("ghp_thisMustNotBeSeenB")
			s.github.Rotate(a, b)
			const app = "" // in place of the digest of a PAT
			targets := []string{"orgs/acme", "repos/acme/widgets", "repos/acme/gears", "enterprises/acme-corp"}
			var given map[string]string
			give := func() {
				given = map[string]string{}
				var list []map[string]any
				for i, target := range targets {
					entry := map[string]any{"targets": []string{target}}
					switch who := random.IntN(3); {
					case who == 0 && i < 3:
						entry["client_id"], entry["private_key"] = "Iv23liAbC", appPEM()
						given[target] = app
					case who == 1:
						entry["token"], given[target] = a.Reveal(), a.SHA256()
					default:
						entry["token"], given[target] = b.Reveal(), b.SHA256()
					}
					list = append(list, entry)
				}
				s.hold(map[string]any{"credentials": list})
			}
			give()
			made := 0
			for range 60 {
				switch random.IntN(12) {
				case 0, 1, 2:
					give()
				case 3:
					s.github.RevokeInstallationTokens()
				case 4:
					suspended := random.IntN(2) == 0
					s.github.PutApp(anApp(func(a *github.App) { a.Installations[0].Suspended = suspended }))
				case 5:
					faults := []*github.Answer{nil, nil, nil, github.Refusal(500, "down"), github.Refusal(403, "no")}
					s.gitHubAnswers(faults[random.IntN(len(faults))])
				}
				before := len(s.github.Requests())
				target := targets[random.IntN(len(targets))]
				s.direct(target, []string{`"fresh":true`, `"kind":"remove-token"`}[random.IntN(2)])
				for _, r := range s.github.Requests()[before:] {
					if !strings.HasSuffix(r.Path, "-token") {
						continue // the App's own
					}
					made++
					good := r.Authorization == given[target]
					if given[target] == app {
						good = r.Installation == 7
					}
					if !good || !strings.HasPrefix(r.Path, "/"+target+"/") {
						t.Errorf("%s was asked for %s with another credential", r.Path, target)
					}
				}
			}
			if made < 15 {
				t.Errorf("only %d tokens were asked for", made)
			}
		})
	}
}

func TestAnotherKindOfCredentialIsPickedUp(t *testing.T) {
	t.Parallel()
	s := start(t, settings{"TOKEN_MIN_LIFE": "1h"})
	s.pats = append(s.pats, strings.Split(appPEM(), "\n")[1:5]...)
	s.post("orgs/acme")
	s.github.PutApp(anApp(nil))
	s.github.Rotate() // the PAT is revoked
	s.hold(map[string]any{"client_id": "Iv23liAbC", "private_key": appPEM()})
	if r := s.post("orgs/acme"); r.StatusCode != 201 || r.line["credential"] != "app" {
		t.Errorf("%+v", r)
	}
}

func TestSelfCheckThroughTheWholeFunction(t *testing.T) {
	t.Parallel()
	s := startApp(t, nil)
	s.github.PutApp(anApp(func(a *github.App) {
		a.Installations[0].Permissions = map[string]string{"administration": "write"}
	}))
	s.calls++
	result, err := s.lambda.Invoke(t.Context(), []byte(`{"check":true,"targets":["orgs/acme","repos/acme/widgets"]}`))
	if err != nil || result.FunctionError != "" {
		t.Fatalf("%s, %v", result.Payload, err)
	}
	for _, part := range append(s.pats, "ghs_") {
		if strings.Contains(string(result.Payload), part) {
			t.Errorf("%s is in the report", part)
		}
	}
	var report struct {
		Status   string
		Findings []struct{ Subject, Status, Code, Cause, Evidence, Remedy string }
	}
	if err := json.Unmarshal(result.Payload, &report); err != nil {
		t.Fatal(err)
	}
	statuses := map[string]string{}
	for _, f := range report.Findings {
		statuses[f.Subject] = f.Status
		if f.Subject == "orgs/acme" && (f.Code != "CredentialForbidden" || f.Cause != "not-approved" || f.Remedy == "") {
			t.Errorf("%+v", f)
		}
	}
	want := map[string]string{
		"settings": "ok", "secret": "ok", "orgs/acme": "failed", "repos/acme/widgets": "ok", "credential app": "ok",
		"quota of app": "ok", "clock": "ok",
	}
	if report.Status != "failed" || !maps.Equal(statuses, want) {
		t.Errorf("%s", result.Payload)
	}
}
