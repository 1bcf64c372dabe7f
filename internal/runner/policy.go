package runner

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
)

// Policy is the list of targets that the service serves. The zero Policy allows nothing.
type Policy struct {
	allowed map[string]bool // "orgs/acme", or "repos/acme/*" for every repository of an owner
}

// ParsePolicy parses targets separated by commas or white space. The last segment of an entry may be "*": orgs/*,
// repos/OWNER/*, enterprises/*. The error names every bad entry.
func ParsePolicy(s string) (Policy, error) {
	p := Policy{allowed: map[string]bool{}}
	var problems []error
	n := 0
	for part := range strings.SplitSeq(s, ",") {
		entries := strings.Fields(part)
		if len(entries) == 0 {
			n++
			problems = append(problems, fmt.Errorf("entry %d is empty", n))
		}
		for _, entry := range entries {
			n++
			if !isEntry(entry) {
				problems = append(problems, fmt.Errorf("entry %d, %.200q, %s", n, entry, entryRemedy(entry)))
				continue
			}
			p.allowed[entry] = true
		}
	}
	return p, errors.Join(problems...)
}

// Allows reports whether t is on the list.
func (p Policy) Allows(t Target) bool {
	parent := t.path[:strings.LastIndexByte(t.path, '/')+1]
	return t.path != "" && (p.allowed[t.path] || p.allowed[parent+"*"])
}

// notAllowed has no remedy: the sentence says it.
var notAllowed = Cause{Name: "not-allowed", Code: TargetNotAllowed}

// Check returns an *Error if t is not on the list.
func (p Policy) Check(t Target) error {
	if p.Allows(t) {
		return nil
	}
	e := notAllowed.Refuse("%s is not in ALLOWED_TARGETS", t)
	e.Message = t.Path() + " is not one of the targets this service serves"
	return e
}

// Targets returns the targets that are listed by name, sorted: not those that a wildcard allows.
func (p Policy) Targets() []Target {
	var targets []Target
	for _, entry := range slices.Sorted(maps.Keys(p.allowed)) {
		if isTarget(entry) {
			targets = append(targets, Target{entry})
		}
	}
	return targets
}

// Wildcards returns the entries that end in "*", sorted.
func (p Policy) Wildcards() []string {
	return slices.DeleteFunc(slices.Sorted(maps.Keys(p.allowed)), isTarget)
}

// Covers reports whether p allows all that other allows.
func (p Policy) Covers(other Policy) bool {
	for entry := range other.allowed {
		parent := entry[:strings.LastIndexByte(entry, '/')+1]
		if !p.allowed[entry] && !p.allowed[parent+"*"] {
			return false
		}
	}
	return true
}

func isEntry(s string) bool {
	if parent, ok := strings.CutSuffix(s, "/*"); ok {
		return isTarget(parent + "/x") // any name will do
	}
	return isTarget(s)
}

func entryRemedy(entry string) string {
	if lower := strings.ToLower(entry); isEntry(lower) {
		return fmt.Sprintf("has upper case: write %q", lower)
	}
	return "is none of orgs/ORG, repos/OWNER/REPO, enterprises/ENTERPRISE, orgs/*, repos/OWNER/*, enterprises/*"
}
