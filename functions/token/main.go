// Command token is the Lambda function: it hands out GitHub's runner registration tokens to callers that IAM
// authorizes, and keeps to itself the credential that makes them.
package main

import (
	"context"
	"log/slog"
	"os"

	"github.com/aws/aws-lambda-go/lambda"
	awshttp "github.com/aws/aws-sdk-go-v2/aws/transport/http"
	awsconfig "github.com/aws/aws-sdk-go-v2/config"
	awssecretsmanager "github.com/aws/aws-sdk-go-v2/service/secretsmanager"
	"github.com/aws/smithy-go/logging"

	"runner-token-broker/internal/credential"
	"runner-token-broker/internal/doctor"
	"runner-token-broker/internal/github"
	"runner-token-broker/internal/handler"
	"runner-token-broker/internal/kms"
	"runner-token-broker/internal/network"
	"runner-token-broker/internal/runner"
	"runner-token-broker/internal/secretsmanager"
	"runner-token-broker/internal/shared"
)

func main() {
	logger := handler.NewLog(os.Stdout)
	// What the libraries say through package log is extra: aws-lambda-go prints each error that it gets, and the
	// handler's line has said it already.
	slog.SetDefault(slog.New(slog.NewJSONHandler(os.Stdout, &slog.HandlerOptions{Level: logLevel(os.Getenv)})))
	slog.SetLogLoggerLevel(slog.LevelDebug)

	h, err := newHandler(context.Background(), os.Getenv, logger)
	if err != nil {
		logger.Error("the function cannot start", "error", err.Error())
		os.Exit(1)
	}
	lambda.Start(h)
}

// newHandler wires the function: Issuer -> Cache -> shared.Tokens, if any -> Minter -> credential and GitHub. It uses
// neither the network nor the clock: an environment may start long before its first invocation.
func newHandler(ctx context.Context, getenv func(string) string, logger *slog.Logger) (*handler.Handler, error) {
	cfg, err := loadConfig(getenv)
	if err != nil {
		return nil, err
	}
	client := awshttp.NewBuildableClient().WithTransportOptions(network.Restrict)
	aws, err := awsconfig.LoadDefaultConfig(ctx, awsconfig.WithHTTPClient(client),
		awsconfig.WithLogger(logging.Nop{})) // what it warns of, a connection that ended early, is no line of ours
	if err != nil {
		return nil, err
	}
	gh, err := github.New(cfg.api, github.NewTransport(cfg.roots))
	if err != nil {
		return nil, err
	}
	secrets := awssecretsmanager.NewFromConfig(aws)
	source := secretsmanager.New(secrets, cfg.secretID)
	set := credential.NewSet(cfg.secretTTL, source.Fetch, gh, kms.New(aws))
	minter := runner.NewMinter(set, gh)
	checker := &doctor.Doctor{
		Policy: cfg.policy, Upstream: minter, Probes: []doctor.Probe{{Subject: "secret", Ask: set.Check}},
	}
	h := &handler.Handler{
		Checker:  checker,
		Log:      logger,
		Function: cfg.function,
		SAMLocal: cfg.samLocal,
	}
	var upstream runner.Upstream = minter
	if cfg.sharedID != "" {
		tokens := shared.New(minter, secretsmanager.New(secrets, cfg.sharedID), cfg.policy, cfg.tokenMinLife, gh.RunnerURL)
		h.Refresher, upstream = tokens, tokens
		checker.Probes = append(checker.Probes, doctor.Probe{Subject: "shared tokens", Ask: tokens.Check, Optional: true})
	}
	h.Issuer = &runner.Issuer{
		Policy: cfg.policy, Upstream: runner.NewCache(upstream, minter.Refused, cfg.tokenMinLife),
	}
	return h, nil
}

// logLevel is how much is logged beyond the one line of each invocation.
func logLevel(getenv func(string) string) slog.Level {
	level := slog.LevelInfo
	level.UnmarshalText([]byte(getenv("AWS_LAMBDA_LOG_LEVEL"))) // Lambda's TRACE and FATAL, or nothing: INFO
	return level
}
