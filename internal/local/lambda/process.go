package lambda

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/google/uuid"
)

const runtimeAPI = "AWS_LAMBDA_RUNTIME_API"

// process is one run of the binary. It has a runtime API of its own: a late request of a process that was killed cannot
// reach the next one.
type process struct {
	cmd       *exec.Cmd
	server    http.Server
	conns     sync.WaitGroup // the server's goroutines
	start     time.Time
	polled    chan struct{}    // a send for each request for an event
	events    chan *invocation // to the request that sent on polled
	initError chan []byte
	exited    chan struct{} // closed when the process is gone

	mu      sync.Mutex
	current *invocation
	init    time.Duration
	peak    int64
	ended   bool
}

// invocation is an event on its way.
type invocation struct {
	id       string
	payload  []byte
	deadline time.Time
	arn      string
	handed   time.Time
	done     chan Result // has room for the one Result that counts
	once     sync.Once
}

func (inv *invocation) answer(payload []byte, functionError string) {
	inv.once.Do(func() {
		var d time.Duration
		if !inv.handed.IsZero() {
			d = time.Since(inv.handed)
		}
		inv.done <- Result{RequestID: inv.id, Payload: payload, FunctionError: functionError, Duration: d}
	})
}

func (inv *invocation) fail(err error) {
	if !errors.Is(err, errClosed) {
		inv.answer(errorPayload(inv.id, err), "Unhandled")
	}
}

func startProcess(f Function, env []string) (*process, error) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	p := &process{
		cmd:       exec.Command(f.Path, f.Args...),
		polled:    make(chan struct{}),
		events:    make(chan *invocation),
		initError: make(chan []byte, 1),
		exited:    make(chan struct{}),
	}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /2018-06-01/runtime/invocation/next", p.next)
	mux.HandleFunc("POST /2018-06-01/runtime/invocation/{id}/response", p.response)
	mux.HandleFunc("POST /2018-06-01/runtime/invocation/{id}/error", p.response)
	mux.HandleFunc("POST /2018-06-01/runtime/init/error", p.initFailed)
	p.server.Handler = mux
	p.server.ConnState = func(_ net.Conn, state http.ConnState) {
		switch state {
		case http.StateNew:
			p.conns.Add(1)
		case http.StateClosed:
			p.conns.Done()
		}
	}

	p.cmd.Dir = filepath.Dir(f.Path)
	p.cmd.Env = append(env, runtimeAPI+"="+listener.Addr().String())
	p.cmd.Stdout, p.cmd.Stderr = f.Output, f.Output
	p.cmd.WaitDelay = time.Second // for pipes that a child of the process holds
	p.start = time.Now()
	if err := p.cmd.Start(); err != nil {
		listener.Close()
		return nil, err
	}
	p.conns.Go(func() { p.server.Serve(listener) })
	go func() {
		defer close(p.exited)
		p.cmd.Wait()
	}()
	return p, nil
}

func (p *process) hasExited() bool {
	select {
	case <-p.exited:
		return true
	default:
		return false
	}
}

// exitError is for a process that has exited.
func (p *process) exitError() error {
	if state := p.cmd.ProcessState; state != nil && !state.Success() {
		return &failure{"Runtime.ExitError", "Runtime exited with error: " + state.String()}
	}
	return &failure{"Runtime.ExitError", "Runtime exited without providing a reason"}
}

// end kills the process if it runs, and waits until nothing of it is left. It may be called again.
func (p *process) end() {
	p.mu.Lock()
	if !p.ended {
		p.ended = true
		p.peak = max(p.peak, peakMemory(p.cmd.Process.Pid, p.hasExited()))
		p.cmd.Process.Kill()
	}
	p.mu.Unlock()
	<-p.exited
	p.server.Close()
	p.conns.Wait()
}

func (p *process) setInit(d time.Duration) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.init = d
}

func (p *process) info() Process {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.ended {
		p.peak = max(p.peak, peakMemory(p.cmd.Process.Pid, p.hasExited()))
	}
	return Process{PID: p.cmd.Process.Pid, Init: p.init, PeakMemory: p.peak, Exited: p.hasExited()}
}

// peakMemory reads what the process itself used. The Maxrss of its rusage is too large: until exec, a child is charged
// with its parent's memory.
func peakMemory(pid int, exited bool) int64 {
	if exited {
		return 0 // another process may have the number by now
	}
	status, _ := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/status")
	for line := range strings.Lines(string(status)) {
		if rest, ok := strings.CutPrefix(line, "VmHWM:"); ok {
			kB, _ := strconv.ParseInt(strings.TrimSuffix(strings.TrimSpace(rest), " kB"), 10, 64)
			return kB << 10
		}
	}
	return 0
}

// expect makes inv the one invocation that the process may answer.
func (p *process) expect(inv *invocation, f Function) {
	inv.handed = time.Now()
	inv.deadline = inv.handed.Add(f.Timeout)
	inv.arn = f.arn()
	p.mu.Lock()
	p.current = inv
	p.mu.Unlock()
}

func (p *process) next(w http.ResponseWriter, r *http.Request) {
	select {
	case p.polled <- struct{}{}:
	case <-r.Context().Done():
		return
	}
	var inv *invocation
	select {
	case inv = <-p.events:
	case <-r.Context().Done():
		return
	}
	h := w.Header()
	h.Set("Content-Type", "application/json")
	h.Set("Lambda-Runtime-Aws-Request-Id", inv.id)
	h.Set("Lambda-Runtime-Deadline-Ms", strconv.FormatInt(inv.deadline.UnixMilli(), 10))
	h.Set("Lambda-Runtime-Invoked-Function-Arn", inv.arn)
	trace := uuid.New()
	h.Set("Lambda-Runtime-Trace-Id",
		fmt.Sprintf("Root=1-%08x-%x;Parent=%x;Sampled=0", inv.handed.Unix(), trace[:12], trace[8:]))
	w.Write(inv.payload)
}

// response takes the function's answer, or its error.
func (p *process) response(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(io.LimitReader(r.Body, maxPayload+1))
	if err != nil {
		return // the process went away
	}
	p.mu.Lock()
	inv := p.current
	if inv == nil || inv.id != r.PathValue("id") {
		p.mu.Unlock()
		reply(w, http.StatusBadRequest, `{"errorMessage":"Invalid request ID","errorType":"InvalidRequestID"}`)
		return
	}
	p.current = nil
	p.mu.Unlock()
	functionError := ""
	if strings.HasSuffix(r.URL.Path, "/error") {
		functionError = "Unhandled"
	}
	if len(body) > maxPayload {
		inv.fail(&failure{"Function.ResponseSizeTooLarge",
			"Response payload size exceeded maximum allowed payload size (6291556 bytes)."})
		reply(w, http.StatusRequestEntityTooLarge,
			`{"errorMessage":"Exceeded maximum allowed payload size","errorType":"RequestEntityTooLarge"}`)
	} else {
		inv.answer(body, functionError)
		reply(w, http.StatusAccepted, `{"status":"OK"}`)
	}
}

func (p *process) initFailed(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(io.LimitReader(r.Body, maxPayload))
	if err != nil {
		return
	}
	select {
	case p.initError <- body:
	default:
	}
	reply(w, http.StatusAccepted, `{"status":"OK"}`)
}

func reply(w http.ResponseWriter, status int, body string) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	io.WriteString(w, body)
}
