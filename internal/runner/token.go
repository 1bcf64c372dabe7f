package runner

import (
	"context"
	"time"

	"runner-token-broker/internal/secret"
)

// tokenLife is how long a token of GitHub's is valid.
const tokenLife = time.Hour

// Source is where a token came from.
type Source string

const (
	FromGitHub Source = "github"
	FromCache  Source = "cache"
	FromShared Source = "shared" // what another environment had made, see shared.Tokens
	FromStale  Source = "stale"  // the cache, below the minimum life, since GitHub gives no newer one
)

// Token is what GitHub made.
type Token struct {
	Value      secret.Value
	ExpiresAt  time.Time
	MadeAt     time.Time // when GitHub was asked for it: it was made then or later
	RunnerURL  string    // what config.sh --url wants
	Account    string    // of the Credential that made it
	Credential string    // and its name
	Source     Source
	Outage     error // why a stale token was served
	GitHub     Trace // zero unless Source is FromGitHub
}

// Upstream makes tokens. Each one adds a rule and asks the next: Cache, then Minter. It ends with the context and is
// safe for concurrent use. Its errors are *Error; one that wraps context.DeadlineExceeded means that this caller had
// too little time, and says nothing about others.
type Upstream interface {
	Create(context.Context, Request) (Token, error)
}
