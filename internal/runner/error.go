package runner

import (
	"errors"
	"time"
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
	CredentialForbidden    Code = "CredentialForbidden"    // GitHub knows the credential and it may not do this
	RateLimited            Code = "RateLimited"            // GitHub asked to wait
	Unavailable            Code = "Unavailable"            // network, or GitHub or Secrets Manager down or slow
	Internal               Code = "Internal"               // unclassified
)

// Error is a refusal, classified where the knowledge was.
type Error struct {
	Code       Code
	Message    string        // for the caller: nothing of GitHub's or AWS's text, nothing secret
	RetryAfter time.Duration // how long to wait before the next try; 0 if unknown
	Err        error         // for the operator: what happened and what to do; may be nil
	GitHub     Response      // the answer behind it; zero if there was none
}

// Response is what a log should keep of an answer of GitHub's.
type Response struct {
	RequestID          string // x-github-request-id
	RateLimitRemaining string // x-ratelimit-remaining
}

// Refuse returns an Error with the text that callers get for the code, and err for the operator.
func Refuse(code Code, err error) *Error {
	return &Error{Code: code, Message: messageOf(code), Err: err}
}

func messageOf(code Code) string {
	switch code {
	case CallerNotAuthenticated:
		return "the request carries no IAM identity"
	case TargetNotFound:
		return "GitHub does not know this target, or the service's credential cannot see it"
	case CredentialMissing:
		return "the service has no usable credential for GitHub"
	case CredentialRejected:
		return "GitHub rejected the service's credential"
	case CredentialForbidden:
		return "the service's credential may not make tokens for this target"
	case RateLimited:
		return "GitHub limits the service's calls: try again later"
	case Unavailable:
		return "GitHub or Secrets Manager cannot be reached: try again later"
	}
	return "internal error"
}

func (e *Error) Error() string {
	if e.Err == nil {
		return string(e.Code) + ": " + e.Message
	}
	return string(e.Code) + ": " + e.Err.Error()
}

func (e *Error) Unwrap() error { return e.Err }

// AsError returns err as the *Error that it is or wraps. Any other error is Internal, and its text stays with the
// operator.
func AsError(err error) *Error {
	if e, ok := errors.AsType[*Error](err); ok {
		return e
	}
	return Refuse(Internal, err)
}
