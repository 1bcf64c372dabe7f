package handler

import (
	"io"
	"os"
	"path/filepath"
	"testing"
)

func BenchmarkInvoke(b *testing.B) {
	for _, name := range []string{
		"direct-org.json", "http-api-v2-org-registration-token.json", "rest-api-v1-org-registration-token.json",
	} {
		event, err := os.ReadFile(filepath.Join("../../events", name))
		if err != nil {
			b.Fatal(err)
		}
		b.Run(name, func(b *testing.B) {
			i := good()
			h := &Handler{Issuer: i, Log: NewLog(io.Discard), Function: "token"} // as in production
			for b.Loop() {
				i.requests = i.requests[:0]
				if _, err := h.Invoke(b.Context(), event); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
