package main

import (
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"slices"
	"strings"
	"testing"
	"time"
)

// models are small fleets of all kinds in worlds of all kinds, the same at each run.
func models() (all []Model) {
	random := rand.New(rand.NewPCG(13, 13))
	for seed := range uint64(40) {
		m := standard()
		m.Seed = seed
		m.Instances, m.Within = 1+random.IntN(600), time.Duration(random.IntN(10))*time.Second
		m.Targets = 1 + random.IntN(4)
		m.ReservedConcurrency = random.IntN(3) * random.IntN(100)
		m.ThrottlingRateLimit, m.ThrottlingBurstLimit = float64(1+random.IntN(150)), 1+random.IntN(150)
		m.ShareTokens = random.IntN(3) == 0
		m.NewEnvironments, m.SecretReads = 1+random.IntN(150), 1+random.IntN(100)
		m.GitHubMinute, m.GitHubAtOnce = 1+random.IntN(200), 1+random.IntN(100)
		m.GitHubWait = time.Duration(1+random.IntN(90)) * time.Second
		all = append(all, m)
	}
	return all
}

// each checks a property of all models.
func each(t *testing.T, check func(*testing.T, Model, Outcome)) {
	t.Helper()
	t.Parallel()
	for _, m := range models() {
		t.Run(fmt.Sprint(m.Seed), func(t *testing.T) {
			t.Parallel()
			o := simulate(m)
			check(t, m, o)
			if t.Failed() {
				o.Waits = nil
				t.Logf("%+v\n%+v", m, o)
			}
		})
	}
}

func TestEachInstanceEndsWithATokenOrWithout(t *testing.T) {
	each(t, func(t *testing.T, m Model, o Outcome) {
		if len(o.Waits)+o.WithoutToken != m.Instances {
			t.Errorf("%d with a token and %d without are not %d", len(o.Waits), o.WithoutToken, m.Instances)
		}
		if refused := o.Throttled + o.NotInvoked + o.Unavailable + o.RateLimited; len(o.Waits)+refused != o.Requests {
			t.Errorf("%d tokens and %d refusals are not %d requests", len(o.Waits), refused, o.Requests)
		}
	})
}

func TestNoTokenWithoutACallOrACache(t *testing.T) {
	each(t, func(t *testing.T, m Model, o Outcome) {
		if o.FromGitHub != o.GitHubCalls-o.Limited {
			t.Errorf("%d tokens of GitHub, which was called %d times and limited %d", o.FromGitHub, o.GitHubCalls, o.Limited)
		}
		if o.FromShared > 0 && !m.ShareTokens || o.FromShared > o.SecretReads {
			t.Errorf("%d shared tokens", o.FromShared)
		}
		if o.FromGitHub+o.FromCache+o.FromShared != len(o.Waits) {
			t.Error("a token comes from nowhere")
		}
	})
	t.Run("one call gives one token to environments that have none", func(t *testing.T) {
		m := standard()
		m.Instances, m.Within, m.Timeout, m.GitHubMinute = 40, 0, 0, 1 // all at once, and nobody tries again
		if o := simulate(m); len(o.Waits) != 1 || o.FromGitHub != 1 || o.GitHubCalls != 40 {
			t.Errorf("%+v", o)
		}
	})
}

func TestThrottleLetsNoMoreThrough(t *testing.T) {
	each(t, func(t *testing.T, m Model, o Outcome) {
		through := o.Requests - o.Throttled
		if most := float64(m.ThrottlingBurstLimit) + m.ThrottlingRateLimit*o.Took.Seconds(); float64(through) > most {
			t.Errorf("%d came through, %g is the most", through, most)
		}
		if o.GitHubCalls > through-o.NotInvoked {
			t.Errorf("%d calls for %d invocations", o.GitHubCalls, through-o.NotInvoked)
		}
	})
	t.Run("and no fewer", func(t *testing.T) {
		m := sharing.with(10_000, 0, 1)
		m.Timeout, m.ThrottlingBurstLimit = 0, 123 // all at once, and nobody tries again
		if o := simulate(m); o.Requests-o.Throttled != 123 {
			t.Errorf("%d of %d came through", o.Requests-o.Throttled, o.Requests)
		}
	})
}

func TestLambdaRunsAndStartsNoMore(t *testing.T) {
	each(t, func(t *testing.T, m Model, o Outcome) {
		if m.ReservedConcurrency > 0 && o.Environments > m.ReservedConcurrency {
			t.Errorf("%d environments, %d are reserved", o.Environments, m.ReservedConcurrency)
		}
		if most := float64(m.NewEnvironments) * (1 + o.Took.Seconds()/10); float64(o.Environments) > most {
			t.Errorf("%d environments, %g can have been started", o.Environments, most)
		}
	})
}

