package main

import (
	"errors"
	"fmt"
	"strings"
	"time"

	"runner-token-broker/internal/github"
	"runner-token-broker/internal/runner"
	"runner-token-broker/internal/secretsmanager"
)

// config is what the environment says. Nothing in it is secret.
type config struct {
	secretID     secretsmanager.ID
	secretTTL    time.Duration
	policy       runner.Policy
	api          github.API
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
	setting("GITHUB_SECRET_ID", "", func(s string) (err error) {
		c.secretID, err = secretsmanager.ParseID(s, getenv("AWS_REGION"))
		return err
	})
	setting("ALLOWED_TARGETS", "", func(s string) (err error) {
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
		return 0, fmt.Errorf("%.40q is not a duration: write 90s, 5m or 1h", s)
	case d < least:
		return 0, fmt.Errorf("%s is too short: it is at least %s", d, least)
	}
	return d, nil
}
