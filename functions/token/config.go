package main

import (
	"errors"
	"fmt"
	"net/url"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws/arn"

	"runner-token-broker/internal/github"
	"runner-token-broker/internal/runner"
)

// config is what the environment says. Nothing in it is secret.
type config struct {
	secretID     string
	secretTTL    time.Duration
	policy       runner.Policy
	api          *url.URL
	apiVersion   string
	tokenMinLife time.Duration
	samLocal     bool
}

// loadConfig reads the settings. Its error names every problem.
func loadConfig(getenv func(string) string) (config, error) {
	var problems []error
	setting := func(name, otherwise string, parse func(string) error) {
		value := strings.TrimSpace(getenv(name))
		if value == "" {
			value = otherwise
		}
		err := errors.New("is required")
		if value != "" {
			err = parse(value)
		}
		if err != nil {
			problems = append(problems, fmt.Errorf("%s: %w", name, err))
		}
	}

	var c config
	setting("GITHUB_SECRET_ID", "", func(s string) error {
		c.secretID = s
		return checkSecretID(s, getenv("AWS_REGION"))
	})
	setting("ALLOWED_TARGETS", "", func(s string) (err error) {
		c.policy, err = runner.ParsePolicy(s)
		return err
	})
	setting("GITHUB_API_URL", "https://api.github.com", func(s string) (err error) {
		c.api, err = github.ParseAPIURL(s)
		return err
	})
	setting("GITHUB_API_VERSION", "2022-11-28", func(s string) error {
		c.apiVersion = s
		return github.CheckVersion(s)
	})
	setting("SECRET_TTL", "5m", func(s string) (err error) {
		c.secretTTL, err = parseDuration(s, 1)
		return err
	})
	setting("TOKEN_MIN_LIFE", "30m", func(s string) (err error) {
		c.tokenMinLife, err = parseDuration(s, time.Minute)
		return err
	})
	c.samLocal = getenv("AWS_SAM_LOCAL") == "true"
	return c, errors.Join(problems...)
}

func parseDuration(s string, least time.Duration) (time.Duration, error) {
	d, err := time.ParseDuration(s)
	switch {
	case err != nil:
		return 0, fmt.Errorf("%.40q is no duration: write 90s, 5m or 1h", s)
	case d < least:
		return 0, fmt.Errorf("%s is too short: it is at least %s", d, least)
	}
	return d, nil
}

// checkSecretID's errors do not quote the value: it happens that the PAT itself is pasted there.
func checkSecretID(id, region string) error {
	for _, prefix := range []string{"ghp_", "github_pat_", "gho_", "ghu_", "ghs_"} {
		if strings.HasPrefix(id, prefix) {
			return errors.New("holds a token: put that into a secret, give the secret's name or ARN here, and revoke the token")
		}
	}
	if strings.HasPrefix(id, "arn:") {
		a, err := arn.Parse(id)
		switch {
		case err != nil || a.Service != "secretsmanager" || !strings.HasPrefix(a.Resource, "secret:"):
			return errors.New("is not the ARN of a secret")
		case region != "" && a.Region != region:
			return fmt.Errorf("is the ARN of a secret in %s, and the function runs in %s: replicate the secret", a.Region, region)
		}
		return nil
	}
	if len(id) > 512 || strings.ContainsFunc(id, notInSecretName) {
		return errors.New("is neither the name nor the ARN of a secret")
	}
	return nil
}

func notInSecretName(r rune) bool {
	letter := 'a' <= r && r <= 'z' || 'A' <= r && r <= 'Z'
	return !letter && (r < '0' || '9' < r) && !strings.ContainsRune("/_+=.@-", r)
}