// An environment calls once for each target, and once for each wait that is over.
func TestEnvironmentRemembersTokensAndLimits(t *testing.T) {
	each(t, func(t *testing.T, m Model, o Outcome) {
		if most := o.Environments * m.Targets; o.FromGitHub > most {
			t.Errorf("%d tokens for %d environments and %d targets", o.FromGitHub, o.Environments, m.Targets)
		}
		if most := o.Environments * int(1+o.Took/m.GitHubWait); o.Limited > most {
			t.Errorf("%d limited calls, %d are the most", o.Limited, most)
		}
	})
}

func TestSharedTokensCostGitHubNothing(t *testing.T) {
	t.Parallel()
	for _, n := range []int{100, 1_000, 10_000} {
		for _, targets := range []int{1, 20} {
			t.Run(fmt.Sprintf("%d instances, %d targets", n, targets), func(t *testing.T) {
				t.Parallel()
				o := simulate(sharing.with(n, 5*time.Second, targets))
				if o.GitHubCalls != 0 || o.WithoutToken != 0 || o.SecretReads != o.Environments {
					t.Errorf("%d calls, %d without a token, %d reads in %d environments",
						o.GitHubCalls, o.WithoutToken, o.SecretReads, o.Environments)
				}
				if without := simulate(defaults.with(n, 5*time.Second, targets)); without.GitHubCalls == 0 {
					t.Error("without sharing there is no call")
				}
			})
		}
	}
}

// What issue and pages promise must not hang on the seed.
func TestRecommendationsHoldForEachSeed(t *testing.T) {
	t.Parallel()
	for name, m := range map[string]Model{
		"10,000 in a minute with the defaults": defaults.with(10_000, time.Minute, 1),
		"10,000 in 5 s with a reservation":     reserved.with(10_000, 5*time.Second, 1),
		"3 targets with a reservation":         reserved.with(10_000, time.Minute, 3),
		"10,000 in 5 s with shared tokens":     sharing.with(10_000, 5*time.Second, 1),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			for m.Seed = range uint64(3) {
				if o := simulate(m); !o.good() {
					o.Waits = nil
					t.Errorf("seed %d: %+v", m.Seed, o)
				}
			}
		})
	}
}

func TestHundredThousandInAMinuteAreServedByFiveSeconds(t *testing.T) {
	t.Parallel()
	o := simulate(sharing.with(100_000, time.Minute, 1))
	if o.WithoutToken != 0 || o.GitHubCalls != 0 || o.Wait(1) > 5*time.Second {
		t.Errorf("%d without a token, %d calls, %s", o.WithoutToken, o.GitHubCalls, o.Wait(1))
	}
}

func TestSeedDecidesEverything(t *testing.T) {
	t.Parallel()
	m := defaults.with(2_000, 5*time.Second, 2)
	first, again := simulate(m), simulate(m)
	m.Seed = 2
	if !slices.Equal(first.Waits, again.Waits) || slices.Equal(first.Waits, simulate(m).Waits) {
		t.Error("the same seed differs, or another one does not")
	}
}

func TestScriptWaitsAsItSays(t *testing.T) {
	t.Parallel()
	random := rand.New(rand.NewPCG(1, 1))
	for range 200 {
		s := newScript(0, 300*time.Second)
		for _, wait := range []struct{ least, most, after int }{
			{1, 2, 0}, {2, 4, 0}, {4, 8, 0}, {60, 76, 60}, {10, 20, 0}, {10, 20, 0},
		} {
			nap, again := s.refused(0, wait.after, random)
			least, most := time.Duration(wait.least)*time.Second, time.Duration(wait.most)*time.Second+900*time.Millisecond
			if !again || nap < least || nap > most {
				t.Fatalf("it sleeps %s, not %s to %s", nap, least, most)
			}
		}
		if nap, again := s.refused(297*time.Second, 0, random); !again || nap >= 4*time.Second {
			t.Fatalf("before its end it sleeps %s and tries again: %t", nap, again)
		}
		for _, end := range []struct{ uptime, after int }{{300, 0}, {250, 60}} {
			if _, again := s.refused(time.Duration(end.uptime)*time.Second, end.after, random); again {
				t.Fatalf("after %d s it tries again, Retry-After: %d", end.uptime, end.after)
			}
		}
	}
}

