// Package output collects what programs print, and lets a test wait for a part of it.
package output

import (
	"context"
	"fmt"
	"regexp"
	"sync"
)

// Buffer is everything that was written to it so far. The zero Buffer is empty. It is safe for concurrent use.
type Buffer struct {
	mu      sync.Mutex
	text    []byte
	written chan struct{} // closed by the next Write; nil if nobody waits for it
}

// Write adds p. It never fails.
func (b *Buffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.text = append(b.text, p...)
	if b.written != nil {
		close(b.written)
		b.written = nil
	}
	return len(p), nil
}

func (b *Buffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return string(b.text)
}

// Wait returns the first match of the regular expression, as soon as there is one. Its error says that ctx ended first.
func (b *Buffer) Wait(ctx context.Context, pattern string) (string, error) {
	re, err := regexp.Compile(pattern)
	if err != nil {
		return "", err
	}
	for {
		match, written := b.find(re)
		if match != nil {
			return string(match), nil
		}
		select {
		case <-written:
		case <-ctx.Done():
			return "", fmt.Errorf("no %s: %w; what was written is\n%s", pattern, ctx.Err(), b)
		}
	}
}

// find returns nil if there is no match yet, and then a channel that the next Write closes.
func (b *Buffer) find(re *regexp.Regexp) (match []byte, written <-chan struct{}) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if match := re.Find(b.text); match != nil {
		return match, nil
	}
	if b.written == nil {
		b.written = make(chan struct{})
	}
	return nil, b.written
}
