package windows_test

import (
	"io"
	"log"
	"net/http"
	"testing"

	"runner-token-broker/e2e/rig"
)

var discard = log.New(io.Discard, "", 0) // servers would say that the client left

// mute takes requests and says nothing.
func mute(t *testing.T) string {
	return rig.Serve(t, http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }))
}

// hangingUp takes requests and ends their connections.
func hangingUp(t *testing.T) string {
	return rig.Serve(t, http.HandlerFunc(func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }))
}

// dated refuses as API Gateway does, and says that it is then.
func dated(t *testing.T, date string) string {
	return rig.Serve(t, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Date", date)
		w.WriteHeader(http.StatusForbidden)
		io.WriteString(w, `{"message":"Signature expired"}`)
	}))
}
