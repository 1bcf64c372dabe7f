package secret

import (
	"bytes"
	"encoding/json"
	"fmt"
	"log/slog"
	"strings"
	"testing"
)

const pat = "ghp_thisMustNotBeSeen"

func TestValueDoesNotLeak(t *testing.T) {
	v := New(pat)
	type exported struct{ Credential Value }
	type unexported struct{ credential Value }
	for _, holder := range []any{
		v, &v, []Value{v}, map[string]Value{"a": v}, map[Value]int{v: 1},
		exported{v}, &exported{v}, unexported{v}, &unexported{v}, fmt.Errorf("wrapped: %v", v),
	} {
		var out bytes.Buffer
		for _, verb := range "vTtbcdoOqxXUeEfFgGsp" {
			for _, flag := range []string{"", "+", "#", "-40", "0", ".3"} {
				fmt.Fprintf(&out, "%"+flag+string(verb)+"\n", holder)
			}
		}
		fmt.Fprintln(&out, holder)
		json.NewEncoder(&out).Encode(holder)
		for _, handler := range []slog.Handler{slog.NewTextHandler(&out, nil), slog.NewJSONHandler(&out, nil)} {
			slog.New(handler).Info("test", "holder", holder, slog.Group("group", "holder", holder))
		}
		for _, bad := range []string{pat, pat[:8], fmt.Sprintf("%x", pat), fmt.Sprintf("%X", pat)[:20],
			strings.Trim(fmt.Sprint([]byte(pat)), "[]")} {
			if strings.Contains(out.String(), bad) {
				t.Errorf("%T prints %q", holder, bad)
			}
		}
	}
	if v.Reveal() != pat || New("").IsZero() != true || v.IsZero() || (Value{}).Reveal() != "" {
		t.Error("a Value does not hold what it was given")
	}
}
