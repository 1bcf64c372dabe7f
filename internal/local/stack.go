package main

import (
	"context"
	"crypto/rand"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"

	"runner-token-broker/internal/local/apigateway"
	"runner-token-broker/internal/local/github"
	"runner-token-broker/internal/local/lambda"
	"runner-token-broker/internal/local/secretsmanager"
	"runner-token-broker/internal/secret"
)

const (
	region   = "us-east-1"
	secretID = "local/github-pat"
)

// stack is everything that runs.
type stack struct {
	url    string          // of the gateway
	caller aws.Credentials // that the gateway knows
	stop   []func()        // in the order in which it was started
}

// start starts the function behind a gateway at the listener, and waits until it is ready. It closes the listener if it
// fails.
func start(ctx context.Context, s settings, listener net.Listener, stderr io.Writer) (_ *stack, err error) {
	st := &stack{
		url:    "http://" + listener.Addr().String(),
		caller: newKey("AKIA"),
	}
	defer func() {
		if err != nil {
			listener.Close()
			st.close()
		}
	}()
	say := log.New(stderr, "", 0)
	role, err := st.standIns(s, "127.0.0.1", say)
	if err != nil {
		return nil, err
	}
	function, err := lambda.Start(lambda.Function{
		Path:         s.function,
		Env:          s.env,
		Name:         "token",
		Region:       region,
		Credentials:  role,
		Environments: s.environments,
		Output:       stderr,
	})
	if err != nil {
		return nil, err
	}
	st.stop = append(st.stop, function.Close)
	if err := function.Ready(ctx); err != nil {
		return nil, fmt.Errorf("the function did not start, and says why above: %w", err)
	}
	st.serve(listener, &apigateway.Gateway{
		Function:    function,
		Region:      region,
		Credentials: st.caller,
		CallerARN:   "arn:aws:sts::123456789012:assumed-role/laptop/local",
		Log:         say,
	})
	return st, nil
}

// standIns starts at host what the function calls: a Secrets Manager with the PAT and, without a PAT, a GitHub. It adds
// to s.env how to reach them. It returns the credentials of the function's role; Secrets Manager answers to no others.
func (st *stack) standIns(s settings, host string, say *log.Logger) (role aws.Credentials, err error) {
	pat := s.pat
	if pat.IsZero() {
		pat = secret.New("ghp_" + rand.Text())
		gh := github.New(pat)
		if s.env["GITHUB_API_URL"], err = st.serveAnywhere(host, gh); err != nil {
			return role, err
		}
		st.stop = append(st.stop, func() {
			for _, v := range gh.Violations() {
				say.Print("breaks GitHub's description: ", v)
			}
		})
		say.Print("GitHub is a stand-in, and its tokens join nothing. " +
			"With GITHUB_PAT in the environment it is the real one.")
	} else {
		say.Print("GitHub is the real one, called with GITHUB_PAT")
	}

	role = newKey("ASIA")
	role.SessionToken = rand.Text() + rand.Text()
	sm := secretsmanager.New(region, role)
	sm.Put(secretID, pat)
	s.env["GITHUB_SECRET_ID"] = secretID
	s.env["AWS_ENDPOINT_URL_SECRETS_MANAGER"], err = st.serveAnywhere(host, sm)
	return role, err
}

// newKey returns credentials that look like AWS's.
func newKey(prefix string) aws.Credentials {
	return aws.Credentials{AccessKeyID: prefix + rand.Text()[:16], SecretAccessKey: rand.Text() + rand.Text()[:14]}
}

func (st *stack) serveAnywhere(host string, h http.Handler) (url string, err error) {
	listener, err := net.Listen("tcp", host+":0")
	if err != nil {
		return "", err
	}
	st.serve(listener, h)
	return "http://" + listener.Addr().String(), nil
}

func (st *stack) serve(listener net.Listener, h http.Handler) {
	server := &http.Server{Handler: h, ReadHeaderTimeout: 10 * time.Second}
	done := make(chan struct{})
	go func() {
		defer close(done)
		server.Serve(listener)
	}()
	st.stop = append(st.stop, func() {
		server.Close()
		<-done
	})
}

// close stops everything, callers before what they call.
func (st *stack) close() {
	for len(st.stop) > 0 {
		last := len(st.stop) - 1
		st.stop[last]()
		st.stop = st.stop[:last]
	}
}
