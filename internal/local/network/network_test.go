package network_test

import (
	"context"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"syscall"
	"testing"
	"time"

	"runner-token-broker/internal/local/network"
)

func TestFaultsReachTheClient(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name    string
		fault   network.Fault
		delay   time.Duration
		leaves  bool // the client, once its request has arrived
		body    string
		doFails error
		cutOff  error // while the body is read
	}{
		{name: "no fault", body: "answer"},
		{name: "short delay", delay: time.Millisecond, body: "answer"},
		{name: "long delay", delay: time.Hour, leaves: true, doFails: context.Canceled},
		{name: "hang", fault: network.Hang, leaves: true, doFails: context.Canceled},
		{name: "reset", fault: network.Reset, doFails: syscall.ECONNRESET},
		{name: "truncate", fault: network.Truncate, body: "ans", cutOff: io.ErrUnexpectedEOF},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			ctx, leave := context.WithCancel(t.Context())
			defer leave()
			server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if test.leaves {
					leave()
				}
				if test.fault.Answer(w, r, test.delay) {
					test.fault.Write(w, http.StatusTeapot, []byte("answer"))
				}
			}))
			defer server.Close() // waits for the handler
			r, err := http.NewRequestWithContext(ctx, http.MethodPost, server.URL, http.NoBody)
			if err != nil {
				t.Fatal(err)
			}
			resp, err := server.Client().Do(r)
			if !errors.Is(err, test.doFails) {
				t.Fatalf("Do = %v, want %v", err, test.doFails)
			}
			if err != nil {
				return
			}
			defer resp.Body.Close()
			body, err := io.ReadAll(resp.Body)
			if resp.StatusCode != http.StatusTeapot || string(body) != test.body || !errors.Is(err, test.cutOff) {
				t.Errorf("%s %q, %v, want 418 %q, %v", resp.Status, body, err, test.body, test.cutOff)
			}
		})
	}
}
