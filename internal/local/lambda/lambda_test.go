package lambda_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"os"
	goruntime "runtime"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	runtime "github.com/aws/aws-lambda-go/lambda"
	"github.com/aws/aws-sdk-go-v2/aws"

	"runner-token-broker/internal/local/lambda"
)

// The test binary is the function, too.
func TestMain(m *testing.M) {
	if os.Getenv("AWS_LAMBDA_RUNTIME_API") != "" {
		function()
		return
	}
	os.Setenv("GITHUB_PAT", "of the parent") // which no function may see
	os.Exit(m.Run())
}

// exiting is the environment of a function that exits: the race detector would sleep for a second.
var exiting = map[string]string{"GORACE": "atexit_sleep_ms=0"}

type event struct {
	Do   string
	Addr string // of the test, for "meet"
}

func function() {
	switch os.Getenv("START") {
	case "exit":
		fmt.Fprintln(os.Stderr, "GITHUB_SECRET_ID is not set")
		os.Exit(3)
	case "init/error":
		url := "http://" + os.Getenv("AWS_LAMBDA_RUNTIME_API") + "/2018-06-01/runtime/init/error"
		http.Post(url, "application/json", strings.NewReader(`{"errorType":"Config","errorMessage":"none"}`))
		os.Exit(1)
	}
	if os.Getenv("START") == "by hand" {
		byHand()
	}
	runtime.StartHandlerFunc(func(ctx context.Context, e event) (any, error) {
		fmt.Println("doing", e.Do)
		switch e.Do {
		case "environ":
			return os.Environ(), nil
		case "deadline":
			d, _ := ctx.Deadline()
			return time.Until(d).Seconds(), nil
		case "pid":
			return os.Getpid(), nil
		case "error":
			return nil, errors.New("no")
		case "panic":
			panic("no")
		case "exit":
			os.Exit(1)
		case "hang":
			select {}
		case "big":
			return strings.Repeat("x", 7<<20), nil
		case "meet":
			conn, err := net.Dial("tcp", e.Addr)
			if err != nil {
				return nil, err
			}
			defer conn.Close()
			_, err = io.ReadAll(conn) // until the test lets go
			return os.Getpid(), err
		}
		return nil, nil
	})
}

// byHand answers an invocation that is not the one at hand, then the one at hand with what became of that.
func byHand() {
	api := "http://" + os.Getenv("AWS_LAMBDA_RUNTIME_API") + "/2018-06-01/runtime/invocation/"
	for {
		event, err := http.Get(api + "next")
		if err != nil {
			os.Exit(0)
		}
		io.Copy(io.Discard, event.Body)
		event.Body.Close()
		wrong, err := http.Post(api+"00000000-0000-4000-8000-000000000000/response", "", strings.NewReader(`"forged"`))
		if err != nil {
			os.Exit(1)
		}
		wrong.Body.Close()
		answer := fmt.Sprintf("%d %s", wrong.StatusCode, event.Header.Get("Lambda-Runtime-Invoked-Function-Arn"))
		id := event.Header.Get("Lambda-Runtime-Aws-Request-Id")
		right, err := http.Post(api+id+"/response", "", strings.NewReader(answer))
		if err != nil {
			os.Exit(1)
		}
		right.Body.Close()
	}
}

func start(t *testing.T, f lambda.Function) *lambda.Service {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	f.Path = self
	s, err := lambda.Start(f)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	return s
}

func invoke(t *testing.T, s *lambda.Service, do string) lambda.Result {
	t.Helper()
	result, err := s.Invoke(t.Context(), []byte(`{"Do":"`+do+`"}`))
	if err != nil {
		t.Fatalf("Invoke(%s): %v", do, err)
	}
	return result
}

