package main

import (
	"math/rand/v2"
	"time"
)

// script is one run of fetch in examples/user-data/linux.sh: how long it waits after a refusal, and when it gives up.
// Like the script, it counts in whole seconds of the uptime.
type script struct {
	end  int // when it gives up
	wait int // before the next try, without a Retry-After
}

func newScript(uptime, timeout time.Duration) script {
	return script{end: int((uptime + timeout) / time.Second), wait: 2}
}

// refused returns how long it sleeps before the next try. after is the answer's Retry-After in seconds, 0 if there was
// none.
func (s *script) refused(uptime time.Duration, after int, random *rand.Rand) (nap time.Duration, again bool) {
	left := s.end - int(uptime/time.Second)
	seconds := s.wait/2 + random.IntN(s.wait/2+1)
	if after > 0 {
		seconds = after + random.IntN(after/4+2)
	}
	seconds = min(seconds, left)
	if left < 1 || seconds < after {
		return 0, false
	}
	if s.wait < 10 {
		s.wait *= 2
	} else {
		s.wait = 20
	}
	return time.Duration(seconds)*time.Second + time.Duration(random.IntN(10))*100*time.Millisecond, true
}
