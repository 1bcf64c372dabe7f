package secret

import (
	"strings"
	"testing"
	"unicode/utf8"
)

func TestTextFromOutsideIsFitForALog(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct{ text, want string }{
		"plain":                {"AB:CD 4999", "AB:CD 4999"},
		"empty":                {"", ""},
		"whole":                {"x " + pat + " y", "x [redacted] y"},
		"twice":                {pat + "," + pat, "[redacted],[redacted]"},
		"a part":               {"x" + pat[:8] + "y", "x[redacted]y"},
		"an inner part":        {"x" + pat[6:16] + "y", "x[redacted]y"},
		"other case":           {strings.ToUpper(pat), "[redacted]"},
		"too short a part":     {pat[:7], pat[:7]},
		"percent-encoded":      {"a%2Fb ghp%5FthisMust", "a/b [redacted]"},
		"all percent-encoded":  {"%67%68%70%5f%74%68%69%73", "[redacted]"},
		"twice encoded":        {"%2567%2568%2570%255f%2574%2568%2569%2573", "[redacted]"},
		"once and twice":       {"ghp%5FthisMust %2567%2568%2570%255f%2574%2568%2569%2573", "[redacted] [redacted]"},
		"innocent percents":    {"50% of %2F and %zz", "50% of %2F and %zz"},
		"control characters":   {"a\r\nb\x00c\x1b[31m", "a  b c [31m"},
		"bidirectional":        {"a\u202eb\u2066c\u200b", "a b c "},
		"invalid UTF-8":        {"a\xff\xfeb", "a  b"},
		"invalid around a PAT": {"\xff" + pat + "\xfe", " [redacted] "},
		"long":                 {strings.Repeat("é", 201), strings.Repeat("é", 200) + "..."},
		"a PAT at the cut":     {strings.Repeat("x", 195) + pat, strings.Repeat("x", 195) + "[reda..."},
		"huge":                 {strings.Repeat("x", 5<<20), strings.Repeat("x", 200) + "..."},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if got := Text(test.text, New(pat)); got != test.want {
				t.Errorf("Text = %q, want %q", got, test.want)
			}
		})
	}
	if got := Text(pat, Value{}, New("")); got != pat {
		t.Errorf("without a secret: %q", got)
	}
}

// Whatever is echoed and however it is dressed: no part of the secret comes through.
func FuzzText(f *testing.F) {
	f.Add("x "+pat, 0)
	f.Add("%67%68%70%5f%74%68%69%73", 1)
	f.Add("a\u202eb", 3)
	f.Fuzz(func(t *testing.T, s string, cut int) {
		cut = max(0, min(cut, len(s)))
		out := Text(s[:cut]+pat+s[cut:], New(pat))
		if !utf8.ValidString(out) || utf8.RuneCountInString(out) > 203 {
			t.Errorf("%q", out)
		}
		for decoded, i := out, 0; i < 5; decoded, i = unescape(decoded), i+1 {
			for j := 0; j+part <= len(pat); j++ {
				if strings.Contains(lower(decoded), lower(pat[j:j+part])) {
					t.Errorf("%q has %q", out, pat[j:j+part])
				}
			}
		}
	})
}