// script.go says in Go what these lines say.
func TestScriptIsStillThatOfTheExample(t *testing.T) {
	t.Parallel()
	example, err := os.ReadFile("../../examples/user-data/linux.sh")
	if err != nil {
		t.Fatal(err)
	}
	for _, line := range []string{
		`: "${RUNNER_TOKEN_TIMEOUT:=300}"`,
		" wait=2 ",
		"end=$(($(uptime) + RUNNER_TOKEN_TIMEOUT))\n",
		"left=$((end - $(uptime)))\n",
		"429/* | 50[34]/* | 50[02]/) after=$(header retry-after",
		"nap=$((after ? after + RANDOM % (after / 4 + 2) : wait / 2 + RANDOM % (wait / 2 + 1)))",
		"((nap < left)) || nap=$left\n",
		"if ((left < 1 || nap < after)); then\n",
		`sleep "$nap.$((RANDOM % 10))"` + "\n",
		"wait=$((wait < 10 ? wait * 2 : 20))\n",
	} {
		if !strings.Contains(string(example), line) {
			t.Errorf("linux.sh has no longer %q: change script.go, too", line)
		}
	}
}

func TestHourlyLimitLastsUntilTheHourEnds(t *testing.T) {
	t.Parallel()
	g := gitHub{Quotas: Quotas{GitHubHour: 2}}
	for _, call := range []struct{ at, wait time.Duration }{
		{10 * time.Minute, 0}, {20 * time.Minute, 0}, {30 * time.Minute, 40 * time.Minute}, {70 * time.Minute, 0},
	} {
		if got := g.call(call.at); got != call.wait {
			t.Errorf("at %s GitHub wants a wait of %s, not %s", call.at, got, call.wait)
		}
	}
}

func TestPageHasTodaysFigures(t *testing.T) {
	t.Parallel()
	page, err := os.ReadFile("../../docs/performance.md")
	if err != nil {
		t.Fatal(err)
	}
	want, err := figures(string(page))
	if err != nil {
		t.Fatal(err)
	}
	if string(page) != want {
		t.Error("the page is not what the simulator says: go run ./internal/fleet -page docs/performance.md")
	}
}

// A quota that is changed in the code must be changed in the list, too.
func TestAssumptionsNameEachNumber(t *testing.T) {
	t.Parallel()
	text, err := assumptions()
	if err != nil {
		t.Fatal(err)
	}
	m := standard()
	for _, n := range []int{
		m.APIRate, m.APIBurst, m.Concurrency, m.NewEnvironments, m.NewEnvironments / 10, m.InvocationRate, m.SecretReads,
		m.GitHubMinute, m.GitHubHour, m.GitHubAtOnce, int(m.GitHubWait.Seconds()),
		int(m.Start.Milliseconds()), int(m.Read.Milliseconds()), int(m.Call.Milliseconds()), int(m.Limit.Milliseconds()),
		int(m.Cached.Milliseconds()), int(m.Script.Milliseconds()), int(m.Timeout.Seconds()),
		int(reuse.Minutes()), int(secretTTL.Minutes()), int(readSharedEvery.Seconds()), int(refreshEvery.Minutes()),
	} {
		if !strings.Contains(text, " "+number(n)) {
			t.Errorf("the assumptions do not name %s", number(n))
		}
	}
	if sigma := fmt.Sprint(m.Spread); !strings.Contains(text, sigma) {
		t.Errorf("the assumptions do not name %s", sigma)
	}
}

func TestCommand(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		args, want string // of the output; "": it is an error
	}{
		{"10/5s", "| 10 | 5 s | 1 | off | 0 | 200/50 | 0 |"},
		{"-share -rate 2000 -burst 1000 -reserved 7 1000/1m/3 10/0s",
			"| 1,000 | 60 s | 3 | on | 7 | 2000/1000 | 0 | 0 (0) |"},
		{"-timeout 1s -rate 1 -burst 1 100/0s", "| 100 | 0 s | 1 | off | 0 | 1/1 | 9"},
		{"", ""},
		{"10", ""},
		{"0/5s", ""},
		{"-1/5s", ""},
		{"1000001/5s", ""},
		{"10/5", ""},
		{"10/-5s", ""},
		{"10/5s/0", ""},
		{"10/5s/two", ""},
		{"10/5s/1/1", ""},
		{"10/5s 10", ""},
		{"-rate 0 10/5s", ""},
		{"-rate NaN 10/5s", ""},
		{"-burst 0 10/5s", ""},
		{"-reserved -1 10/5s", ""},
		{"-reserved 200 -concurrency 10 10/5s", ""},
		{"-call -1s 10/5s", ""},
		{"-spread -1 10/5s", ""},
		{"-timeout 0s 10/5s", ""},
		{"-other", ""},
		{"-page none.md", ""},
	} {
		t.Run(test.args, func(t *testing.T) {
			t.Parallel()
			var out strings.Builder
			err := command(strings.Fields(test.args), &out, io.Discard)
			if (err != nil) != (test.want == "") || !strings.Contains(out.String(), test.want) || err != nil && out.Len() > 0 {
				t.Errorf("%s\n%v", out.String(), err)
			}
		})
	}
}
