package runner

import "time"

// Cached returns how many tokens are cached.
func (c *Cache) Cached() int { return len(c.tokens) }

// Remembered returns how many accounts and refusals are remembered, and the times among them.
func (m *Minter) Remembered() (accounts, refusals int, times []time.Time) {
	for _, s := range m.accounts {
		accounts++
		refusals += len(s.refused)
		times = append(times, s.until, s.rejected, s.changed)
		for _, r := range s.refused {
			times = append(times, r.at)
		}
	}
	return accounts, refusals, times
}
