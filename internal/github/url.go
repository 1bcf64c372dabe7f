package github

import (
	"errors"
	"fmt"
	"net/url"
	"strings"
	"time"

	"runner-token-broker/internal/network"
)

// API is one GitHub's REST API in one version. ParseAPI makes one.
type API struct {
	url     *url.URL
	version string
}

// ParseAPI parses the URL of a REST API: https://api.github.com, https://api.SUBDOMAIN.ghe.com (data residency),
// https://HOST/api/v3 (GitHub Enterprise Server). Only a loopback host may do without TLS and without /api/v3. A slash
// at the end is taken off. The version is the oldest. Its errors quote no user and no password.
func ParseAPI(s string) (API, error) {
	u, err := url.Parse(strings.TrimSuffix(s, "/"))
	if err != nil {
		return API{}, errors.New("is not a URL") // url.Parse would quote it, password and all
	}
	u.Host = strings.ToLower(u.Host)
	host := u.Hostname()
	switch {
	case u.User != nil || strings.ContainsAny(s, "?#"):
		return API{}, errors.New("has a user, a query or a fragment: leave the URL alone")
	case host == "" || strings.HasSuffix(host, ".") || strings.HasSuffix(u.Host, ":"):
		return API{}, errors.New("has no host, or one with a dot or a colon too many: write https://HOST")
	case u.Scheme != "https" && !(u.Scheme == "http" && network.IsLoopback(host)):
		return API{}, errors.New("is not https (http is for loopback hosts)")
	case host == "www.github.com" || host == "api.ghe.com":
		return API{}, errors.New("is not a REST API: write https://api.github.com or https://api.SUBDOMAIN.ghe.com")
	case host == "github.com" || strings.HasSuffix(host, ".ghe.com") && !strings.HasPrefix(host, "api."):
		return API{}, fmt.Errorf("is GitHub's web address: write https://api.%s", host)
	case isHosted(host) && u.Path != "" || u.EscapedPath() != "" && u.EscapedPath() != "/api/v3":
		return API{}, errors.New("has a path: only GitHub Enterprise Server has one, /api/v3")
	case !isHosted(host) && !network.IsLoopback(host) && u.Path == "":
		return API{}, fmt.Errorf("is GitHub Enterprise Server's web address: write https://%s/api/v3", u.Host)
	}
	return API{u, oldest}, nil
}

const oldest, newest = "2022-11-28", "2026-03-10" // go-github sends no other

// InVersion returns the API in another version: a date.
func (a API) InVersion(v string) (API, error) {
	if _, err := time.Parse(time.DateOnly, v); err != nil || v < oldest || newest < v {
		return a, fmt.Errorf("%.40q is not a version of the REST API from %s to %s", v, oldest, newest)
	}
	a.version = v
	return a, nil
}

// String returns the URL.
func (a API) String() string { return a.url.String() }

// webURL returns the address that people see and config.sh wants.
func (a API) webURL() string {
	if host := a.url.Hostname(); isHosted(host) {
		return "https://" + strings.TrimPrefix(host, "api.")
	}
	return a.url.Scheme + "://" + a.url.Host
}

// isHosted reports whether GitHub runs the host. The dot counts: fooghe.com is not GitHub's.
func isHosted(host string) bool {
	return host == "api.github.com" || strings.HasPrefix(host, "api.") && strings.HasSuffix(host, ".ghe.com")
}
