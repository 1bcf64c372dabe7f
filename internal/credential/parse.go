// Package credential knows what the secret holds, and which of its values GitHub has rejected. It does not know where
// the secret is stored, and makes no call to GitHub.
package credential

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"

	"runner-token-broker/internal/runner"
	"runner-token-broker/internal/secret"
)

// prefixes are how GitHub's tokens begin that may be stored here: personal access tokens, classic and fine-grained.
// (https://docs.github.com/authentication/keeping-your-account-and-data-secure/about-authentication-to-github)
var prefixes = []string{"ghp_", "github_pat_"}

var malformed = runner.Cause{Name: "secret-malformed", Code: runner.CredentialMissing}

// Parse returns the PAT that the secret holds: as plain text, or in one of the JSON layouts that people use. It takes
// off white space and a byte order mark. Its errors are *runner.Error and quote nothing of the secret.
func Parse(held secret.Value) (secret.Value, error) {
	token := trim(held.Reveal())
	if strings.HasPrefix(token, "{") {
		var err error
		if token, err = parseObject(token); err != nil {
			return secret.Value{}, malformed.Refuse("the secret %w", err)
		}
	}
	if err := check(token); err != nil {
		return secret.Value{}, malformed.Refuse("the secret %w", err)
	}
	return secret.New(token), nil
}

func trim(s string) string {
	return strings.TrimSpace(strings.TrimPrefix(strings.TrimSpace(s), "\ufeff"))
}

// parseObject returns the token in an object: {"token":"..."}; AWS's own layout for GitHub, as CodeBuild makes it; or
// the one value of several strings that begins as GitHub's tokens do.
func parseObject(text string) (string, error) {
	// A map, since a struct's field would take any case: "Token" is another name.
	var object map[string]json.RawMessage
	if json.Unmarshal([]byte(text), &object) != nil {
		return "", errors.New("is neither a token nor JSON: store the token alone, or as {\"token\":\"...\"}")
	}
	if value, ok := object["token"]; ok {
		return stringOf(value, "token")
	}
	if is(object["ServerType"], "GITHUB") && is(object["AuthType"], "PERSONAL_ACCESS_TOKEN") {
		return stringOf(object["Token"], "Token")
	}
	var found []string
	for _, value := range object {
		var s string
		if json.Unmarshal(value, &s) != nil {
			return "", errNoToken
		}
		if s = trim(s); looksLikePAT(s) {
			found = append(found, s)
		}
	}
	if len(found) != 1 {
		return "", errNoToken
	}
	return found[0], nil
}

var errNoToken = errors.New(`is JSON without a string "token", and without exactly one value that begins as GitHub's ` +
	`personal access tokens do: store the token alone, or as {"token":"..."}`)

func stringOf(value json.RawMessage, name string) (string, error) {
	var s string
	if json.Unmarshal(value, &s) != nil {
		return "", fmt.Errorf("is JSON without a string %q: store the token alone, or as {\"token\":\"...\"}", name)
	}
	return trim(s), nil
}

func is(value json.RawMessage, want string) bool {
	var s string
	return json.Unmarshal(value, &s) == nil && s == want
}

func looksLikePAT(s string) bool {
	return slices.ContainsFunc(prefixes, func(p string) bool { return strings.HasPrefix(s, p) })
}

// check says why a value cannot be sent as a bearer token (RFC 6750, section 2.1). It names the first character that is
// wrong, which is no part of a token, and its position.
func check(token string) error {
	switch {
	case strings.Trim(token, "=") == "":
		return errors.New("is empty: put a token into it")
	case strings.HasPrefix(token, "-----BEGIN"):
		return errors.New("is a private key: store a personal access token")
	}
	position, padding := 0, false
	for _, r := range token {
		position++
		switch {
		case r == '=':
			padding = true
		case padding:
			return errors.New(`has "=" before its end, as in NAME=VALUE: store the value alone`)
		case !isOfToken(r):
			return fmt.Errorf("has a character that no token has, %U at position %d: "+
				"store the token alone, without quotes", r, position)
		}
	}
	return nil
}

func isOfToken(r rune) bool {
	return 'a' <= r && r <= 'z' || 'A' <= r && r <= 'Z' || '0' <= r && r <= '9' || strings.ContainsRune("-._~+/", r)
}
