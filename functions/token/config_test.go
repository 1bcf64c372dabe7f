package main

import (
	"strings"
	"testing"
	"time"
)

func lookup(settings map[string]string) func(string) string {
	return func(name string) string { return settings[name] }
}

func TestSettingsHaveTheirDefaults(t *testing.T) {
	c, err := loadConfig(lookup(map[string]string{"GITHUB_SECRET_ID": "github-pat", "ALLOWED_TARGETS": "orgs/acme"}))
	if err != nil {
		t.Fatal(err)
	}
	if c.api.String() != "https://api.github.com" || c.secretTTL != 5*time.Minute ||
		c.tokenMinLife != 30*time.Minute || c.samLocal || c.secretID != "github-pat" {
		t.Errorf("%+v", c)
	}
}

func TestEveryProblemOfTheSettingsIsReported(t *testing.T) {
	_, err := loadConfig(lookup(map[string]string{
		"ALLOWED_TARGETS": "orgs/ACME, repos/*", "GITHUB_API_URL": "http://api.github.com", "GITHUB_API_VERSION": "v3",
		"SECRET_TTL": "0s", "TOKEN_MIN_LIFE": "30",
	}))
	if err == nil {
		t.Fatal("no error")
	}
	for _, want := range []string{
		"GITHUB_SECRET_ID: is required", "ALLOWED_TARGETS: entry 1", "entry 2", "GITHUB_API_URL: is not https",
		`GITHUB_API_VERSION: "v3"`, "SECRET_TTL: 0s is too short", `TOKEN_MIN_LIFE: "30" is not a duration`,
	} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("%q lacks %q", err, want)
		}
	}
}

func TestSettingsAreRefusedOrTaken(t *testing.T) {
	for _, test := range []struct {
		name, value string
		good        bool
	}{
		{"GITHUB_SECRET_ID", "arn:aws:secretsmanager:eu-central-1:123456789012:secret:github-pat-AbCdEf", true},
		{"GITHUB_SECRET_ID", "arn:aws:secretsmanager:us-east-1:123456789012:secret:github-pat-AbCdEf", false}, // AWS_REGION
		{"GITHUB_SECRET_ID", " ", false},
		{"GITHUB_SECRET_ID", "ghp_thisMustNotBeSeen", false},
		{"ALLOWED_TARGETS", "", false},
		{"SHARED_TOKENS_SECRET_ID", "shared-tokens", true},
		{"SHARED_TOKENS_SECRET_ID", "arn:aws:secretsmanager:eu-central-1:123456789012:secret:github-pat-AbCdEf", false},
		{"SHARED_TOKENS_SECRET_ID", "github-pat", false}, // the credential's: a refresh would overwrite it
		{"METRICS", "off", true},
		{"METRICS", "no", false},
		{"SECRET_TTL", "1ns", true},
		{"SECRET_TTL", "-1s", false},
		{"SECRET_TTL", "5", false},
		{"TOKEN_MIN_LIFE", "1m", true},
		{"TOKEN_MIN_LIFE", "24h", true},
		{"TOKEN_MIN_LIFE", "59s", false},
		{"GITHUB_API_VERSION", "2026-03-10", true},
		{"GITHUB_API_URL", "https://github.acme.com/api/v3/", true},
		{"GITHUB_API_URL", "https://x:thisMustNotBeSeen@github.acme.com/api/v3", false},
		{"GITHUB_CA_CERTIFICATES", "", true},
		{"GITHUB_CA_CERTIFICATES", "thisMustNotBeSeen!", false},
		{"AWS_ENDPOINT_URL_SECRETS_MANAGER", "http://127.0.0.1:5000", true},
		{"AWS_ENDPOINT_URL_SECRETS_MANAGER", "http://moto:5000", false},
		{"AWS_ENDPOINT_URL", "http://moto:5000", false},
		{"HTTPS_PROXY", "http://proxy.example:8080", true},
		{"HTTPS_PROXY", "http://x:thisMustNotBeSeen@proxy.example:8080 ", false}, // as it is: net/http does not trim
		{"https_proxy", "http:// proxy", false},
		{"HTTP_PROXY", "ftp://proxy", false},
		{"http_proxy", " ", false},
		{"NO_PROXY", "10.0.0.0/8,.example.com", true},
		{"no_proxy", "10.0.0.0/99", false},
	} {
		t.Run(test.name+"="+test.value, func(t *testing.T) {
			settings := map[string]string{
				"GITHUB_SECRET_ID": "github-pat", "ALLOWED_TARGETS": "orgs/acme", "AWS_REGION": "eu-central-1",
			}
			settings[test.name] = test.value
			_, err := loadConfig(lookup(settings))
			if (err == nil) != test.good || err != nil && !strings.HasPrefix(err.Error(), test.name+": ") {
				t.Errorf("%v", err)
			}
			if err != nil && strings.Contains(err.Error(), "thisMustNotBeSeen") {
				t.Errorf("the error quotes a secret: %v", err)
			}
		})
	}
}

func TestSAMLocalIsExactlyTrue(t *testing.T) {
	for value, want := range map[string]bool{
		"true": true, "": false, "True": false, "1": false, "false": false, " true": false,
	} {
		t.Run(value, func(t *testing.T) {
			if c, _ := loadConfig(lookup(map[string]string{"AWS_SAM_LOCAL": value})); c.samLocal != want {
				t.Errorf("%v", c.samLocal)
			}
		})
	}
}
