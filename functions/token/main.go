// Command token is the Lambda function: it hands out GitHub's runner registration tokens to callers that IAM
// authorizes, and keeps to itself the credential that makes them.
package main

import (
	"context"
	"log/slog"
	"net/http"
	"os"

	"github.com/aws/aws-lambda-go/lambda"
	awshttp "github.com/aws/aws-sdk-go-v2/aws/transport/http"
	awsconfig "github.com/aws/aws-sdk-go-v2/config"
	awssecretsmanager "github.com/aws/aws-sdk-go-v2/service/secretsmanager"

	"runner-token-broker/internal/github"
	"runner-token-broker/internal/handler"
	"runner-token-broker/internal/runner"
	"runner-token-broker/internal/secret"
	"runner-token-broker/internal/secretsmanager"
)

func main() {
	logger := slog.New(slog.NewJSONHandler(os.Stdout, nil))
	// What the libraries say through package log is extra: aws-lambda-go prints every error that it is given, and the
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

// newHandler wires the function. No work that needs the network or the clock is done here: an environment may be
// started long before its first invocation.
func newHandler(ctx context.Context, getenv func(string) string, logger *slog.Logger) (*handler.Handler, error) {
	cfg, err := loadConfig(getenv)
	if err != nil {
		return nil, err
	}
	// No idle connections, as in github.NewTransport: one that died while the environment was frozen would use up all the
	// time that there is to read the secret.
	client := awshttp.NewBuildableClient().WithTransportOptions(func(t *http.Transport) { t.DisableKeepAlives = true })
	aws, err := awsconfig.LoadDefaultConfig(ctx, awsconfig.WithHTTPClient(client))
	if err != nil {
		return nil, err
	}
	gh, err := github.New(cfg.api, cfg.apiVersion, github.NewTransport())
	if err != nil {
		return nil, err
	}
	credential := secretsmanager.New(awssecretsmanager.NewFromConfig(aws), cfg.secretID)
	return &handler.Handler{
		Issuer:   runner.NewIssuer(cfg.policy, gh, secret.NewCache(cfg.secretTTL, credential.Fetch), cfg.tokenMinLife),
		Log:      logger,
		SAMLocal: cfg.samLocal,
	}, nil
}

// logLevel is how much is logged beyond the one line of each invocation.
func logLevel(getenv func(string) string) slog.Level {
	level := slog.LevelInfo
	level.UnmarshalText([]byte(getenv("AWS_LAMBDA_LOG_LEVEL"))) // Lambda's TRACE and FATAL, or nothing: INFO
	return level
}
