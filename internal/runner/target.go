// Package runner issues the tokens with which a machine joins GitHub as a self-hosted Actions runner, or leaves it.
//
// A Request goes Issuer (is the target served at all?) -> Cache (reuse) -> Minter (credential, GitHub), and a Token or
// an Error comes back. The package knows neither Lambda, HTTP, AWS nor a GitHub client: they are handed to it.
package runner

import (
	"fmt"
	"strings"
)

// Target is where a runner registers: an organization, a repository or an enterprise. Only ParseTarget makes one, so
// every Target but the zero one is good.
type Target struct{ path string }

// ParseTarget parses a target as GitHub's REST paths write it: orgs/ORG, repos/OWNER/REPO, enterprises/ENTERPRISE, all
// in lower case. (GitHub ignores case and IAM does not: with one spelling only, an IAM statement means what it says.)
// The text of its error is fit for the caller.
func ParseTarget(s string) (Target, error) {
	if isTarget(s) {
		return Target{s}, nil
	}
	if lower := strings.ToLower(s); isTarget(lower) {
		return Target{}, fmt.Errorf("target %.200q has upper case: write %q", s, lower)
	}
	return Target{}, fmt.Errorf("target %.200q is none of orgs/ORG, repos/OWNER/REPO, enterprises/ENTERPRISE", s)
}

// Path returns the target as ParseTarget takes it: no other spelling of it exists.
func (t Target) Path() string { return t.path }

func (t Target) String() string { return t.path }

// Scope returns the first segment: orgs, repos or enterprises.
func (t Target) Scope() string {
	scope, _, _ := strings.Cut(t.path, "/")
	return scope
}

// Owner returns the account that the target belongs to: an organization or user, or an enterprise.
func (t Target) Owner() string {
	_, rest, _ := strings.Cut(t.path, "/")
	owner, _, _ := strings.Cut(rest, "/")
	return owner
}

// Repository returns the name of the repository, if the target is one.
func (t Target) Repository() (name string, ok bool) {
	return strings.CutPrefix(t.path, "repos/"+t.Owner()+"/")
}

// URLPath returns the path under which github.com, or a GitHub Enterprise host, shows the target: /acme/widgets.
func (t Target) URLPath() string {
	path := "/" + t.path
	if rest, ok := strings.CutPrefix(path, "/orgs"); ok {
		return rest
	}
	return strings.TrimPrefix(path, "/repos")
}

func isTarget(s string) bool {
	scope, name, _ := strings.Cut(s, "/")
	switch scope {
	case "orgs":
		return isOwner(name)
	case "repos":
		owner, repo, _ := strings.Cut(name, "/")
		return isOwner(owner) && isRepository(repo)
	case "enterprises":
		return len(name) <= 100 && isName(name, "-")
	}
	return false
}

// isOwner allows underscores too: managed users have one (mona-cat_octo).
func isOwner(s string) bool { return len(s) <= 39 && isName(s, "_-") }

func isRepository(s string) bool {
	return 1 <= len(s) && len(s) <= 100 && consistsOf(s, "._-") && s != "." && s != ".." && !strings.HasSuffix(s, ".git")
}

func isName(s, punctuation string) bool {
	return s != "" && consistsOf(s[:1], "") && consistsOf(s, punctuation)
}

// consistsOf reports whether s has nothing but a-z, 0-9 and the given punctuation.
func consistsOf(s, punctuation string) bool {
	return strings.IndexFunc(s, func(r rune) bool {
		return (r < 'a' || 'z' < r) && (r < '0' || '9' < r) && !strings.ContainsRune(punctuation, r)
	}) < 0
}
