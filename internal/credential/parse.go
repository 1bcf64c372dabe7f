// Package credential knows what the secret holds, and which of its values GitHub has rejected. It does not know where
// the secret is stored, nor how GitHub is called.
package credential

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"runner-token-broker/internal/runner"
	"runner-token-broker/internal/secret"
)

var malformed = runner.Cause{Name: "secret-malformed", Code: runner.CredentialMissing}

// Entry is one credential of the secret, with the targets that it is for.
type Entry struct {
	name    string          // for the log: "pat" or "app", with its number where there are several
	targets []runner.Policy // one for each of its targets; nil: all
	id      string          // tells it from others; not secret

	// One of the three.
	pat secret.Value
	app *key
	err *runner.Error // it is malformed, which is no trouble of the others
}

// serves reports whether the entry is for the target.
func (e Entry) serves(t runner.Target) bool {
	return e.targets == nil || slices.ContainsFunc(e.targets, func(p runner.Policy) bool { return p.Allows(t) })
}

// at tells an App's installation at the target's owner from its others.
func (e Entry) at(t runner.Target) string { return e.id + " at " + t.Owner() }

// Parse returns the credentials that the secret holds: one PAT or GitHub App, or a list. White space and a byte order
// mark around it are taken off. Its errors are *runner.Error, name the field and its place, and quote nothing of the
// secret.
func Parse(held secret.Value) ([]Entry, error) {
	entries, err := parse(trim(held.Reveal()))
	if err != nil {
		return nil, malformed.Refuse("the secret %w", err)
	}
	return entries, nil
}

func parse(text string) ([]Entry, error) {
	if !strings.HasPrefix(text, "{") {
		e, err := parseEntry(text, nil)
		return []Entry{e}, err
	}
	// A map, since a struct's field would take any case: "Token" is another name.
	var object map[string]json.RawMessage
	if json.Unmarshal([]byte(text), &object) != nil {
		return nil, errors.New(`is neither a token nor JSON: store the token alone, or as {"token":"..."}`)
	}
	if list, ok := object["credentials"]; ok {
		if len(object) > 1 {
			return nil, errors.New(`has other fields beside "credentials"`)
		}
		return parseList(list)
	}
	e, err := parseEntry("", object)
	return []Entry{e}, err
}

func parseList(text json.RawMessage) ([]Entry, error) {
	var list []map[string]json.RawMessage
	if json.Unmarshal(text, &list) != nil {
		return nil, errors.New(`has "credentials" that are not a list of objects`)
	}
	if len(list) == 0 {
		return nil, errors.New(`has an empty list of "credentials"`)
	}
	var entries []Entry
	for i, object := range list {
		e, err := parseListed(object, entries)
		if err != nil {
			return nil, fmt.Errorf("in number %d of its credentials %w", i+1, err)
		}
		entries = append(entries, e)
	}
	return entries, nil
}

func parseListed(object map[string]json.RawMessage, before []Entry) (Entry, error) {
	for _, name := range slices.Sorted(maps.Keys(object)) {
		if !slices.Contains(append([]string{"targets", "token", "ServerType", "AuthType", "Token"}, appFields...), name) {
			return Entry{}, errors.New("has an unknown field; there are targets, token and the fields of an App")
		}
	}
	var targets []string
	if json.Unmarshal(object["targets"], &targets) != nil || len(targets) == 0 {
		return Entry{}, errors.New(`has no list "targets", or an empty one`)
	}
	delete(object, "targets")
	number := len(before) + 1
	e, err := parseEntry("", object)
	e.name += fmt.Sprintf(" %d", number)
	if err != nil {
		e.err = malformed.Refuse("number %d of the secret's credentials %w", number, err)
		e.err.Credential = e.name
	}
	for i, target := range targets {
		policy, err := runner.ParsePolicy(target)
		switch {
		case err != nil || len(strings.Fields(target)) != 1 || strings.Contains(target, ","):
			return Entry{}, fmt.Errorf("has a malformed target, number %d: "+
				"write orgs/ORG, repos/OWNER/REPO, repos/OWNER/* or the like, in lower case", i+1)
		case slices.ContainsFunc(append(before, e), func(other Entry) bool {
			return slices.ContainsFunc(other.targets, func(p runner.Policy) bool { return p.Covers(policy) })
		}):
			return Entry{}, fmt.Errorf("has a target, number %d, that an earlier one covers: it would never be used", i+1)
		}
		e.targets = append(e.targets, policy)
	}
	return e, nil
}

// parseEntry parses one credential: a text, or the fields of an object. A malformed one has a name too.
func parseEntry(text string, object map[string]json.RawMessage) (Entry, error) {
	if slices.ContainsFunc(appFields, func(name string) bool { _, ok := object[name]; return ok }) {
		k, err := parseApp(object)
		if err != nil {
			return Entry{name: "app"}, err
		}
		return Entry{name: "app", id: k.id(), app: k}, nil
	}
	pat, err := parsePAT(text, object)
	if err != nil {
		return Entry{name: "pat"}, err
	}
	return Entry{name: "pat", id: pat.SHA256(), pat: pat}, nil
}
