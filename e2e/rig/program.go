package rig

import (
	"bytes"
	"math/rand/v2"
	"net"
	"net/http"
	"os/exec"
	"strconv"
	"sync"
	"syscall"
	"testing"
	"time"
)

// Run returns what a command printed, and its exit status.
func Run(t *testing.T, cmd *exec.Cmd) (stdout, stderr string, status int) {
	t.Helper()
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	if err := cmd.Run(); err != nil && cmd.ProcessState == nil {
		t.Fatal(err)
	}
	return out.String(), errs.String(), cmd.ProcessState.ExitCode()
}

// Output returns what a command printed to stdout. The command must end with 0.
func Output(t *testing.T, cmd *exec.Cmd) string {
	t.Helper()
	out, errs, status := Run(t, cmd)
	if status != 0 {
		t.Fatalf("%s: exit %d\n%s%s", cmd, status, out, errs)
	}
	return out
}

// Program runs beside the test.
type Program struct {
	// Stop ends it. The end of the test does so too.
	Stop    func()
	printed bytes.Buffer
}

// Start starts a program and waits until it is ready. The signal is what ends it: it goes to the whole process group if
// the program leads one.
func Start(t *testing.T, cmd *exec.Cmd, signal syscall.Signal, ready func() bool) *Program {
	t.Helper()
	p := new(Program)
	cmd.Stdout, cmd.Stderr = &p.printed, &p.printed
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		cmd.Wait()
	}()
	p.Stop = sync.OnceFunc(func() {
		select {
		case <-ended:
			return
		default:
		}
		pid := cmd.Process.Pid
		if cmd.SysProcAttr != nil && cmd.SysProcAttr.Setpgid {
			pid = -pid
		}
		syscall.Kill(pid, signal)
		<-ended
	})
	t.Cleanup(func() {
		p.Stop()
		if t.Failed() {
			t.Logf("%s printed:\n%s", cmd, &p.printed)
		}
	})
	Await(t, time.Minute, cmd.String()+" serves", func() bool {
		select {
		case <-ended:
			t.Fatalf("%s ended: %s", cmd, cmd.ProcessState)
		default:
		}
		return ready()
	})
	return p
}

// Printed stops the program and returns all that it printed.
func (p *Program) Printed() string {
	p.Stop()
	return p.printed.String()
}

// Await looks ten times a second whether something is so, and fails the test if it is not so in time.
func Await(t *testing.T, limit time.Duration, what string, so func() bool) {
	t.Helper()
	for deadline := time.Now().Add(limit); !so(); {
		if time.Now().After(deadline) {
			t.Fatalf("not after %s: %s", limit, what)
		}
		select {
		case <-time.After(100 * time.Millisecond):
		case <-t.Context().Done():
		}
	}
}

// FreePort returns a port of 127.0.0.1 that is free. It lies below the ports that the kernel gives to clients and to
// listeners on port 0, so that none of them takes it before the program that it is for.
func FreePort(t *testing.T) string {
	t.Helper()
	for range 100 {
		port := strconv.Itoa(20000 + rand.IntN(12000))
		if l, err := net.Listen("tcp", "127.0.0.1:"+port); err == nil {
			l.Close()
			return port
		}
	}
	t.Fatal("no port is free")
	return ""
}

// Answers says whether a GET is answered with the status.
func Answers(url string, status int) bool {
	resp, err := http.Get(url)
	if err != nil {
		return false
	}
	resp.Body.Close()
	return resp.StatusCode == status
}
