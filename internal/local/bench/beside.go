package main

import (
	"archive/zip"
	"io"
	"os"
	"time"

	"runner-token-broker/internal/local/lambda"
)

const (
	direct = `{"target":"` + target + `"}`
	sample = "events/http-api-v2-org-registration-token.json"
)

// beside compares the function with hello world, with a world at hand.
func beside(w io.Writer, p programs, o options) error {
	http, err := os.ReadFile(sample)
	if err != nil {
		return err
	}
	world, err := newWorld(place{})
	if err != nil {
		return err
	}
	defer world.close()
	all := []*contender{{name: p[0].name, program: p[0], function: lambda.Function{Path: p[0].path}}}
	for _, kind := range kinds {
		all = append(all, p.contenders(kind, world)...)
	}
	warmed := all[:len(p)] // hello world, and the function with a PAT
	for _, c := range all {
		c.events, c.warm = []string{direct, string(http)}, map[string][]time.Duration{}
	}
	if err := inTurns(o.starts, all, 0); err != nil {
		return err
	}
	const rounds = 10
	if err := inTurns(rounds, warmed, o.calls/rounds); err != nil {
		return err
	}

	t := newTable(w, all)
	t.row("start to first request for an event", "%.1f ms", all, func(c *contender) float64 { return median(c.starts) })
	t.row("warm answer, direct", "%.3f ms", all, func(c *contender) float64 { return median(c.warm[direct]) })
	t.row("warm answer, HTTP", "%.3f ms", all, func(c *contender) float64 { return median(c.warm[string(http)]) })
	t.row("peak memory", "%.1f MB", all, func(c *contender) float64 {
		if len(c.warm) == 0 { // too few calls to compare
			return 0
		}
		return float64(c.memory) / (1 << 20)
	})
	for _, arch := range []string{"arm64", "amd64"} {
		sizes := map[*contender]float64{}
		for _, c := range warmed {
			if sizes[c], err = c.program.zipped(arch); err != nil {
				return err
			}
		}
		t.row("zip, "+arch, "%.2f MB", all, func(c *contender) float64 { return sizes[c] })
	}
	return nil
}

// inTurns runs each of all in turns, so that all run under the same load.
func inTurns(rounds int, all []*contender, calls int) error {
	for range rounds {
		for _, c := range all {
			if err := c.run(calls); err != nil {
				return err
			}
		}
	}
	return nil
}

// zipped returns the size in MB of a zip with the program in it, built for arch.
func (p program) zipped(arch string) (float64, error) {
	path := p.path + "-" + arch
	if err := p.build(path, arch); err != nil {
		return 0, err
	}
	file, err := os.Open(path)
	if err != nil {
		return 0, err
	}
	defer file.Close()
	size := new(counter)
	archive := zip.NewWriter(size)
	out, err := archive.Create("bootstrap")
	if err != nil {
		return 0, err
	}
	if _, err := io.Copy(out, file); err != nil {
		return 0, err
	}
	err = archive.Close()
	return float64(*size) / 1e6, err
}

type counter int64

func (c *counter) Write(p []byte) (int, error) {
	*c += counter(len(p))
	return len(p), nil
}
