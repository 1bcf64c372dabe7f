// Package lambda stands in for the Lambda service. It runs a function's binary as Lambda does, once for each execution
// environment, and hands it invocations over the runtime API. They come from Go, or over HTTP (Endpoint).
//
// It does not know IAM, containers, layers, extensions, throttling, second tries of asynchronous invocations, streamed
// or concurrent invocations in one environment, SnapStart, limits of memory, CPU or disk, or the platform's own log
// lines. The process sees the machine's file system. Environments are not frozen between invocations, and their number
// stays the same: where Lambda would start another one, or throttle, an invocation waits.
package lambda

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/google/uuid"
)

// Function is what to run, and how.
type Function struct {
	Path string   // the binary
	Args []string // its arguments; Lambda gives none

	// Env is the function's own environment. Besides it, the process gets what Lambda sets, and nothing else.
	Env map[string]string

	Name         string          // "token" if empty
	Region       string          // "us-east-1" if empty
	Credentials  aws.Credentials // of the function's role
	Environments int             // how many invocations are served at a time; 1 if 0
	Timeout      time.Duration   // 25 s if 0
	Output       io.Writer       // gets stdout and stderr of every process, one write at a time; nil discards them
}

// Result is the answer to an invocation.
type Result struct {
	RequestID     string
	Payload       []byte
	FunctionError string        // "Unhandled" if the function failed; Payload says how
	Duration      time.Duration // from handing the event over to the answer
}

// Process is one run of the binary.
type Process struct {
	PID        int
	Init       time.Duration // from its start to its first request for an event; 0 if there was none
	PeakMemory int64         // in bytes, as Linux counts it (VmHWM); 0 elsewhere, or if it ended by itself
	Exited     bool
}

const (
	initTimeout = 10 * time.Second
	maxPayload  = 6 << 20
)

var errClosed = errors.New("lambda: closed")

// Service is a running function. Use Start. It is safe for concurrent use.
type Service struct {
	function Function
	env      []string
	free     chan *environment
	closing  chan struct{}
	started  []chan error // of each environment, its first init's outcome

	mu        sync.Mutex // also orders work.Add before work.Wait
	closed    bool
	processes []*process
	work      sync.WaitGroup
}

// environment runs one process at a time and serves one invocation at a time. The goroutine that took it from
// Service.free owns it.
type environment struct {
	process *process // nil if there is none that runs
}

// Start starts the function in all its environments and returns at once; Ready tells whether they came up.
func Start(f Function) (*Service, error) {
	path, err := filepath.Abs(f.Path)
	if err == nil {
		path, err = exec.LookPath(path)
	}
	if err != nil {
		return nil, fmt.Errorf("lambda: %w", err)
	}
	f.Path = path
	f.Name = cmp.Or(f.Name, "token")
	f.Region = cmp.Or(f.Region, "us-east-1")
	f.Environments = cmp.Or(f.Environments, 1)
	f.Timeout = cmp.Or(f.Timeout, 25*time.Second)
	if f.Output != nil {
		f.Output = &serial{w: f.Output}
	}
	env, err := f.environ()
	if err != nil {
		return nil, err
	}
	s := &Service{
		function: f,
		env:      env,
		free:     make(chan *environment, f.Environments),
		closing:  make(chan struct{}),
	}
	for range f.Environments {
		started := make(chan error, 1)
		s.started = append(s.started, started)
		s.work.Go(func() {
			e := new(environment)
			started <- s.init(e)
			s.free <- e
		})
	}
	return s, nil
}

// Ready waits until every environment has come up or has failed. One that failed is tried again with its next
// invocation.
func (s *Service) Ready(ctx context.Context) error {
	var problems []error
	for _, started := range s.started {
		select {
		case err := <-started:
			started <- err // for the next call
			problems = append(problems, err)
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return errors.Join(problems...)
}

// Invoke waits for a free environment, invokes the function and waits for its answer. An error means that there is no
// answer: ctx ended, or the Service was closed. A failure of the function is a Result. If ctx ends, an invocation that
// was handed over goes on, as it does on Lambda.
func (s *Service) Invoke(ctx context.Context, payload []byte) (Result, error) {
	var e *environment
	select {
	case e = <-s.free:
	case <-ctx.Done():
		return Result{}, ctx.Err()
	case <-s.closing:
		return Result{}, errClosed
	}
	inv := &invocation{id: uuid.NewString(), payload: payload, done: make(chan Result, 1)}
	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		return Result{}, errClosed
	}
	s.work.Go(func() {
		s.serve(e, inv)
		s.free <- e
	})
	s.mu.Unlock()
	select {
	case result := <-inv.done:
		return result, nil
	case <-ctx.Done():
		return Result{}, ctx.Err()
	case <-s.closing:
		return Result{}, errClosed
	}
}

// Processes returns every run of the binary so far.
func (s *Service) Processes() []Process {
	s.mu.Lock()
	defer s.mu.Unlock()
	var all []Process
	for _, p := range s.processes {
		all = append(all, p.info())
	}
	return all
}

// Close ends all processes and waits until nothing of them is left.
func (s *Service) Close() {
	s.mu.Lock()
	if !s.closed {
		s.closed = true
		close(s.closing)
	}
	s.mu.Unlock()
	s.work.Wait()
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, p := range s.processes {
		p.end()
	}
}

// init starts a process in e and waits for it to ask for its first event. If that fails, e has no process.
func (s *Service) init(e *environment) error {
	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		return errClosed
	}
	p, err := startProcess(s.function, s.env)
	if err == nil {
		s.processes = append(s.processes, p)
	}
	s.mu.Unlock()
	if err != nil {
		return &failure{"Runtime.InvalidEntrypoint", err.Error()}
	}
	timeout := time.NewTimer(initTimeout)
	defer timeout.Stop()
	select {
	case <-p.polled:
		p.setInit(time.Since(p.start))
		e.process = p
		return nil
	case body := <-p.initError:
		p.end()
		return &posted{body}
	case <-p.exited:
		p.end()
		select {
		case body := <-p.initError:
			return &posted{body}
		default:
			return p.exitError()
		}
	case <-timeout.C:
		p.end()
		message := fmt.Sprintf("Init did not complete within %.2f seconds", initTimeout.Seconds())
		return &failure{"Sandbox.Timedout", message}
	case <-s.closing:
		p.end()
		return errClosed
	}
}

