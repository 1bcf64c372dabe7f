package main

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"golang.org/x/time/rate"

	"runner-token-broker/internal/local/apigateway"
	"runner-token-broker/internal/local/github"
	"runner-token-broker/internal/local/lambda"
	"runner-token-broker/internal/local/secretsmanager"
	"runner-token-broker/internal/local/sigv4"
	"runner-token-broker/internal/secret"
)

// TestSimulationCountsWhatTheFunctionDoes lets a thousand instances ask the built function under the local stack, and
// compares the counts with the simulation of the same model: they are the same. Where instances try again, the number
// of tries is not compared: a busy machine answers later and is asked more often.
//
// Times are not compared, and so all instances ask at once. Instead of taking 400 ms, GitHub answers when all
// environments have asked, or when everybody else was refused. The sleeps of the instances are not shortened.
// The local Lambda does not throttle: reservation does it here, without Lambda's limit of requests a second. It uses
// the environment that has waited longest, the simulation the one that has waited least.
func TestSimulationCountsWhatTheFunctionDoes(t *testing.T) {
	t.Parallel()
	binary := filepath.Join(t.TempDir(), "bootstrap")
	build := exec.Command("go", "build", "-ldflags=-w", "-o", binary, "../../functions/token")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	storm := standard()
	storm.Instances, storm.Within = 1_000, 0
	storm.ReservedConcurrency, storm.InvocationRate = 10, 0
	storm.ThrottlingBurstLimit, storm.APIBurst = 1_000_000, 0
	once := storm
	once.Timeout = 0

	// What is not compared, since it hangs on times; or also on which environment is used again.
	nothing := func(*Outcome) {}
	tries := func(o *Outcome) { o.Requests, o.Throttled, o.NotInvoked = 0, 0, 0 }
	luck := func(o *Outcome) { tries(o); o.RateLimited, o.FromCache, o.WithoutToken = 0, 0, 0 }

	for _, test := range []struct {
		name   string
		model  Model
		change func(*Model)
		forget func(*Outcome)
	}{
		{"the API throttles", once, func(m *Model) { m.ThrottlingRateLimit, m.ThrottlingBurstLimit = 1e-9, 50 }, nothing},
		{"Lambda throttles", once, func(*Model) {}, nothing},
		{"GitHub limits", once, func(m *Model) { m.GitHubMinute = 6 }, nothing},
		{"instances try again", storm, func(*Model) {}, tries},
		{"instances try again, and the API throttles", storm, func(m *Model) {
			m.ThrottlingRateLimit, m.ThrottlingBurstLimit = 400, 50
		}, tries},
		{"instances try again, and tokens are shared", storm, func(m *Model) { m.ShareTokens = true }, tries},
		{"instances try again, and GitHub limits", storm, func(m *Model) {
			m.GitHubMinute, m.Timeout = 6, 5*time.Second // shorter than GitHub's wait
		}, luck},
	} {
		t.Run(test.name, func(t *testing.T) { // one after the other: each takes all processors
			test.change(&test.model)
			served, simulated := serve(t, binary, test.model), simulate(test.model)
			simulated.Waits, simulated.Billed, simulated.Took = nil, 0, 0
			// Callers do not see whether a token is new.
			if test.model.ShareTokens {
				simulated.FromShared, simulated.FromCache = simulated.FromShared+simulated.FromCache, 0
			}
			simulated.FromCache, simulated.FromGitHub = simulated.FromCache+simulated.FromGitHub, 0
			t.Logf("\nserved:    %+v\nsimulated: %+v", served, simulated)
			test.forget(&served)
			test.forget(&simulated)
			if fmt.Sprint(served) != fmt.Sprint(simulated) {
				t.Errorf("the function and its simulation differ:\n%+v\n%+v", served, simulated)
			}
		})
	}
}

