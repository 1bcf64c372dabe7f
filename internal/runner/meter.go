package runner

import (
	"context"
	"sync"
	"time"
)

// Meter measures what one invocation asks of others. A nil Meter measures nothing. It is safe for concurrent use.
type Meter struct {
	mu                     sync.Mutex
	github, secretsManager Calls
	passedOver             string
	sharedAge              time.Duration
}

// Calls are how many there were, and how long they took in all.
type Calls struct {
	Count int
	Took  time.Duration
}

type meterKey struct{}

// WithMeter returns a context whose Meter is m: as httptrace does, since what is measured lies many rooms below.
func WithMeter(ctx context.Context, m *Meter) context.Context {
	return context.WithValue(ctx, meterKey{}, m)
}

// MeterOf returns the Meter of the context, or nil.
func MeterOf(ctx context.Context) *Meter {
	m, _ := ctx.Value(meterKey{}).(*Meter)
	return m
}

// GitHub counts a call to GitHub, answered or not.
func (m *Meter) GitHub(took time.Duration) {
	if m != nil {
		m.add(&m.github, took)
	}
}

// SecretsManager counts a call to Secrets Manager, answered or not.
func (m *Meter) SecretsManager(took time.Duration) {
	if m != nil {
		m.add(&m.secretsManager, took)
	}
}

// PassOver says why the shared tokens were not used.
func (m *Meter) PassOver(why string) {
	if m != nil {
		m.mu.Lock()
		defer m.mu.Unlock()
		m.passedOver = why
	}
}

// SharedAge says how old the shared token is that was found, or the shared tokens where there was none.
func (m *Meter) SharedAge(age time.Duration) {
	if m != nil {
		m.mu.Lock()
		defer m.mu.Unlock()
		m.sharedAge = age
	}
}

// Shared returns why the shared tokens were not used, "" if one was or there are none, and their age, 0 if unknown.
func (m *Meter) Shared() (passedOver string, age time.Duration) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.passedOver, m.sharedAge
}

func (m *Meter) add(c *Calls, took time.Duration) {
	m.mu.Lock()
	defer m.mu.Unlock()
	c.Count++
	c.Took += took
}

// Read returns what was counted so far.
func (m *Meter) Read() (github, secretsManager Calls) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.github, m.secretsManager
}
