package main

import (
	"context"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"runner-token-broker/internal/local/lambda"
)

// contender is one of those that are compared.
type contender struct {
	name     string
	program  program
	function lambda.Function
	ration   *ration  // from its first request for an event on; nil: it has all processors
	events   []string // the first makes the token

	starts, first []time.Duration
	warm          map[string][]time.Duration // by event
	memory        int64                      // bytes, the largest peak
}

// run starts the function once and invokes it: first to make the token, then calls times with each event.
func (c *contender) run(calls int) error {
	service, err := lambda.Start(c.function)
	if err != nil {
		return err
	}
	defer service.Close()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	if err := service.Ready(ctx); err != nil {
		return err
	}
	if c.ration != nil {
		if err := c.ration.put(service.Processes()[0].PID); err != nil {
			return err
		}
	}
	invoke := func(event string) (time.Duration, error) {
		start := time.Now()
		result, err := service.Invoke(ctx, []byte(event))
		if err == nil && result.FunctionError != "" {
			err = fmt.Errorf("%s: %s", c.name, result.Payload)
		}
		return time.Since(start), err
	}
	first, err := invoke(c.events[0])
	if err != nil {
		return err
	}
	c.first = append(c.first, first)
	for range calls {
		for _, event := range c.events {
			took, err := invoke(event)
			if err != nil {
				return err
			}
			c.warm[event] = append(c.warm[event], took)
		}
	}
	process := service.Processes()[0]
	c.starts = append(c.starts, process.Init)
	c.memory = max(c.memory, process.PeakMemory)
	return nil
}

// whole is how long each start took with its first answer.
func (c *contender) whole() []time.Duration {
	both := slices.Clone(c.first)
	for n := range both {
		both[n] += c.starts[n]
	}
	return both
}

// percentile returns it in milliseconds; 0 if there is nothing.
func percentile(p float64, d []time.Duration) float64 {
	if len(d) == 0 {
		return 0
	}
	d = slices.Sorted(slices.Values(d))
	return float64(d[min(int(p*float64(len(d))), len(d)-1)]) / float64(time.Millisecond)
}

func median(d []time.Duration) float64 { return percentile(0.5, d) }

// table writes a table in Markdown with a column for each contender.
type table struct{ w io.Writer }

func newTable(w io.Writer, all []*contender) table {
	fmt.Fprint(w, "| |")
	for _, c := range all {
		fmt.Fprintf(w, " %s |", c.name)
	}
	fmt.Fprintf(w, "\n| --- |%s\n", strings.Repeat(" --- |", len(all)))
	return table{w}
}

// row writes what of says of each: the ratio to the first and, in brackets, the figure. Where of says 0 there is none.
func (t table) row(name, format string, all []*contender, of func(*contender) float64) {
	fmt.Fprintf(t.w, "| %s |", name)
	for _, c := range all {
		if value := of(c); value > 0 {
			fmt.Fprintf(t.w, " %.2f ("+format+") |", value/of(all[0]), value)
		} else {
			fmt.Fprint(t.w, " |")
		}
	}
	fmt.Fprintln(t.w)
}
