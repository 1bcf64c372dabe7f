package secret

import (
	"net/url"
	"strings"
	"unicode"
)

const (
	maxText = 200 // characters of a foreign text that a log gets
	part    = 8   // characters of a secret that count as a part of it
)

// Text makes a text from outside (a header of GitHub's, an error of AWS's, a path, an ARN) fit for a log: without
// control and bidirectional characters, without any part of the secrets that has eight characters or more, also in
// percent-encoding or other case, and at most 200 characters long.
func Text(s string, secrets ...Value) string {
	s = s[:min(len(s), 16*maxText)] // bounds the work: decoding makes it shorter, and 200 characters are left
	for _, v := range secrets {
		s = blot(s, v)
	}
	s = strings.Map(func(r rune) rune {
		if unicode.IsControl(r) || unicode.Is(unicode.Cf, r) || r == unicode.ReplacementChar {
			return ' '
		}
		return r
	}, s)
	if runes := []rune(s); len(runes) > maxText {
		return string(runes[:maxText]) + "..."
	}
	return s
}

// blot puts [redacted] in place of each run of the text that is a part of the secret. Where the decoded text has one,
// the decoded text comes back: a part may be encoded only here and there.
func blot(s string, v Value) string {
	if decoded := unescape(s); decoded != s {
		if clean := blot(decoded, v); clean != decoded {
			return clean
		}
	}
	return blotParts(s, v)
}

func blotParts(s string, v Value) string {
	text, hidden := lower(s), lower(v.Reveal())
	bad := make([]bool, len(text))
	for i := 0; i+part <= len(text); i++ {
		if strings.Contains(hidden, text[i:i+part]) {
			for j := i; j < i+part; j++ {
				bad[j] = true
			}
		}
	}
	var b strings.Builder
	for i := range len(s) {
		switch {
		case !bad[i]:
			b.WriteByte(s[i])
		case i == 0 || !bad[i-1]:
			b.WriteString(redacted)
		}
	}
	return b.String()
}

// lower maps A to Z alone, byte by byte, so that positions stay. Secrets are ASCII.
func lower(s string) string {
	b := []byte(s)
	for i, c := range b {
		if 'A' <= c && c <= 'Z' {
			b[i] += 'a' - 'A'
		}
	}
	return string(b)
}

// unescape decodes each percent-encoding that is one and leaves the others.
func unescape(s string) string {
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] == '%' && i+2 < len(s) {
			if c, err := url.PathUnescape(s[i : i+3]); err == nil {
				b.WriteString(c)
				i += 2
				continue
			}
		}
		b.WriteByte(s[i])
	}
	return b.String()
}
