// Package network is what lies between a stand-in and its clients: it delays or breaks an answer, or delays
// a whole connection, where a test wants that.
//
// It does not know names, addresses, packets, TLS or proxies.
package network

import (
	"net"
	"net/http"
	"strconv"
	"time"
)

// Fault is what happens to an answer on its way. With the zero Fault it arrives.
type Fault int

const (
	Hang     Fault = iota + 1 // nothing is answered until the client leaves
	Reset                     // the connection is reset and nothing is answered
	Truncate                  // the connection ends in the middle of the body
)

// Answer waits for the delay. Then it reports whether there is still a client to answer.
func (f Fault) Answer(w http.ResponseWriter, r *http.Request, delay time.Duration) bool {
	if f == Hang {
		<-r.Context().Done()
		return false
	}
	select {
	case <-time.After(delay):
	case <-r.Context().Done():
		return false
	}
	if f == Reset {
		reset(w)
		return false
	}
	return true
}

// Write answers with the status and the body, after the header that w has.
func (f Fault) Write(w http.ResponseWriter, status int, body []byte) {
	if f != Truncate {
		w.WriteHeader(status)
		w.Write(body)
		return
	}
	w.Header().Set("Content-Length", strconv.Itoa(len(body)+1))
	w.WriteHeader(status)
	w.Write(body[:len(body)/2])
	http.NewResponseController(w).Flush()
	panic(http.ErrAbortHandler)
}

func reset(w http.ResponseWriter) {
	conn, _, err := http.NewResponseController(w).Hijack()
	if err != nil {
		panic(http.ErrAbortHandler)
	}
	if tcp, ok := conn.(*net.TCPConn); ok {
		tcp.SetLinger(0) // Close alone would end the connection in good order
	}
	conn.Close()
}