func TestFunctionAnswers(t *testing.T) {
	t.Parallel()
	s := start(t, lambda.Function{Timeout: 7 * time.Second})
	result := invoke(t, s, "deadline")
	var left float64
	if err := json.Unmarshal(result.Payload, &left); err != nil || left < 5 || left > 7 {
		t.Errorf("the function has %s s left, want a little less than 7", result.Payload)
	}
	if result.FunctionError != "" || len(result.RequestID) != 36 {
		t.Errorf("Result = %+v", result)
	}
	if again := invoke(t, s, "deadline"); again.RequestID == result.RequestID {
		t.Error("two invocations have one request id")
	}
	processes := s.Processes()
	if len(processes) != 1 || processes[0].Init <= 0 || processes[0].PID == 0 {
		t.Errorf("Processes = %+v, want one, initialised", processes)
	}
}

func TestEnvironmentIsLambdasAndTheCallersOnly(t *testing.T) {
	t.Parallel()
	s := start(t, lambda.Function{
		Env:         map[string]string{"MINE": "1", "TZ": ":Europe/Berlin"},
		Region:      "eu-central-1",
		Credentials: aws.Credentials{AccessKeyID: "K", SecretAccessKey: "S", SessionToken: "T"},
	})
	var got []string
	if err := json.Unmarshal(invoke(t, s, "environ").Payload, &got); err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, kv := range got {
		name, _, _ := strings.Cut(kv, "=")
		names = append(names, name)
	}
	slices.Sort(names)
	want := []string{
		"AWS_ACCESS_KEY_ID", "AWS_DEFAULT_REGION", "AWS_LAMBDA_FUNCTION_MEMORY_SIZE", "AWS_LAMBDA_FUNCTION_NAME",
		"AWS_LAMBDA_FUNCTION_VERSION", "AWS_LAMBDA_INITIALIZATION_TYPE", "AWS_LAMBDA_LOG_GROUP_NAME",
		"AWS_LAMBDA_LOG_STREAM_NAME", "AWS_LAMBDA_RUNTIME_API", "AWS_REGION", "AWS_SECRET_ACCESS_KEY",
		"AWS_SESSION_TOKEN", "LAMBDA_RUNTIME_DIR", "LAMBDA_TASK_ROOT", "LANG", "MINE", "PATH", "TZ", "_HANDLER",
		"_X_AMZN_TRACE_ID",
	}
	if !slices.Equal(names, want) {
		t.Errorf("environment has\n%s, want\n%s", names, want)
	}
	for _, kv := range []string{
		"AWS_REGION=eu-central-1", "AWS_ACCESS_KEY_ID=K", "AWS_SESSION_TOKEN=T", "TZ=:Europe/Berlin", "MINE=1",
	} {
		if !slices.Contains(got, kv) {
			t.Errorf("environment lacks %s", kv)
		}
	}
}

func TestReservedVariablesAreRefused(t *testing.T) {
	t.Parallel()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"AWS_REGION", "AWS_ACCESS_KEY_ID", "AWS_LAMBDA_RUNTIME_API"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, err := lambda.Start(lambda.Function{Path: self, Env: map[string]string{name: "x"}})
			if err == nil || !strings.Contains(err.Error(), name) {
				t.Errorf("Start: %v, want it to name the variable", err)
			}
		})
	}
}

func TestMissingBinaryIsAnError(t *testing.T) {
	t.Parallel()
	if _, err := lambda.Start(lambda.Function{Path: t.TempDir() + "/bootstrap"}); err == nil {
		t.Error("no error")
	}
}

func TestFailuresAreLambdas(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		do, errorType, message string // ID is the request's
		processes              []int  // how many there may be when the next invocation is answered
	}{
		{"error", "errorString", "no", []int{1}},
		{"panic", "string", "no", []int{2}},
		{"exit", "Runtime.ExitError", "RequestId: ID Error: Runtime exited with error: exit status 1", []int{2}},
		{"big", "Function.ResponseSizeTooLarge", "RequestId: ID Error: Response payload size exceeded maximum " +
			"allowed payload size (6291556 bytes).", []int{1, 2}}, // the runtime decides whether it goes on
	} {
		t.Run(test.do, func(t *testing.T) {
			t.Parallel()
			s := start(t, lambda.Function{Env: exiting})
			result := invoke(t, s, test.do)
			var got struct{ ErrorType, ErrorMessage string }
			json.Unmarshal(result.Payload, &got)
			want := strings.ReplaceAll(test.message, "ID ", result.RequestID+" ")
			if result.FunctionError != "Unhandled" || got.ErrorType != test.errorType || got.ErrorMessage != want {
				t.Errorf("%s %.200s, want %s %q", result.FunctionError, result.Payload, test.errorType, want)
			}
			if after := invoke(t, s, "pid"); after.FunctionError != "" {
				t.Errorf("afterwards: %s, want the function to be there again", after.Payload)
			}
			if n := len(s.Processes()); !slices.Contains(test.processes, n) {
				t.Errorf("%d processes, want %v", n, test.processes)
			}
		})
	}
}

