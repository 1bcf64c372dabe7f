package main

import (
	"cmp"
	"crypto/x509"
	"errors"
	"fmt"
	"strings"
	"time"

	"runner-token-broker/internal/github"
	"runner-token-broker/internal/network"
	"runner-token-broker/internal/runner"
	"runner-token-broker/internal/secretsmanager"
)

// config is what the environment says. Nothing in it is secret.
type config struct {
	secretID     secretsmanager.ID
	sharedID     secretsmanager.ID // "": tokens are not shared
	secretTTL    time.Duration
	policy       runner.Policy
	api          github.API
	roots        *x509.CertPool // of GitHub's server; nil: the system's
	tokenMinLife time.Duration
	samLocal     bool
	function     string // whose metrics are in the log; "": none are
}

// loadConfig reads the settings. Its error names every problem.
func loadConfig(getenv func(string) string) (config, error) {
	var problems []error
	problem := func(name string, err error) {
		if err != nil {
			problems = append(problems, fmt.Errorf("%s: %w", name, err))
		}
	}
	// Where a setting is absent, and has no default, parse is not called.
	setting := func(name, otherwise string, parse func(string) error) (given bool) {
		value := cmp.Or(strings.TrimSpace(getenv(name)), otherwise)
		if value == "" {
			return false
		}
		problem(name, parse(value))
		return true
	}
	required := func(name string, parse func(string) error) {
		if !setting(name, "", parse) {
			problem(name, errors.New("is required"))
		}
	}

	var c config
	required("GITHUB_SECRET_ID", func(s string) (err error) {
		c.secretID, err = secretsmanager.ParseID(s, getenv("AWS_REGION"))
		return err
	})
	required("ALLOWED_TARGETS", func(s string) (err error) {
		c.policy, err = runner.ParsePolicy(s)
		return err
	})
	setting("GITHUB_API_URL", "https://api.github.com", func(s string) (err error) {
		c.api, err = github.ParseAPI(s)
		return err
	})
	setting("GITHUB_API_VERSION", "2022-11-28", func(s string) (err error) {
		c.api, err = c.api.InVersion(s)
		return err
	})
	setting("GITHUB_CA_CERTIFICATES", "", func(s string) (err error) {
		c.roots, err = network.ParseCertificates(s)
		return err
	})
	setting("SHARED_TOKENS_SECRET_ID", "", func(s string) (err error) {
		if c.sharedID, err = secretsmanager.ParseID(s, getenv("AWS_REGION")); err == nil && c.sharedID.MayBe(c.secretID) {
			err = errors.New("is the secret with the credential: the shared tokens need one of their own")
		}
		return err
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
	setting("METRICS", "on", func(s string) error {
		switch s {
		case "on":
			c.function = cmp.Or(getenv("AWS_LAMBDA_FUNCTION_NAME"), "token")
		case "off":
		default:
			return fmt.Errorf("%.40q is neither on nor off", s)
		}
		return nil
	})

	// The libraries read these themselves, as they are, and do not complain.
	read := func(check func(string) error, names ...string) {
		for _, name := range names {
			if value := getenv(name); value != "" {
				problem(name, check(value))
			}
		}
	}
	read(network.CheckEndpoint, "AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_SECRETS_MANAGER", "AWS_ENDPOINT_URL_KMS")
	read(network.CheckProxy, "HTTPS_PROXY", "https_proxy", "HTTP_PROXY", "http_proxy")
	read(network.CheckNoProxy, "NO_PROXY", "no_proxy")
	return c, errors.Join(problems...)
}

func parseDuration(s string, least time.Duration) (time.Duration, error) {
	d, err := time.ParseDuration(s)
	switch {
	case err != nil:
		return 0, fmt.Errorf("%.40q is not a duration: write 90s, 5m or 1h", s)
	case d < least:
		return 0, fmt.Errorf("%s is too short: it is at least %s", d, least)
	}
	return d, nil
}
