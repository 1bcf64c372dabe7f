package main

import (
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"time"
)

// shareOf256MB is the share of a processor that a function with 256 MB has.
const shareOf256MB = 256.0 / 1769

// cold compares first answers.
func cold(w io.Writer, p programs, roots *roots, o options) error {
	small, err := newRation(shareOf256MB)
	if err != nil {
		fmt.Fprintf(w, "NOT MEASURED at 256 MB: %v\n", err)
	} else {
		defer small.close()
	}

	type setting struct {
		rtt    time.Duration
		ration *ration
	}
	var settings []setting
	for _, rtt := range []time.Duration{2 * time.Millisecond, 20 * time.Millisecond} {
		settings = append(settings, setting{rtt, nil})
		if small != nil {
			settings = append(settings, setting{rtt, small})
		}
	}
	var all [][]*contender // of each setting
	for _, s := range settings {
		world, err := newWorld(place{s.rtt, roots})
		if err != nil {
			return err
		}
		defer world.close()
		var row []*contender
		for _, kind := range kinds {
			row = append(row, p.contenders(kind, world)...)
		}
		folders := p.contenders("PAT", world)[0]
		folders.name, folders.function.Env["SSL_CERT_DIR"] = "PAT, folders read", roots.folder
		row = append(row, folders)
		for _, c := range row {
			c.ration = s.ration
		}
		all = append(all, row)
	}
	if err := inTurns(o.cold, slices.Concat(all...), 0); err != nil {
		return err
	}

	t := newTable(w, all[0])
	for n, s := range settings {
		processor := "a processor"
		if s.ration != nil {
			processor = "256 MB"
		}
		where := fmt.Sprintf("RTT %d ms, %s", s.rtt.Milliseconds(), processor)
		t.row(where+": start", "%.0f ms", all[n], func(c *contender) float64 { return median(c.starts) })
		t.row(where+": first answer", "%.0f ms", all[n], func(c *contender) float64 { return median(c.first) })
		t.row(where+": both", "%.0f ms", all[n], func(c *contender) float64 { return median(c.whole()) })
	}
	if small == nil {
		return nil
	}
	var names []string
	for _, c := range all[0] {
		names = append(names, strconv.Quote(c.name))
	}
	fmt.Fprintf(w, "\nThe first answer at an RTT of 2 ms. The bars are at 256 MB, the line is with a whole processor.\n\n"+
		"```mermaid\nxychart-beta\n    title \"Milliseconds to the first answer\"\n    x-axis [%s]\n"+
		"    y-axis \"milliseconds\"\n    bar [%s]\n    line [%s]\n```\n",
		strings.Join(names, ", "), medians(all[1]), medians(all[0]))
	return nil
}

func medians(all []*contender) string {
	var values []string
	for _, c := range all {
		values = append(values, fmt.Sprintf("%.0f", median(c.first)))
	}
	return strings.Join(values, ", ")
}
