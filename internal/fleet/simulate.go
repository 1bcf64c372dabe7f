package main

import (
	"cmp"
	"math"
	"math/rand/v2"
	"slices"
	"time"

	"golang.org/x/time/rate"
)

const (
	reuse           = 30 * time.Minute // of a token: its hour less TOKEN_MIN_LIFE
	secretTTL       = 5 * time.Minute
	readSharedEvery = 30 * time.Second
	refreshEvery    = 20 * time.Minute // of the shared tokens
)

// simulation is one run of a Model.
type simulation struct {
	Model
	Outcome
	queue
	random *rand.Rand

	account, stage *rate.Limiter // of the API
	invocations    *rate.Limiter
	creations      *rate.Limiter
	reads          *rate.Limiter
	github         gitHub

	idle []*environment // the last one is the last that was used, and the first to be used again
	busy int
}

// instance runs linux.sh.
type instance struct {
	script
	target int
	began  time.Duration
}

// environment is an execution environment, with what the function remembers there.
type environment struct {
	reusable   map[int]time.Duration // by target, until when its token is
	shared     time.Duration         // until when the shared tokens are reusable
	readAgain  time.Duration         // when the shared tokens may be read again
	credential time.Duration         // until when it is cached
	limited    time.Duration         // until when GitHub wants no call
	since      time.Duration         // when the invocation began, its start included
}

// simulate returns what becomes of the model's fleet.
func simulate(m Model) Outcome {
	concurrency := cmp.Or(m.ReservedConcurrency, m.Concurrency)
	s := &simulation{
		Model:       m,
		random:      rand.New(rand.NewPCG(m.Seed, 0)),
		account:     limiter(float64(m.APIRate), m.APIBurst),
		stage:       limiter(m.ThrottlingRateLimit, m.ThrottlingBurstLimit),
		invocations: limiter(float64(m.InvocationRate*concurrency), m.InvocationRate*concurrency),
		creations:   limiter(float64(m.NewEnvironments)/10, m.NewEnvironments),
		reads:       limiter(float64(m.SecretReads), m.SecretReads),
		github:      gitHub{Quotas: m.Quotas},
	}
	s.Concurrency = concurrency
	for i := range m.Instances {
		first := time.Duration(s.random.Float64() * float64(m.Within))
		s.after(first, func() {
			s.request(&instance{script: newScript(s.now, m.Timeout), target: i % m.Targets, began: s.now})
		})
	}
	s.run()
	s.Took = s.now
	slices.Sort(s.Waits)
	return s.Outcome
}

// limiter returns nil, which allows everything, where there is no limit.
func limiter(perSecond float64, burst int) *rate.Limiter {
	if burst == 0 {
		return nil
	}
	return rate.NewLimiter(rate.Limit(perSecond), burst)
}

func (s *simulation) allows(l *rate.Limiter) bool {
	return l == nil || l.AllowN(time.Unix(0, 0).Add(s.now), 1)
}

// about returns a random time. It is rounded, since processors differ in the last digits of a logarithm.
func (s *simulation) about(median time.Duration) time.Duration {
	return time.Duration(float64(median) * math.Exp(s.Spread*s.random.NormFloat64())).Round(time.Microsecond)
}

// request is a try of the instance, as API Gateway and Lambda see it.
func (s *simulation) request(i *instance) {
	s.Requests++
	if !s.allows(s.account) || !s.allows(s.stage) {
		s.Throttled++
		s.refuse(i, 0)
		return
	}
	last := len(s.idle) - 1
	switch {
	case s.Concurrency > 0 && s.busy >= s.Concurrency, !s.allows(s.invocations), last < 0 && !s.allows(s.creations):
		s.NotInvoked++
		s.refuse(i, 0)
	case last < 0:
		s.Environments++
		s.busy++
		e := &environment{reusable: map[int]time.Duration{}, since: s.now}
		s.after(s.about(s.Start), func() { s.invoke(e, i) })
	default:
		e := s.idle[last]
		s.idle = s.idle[:last]
		s.busy++
		e.since = s.now
		s.invoke(e, i)
	}
}