func TestFunctionOverItsTimeIsKilled(t *testing.T) {
	t.Parallel()
	s := start(t, lambda.Function{Timeout: 500 * time.Millisecond})
	result := invoke(t, s, "hang")
	want := `{"errorMessage":"RequestId: ` + result.RequestID + ` Error: Task timed out after 0.50 seconds",` +
		`"errorType":"Sandbox.Timedout"}`
	if string(result.Payload) != want || result.FunctionError != "Unhandled" {
		t.Errorf("%s %s, want %s", result.FunctionError, result.Payload, want)
	}
	if after := invoke(t, s, "pid"); after.FunctionError != "" {
		t.Errorf("after the timeout: %s", after.Payload)
	}
	if !s.Processes()[0].Exited {
		t.Error("the process goes on")
	}
}

func TestFailedStartIsReportedAtOnceAndWithItsOutput(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		start, answer string
		output        string // of each start
	}{
		{"exit", `"Runtime.ExitError"`, "GITHUB_SECRET_ID is not set\n"},
		{"init/error", `{"errorType":"Config","errorMessage":"none"}`, ""},
	} {
		t.Run(test.start, func(t *testing.T) {
			t.Parallel()
			var out bytes.Buffer
			env := map[string]string{"START": test.start}
			maps.Copy(env, exiting)
			s := start(t, lambda.Function{Env: env, Output: &out})
			if err := s.Ready(t.Context()); err == nil {
				t.Error("Ready says that it came up")
			}
			result := invoke(t, s, "pid")
			if result.FunctionError != "Unhandled" || !strings.Contains(string(result.Payload), test.answer) {
				t.Errorf("%s %s, want %s", result.FunctionError, result.Payload, test.answer)
			}
			s.Close()
			if want := test.output + test.output; out.String() != want {
				t.Errorf("output %q, want %q", out.String(), want)
			}
		})
	}
}

func TestOnlyTheInvocationAtHandCanBeAnswered(t *testing.T) {
	t.Parallel()
	s := start(t, lambda.Function{Name: "f", Env: map[string]string{"START": "by hand"}})
	for range 2 {
		const want = "400 arn:aws:lambda:us-east-1:123456789012:function:f"
		if got := string(invoke(t, s, "").Payload); got != want {
			t.Errorf("answer %q, want %q", got, want)
		}
	}
}

func TestProcessThatDiedIdleIsReplaced(t *testing.T) {
	t.Parallel()
	s := start(t, lambda.Function{})
	if err := s.Ready(t.Context()); err != nil {
		t.Fatal(err)
	}
	process, err := os.FindProcess(s.Processes()[0].PID)
	if err != nil {
		t.Fatal(err)
	}
	process.Kill()
	for !s.Processes()[0].Exited {
		goruntime.Gosched()
	}
	if result := invoke(t, s, "pid"); result.FunctionError != "" {
		t.Errorf("%s, want a new process to answer", result.Payload)
	}
}

// meeting is where functions wait until they are let go.
type meeting struct {
	net.Listener
	arrived chan net.Conn
}

func newMeeting(t *testing.T) *meeting {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	m := &meeting{l, make(chan net.Conn)}
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			m.arrived <- conn
		}
	})
	t.Cleanup(func() { l.Close(); wg.Wait() })
	return m
}

