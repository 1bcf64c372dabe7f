package runner

import (
	"fmt"
	"strings"
)

// Kind is what a token is for, in GitHub's own words.
type Kind string

// A later kind, generate-jitconfig, has a body and is never reused or retried.
const (
	RegistrationToken Kind = "registration-token" // to join
	RemoveToken       Kind = "remove-token"       // to leave
)

// ParseKind parses a kind. The text of its error is fit for the caller.
func ParseKind(s string) (Kind, error) {
	switch k := Kind(s); k {
	case RegistrationToken, RemoveToken:
		return k, nil
	}
	return "", fmt.Errorf("kind %.200q is neither %s nor %s", s, RegistrationToken, RemoveToken)
}

// Request asks for a token.
type Request struct {
	Target Target
	Kind   Kind
	Fresh  bool // a token made now, not a cached one
}

const runners = "/actions/runners/" // between the target and the kind

// Path returns GitHub's path for the request: "orgs/acme/actions/runners/remove-token". Whether the request is fresh is
// not in it.
func (r Request) Path() string { return r.Target.path + runners + string(r.Kind) }

// ParsePath parses what Path returns. It decodes and cleans nothing: the Path of its result is the given one, byte for
// byte. The text of its error is fit for the caller.
func ParsePath(path string) (Request, error) {
	i := strings.LastIndex(path, runners) // the last one: a repository may be actions/runners
	if i < 0 {
		return Request{}, fmt.Errorf("path %.200q is not GitHub's: orgs/ORG%s%s and the like", path, runners,
			RegistrationToken)
	}
	target, err := ParseTarget(path[:i])
	if err != nil {
		return Request{}, err
	}
	kind, err := ParseKind(path[i+len(runners):])
	if err != nil {
		return Request{}, err
	}
	return Request{Target: target, Kind: kind}, nil
}
