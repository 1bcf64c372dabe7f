package github

import (
	"bytes"
	"crypto/rand"
	"crypto/rsa"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/golang-jwt/jwt/v5"

	"runner-token-broker/internal/runner"
	"runner-token-broker/internal/secret"
)

// App is a GitHub App and where it is installed.
type App struct {
	ID            int64
	ClientID      string
	Keys          []*rsa.PublicKey // several while one replaces another
	Installations []Installation
}

// Installation is an App's place in one organization.
type Installation struct {
	ID           int64
	Owner        string
	Permissions  map[string]string // those that the organization has accepted: {"administration": "write"}
	Repositories []string          // the names of those that it has selected; nil: all
	Suspended    bool
}

// PutApp makes the App what app says. An App of the same ID is replaced: what app no longer has was deleted, and tokens
// of it are no longer good.
func (s *Server) PutApp(app App) {
	app.Keys = slices.Clone(app.Keys)
	app.Installations = slices.Clone(app.Installations)
	for i := range app.Installations {
		installation := &app.Installations[i]
		installation.Permissions = maps.Collect(maps.All(installation.Permissions)) // not nil, which GitHub's never is
		installation.Repositories = slices.Clone(installation.Repositories)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.apps == nil {
		s.apps, s.grants, s.jtis = map[int64]App{}, map[string]grant{}, map[string]bool{}
	}
	s.apps[app.ID] = app
}

// RevokeInstallationTokens makes all tokens of installations so far bad.
func (s *Server) RevokeInstallationTokens() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for sha256, g := range s.grants { // they stay, so that Request still says whose they were
		g.expires = time.Time{}
		s.grants[sha256] = g
	}
}

// installation returns nil if no App has it. It needs s.mu.
func (s *Server) installation(id int64) *Installation {
	for _, app := range s.apps {
		if found := app.installation(id); found != nil {
			return found
		}
	}
	return nil
}

// installation returns nil if the App does not have it.
func (a *App) installation(id int64) *Installation {
	i := slices.IndexFunc(a.Installations, func(i Installation) bool { return i.ID == id })
	if i < 0 {
		return nil
	}
	return &a.Installations[i]
}

const (
	maxSkew = time.Minute // of a clock that is ahead of GitHub's
	maxLife = 10 * time.Minute
)

// parser leaves the claims to verify, which refuses them in GitHub's words.
var parser = jwt.NewParser(jwt.WithValidMethods([]string{"RS256"}), jwt.WithJSONNumber(), jwt.WithoutClaimsValidation())

func isJWT(token secret.Value) bool {
	_, _, err := parser.ParseUnverified(token.Reveal(), jwt.MapClaims{})
	return err == nil
}

// checkJWT says where the JWT of r is not what the service promises to send. GitHub demands no jti.
func checkJWT(r *http.Request) error {
	token, _ := bearerToken(r)
	claims := jwt.MapClaims{}
	if _, _, err := parser.ParseUnverified(token.Reveal(), claims); err == nil && claims["jti"] == nil {
		return errors.New("the JWT has no jti")
	}
	return nil
}

// verify finds the App whose JWT token is.
func (s *Server) verify(token secret.Value) (bearer, *Answer) {
	s.mu.Lock()
	defer s.mu.Unlock()
	claims := jwt.MapClaims{}
	var app *App
	_, err := parser.ParseWithClaims(token.Reveal(), claims, func(*jwt.Token) (any, error) {
		if app = s.issuer(claims); app == nil {
			return nil, errors.New("there is no such App")
		}
		var keys jwt.VerificationKeySet
		for _, key := range app.Keys {
			keys.Keys = append(keys.Keys, key)
		}
		return keys, nil
	})
	if err != nil {
		if errors.Is(err, jwt.ErrTokenUnverifiable) && app == nil && claims["iss"] != nil {
			return bearer{}, Refusal(http.StatusNotFound, "Integration not found")
		}
		return bearer{}, Refusal(http.StatusUnauthorized, "A JSON web token could not be decoded")
	}
	now := time.Now()
	if issued, err := claims.GetIssuedAt(); err != nil || issued == nil || issued.After(now.Add(maxSkew)) {
		return bearer{}, Refusal(http.StatusUnauthorized,
			"'Issued at' claim ('iat') must be an Integer representing the time that the assertion was issued")
	}
	expires, err := claims.GetExpirationTime()
	switch {
	case err != nil, expires == nil, !expires.After(now):
		return bearer{}, Refusal(http.StatusUnauthorized, "'Expiration time' claim ('exp') must be a numeric value "+
			"representing the future time at which the assertion expires")
	case expires.After(now.Add(maxLife)):
		return bearer{}, Refusal(http.StatusUnauthorized, "'Expiration time' claim ('exp') is too far in the future")
	}
	jti := fmt.Sprint(claims["jti"])
	if s.jtis[jti] {
		return bearer{}, Refusal(http.StatusNotFound, "Not Found")
	}
	s.jtis[jti] = true
	return bearer{app: app}, nil
}

// issuer returns the App that the claims name by its client ID or its ID. It needs s.mu.
func (s *Server) issuer(claims jwt.MapClaims) *App {
	issuer := fmt.Sprint(claims["iss"])
	for _, app := range s.apps {
		if issuer == app.ClientID || issuer == strconv.FormatInt(app.ID, 10) {
			return &app
		}
	}
	return nil
}

