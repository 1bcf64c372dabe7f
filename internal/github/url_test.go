package github

import (
	"strings"
	"testing"
)

func TestRunnerURLIsWhereTheTargetIsShown(t *testing.T) {
	t.Parallel()
	for url, want := range map[string]string{
		"https://api.github.com":               "https://github.com",
		"https://API.GitHub.com/":              "https://github.com",
		"https://api.acme.ghe.com":             "https://acme.ghe.com",
		"https://github.acme.com/api/v3":       "https://github.acme.com",
		"https://github.acme.com:8443/api/v3/": "https://github.acme.com:8443",
		"https://api.fooghe.com/api/v3":        "https://api.fooghe.com",
		"http://127.0.0.1:8080":                "http://127.0.0.1:8080",
		"http://localhost:8080/api/v3":         "http://localhost:8080",
		"http://[::1]:8080/api/v3":             "http://[::1]:8080",
	} {
		t.Run(url, func(t *testing.T) {
			api, err := ParseAPI(url)
			if err != nil {
				t.Fatal(err)
			}
			if got := api.webURL(); got != want {
				t.Errorf("%s, want %s", got, want)
			}
		})
	}
}

func TestParseAPIRefusesWhatCannotBeMeant(t *testing.T) {
	t.Parallel()
	for _, s := range []string{
		"", "api.github.com", "http://api.github.com", "ftp://api.github.com", "https://", "https:api.github.com",
		"https:///api/v3", "https://user:pass@api.github.com", "https://api.github.com?x=1", "https://api.github.com?",
		"https://api.github.com#", "https://api.github.com/api/v3", "https://api.acme.ghe.com/api/v3", "https://github.com",
		"https://acme.ghe.com", "https://github.acme.com/api/v4", "https://github.acme.com/api/v3//",
		"https://github.acme.com/api%2Fv3", "https://github.acme.com", "https://github.acme.com:8443/",
		"http://127.0.0.1.evil.com", "http://localhost.evil.com", "http://192.168.0.1", "https://host:port", "https://host:",
		"https://www.github.com", "https://api.ghe.com", "https://api.github.com.", "https://a b",
	} {
		t.Run(s, func(t *testing.T) {
			if api, err := ParseAPI(s); err == nil {
				t.Errorf("ParseAPI = %s", api)
			} else if strings.Contains(err.Error(), "pass") {
				t.Errorf("the password is in the error: %v", err)
			}
		})
	}
	if _, err := ParseAPI("https://github.acme.com:8443"); err == nil ||
		!strings.Contains(err.Error(), "https://github.acme.com:8443/api/v3") {
		t.Errorf("the address that is meant is not in %v", err)
	}
}

func TestVersionsAreThoseThatGoGitHubSends(t *testing.T) {
	t.Parallel()
	for v, good := range map[string]bool{
		"2022-11-28": true, "2026-03-10": true, "2022-11-27": false, "2026-03-11": false, "2024": false, "latest": false,
		"": false,
	} {
		t.Run(v, func(t *testing.T) {
			if api, err := (API{}).InVersion(v); (err == nil) != good || (api.version == v) != good && v != "" {
				t.Errorf("%v", err)
			}
		})
	}
}
