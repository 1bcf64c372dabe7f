package main

import "time"

// Fleet is how many instances ask for a token, and when.
type Fleet struct {
	Instances int
	Within    time.Duration // the first tries are spread evenly at random over it
	Targets   int           // an instance wants one of them
	Timeout   time.Duration // RUNNER_TOKEN_TIMEOUT of linux.sh
}

// Settings are the template's parameters.
type Settings struct {
	ReservedConcurrency  int // 0: the account's concurrency
	ThrottlingRateLimit  float64
	ThrottlingBurstLimit int
	ShareTokens          bool
}

// Quotas are what AWS and GitHub allow. 0 is no limit.
type Quotas struct {
	APIRate, APIBurst int // of the account's APIs together, requests a second

	Concurrency     int // of the account: functions at once
	NewEnvironments int // at once; a tenth of it is added each second
	InvocationRate  int // requests a second for each unit of concurrency

	SecretReads int // a second

	GitHubMinute, GitHubHour int           // tokens
	GitHubAtOnce             int           // calls under way
	GitHubWait               time.Duration // Retry-After of the limits by the minute and at once
}

// Times are how long things take: medians, of which each single one is taken from a lognormal distribution.
type Times struct {
	Start  time.Duration // of a new environment
	Read   time.Duration // of a secret
	Call   time.Duration // of GitHub
	Limit  time.Duration // of GitHub, until it says that it limits
	Cached time.Duration // an invocation that asks nobody

	Spread float64       // sigma of the distribution; 0: always the median
	Script time.Duration // at most this long linux.sh works before a request
}

// Model is a fleet in its world. The seed decides all that is random.
type Model struct {
	Fleet
	Settings
	Quotas
	Times
	Seed uint64
}

// standard is what the package comment says.
func standard() Model {
	return Model{
		Fleet:    Fleet{Instances: 10_000, Within: time.Minute, Targets: 1, Timeout: 300 * time.Second},
		Settings: Settings{ThrottlingRateLimit: 200, ThrottlingBurstLimit: 50},
		Quotas: Quotas{
			APIRate: 10_000, APIBurst: 5_000,
			Concurrency: 1_000, NewEnvironments: 1_000, InvocationRate: 10,
			SecretReads:  10_000,
			GitHubMinute: 180, GitHubHour: 5_000, GitHubAtOnce: 100, GitHubWait: time.Minute,
		},
		Times: Times{
			Start: 150 * time.Millisecond, Read: 200 * time.Millisecond, Call: 400 * time.Millisecond,
			Limit: 250 * time.Millisecond, Cached: 5 * time.Millisecond,
			Spread: 0.25, Script: 100 * time.Millisecond,
		},
		Seed: 1,
	}
}

// Outcome is what became of a fleet.
type Outcome struct {
	Requests     int // of all instances, all tries
	Throttled    int // by the API: 429
	NotInvoked   int // by Lambda: 503 or 500
	Unavailable  int // by Secrets Manager: 503
	RateLimited  int // by GitHub, called or not: 503
	Environments int
	SecretReads  int
	GitHubCalls  int
	Limited      int // of GitHubCalls
	FromGitHub   int // tokens, by their source, as the function's log line has it
	FromCache    int
	FromShared   int
	WithoutToken int             // instances
	Took         time.Duration   // until nothing happens any more
	Waits        []time.Duration // of those with a token, from the first request to the token, sorted
	Billed       time.Duration   // of Lambda
}

// Wait returns the time in which the share p of those with a token had it; 0 if there is none.
func (o Outcome) Wait(p float64) time.Duration {
	if len(o.Waits) == 0 {
		return 0
	}
	return o.Waits[int(p*float64(len(o.Waits)-1))]
}

// Cost returns what AWS charges for the fleet, in dollars.
func (o Outcome) Cost() float64 {
	const (
		gigabytes   = 0.25
		perGBSecond = 0.0000133334 // arm64
		perCall     = 0.20 / 1e6
		perRequest  = 1.00 / 1e6 // HTTP API
		perRead     = 0.05 / 1e4
	)
	invocations := o.Requests - o.Throttled - o.NotInvoked
	return o.Billed.Seconds()*gigabytes*perGBSecond + float64(invocations)*perCall +
		float64(o.Requests)*perRequest + float64(o.SecretReads)*perRead
}
