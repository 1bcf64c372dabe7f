// Package secret has the values that must never be printed, and makes texts from outside fit to be printed. It knows
// neither where they come from nor what they are for.
package secret

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
)

// Value is a secret: the credential, or a token. Every fmt verb, JSON and both of slog's handlers print it as
// [redacted]; Reveal is the only way out. The zero Value holds nothing.
type Value struct {
	// A pointer: fmt calls no method of an unexported field, and would print a string in one in full.
	s *string
}

// New returns s as a Value.
func New(s string) Value { return Value{&s} }

// Reveal returns the secret itself; the zero Value's is empty.
func (v Value) Reveal() string {
	if v.s == nil {
		return ""
	}
	return *v.s
}

// IsZero reports whether v holds nothing.
func (v Value) IsZero() bool { return v.Reveal() == "" }

// SHA256 returns the hexadecimal digest by which a log may name the secret.
func (v Value) SHA256() string {
	sum := sha256.Sum256([]byte(v.Reveal()))
	return hex.EncodeToString(sum[:])
}

const redacted = "[redacted]"

// Format prints [redacted], whatever the verb. (String alone would leave %d and %#v open.)
func (Value) Format(w fmt.State, _ rune) { io.WriteString(w, redacted) }

// MarshalText keeps the secret out of JSON and of slog.
func (Value) MarshalText() ([]byte, error) { return []byte(redacted), nil }