// serve lets the instances ask the function.
func serve(t *testing.T, binary string, m Model) Outcome {
	t.Helper()
	const region, target = "us-east-1", "orgs/acme"
	role := aws.Credentials{AccessKeyID: "AKIDROLE", SecretAccessKey: "secret"}
	caller := aws.Credentials{AccessKeyID: "AKIDCALLER", SecretAccessKey: "secret"}
	pat := secret.New("ghp_fleet")
	gh, secrets := github.New(pat), secretsmanager.New(region, role)
	secrets.Put("pat", pat)
	var wg sync.WaitGroup
	var mu sync.Mutex
	var o Outcome
	count := func(n *int) {
		mu.Lock()
		defer mu.Unlock()
		*n++
	}

	// GitHub answers when all environments ask it and, where nobody tries again, everybody else was refused.
	asked, answered := make(chan struct{}, m.Instances), make(chan struct{})
	go func() {
		others := m.ReservedConcurrency
		if m.Timeout == 0 {
			others = m.Instances
		}
		for range others {
			select {
			case <-asked:
			case <-t.Context().Done():
			}
		}
		close(answered)
	}()
	gh.OnRequest(func(*http.Request) *github.Answer {
		mu.Lock()
		o.GitHubCalls++
		isLimited := o.GitHubCalls > m.GitHubMinute
		if isLimited {
			o.Limited++
		}
		mu.Unlock()
		asked <- struct{}{}
		select {
		case <-answered:
		case <-t.Context().Done():
		}
		if !isLimited {
			return nil
		}
		limit := *github.Refusal(http.StatusForbidden, "You have exceeded a secondary rate limit.")
		limit.Header = http.Header{"Retry-After": {strconv.Itoa(int(m.GitHubWait.Seconds()))}}
		return &limit
	})
	env := map[string]string{
		"ALLOWED_TARGETS": target, "GITHUB_SECRET_ID": "pat", "METRICS": "off",
		"GITHUB_API_URL": listen(t, gh), "AWS_ENDPOINT_URL_SECRETS_MANAGER": listen(t, secrets),
	}
	if m.ShareTokens {
		env["SHARED_TOKENS_SECRET_ID"] = "shared"
		now := time.Now().UTC()
		secrets.Put("shared", secret.New(fmt.Sprintf(`{"written_at":%q,"tokens":[{"target":%q,
			"kind":"registration-token","token":"SHARED","made_at":%[1]q,"expires_at":%[3]q}]}`,
			now.Format(time.RFC3339), target, now.Add(time.Hour).Format(time.RFC3339))))
	}
	function, err := lambda.Start(lambda.Function{
		Path: binary, Env: env, Region: region, Credentials: role, Environments: m.ReservedConcurrency,
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(function.Close)
	if err := function.Ready(t.Context()); err != nil {
		t.Fatal(err)
	}
	gateway := &apigateway.Gateway{
		Function: &reservation{function, make(chan struct{}, m.ReservedConcurrency)}, Region: region, Credentials: caller,
		CallerARN: "arn:aws:sts::123456789012:assumed-role/runner/i-0",
		Throttle:  rate.NewLimiter(rate.Limit(m.ThrottlingRateLimit), m.ThrottlingBurstLimit),
	}

	began := time.Now()
	for i := range m.Instances {
		wg.Go(func() {
			random := rand.New(rand.NewPCG(m.Seed, uint64(i)))
			script := newScript(0, m.Timeout)
			for {
				count(&o.Requests)
				w, r := httptest.NewRecorder(), httptest.NewRequestWithContext(
					t.Context(), "POST", "http://api/"+target+"/actions/runners/registration-token", http.NoBody)
				if err := sigv4.Sign(r, nil, caller, region, "execute-api"); err != nil {
					t.Error(err)
					return
				}
				gateway.ServeHTTP(w, r)
				switch code := w.Code; {
				case code == http.StatusCreated && strings.Contains(w.Body.String(), `"SHARED"`):
					count(&o.FromShared) // for the first time or from the cache
					return
				case code == http.StatusCreated:
					count(&o.FromCache) // or from GitHub
					return
				case code == http.StatusTooManyRequests:
					count(&o.Throttled)
				case code == http.StatusInternalServerError && !strings.Contains(w.Body.String(), "code"):
					count(&o.NotInvoked)
				case strings.Contains(w.Body.String(), `"RateLimited"`):
					count(&o.RateLimited)
				default:
					t.Errorf("%d %s", code, w.Body)
				}
				if m.Timeout == 0 {
					select {
					case asked <- struct{}{}:
					default:
					}
				}
				after, _ := strconv.Atoi(w.Header().Get("Retry-After"))
				nap, again := script.refused(time.Since(began), after, random)
				if !again {
					count(&o.WithoutToken)
					return
				}
				time.Sleep(nap + time.Duration(random.Float64()*float64(m.Script)))
			}
		})
	}
	wg.Wait()
	o.SecretReads, o.Environments = secrets.Reads(), len(function.Processes())
	if v := gh.Violations(); len(v) > 0 {
		t.Error(v)
	}
	return o
}

// reservation is the function with a reserved concurrency: it refuses where Lambda would.
type reservation struct {
	apigateway.Function
	running chan struct{}
}

func (r *reservation) Invoke(ctx context.Context, payload []byte) (lambda.Result, error) {
	select {
	case r.running <- struct{}{}:
		defer func() { <-r.running }()
		return r.Function.Invoke(ctx, payload)
	default:
		return lambda.Result{FunctionError: "Unhandled", Payload: []byte(`{"errorType":"TooManyRequestsException"}`)}, nil
	}
}

func listen(t *testing.T, h http.Handler) (url string) {
	t.Helper()
	server := httptest.NewServer(h)
	t.Cleanup(server.Close)
	return server.URL
}
