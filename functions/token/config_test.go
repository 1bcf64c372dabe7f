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
	if c.api.String() != "https://api.github.com" || c.apiVersion != "2022-11-28" || c.secretTTL != 5*time.Minute ||
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
		`GITHUB_API_VERSION: "v3"`, "SECRET_TTL: 0s is too short", `TOKEN_MIN_LIFE: "30" is no duration`,
	} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("%q lacks %q", err, want)
		}
	}
}

func TestSettingsAreRefusedOrTaken(t *testing.T) {
	const arn = "arn:aws:secretsmanager:eu-central-1:123456789012:secret:github-pat-AbCdEf"
	for _, test := range []struct {
		name, value string
		good        bool
	}{
		{"GITHUB_SECRET_ID", arn, true},
		{"GITHUB_SECRET_ID", "ci/github_pat+x=.@-", true},
		{"GITHUB_SECRET_ID", " ", false},
		{"GITHUB_SECRET_ID", "two words", false},
		{"GITHUB_SECRET_ID", strings.Repeat("x", 513), false},
		{"GITHUB_SECRET_ID", "arn:aws:iam::123456789012:role/x", false},
		{"GITHUB_SECRET_ID", "arn:aws", false},
		{"GITHUB_SECRET_ID", strings.Replace(arn, "eu-central-1", "us-east-1", 1), false}, // contradicts AWS_REGION
		{"GITHUB_SECRET_ID", "ghp_thisMustNotBeSeen", false},
		{"GITHUB_SECRET_ID", "github_pat_thisMustNotBeSeen", false},
		{"ALLOWED_TARGETS", "", false},
		{"SECRET_TTL", "1ns", true}, {"SECRET_TTL", "-1s", false}, {"SECRET_TTL", "5", false},
		{"TOKEN_MIN_LIFE", "1m", true}, {"TOKEN_MIN_LIFE", "24h", true}, {"TOKEN_MIN_LIFE", "59s", false},
		{"GITHUB_API_URL", "https://github.acme.com/api/v3/", true}, {"GITHUB_API_URL", "https://x:thisMustNotBeSeen@github.acme.com/api/v3", false},
	} {
		settings := map[string]string{"GITHUB_SECRET_ID": "github-pat", "ALLOWED_TARGETS": "orgs/acme", "AWS_REGION": "eu-central-1"}
		settings[test.name] = test.value
		_, err := loadConfig(lookup(settings))
		if (err == nil) != test.good || err != nil && !strings.HasPrefix(err.Error(), test.name+": ") {
			t.Errorf("%s=%q: %v", test.name, test.value, err)
		}
		if err != nil && strings.Contains(err.Error(), "thisMustNotBeSeen") {
			t.Errorf("%s: the error quotes a secret: %v", test.name, err)
		}
	}
}

func TestSAMLocalIsExactlyTrue(t *testing.T) {
	for value, want := range map[string]bool{"true": true, "": false, "True": false, "1": false, "false": false, " true": false} {
		c, _ := loadConfig(lookup(map[string]string{"AWS_SAM_LOCAL": value}))
		if c.samLocal != want {
			t.Errorf("AWS_SAM_LOCAL=%q: %v", value, c.samLocal)
		}
	}
}
