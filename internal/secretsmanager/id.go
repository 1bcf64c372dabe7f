package secretsmanager

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/aws/aws-sdk-go-v2/aws/arn"
)

// ID is the name or ARN of a secret. ParseID makes one.
type ID string

// tokens are how GitHub's tokens begin.
var tokens = []string{"ghp_", "github_pat_", "gho_", "ghu_", "ghs_", "ghr_"}

// ParseID parses the name or ARN of a secret that a function in the region can read; a region of "" is any. Its errors
// do not quote the value: it happens that the PAT itself is pasted there.
func ParseID(s, region string) (ID, error) {
	if slices.ContainsFunc(tokens, func(p string) bool { return strings.HasPrefix(s, p) }) {
		return "", errors.New("holds a token: revoke it, put a new one into a secret, and give the secret's name or ARN here")
	}
	if !strings.HasPrefix(s, "arn:") {
		if len(s) > 512 || strings.ContainsFunc(s, notInName) {
			return "", errors.New("is neither the name nor the ARN of a secret")
		}
		return ID(s), nil
	}
	a, err := arn.Parse(s)
	name, ok := strings.CutPrefix(a.Resource, "secret:")
	switch {
	case err != nil || a.Service != "secretsmanager" || !ok:
		return "", errors.New("is not the ARN of a secret")
	case strings.Contains(name, ":"):
		return "", errors.New("has a JSON key or a version behind the ARN, as ECS takes it: give the ARN alone")
	case name == "" || strings.ContainsFunc(name, notInName):
		return "", errors.New("is not the ARN of a secret")
	case region != "" && a.Region != region:
		return "", fmt.Errorf("is the ARN of a secret in %s, and the function runs in %s: replicate the secret", a.Region,
			region)
	}
	return ID(s), nil
}

// MayBe reports whether both can name one secret: an ARN ends in the secret's name, and after it a hyphen and six
// characters that AWS adds, which may be left out.
func (id ID) MayBe(other ID) bool {
	return slices.ContainsFunc(id.names(), func(name string) bool { return slices.Contains(other.names(), name) })
}

func (id ID) names() []string {
	_, name, isARN := strings.Cut(string(id), ":secret:")
	if !isARN {
		return []string{string(id)}
	}
	names := []string{name}
	if n := len(name) - len("-AbCdEf"); n > 0 && name[n] == '-' {
		names = append(names, name[:n])
	}
	return names
}

func notInName(r rune) bool {
	letter := 'a' <= r && r <= 'z' || 'A' <= r && r <= 'Z'
	return !letter && (r < '0' || '9' < r) && !strings.ContainsRune("/_+=.@-", r)
}
