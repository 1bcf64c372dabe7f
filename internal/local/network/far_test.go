package network_test

import (
	"io"
	"net"
	"testing"
	"time"

	"runner-token-broker/internal/local/network"
)

func TestARoundTripTakesAsLongAsItShould(t *testing.T) {
	t.Parallel()
	const rtt = 50 * time.Millisecond
	near, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	far := network.Far(near, rtt)
	t.Cleanup(func() { far.Close() })
	go func() {
		conn, err := far.Accept()
		if err != nil {
			return
		}
		defer conn.Close()
		io.Copy(conn, conn)
	}()

	start := time.Now()
	conn, err := net.Dial("tcp", near.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	for n := range 3 { // the first one waits for the connection, too
		if _, err := conn.Write([]byte{byte(n)}); err != nil {
			t.Fatal(err)
		}
		var answer [1]byte
		if _, err := io.ReadFull(conn, answer[:]); err != nil || answer[0] != byte(n) {
			t.Fatalf("%v, %v", answer, err)
		}
		if took, least := time.Since(start), time.Duration(n+2)*rtt; took < least {
			t.Errorf("%d answers came after %s, want %s or more", n+1, took, least)
		}
	}
	if err := conn.(*net.TCPConn).CloseWrite(); err != nil {
		t.Fatal(err)
	}
	if rest, err := io.ReadAll(conn); len(rest) > 0 || err != nil { // the end arrives as well
		t.Errorf("%q, %v", rest, err)
	}
}