// refuse makes the instance wait and try again, or give up.
func (s *simulation) refuse(i *instance, retryAfter time.Duration) {
	nap, again := i.refused(s.now, int(math.Ceil(retryAfter.Seconds())), s.random)
	if !again {
		s.WithoutToken++
		return
	}
	s.after(nap+time.Duration(s.random.Float64()*float64(s.Script)), func() { s.request(i) })
}

// invoke is the function with the request of an instance.
func (s *simulation) invoke(e *environment, i *instance) {
	if s.now >= e.reusable[i.target] && s.now < e.readAgain {
		e.reusable[i.target] = e.shared
	}
	switch {
	case s.now < e.reusable[i.target]:
		s.after(s.about(s.Cached), func() { s.issue(e, i, &s.FromCache) })
	case s.ShareTokens && s.now >= e.readAgain:
		s.read(func(ok bool) {
			e.readAgain = s.now + readSharedEvery
			if !ok {
				s.mint(e, i)
				return
			}
			e.shared = s.now.Truncate(refreshEvery) + reuse // of the last refresh
			e.reusable[i.target] = e.shared
			s.issue(e, i, &s.FromShared)
		})
	default:
		s.mint(e, i)
	}
}

// mint has GitHub make a token.
func (s *simulation) mint(e *environment, i *instance) {
	if s.now >= e.credential {
		s.read(func(ok bool) {
			if !ok {
				s.Unavailable++
				s.done(e)
				s.refuse(i, 0)
				return
			}
			e.credential = s.now + secretTTL
			s.mint(e, i)
		})
		return
	}
	if wait := e.limited - s.now; wait > 0 {
		s.after(s.about(s.Cached), func() { s.limit(e, i) })
		return
	}
	s.GitHubCalls++
	if wait := s.github.call(s.now); wait > 0 {
		s.Limited++
		s.after(s.about(s.Limit), func() {
			s.github.underWay--
			e.limited = s.now + wait
			s.limit(e, i)
		})
		return
	}
	s.after(s.about(s.Call), func() {
		s.github.underWay--
		e.reusable[i.target] = s.now + reuse
		s.issue(e, i, &s.FromGitHub)
	})
}

// read reads a secret.
func (s *simulation) read(then func(ok bool)) {
	s.SecretReads++
	ok := s.allows(s.reads)
	s.after(s.about(s.Read), func() { then(ok) })
}

func (s *simulation) issue(e *environment, i *instance, source *int) {
	*source++
	s.Waits = append(s.Waits, s.now-i.began)
	s.done(e)
}

func (s *simulation) limit(e *environment, i *instance) {
	s.RateLimited++
	s.done(e)
	s.refuse(i, e.limited-s.now)
}

func (s *simulation) done(e *environment) {
	s.Billed += s.now - e.since
	s.busy--
	s.idle = append(s.idle, e)
}

// gitHub counts the calls of one account.
type gitHub struct {
	Quotas
	underWay int
	minute   []time.Duration // the calls of the last one
	hour     int             // the calls of the hour that began at began
	began    time.Duration
}

// call counts a call, and returns how long GitHub wants no other if it is limited, else 0. Limited calls count, too.
func (g *gitHub) call(now time.Duration) (wait time.Duration) {
	for len(g.minute) > 0 && g.minute[0] <= now-time.Minute {
		g.minute = g.minute[1:]
	}
	if now >= g.began+time.Hour || g.hour == 0 {
		g.began, g.hour = now, 0
	}
	switch {
	case g.GitHubHour > 0 && g.hour >= g.GitHubHour:
		wait = g.began + time.Hour - now
	case g.GitHubMinute > 0 && len(g.minute) >= g.GitHubMinute, g.GitHubAtOnce > 0 && g.underWay >= g.GitHubAtOnce:
		wait = g.GitHubWait
	}
	g.minute = append(g.minute, now)
	g.hour++
	g.underWay++
	return wait
}
