// Command local runs the function on a laptop. For make token and make run it starts the built binary behind a local
// Lambda and API Gateway, with a local Secrets Manager. GitHub is a stand-in, or the real one if GITHUB_PAT is in the
// environment. For make sam-invoke and make sam-api it starts Secrets Manager and GitHub alone: SAM runs the function.
//
// It does not know the template: IAM policies, throttling, alarms and all else that CloudFormation makes are seen on
// AWS only. The packages beside it say what each of them leaves out.
package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"os"
	"os/signal"
	"syscall"
	"time"

	"runner-token-broker/internal/local/sigv4"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	status := command(ctx, os.Args[1:], os.Getenv, os.Stdout, os.Stderr)
	stop()
	os.Exit(status)
}

// command runs until it is done or ctx ends. It returns the exit status: 1 if something failed, 2 if what was asked is
// wrong.
func command(ctx context.Context, args []string, getenv func(string) string, stdout, stderr io.Writer) int {
	say := log.New(stderr, "", 0)
	s, err := parseSettings(args, getenv)
	if err != nil {
		say.Print(err)
		return 2
	}
	switch s.mode {
	case "token":
		err = token(ctx, s, stdout, stderr)
	case "run":
		err = run(ctx, s, stderr)
	case "sam":
		err = sam(ctx, s, stdout, stderr)
	}
	switch {
	case err == nil, s.mode == "run" && ctx.Err() != nil:
		return 0
	case ctx.Err() != nil:
		say.Print("interrupted")
	case !errors.Is(err, errRefused):
		say.Print(err)
	}
	return 1
}

// errRefused says that the answer is a refusal, and has been printed.
var errRefused = errors.New("refused")

// token asks for one token and prints the answer.
func token(ctx context.Context, s settings, stdout, stderr io.Writer) error {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	stack, err := start(ctx, s, listener, stderr)
	if err != nil {
		return err
	}
	defer stack.close()

	ctx, cancel := context.WithTimeout(ctx, 35*time.Second) // more than the gateway gives the function
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, stack.url+"/"+s.request.Path(), http.NoBody)
	if err != nil {
		return err
	}
	if err := sigv4.Sign(req, nil, stack.caller, region, "execute-api"); err != nil {
		return err
	}
	transport := new(http.Transport) // it does not use the environment's proxy
	defer transport.CloseIdleConnections()
	resp, err := transport.RoundTrip(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		return err
	}
	if _, err := fmt.Fprintf(stdout, "%s\n", bytes.TrimSpace(body)); err != nil {
		return err
	}
	if resp.StatusCode != http.StatusCreated {
		return errRefused
	}
	return nil
}

// run serves until ctx ends.
func run(ctx context.Context, s settings, stderr io.Writer) error {
	listener, err := net.Listen("tcp", "127.0.0.1:"+s.port)
	switch {
	case errors.Is(err, syscall.EADDRINUSE):
		return fmt.Errorf("port %s is in use: set PORT to another one, or to 0 for any that is free", s.port)
	case err != nil:
		return fmt.Errorf("PORT: %w", err)
	}
	stack, err := start(ctx, s, listener, stderr)
	if err != nil {
		return err
	}
	defer stack.close()
	fmt.Fprintf(stderr, `serving on %s; Ctrl-C stops it. With curl 7.86 or later:

curl -sS --aws-sigv4 "aws:amz:%s:execute-api" --user %s:%s -d '' %s

`, stack.url, region, stack.caller.AccessKeyID, stack.caller.SecretAccessKey, stack.url+"/"+s.request.Path())
	<-ctx.Done()
	fmt.Fprintln(stderr, "stopping")
	return nil
}
