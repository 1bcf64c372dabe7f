package main

import (
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"runner-token-broker/internal/local/github"
	"runner-token-broker/internal/local/lambda"
)

// usage is what a process has of the machine.
type usage struct{ kB, threads, descriptors int }

func usageOf(t *testing.T, pid int) (u usage) {
	t.Helper()
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(status)) {
		name, value, _ := strings.Cut(strings.TrimSuffix(strings.TrimSpace(line), " kB"), ":")
		n, _ := strconv.Atoi(strings.TrimSpace(value))
		switch name {
		case "VmRSS":
			u.kB = n
		case "Threads":
			u.threads = n
		}
	}
	files, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", pid))
	if err != nil {
		t.Fatal(err)
	}
	u.descriptors = len(files)
	return u
}

func TestTwentyThousandInvocationsLeaveNothingBehind(t *testing.T) {
	t.Parallel()
	// As it is deployed: with cgo, setenv of the C library leaks, and aws-lambda-go calls it for each invocation.
	binary := filepath.Join(t.TempDir(), "bootstrap")
	build := exec.Command("go", "build", "-tags", "lambda.norpc", "-o", binary, ".")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	// Tokens are never reused, and so each request that is not refused opens connections.
	s := start(t, settings{"TOKEN_MIN_LIFE": "1h", "SHARED_TOKENS_SECRET_ID": "shared-tokens"},
		func(f *lambda.Function) {
			f.Path, f.Environments, f.Output = binary, 1, nil // 24,000 lines would hide a failure
		})
	s.secrets.Put("shared-tokens", sharedTokens([]string{"repos/acme/a"}))
	s.github.OnRequest(func(r *http.Request) *github.Answer {
		switch {
		case strings.Contains(r.URL.Path, "missing"):
			return github.Refusal(http.StatusNotFound, "Not Found")
		case strings.Contains(r.URL.Path, "broken"):
			return github.Refusal(http.StatusBadRequest, "Problems parsing JSON")
		}
		return nil
	})
	sample, err := os.ReadFile("../../events/http-api-v2-org-registration-token.json")
	if err != nil {
		t.Fatal(err)
	}
	events := []string{
		`{"target":"orgs/acme"}`, `{"target":"repos/acme/a"}`, `{"target":"orgs/acme","fresh":true}`,
		`{"target":"orgs/acme","kind":"remove-token"}`, `{"target":"repos/acme/missing"}`, `{"target":"repos/acme/broken"}`,
		`{"target":"orgs/other"}`, `{"target":"ORGS"}`, `{`, `{"refresh":true}`, string(sample),
	}
	invoke := func(times int) {
		for n := range times {
			if _, err := s.lambda.Invoke(t.Context(), []byte(events[n%len(events)])); err != nil {
				t.Fatal(err)
			}
		}
	}
	const warm, times = 4_000, 20_000
	invoke(warm)
	pid := s.lambda.Processes()[0].PID
	before := usageOf(t, pid)
	invoke(times)
	after := usageOf(t, pid)
	t.Logf("before %+v, after %+v, %d calls to GitHub", before, after, len(s.github.Requests()))
	if n := len(s.lambda.Processes()); n != 1 {
		t.Fatalf("the function ran %d times", n)
	}
	if calls := len(s.github.Requests()); calls < 5_000 {
		t.Errorf("%d calls to GitHub: nothing was opened", calls)
	}
	// A kB for each invocation would be 20 MB; the heap itself goes up and down by a few.
	if after.kB > before.kB+8_000 || after.threads > before.threads+4 || after.descriptors > before.descriptors+4 {
		t.Errorf("before %+v, after %+v", before, after)
	}
}
