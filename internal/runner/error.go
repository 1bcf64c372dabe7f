package runner

import (
	"errors"
	"fmt"
	"runtime/debug"
	"time"

	"runner-token-broker/internal/secret"
)

// Code names why there is no token. Codes are part of the service's interface: add, never rename.
type Code string

const (
	InvalidRequest         Code = "InvalidRequest"         // malformed target, kind, path or JSON
	CallerNotAuthenticated Code = "CallerNotAuthenticated" // an HTTP event without an IAM identity
	TargetNotAllowed       Code = "TargetNotAllowed"       // the Policy does not have the target
	TargetNotFound         Code = "TargetNotFound"         // GitHub does not know the target, or by another name
	CredentialMissing      Code = "CredentialMissing"      // the secret is absent, unusable or unreadable
	CredentialRejected     Code = "CredentialRejected"     // GitHub does not know the credential
	CredentialForbidden    Code = "CredentialForbidden"    // GitHub knows the credential, and it may not do this
	RateLimited            Code = "RateLimited"            // GitHub asked to wait
	Unavailable            Code = "Unavailable"            // network, or GitHub or Secrets Manager down or slow
	Internal               Code = "Internal"               // unclassified
)

// Codes are all codes. Tests range over them: each reader of codes must know each code.
var Codes = []Code{
	InvalidRequest, CallerNotAuthenticated, TargetNotAllowed, TargetNotFound, CredentialMissing, CredentialRejected,
	CredentialForbidden, RateLimited, Unavailable, Internal,
}

// messages are what callers are told. InvalidRequest and TargetNotAllowed say more where they are made.
var messages = map[Code]string{
	InvalidRequest:         "the request is malformed",
	CallerNotAuthenticated: "the request carries no IAM identity",
	TargetNotAllowed:       "the target is not one of those this service serves",
	TargetNotFound:         "GitHub does not know this target, or the service's credential cannot see it",
	CredentialMissing:      "the service has no usable credential for GitHub",
	CredentialRejected:     "GitHub rejected the service's credential",
	CredentialForbidden:    "the service's credential may not make tokens for this target",
	RateLimited:            "GitHub limits the service's calls: try again later",
	Unavailable:            "GitHub or Secrets Manager cannot be reached: try again later",
	Internal:               "internal error",
}

// Cause is one kind of failure that an operator can tell from the others. The packages that see the evidence keep the
// tables of their causes.
type Cause struct {
	Name   string // a stable word, for the log
	Code   Code
	Remedy string // what the operator does
}

// Refuse returns an Error for the cause. Callers get the text of its code. The operator gets what happened, which is
// the format with its args (%w works), and the remedy.
func (c Cause) Refuse(format string, args ...any) *Error {
	return &Error{
		Code: c.Code, Cause: c.Name, Message: messages[c.Code], Err: fmt.Errorf(format, args...), Remedy: c.Remedy,
	}
}

// Error is a refusal, classified where the knowledge was.
type Error struct {
	Code       Code
	Cause      string        // the Cause's name
	Message    string        // for the caller: nothing of GitHub's or AWS's text, nothing secret
	RetryAfter time.Duration // how long to wait before the next try; 0 if unknown
	Err        error         // for the operator: what happened; may be nil
	Remedy     string        // and what to do
	Credential string        // the name of the Credential behind it; "" if there was none
	GitHub     Trace         // of the answer behind it; zero if there was none
}

// Trace is what a log should keep of an answer of GitHub's.
type Trace struct {
	RequestID          string    // x-github-request-id
	RateLimit          string    // x-ratelimit-limit
	RateLimitRemaining string    // x-ratelimit-remaining
	Scopes             string    // x-oauth-scopes, what a classic PAT may do
	Date               time.Time // when it was sent, by GitHub's clock
	CredentialExpires  time.Time // github-authentication-token-expiration; zero if the credential does not expire
}

// Operator returns the text for the operator.
func (e *Error) Operator() string {
	text := e.Message
	if e.Err != nil {
		text = e.Err.Error()
	}
	if e.Remedy != "" {
		text += ": " + e.Remedy
	}
	return text
}

func (e *Error) Error() string { return string(e.Code) + ": " + e.Operator() }

func (e *Error) Unwrap() error { return e.Err }

// AsError returns err as the *Error that it is or wraps. Any other error is Internal, and its text stays with the
// operator.
func AsError(err error) *Error {
	if e, ok := errors.AsType[*Error](err); ok {
		return e
	}
	return Unclassified.Refuse("%w", err)
}

// Recover, deferred, turns a panic into an Error. In a goroutine it would end the environment, and print what it likes.
func Recover(err *error) {
	if p := recover(); p != nil {
		*err = Unclassified.Refuse("panic: %s\n%s", secret.Text(fmt.Sprint(p)), debug.Stack())
	}
}

// Unclassified is the cause of what nobody thought of.
var Unclassified = Cause{Name: "unclassified", Code: Internal}

// Causes are those that no room below knows.
func Causes() []Cause { return []Cause{notAllowed, slow, Unclassified} }
