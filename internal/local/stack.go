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
	secretID = "local/github"
)

// stack is everything that runs.
type stack struct {
	gateway, lambda string          // their URLs; of lambda "" if it was not asked for
	caller          aws.Credentials // that they know
	stop            []func()        // in the order in which it was started
}

// start starts the function, waits until it is ready, and serves it behind a gateway and, if that has a port, behind
// Lambda's endpoint.
func start(ctx context.Context, s settings, stderr io.Writer) (_ *stack, err error) {
	st := &stack{caller: newKey("AKIA")}
	if s.sessionToken {
		st.caller = newTemporaryKey()
	}
	defer func() {
		if err != nil {
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
	gateway := &apigateway.Gateway{
		Function:    function,
		Region:      region,
		Credentials: st.caller,
		CallerARN:   "arn:aws:sts::123456789012:assumed-role/laptop/local",
		Throttle:    s.throttle,
		Log:         say,
	}
	const taken = "%s=%s: %w; set it to another port, or to 0 for any that is free"
	if st.gateway, err = st.serve("127.0.0.1:"+s.port, gateway); err != nil {
		return nil, fmt.Errorf(taken, "PORT", s.port, err)
	}
	if s.lambdaPort == "" {
		return st, nil
	}
	endpoint := &lambda.Endpoint{Service: function, Credentials: st.caller, Log: say}
	if st.lambda, err = st.serve("127.0.0.1:"+s.lambdaPort, endpoint); err != nil {
		return nil, fmt.Errorf(taken, "LAMBDA_PORT", s.lambdaPort, err)
	}
	return st, nil
}

// standIns starts at host what the function calls: a Secrets Manager with the credential and, without one, a GitHub. It
// adds to s.env how to reach them. It returns the credentials of the function's role; Secrets Manager answers to no
// others.
func (st *stack) standIns(s settings, host string, say *log.Logger) (role aws.Credentials, err error) {
	credential := s.credential
	if credential.IsZero() {
		credential = secret.New("ghp_" + rand.Text())
		gh := github.New(credential)
		if s.env["GITHUB_API_URL"], err = st.serve(host+":0", gh); err != nil {
			return role, err
		}
		st.stop = append(st.stop, func() {
			for _, v := range gh.Violations() {
				say.Print("breaks GitHub's description: ", v)
			}
		})
		say.Print("GitHub is a stand-in, and its tokens join nothing. " +
			"With GITHUB_PAT in the environment, or GITHUB_APP_ID and GITHUB_APP_KEY_FILE, it is the real one.")
	} else {
		say.Print("GitHub is the real one")
	}

	role = newTemporaryKey()
	sm := secretsmanager.New(region, role)
	sm.Put(secretID, credential)
	s.env["GITHUB_SECRET_ID"] = secretID
	s.env["AWS_ENDPOINT_URL_SECRETS_MANAGER"], err = st.serve(host+":0", sm)
	return role, err
}

// newKey returns credentials that look like AWS's.
func newKey(prefix string) aws.Credentials {
	return aws.Credentials{AccessKeyID: prefix + rand.Text()[:16], SecretAccessKey: rand.Text() + rand.Text()[:14]}
}

func newTemporaryKey() aws.Credentials {
	c := newKey("ASIA")
	c.SessionToken = rand.Text() + rand.Text()
	return c
}

// serve serves at the address until the stack is closed.
func (st *stack) serve(address string, h http.Handler) (url string, err error) {
	listener, err := net.Listen("tcp", address)
	if err != nil {
		return "", err
	}
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
	return "http://" + listener.Addr().String(), nil
}

// close stops everything, callers before what they call.
func (st *stack) close() {
	for len(st.stop) > 0 {
		last := len(st.stop) - 1
		st.stop[last]()
		st.stop = st.stop[:last]
	}
}
