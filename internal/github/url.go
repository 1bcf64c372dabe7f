package github

import (
	"errors"
	"fmt"
	"net"
	"net/url"
	"strings"
	"time"
)

// ParseAPIURL parses the URL of a GitHub REST API: https://api.github.com, https://api.SUBDOMAIN.ghe.com (data
// residency), https://HOST/api/v3 (GitHub Enterprise Server). Only a loopback host may do without TLS. A slash at the
// end is taken off.
func ParseAPIURL(s string) (*url.URL, error) {
	u, err := url.Parse(strings.TrimSuffix(s, "/"))
	if err != nil {
		return nil, errors.New("is not a URL") // url.Parse would quote it, password and all
	}
	u.Host = strings.ToLower(u.Host)
	host := u.Hostname()
	switch {
	case u.User != nil || strings.ContainsAny(s, "?#"):
		return nil, errors.New("has a user, a query or a fragment: leave the URL alone")
	case host == "" || strings.HasSuffix(host, ".") || strings.HasSuffix(u.Host, ":"):
		return nil, errors.New("has no host, or one with a dot or a colon too many: write https://HOST")
	case u.Scheme != "https" && !(u.Scheme == "http" && isLoopback(host)):
		return nil, errors.New("is not https (http is for loopback hosts)")
	case host == "www.github.com" || host == "api.ghe.com":
		return nil, errors.New("is no REST API: write https://api.github.com or https://api.SUBDOMAIN.ghe.com")
	case host == "github.com" || strings.HasSuffix(host, ".ghe.com") && !strings.HasPrefix(host, "api."):
		return nil, fmt.Errorf("is GitHub's web address: write https://api.%s", host)
	case isHosted(host) && u.Path != "" || u.EscapedPath() != "" && u.EscapedPath() != "/api/v3":
		return nil, errors.New("has a path: only GitHub Enterprise Server has one, /api/v3")
	}
	return u, nil
}

// CheckVersion says what is wrong with a version of the REST API. The bounds are go-github's, which sends no other.
func CheckVersion(v string) error {
	if _, err := time.Parse(time.DateOnly, v); err != nil || v < "2022-11-28" || "2026-03-10" < v {
		return fmt.Errorf("%.40q is no version of the REST API from 2022-11-28 to 2026-03-10", v)
	}
	return nil
}

// webURL returns the address of what people see, which config.sh wants, of the GitHub with this API.
func webURL(api *url.URL) string {
	if host := api.Hostname(); isHosted(host) {
		return "https://" + strings.TrimPrefix(host, "api.")
	}
	return api.Scheme + "://" + api.Host
}

// isHosted reports whether GitHub runs the host. The dot counts: fooghe.com is not GitHub's.
func isHosted(host string) bool {
	return host == "api.github.com" || strings.HasPrefix(host, "api.") && strings.HasSuffix(host, ".ghe.com")
}

func isLoopback(host string) bool {
	ip := net.ParseIP(host)
	return host == "localhost" || ip != nil && ip.IsLoopback()
}