// serve answers inv. Then e is fit for the next one: it has a process that has asked for it, or no process.
func (s *Service) serve(e *environment, inv *invocation) {
	if p := e.process; p != nil && p.hasExited() { // between invocations
		p.end()
		e.process = nil
	}
	if e.process == nil {
		if err := s.init(e); err != nil {
			inv.fail(err)
			return
		}
	}
	p := e.process
	abandon := func() {
		p.end()
		e.process = nil
	}
	p.expect(inv, s.function)
	events := p.events
	timeout := time.NewTimer(s.function.Timeout)
	defer timeout.Stop()
	for {
		// If inv has its answer already, failing it does nothing.
		select {
		case events <- inv:
			events = nil
		case <-p.polled:
			if events != nil {
				continue // it lost its connection and asks again
			}
			// A process that asks for the next event is done with this one.
			inv.fail(&failure{"Runtime.NoResponse", "the runtime asked for the next event without answering this one"})
			return
		case <-p.exited:
			inv.fail(p.exitError())
			abandon()
			return
		case <-timeout.C:
			message := fmt.Sprintf("Task timed out after %.2f seconds", s.function.Timeout.Seconds())
			inv.fail(&failure{"Sandbox.Timedout", message})
			abandon()
			return
		case <-s.closing:
			abandon()
			return
		}
	}
}

const account = "123456789012"

func (f Function) arn() string {
	return "arn:aws:lambda:" + f.Region + ":" + account + ":function:" + f.Name
}

// environ returns the environment of a process, without the runtime API's address.
func (f Function) environ() ([]string, error) {
	stream := time.Now().UTC().Format("2006/01/02") + "/[$LATEST]" + strings.ReplaceAll(uuid.NewString(), "-", "")
	defaults := map[string]string{
		"LANG": "en_US.UTF-8",
		"PATH": "/usr/local/bin:/usr/bin:/bin:/opt/bin",
		"TZ":   ":UTC",
	}
	reserved := map[string]string{
		"_HANDLER":                        "bootstrap",
		"AWS_REGION":                      f.Region,
		"AWS_DEFAULT_REGION":              f.Region,
		"AWS_ACCESS_KEY_ID":               f.Credentials.AccessKeyID,
		"AWS_SECRET_ACCESS_KEY":           f.Credentials.SecretAccessKey,
		"AWS_SESSION_TOKEN":               f.Credentials.SessionToken,
		"AWS_LAMBDA_FUNCTION_NAME":        f.Name,
		"AWS_LAMBDA_FUNCTION_VERSION":     "$LATEST",
		"AWS_LAMBDA_FUNCTION_MEMORY_SIZE": "256",
		"AWS_LAMBDA_INITIALIZATION_TYPE":  "on-demand",
		"AWS_LAMBDA_LOG_GROUP_NAME":       "/aws/lambda/" + f.Name,
		"AWS_LAMBDA_LOG_STREAM_NAME":      stream,
		"LAMBDA_TASK_ROOT":                filepath.Dir(f.Path),
		"LAMBDA_RUNTIME_DIR":              "/var/runtime",
	}
	var env []string
	for name, value := range defaults {
		env = append(env, name+"="+value)
	}
	for name, value := range f.Env { // wins over the defaults: the last one counts
		if _, ok := reserved[name]; ok || name == runtimeAPI {
			return nil, fmt.Errorf("lambda: %s is set by Lambda, Env cannot", name)
		}
		env = append(env, name+"="+value)
	}
	for name, value := range reserved {
		if value != "" {
			env = append(env, name+"="+value)
		}
	}
	return slices.Clip(env), nil
}

// failure is an error of Lambda's own.
type failure struct{ Type, Message string }

func (f *failure) Error() string { return f.Type + ": " + f.Message }

// posted is an error that the process reported itself.
type posted struct{ body []byte }

func (p *posted) Error() string { return "init failed: " + string(p.body) }

// errorPayload renders err as Lambda does.
func errorPayload(requestID string, err error) []byte {
	if p, ok := errors.AsType[*posted](err); ok {
		return p.body
	}
	f, ok := errors.AsType[*failure](err)
	if !ok {
		f = &failure{"Runtime.Unknown", err.Error()}
	}
	body, _ := json.Marshal(map[string]string{
		"errorType":    f.Type,
		"errorMessage": "RequestId: " + requestID + " Error: " + f.Message,
	})
	return body
}

// serial makes one writer of many.
type serial struct {
	mu sync.Mutex
	w  io.Writer
}

func (s *serial) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.w.Write(p)
}
