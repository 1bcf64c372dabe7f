package github

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"

	"runner-token-broker/internal/runner"
	"runner-token-broker/internal/secret"
)

const appJWT = "eyJhbGciOi.eyJpc3MiOjEsImp0aSI6InRoaXNNdXN0Tm90QmVTZWVuIn0.thisMustNotBeSeen"

// installationBearer is as long as GitHub's are, with dots in it.
var installationBearer = "ghs_" + strings.Repeat("thisMustNotBeSeen.0123456789abcdefgh.", 14)

func aJWT(context.Context) (secret.Value, error) { return secret.New(appJWT), nil }

// appRefusals are answers to a GitHub App's own calls.
var appRefusals = []struct {
	name   string
	step   step
	status int
	body   string
	code   runner.Code
	cause  string
	says   string // to the operator
}{
	{name: "wrong key", step: findInstallation, status: 401, body: message("A JSON web token could not be decoded"),
		code: rejected, cause: "app-key-rejected", says: "client_id"},
	{name: "deleted App", step: installationToken, status: 401, body: message("Integration must generate a public key"),
		code: rejected, cause: "app-key-rejected"},
	{name: "unknown App", step: findInstallation, status: 404, body: message("Integration not found"),
		code: rejected, cause: "app-key-rejected"},
	{name: "expiry too far", step: findInstallation, status: 401,
		body: message("'Expiration time' claim ('exp') is too far in the future"), code: rejected, cause: "clock"},
	{name: "issued in the future", step: installationToken, status: 401,
		body: message("'Issued at' claim ('iat') must be an Integer representing the time that the assertion was issued"),
		code: rejected, cause: "clock"},
	{name: "not installed", step: findInstallation, status: 404, body: message("Not Found"), code: notFound,
		cause: "app-not-installed", says: "install the App"},
	{name: "uninstalled", step: installationToken, status: 404, body: message("Not Found"), code: notFound,
		cause: "app-not-installed", says: "installation_id"},
	{name: "suspended", step: installationToken, status: 403, body: message("This installation has been suspended"),
		code: forbidden, cause: "app-suspended", says: "unsuspend"},
	{name: "permission missing", step: installationToken, status: 422,
		body: message("The permissions requested are not granted to this installation."), code: forbidden,
		cause: "not-approved", says: `the App needs the organization permission "Self-hosted runners: write"`},
	{name: "repository not chosen", step: installationToken, status: 422, body: message("There is at least one " +
		"repository that does not exist or is not accessible to the parent installation."), code: notFound,
		cause: "app-without-repository"},
	{name: "IP allow list", step: installationToken, status: 403,
		body: message("the `acme` organization has an IP allow list enabled"), code: forbidden, cause: "ip-allow-list"},
	{
		name: "limited", step: findInstallation, status: 403, body: message("API rate limit exceeded"), code: limited,
		cause: "secondary-limit",
	},

	// A token's for the runner, with the installation's.
	{name: "suspended since", step: runnerToken, status: 403, body: message("This installation has been suspended"),
		code: forbidden, cause: "app-suspended", says: "unsuspend"},
	{name: "uninstalled since", step: runnerToken, status: 401, body: message("Bad credentials"), code: rejected,
		cause: "installation-token-rejected", says: "uninstalled"},
	{name: "permission withdrawn", step: runnerToken, status: 403, body: message("Resource not accessible by integration"),
		code: forbidden, cause: "not-approved", says: "the App needs the organization permission"},
	{name: "its token echoed", step: runnerToken, status: 403, body: message(installationBearer + " is no good"),
		code: forbidden, cause: "forbidden", says: "[redacted]"},

	{name: "down", step: installationToken, status: 500, code: down, cause: "github-unavailable"},
	{
		name: "no number", step: findInstallation, status: 200, body: `{"id":"x"}`, code: down, cause: "no-token",
		says: "no installation",
	},
	{name: "no token", step: installationToken, status: 201, body: `{}`, code: down, cause: "no-token", says: "no token"},
}

func TestRefusalsOfAnAppsCallsAreClassified(t *testing.T) {
	t.Parallel()
	for _, test := range appRefusals {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			c := newClient(t, answerer(test.status, test.body, "X-GitHub-Request-Id", "AB:CD"), "", "2022-11-28")
			target := request(t, "orgs/acme", runner.RegistrationToken).Target
			var err error
			switch test.step {
			case runnerToken:
				_, err = c.Create(t.Context(), secret.New(installationBearer), runner.Request{
					Target: target, Kind: runner.RegistrationToken,
				})
			case findInstallation:
				_, err = c.FindInstallation(t.Context(), aJWT, target)
			case installationToken:
				_, _, err = c.CreateInstallationToken(t.Context(), aJWT, 7, target)
			}
			e := runner.AsError(err)
			if err == nil || e.Code != test.code || e.Cause != test.cause || !strings.Contains(e.Error(), test.says) {
				t.Errorf("%v, cause %q; want %s, %q, %q", err, e.Cause, test.code, test.cause, test.says)
			}
			if strings.Contains(e.Error(), "MustNotBeSeen") {
				t.Errorf("the JWT or the token is in %v", e)
			}
		})
	}
}

func TestAnInstallationTokenIsNarrowedToItsTarget(t *testing.T) {
	t.Parallel()
	for target, want := range map[string]string{
		"orgs/acme":          `{"permissions":{"organization_self_hosted_runners":"write"}}`,
		"repos/acme/widgets": `{"permissions":{"administration":"write"},"repositories":["widgets"]}`,
	} {
		t.Run(target, func(t *testing.T) {
			t.Parallel()
			var path, authorization string
			var body json.RawMessage
			srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				path, authorization = r.Method+" "+r.URL.Path, r.Header.Get("Authorization")
				json.NewDecoder(r.Body).Decode(&body)
				w.WriteHeader(http.StatusCreated)
				io.WriteString(w, `{"token":"ghs_x","expires_at":"2099-01-01T00:00:00Z"}`)
			}))
			t.Cleanup(srv.Close)
			c := clientFor(t, srv.URL+"/api/v3", "2022-11-28", NewTransport(nil))
			parsed := request(t, target, runner.RemoveToken).Target
			token, expires, err := c.CreateInstallationToken(t.Context(), aJWT, 7, parsed)
			if err != nil || token.Reveal() != "ghs_x" || expires.Year() != 2099 {
				t.Errorf("%s, %v, %v", token.Reveal(), expires, err)
			}
			if path != "POST /api/v3/app/installations/7/access_tokens" || authorization != "Bearer "+appJWT ||
				string(body) != want {
				t.Errorf("sent %s, %s, %s", path, authorization, body)
			}
		})
	}
}

// GitHub answers 404 to a JWT that it has seen.
func TestEachTryOfAnAppsHasAJWTOfItsOwn(t *testing.T) {
	t.Parallel()
	var seen []string
	c := newClient(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		seen = append(seen, r.Header.Get("Authorization"))
		w.WriteHeader(http.StatusBadGateway)
	}), "", "2022-11-28")
	made := 0
	jwt := func(context.Context) (secret.Value, error) {
		made++
		return secret.New(fmt.Sprint("jwt-", made)), nil
	}
	c.FindInstallation(t.Context(), jwt, request(t, "orgs/acme", runner.RegistrationToken).Target)
	if want := []string{"Bearer jwt-1", "Bearer jwt-2", "Bearer jwt-3"}; !slices.Equal(seen, want) {
		t.Errorf("sent %q, want %q", seen, want)
	}
}