func (m *meeting) event() []byte { return fmt.Appendf(nil, `{"Do":"meet","Addr":%q}`, m.Addr()) }

func TestEnvironmentServesOneInvocationAtATime(t *testing.T) {
	t.Parallel()
	m := newMeeting(t)
	s := start(t, lambda.Function{Environments: 2})
	pids := make(chan string, 3)
	for range 3 {
		go func() {
			result, err := s.Invoke(t.Context(), m.event())
			if err != nil {
				t.Error(err)
			}
			pids <- string(result.Payload)
		}()
	}
	first, second := <-m.arrived, <-m.arrived
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, err := s.Invoke(ctx, m.event()); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("Invoke with both environments busy: %v, want it to wait until its context ends", err)
	}
	select {
	case <-m.arrived:
		t.Error("a third invocation runs in two environments")
	default:
	}
	first.Close()
	third := <-m.arrived
	third.Close()
	second.Close()
	seen := map[string]bool{}
	for range 3 {
		seen[<-pids] = true
	}
	if len(seen) != 2 {
		t.Errorf("served by processes %v, want two", seen)
	}
}

func TestInvocationOutlivesItsCaller(t *testing.T) {
	t.Parallel()
	m := newMeeting(t)
	s := start(t, lambda.Function{})
	ctx, cancel := context.WithCancel(t.Context())
	left := make(chan error)
	go func() {
		_, err := s.Invoke(ctx, m.event())
		left <- err
	}()
	conn := <-m.arrived
	cancel()
	if err := <-left; !errors.Is(err, context.Canceled) {
		t.Errorf("Invoke = %v", err)
	}
	conn.Close()
	invoke(t, s, "pid")
	if n := len(s.Processes()); n != 1 {
		t.Errorf("%d processes, want the one that went on", n)
	}
}

// It is not parallel: it wants this package's goroutines to be gone.
func TestCloseLeavesNothing(t *testing.T) {
	m := newMeeting(t)
	s := start(t, lambda.Function{Environments: 2, Timeout: time.Hour})
	failed := make(chan error)
	go func() {
		_, err := s.Invoke(t.Context(), m.event())
		failed <- err
	}()
	conn := <-m.arrived
	defer conn.Close()
	if err := s.Ready(t.Context()); err != nil {
		t.Fatal(err)
	}
	if s.Processes()[0].PeakMemory == 0 {
		if _, err := os.Stat("/proc/self/status"); err == nil {
			t.Error("PeakMemory of a running process is 0")
		}
	}
	s.Close()
	if err := <-failed; err == nil {
		t.Error("an invocation that Close cut off has an answer")
	}
	if _, err := s.Invoke(t.Context(), nil); err == nil {
		t.Error("Invoke after Close: no error")
	}
	for _, p := range s.Processes() {
		process, err := os.FindProcess(p.PID)
		if !p.Exited || err == nil && process.Signal(syscall.Signal(0)) == nil {
			t.Errorf("process %d is still there", p.PID)
		}
	}
	stacks := make([]byte, 1<<20)
	left := func() bool {
		return bytes.Contains(stacks[:goruntime.Stack(stacks, true)], []byte("/internal/local/lambda.(*"))
	}
	for deadline := time.Now().Add(5 * time.Second); left(); goruntime.Gosched() { // the last ones are on their way out
		if time.Now().After(deadline) {
			t.Fatalf("goroutines are still there:\n%s", stacks)
		}
	}
}

func TestOutputIsOneStream(t *testing.T) {
	t.Parallel()
	var out bytes.Buffer // not safe for concurrent use: the race detector watches
	s := start(t, lambda.Function{Environments: 2, Output: &out})
	var wg sync.WaitGroup
	for range 6 {
		wg.Go(func() { s.Invoke(t.Context(), []byte(`{"Do":"pid"}`)) })
	}
	wg.Wait()
	s.Close()
	if n := strings.Count(out.String(), "doing pid\n"); n != 6 {
		t.Errorf("output has %d lines, want 6: %q", n, out.String())
	}
}
