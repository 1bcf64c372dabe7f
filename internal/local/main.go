// Command local runs the function on a laptop. For make token, make check and make run it starts the built binary
// behind a local Lambda and API Gateway, with a local Secrets Manager. GitHub is a stand-in, or the real one if
// GITHUB_PAT is in the environment, or GITHUB_APP_ID and GITHUB_APP_KEY_FILE. For make sam-invoke and make sam-api it
// starts Secrets Manager and GitHub alone: SAM runs the function.
//
// It does not know the template: IAM policies, alarms and all else that CloudFormation makes are seen on AWS only, and
// make run throttles as THROTTLE says. The packages beside it say what each of them leaves out.
package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log"
	"net/http"
	"os"
	"os/signal"
	"syscall"
	"time"

	"runner-token-broker/internal/local/sigv4"
	"runner-token-broker/internal/runner"
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
	case "check":
		err = check(ctx, s, stdout, stderr)
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

// errRefused says that the answer is a refusal, or a self-check that failed, and has been printed.
var errRefused = errors.New("refused")

// token asks for one token and prints the answer.
func token(ctx context.Context, s settings, stdout, stderr io.Writer) error {
	stack, err := start(ctx, s, stderr)
	if err != nil {
		return err
	}
	defer stack.close()

	status, body, err := stack.post(ctx, stack.gateway+"/"+s.request.Path(), nil, "execute-api")
	if err != nil {
		return err
	}
	if _, err := fmt.Fprintf(stdout, "%s\n", bytes.TrimSpace(body)); err != nil {
		return err
	}
	if status != http.StatusCreated {
		return errRefused
	}
	return nil
}

// check has the function check itself, and prints its report.
func check(ctx context.Context, s settings, stdout, stderr io.Writer) error {
	stack, err := start(ctx, s, stderr)
	if err != nil {
		return err
	}
	defer stack.close()

	event, err := json.Marshal(s.check)
	if err != nil {
		return err
	}
	_, body, err := stack.post(ctx, stack.lambda+"/2015-03-31/functions/token/invocations", event, "lambda")
	if err != nil {
		return err
	}
	var indented bytes.Buffer
	if err := json.Indent(&indented, body, "", "  "); err != nil {
		return fmt.Errorf("the report is not JSON: %.200q", body)
	}
	if _, err := fmt.Fprintf(stdout, "%s\n", &indented); err != nil {
		return err
	}
	var report struct{ Status runner.Status }
	if err := json.Unmarshal(body, &report); err != nil {
		return err
	}
	if report.Status != runner.OK && report.Status != runner.Warning { // failed, or the function's error
		return errRefused
	}
	return nil
}

// post makes one signed request.
func (st *stack) post(ctx context.Context, url string, body []byte, service string) (status int, _ []byte, err error) {
	ctx, cancel := context.WithTimeout(ctx, 35*time.Second) // more than the gateway gives the function
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, url, bytes.NewReader(body))
	if err != nil {
		return 0, nil, err
	}
	if err := sigv4.Sign(req, body, st.caller, region, service); err != nil {
		return 0, nil, err
	}
	transport := new(http.Transport) // it does not use the environment's proxy
	defer transport.CloseIdleConnections()
	resp, err := transport.RoundTrip(req)
	if err != nil {
		return 0, nil, err
	}
	defer resp.Body.Close()
	answer, err := io.ReadAll(resp.Body)
	return resp.StatusCode, answer, err
}

// run serves until ctx ends.
func run(ctx context.Context, s settings, stderr io.Writer) error {
	stack, err := start(ctx, s, stderr)
	if err != nil {
		return err
	}
	defer stack.close()
	fmt.Fprintf(stderr, `serving on %s and, for direct invocations, on %s; Ctrl-C stops it.
Signatures are verified as AWS defines them, for one caller. IAM policies are not there: the caller may do everything.

With curl 7.86 or later:

%s

With the AWS CLI 2, or the AWS CLI 1 without --cli-binary-format raw-in-base64-out:

%s

`, stack.gateway, stack.lambda, stack.curl(s.request), stack.invoke(s.request))
	<-ctx.Done()
	fmt.Fprintln(stderr, "stopping")
	return nil
}

// curl returns the command for the request over HTTP.
func (st *stack) curl(r runner.Request) string {
	header := ""
	if st.caller.SessionToken != "" {
		header = "-H 'x-amz-security-token: " + st.caller.SessionToken + "' "
	}
	return fmt.Sprintf(`curl -sS --aws-sigv4 "aws:amz:%s:execute-api" --user %s:%s %s-d '' %s`, region,
		st.caller.AccessKeyID, st.caller.SecretAccessKey, header, st.gateway+"/"+r.Path())
}

// invoke returns the command for the same request by direct invocation. It has a session token even if it is empty:
// the shell may have one of its own.
func (st *stack) invoke(r runner.Request) string {
	kind := ""
	if r.Kind != runner.RegistrationToken {
		kind = fmt.Sprintf(`,"kind":"%s"`, r.Kind)
	}
	return fmt.Sprintf(`AWS_ACCESS_KEY_ID=%s AWS_SECRET_ACCESS_KEY=%s AWS_SESSION_TOKEN=%s aws lambda invoke `+
		`--region %s --endpoint-url %s --function-name token --cli-binary-format raw-in-base64-out `+
		`--payload '{"target":"%s"%s}' /dev/stdout`, st.caller.AccessKeyID, st.caller.SecretAccessKey,
		st.caller.SessionToken, region, st.lambda, r.Target, kind)
}
