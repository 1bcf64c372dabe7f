package network

import (
	"net"
	"time"
)

// Far returns a listener whose clients are far away: what is sent takes half of rtt, and a new connection takes rtt,
// as TCP's handshake does. It does not know packets: what is written at once arrives at once.
func Far(l net.Listener, rtt time.Duration) net.Listener { return farListener{l, rtt} }

type farListener struct {
	net.Listener
	rtt time.Duration
}

func (l farListener) Accept() (net.Conn, error) {
	client, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	server, here := net.Pipe()
	connected := time.Now().Add(l.rtt)
	go carry(here, client, connected, l.rtt/2)
	go carry(client, here, connected, l.rtt/2)
	return farConn{server, client}, nil
}

// farConn has the addresses of the client's connection.
type farConn struct {
	net.Conn
	client net.Conn
}

func (c farConn) LocalAddr() net.Addr  { return c.client.LocalAddr() }
func (c farConn) RemoteAddr() net.Addr { return c.client.RemoteAddr() }

type letter struct {
	text []byte
	due  time.Time
}

// carry carries what is read from one connection to the other, each piece for as long as the way is.
func carry(to, from net.Conn, connected time.Time, way time.Duration) {
	letters := make(chan letter, 1024)
	go func() {
		defer close(letters)
		for {
			b := make([]byte, 16<<10)
			n, err := from.Read(b)
			sent := time.Now()
			if sent.Before(connected) {
				sent = connected
			}
			if n > 0 {
				letters <- letter{b[:n], sent.Add(way)}
			}
			if err != nil {
				return
			}
		}
	}()
	defer to.Close()
	for l := range letters {
		time.Sleep(time.Until(l.due))
		if _, err := to.Write(l.text); err != nil {
			from.Close()
			for range letters { // lets the reader end
			}
			return
		}
	}
}
