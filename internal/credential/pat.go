package credential

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"

	"runner-token-broker/internal/secret"
)

// prefixes are how GitHub's tokens begin that may be stored here: personal access tokens, classic and fine-grained.
// (https://docs.github.com/authentication/keeping-your-account-and-data-secure/about-authentication-to-github)
var prefixes = []string{"ghp_", "github_pat_"}

// parsePAT returns the PAT in a text, or in an object of JSON: in one of the layouts that people use.
func parsePAT(text string, object map[string]json.RawMessage) (secret.Value, error) {
	token := text
	if object != nil {
		var err error
		if token, err = findPAT(object); err != nil {
			return secret.Value{}, err
		}
	}
	if err := check(token); err != nil {
		return secret.Value{}, err
	}
	return secret.New(token), nil
}

func trim(s string) string {
	return strings.TrimSpace(strings.TrimPrefix(strings.TrimSpace(s), "\ufeff"))
}

// findPAT returns the token in an object: {"token":"..."}; AWS's own layout for GitHub, as CodeBuild makes it; or the
// one value of several strings that begins as GitHub's tokens do.
func findPAT(object map[string]json.RawMessage) (string, error) {
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
		return errors.New(`is a private key alone: store {"client_id":"...","private_key":"..."} for a GitHub App`)
	}
	position := 0
	padding := false
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