// at returns the installation that has the target, or nil.
func (a *App) at(target runner.Target) *Installation {
	for i := range a.Installations {
		if a.Installations[i].covers(target) {
			return &a.Installations[i]
		}
	}
	return nil
}

// split returns neither owner nor repository of an enterprise.
func split(target runner.Target) (owner, repository string) {
	switch scope, name, _ := strings.Cut(target.Path(), "/"); scope {
	case "orgs", "repos":
		owner, repository, _ = strings.Cut(name, "/")
	}
	return owner, repository
}

func (i Installation) covers(target runner.Target) bool {
	owner, repository := split(target)
	return i.Owner == owner && (repository == "" || i.has(repository))
}

func (i Installation) has(repository string) bool {
	return i.Repositories == nil || slices.Contains(i.Repositories, repository)
}

// asked is what a token of an installation shall be good for: one permission, and one repository or none.
type asked struct{ permission, repository string }

// parseAsked refuses what is not as narrow as the service promises.
func parseAsked(body []byte) (asked, error) {
	var input struct {
		Permissions  map[string]string `json:"permissions"`
		Repositories []string          `json:"repositories"`
	}
	decoder := json.NewDecoder(bytes.NewReader(body))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(&input); err != nil {
		return asked{}, fmt.Errorf("the body is not permissions and repositories alone: %w", err)
	}
	switch {
	case len(input.Permissions) != 1:
		return asked{}, fmt.Errorf("the token would have %d permissions, not one", len(input.Permissions))
	case input.Permissions[permissions["orgs"]] == "write" && input.Repositories == nil:
		return asked{permission: permissions["orgs"]}, nil
	case input.Permissions[permissions["repos"]] == "write" && len(input.Repositories) == 1:
		return asked{permissions["repos"], input.Repositories[0]}, nil
	}
	return asked{}, fmt.Errorf("%v on %d repositories is not what a runner's token needs", input.Permissions,
		len(input.Repositories))
}

// refuse says why a token of the installation cannot be made. nil: it can.
func (a *App) refuse(id int64, want asked) *Answer {
	installation := a.installation(id)
	switch {
	case installation == nil:
		return Refusal(http.StatusNotFound, "Not Found")
	case installation.Suspended:
		return Refusal(http.StatusForbidden, "This installation has been suspended")
	case want.repository != "" && !installation.has(want.repository):
		return Refusal(http.StatusUnprocessableEntity, "There is at least one repository that does not exist or is not "+
			"accessible to the parent installation.")
	case installation.Permissions[want.permission] != "write":
		return Refusal(http.StatusUnprocessableEntity,
			"The permissions requested are not granted to this installation.")
	}
	return nil
}

// grant is what the token of an installation is good for.
type grant struct {
	asked
	installation int64
	expires      time.Time
}

// fits reports whether a token with the grant can make runner tokens for the target. (The permission is the target's if
// the repository is: only a repository's token has one.)
func (g grant) fits(of Installation, target runner.Target) bool {
	_, repository := split(target)
	return g.repository == repository && of.Permissions[g.permission] == "write" && of.covers(target)
}

// createInstallationToken makes a token as GitHub has made them since 2026-04: ghs_, the App's ID, and a JWT.
func (s *Server) createInstallationToken(a *Answer, op operation, who bearer) (any, error) {
	body, err := op.example(http.StatusCreated)
	if err != nil {
		return nil, err
	}
	token := secret.New(fmt.Sprintf("ghs_%d_%s.%s.%s", who.app.ID, randomPart(27), randomPart(97), randomPart(256)))
	expires := a.end().UTC().Truncate(time.Second)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.tokens = append(s.tokens, token)
	s.grants[token.SHA256()] = grant{op.asked, op.installation, expires}

	body["token"] = token.Reveal()
	body["expires_at"] = expires.Format(time.RFC3339)
	body["permissions"] = map[string]string{op.asked.permission: "write"}
	if op.asked.repository == "" {
		delete(body, "repositories")
		body["repository_selection"] = "all"
		return body, nil
	}
	repository := body["repositories"].([]any)[0].(map[string]any)
	repository["name"] = op.asked.repository
	repository["full_name"] = who.app.installation(op.installation).Owner + "/" + op.asked.repository
	return body, nil
}

func randomPart(bytes int) string {
	b := make([]byte, bytes)
	rand.Read(b)
	return base64.RawURLEncoding.EncodeToString(b)
}

func describeInstallation(op operation, who bearer) (any, error) {
	body, err := op.example(http.StatusOK)
	if err != nil {
		return nil, err
	}
	installation := who.app.at(op.target)
	body["id"] = installation.ID
	body["app_id"] = who.app.ID
	body["client_id"] = who.app.ClientID
	body["account"].(map[string]any)["login"] = installation.Owner
	body["permissions"] = installation.Permissions
	body["repository_selection"] = "all"
	if installation.Repositories != nil {
		body["repository_selection"] = "selected"
	}
	if installation.Suspended {
		body["suspended_at"] = time.Now().UTC().Format(time.RFC3339)
		body["suspended_by"] = body["account"]
	}
	return body, nil
}
