package main

import (
	_ "embed"
	"errors"
	"fmt"
	"go/doc/comment"
	"go/parser"
	"go/token"
	"io"
	"math"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"time"

	"runner-token-broker/internal/local/page"
)

// What the page compares.
var (
	defaults = Settings{ThrottlingRateLimit: 200, ThrottlingBurstLimit: 50}
	reserved = Settings{ReservedConcurrency: 50, ThrottlingRateLimit: 500, ThrottlingBurstLimit: 500}
	newcomer = Settings{ThrottlingRateLimit: 100, ThrottlingBurstLimit: 10}
	sharing  = Settings{
		ReservedConcurrency: 200, ThrottlingRateLimit: 2000, ThrottlingBurstLimit: 1000, ShareTokens: true,
	}
)

// with returns the standard model with another fleet and other settings.
func (s Settings) with(instances int, within time.Duration, targets int) Model {
	m := standard()
	m.Settings, m.Instances, m.Within, m.Targets = s, instances, within, targets
	return m
}

// githubCalls is how many calls a fleet may make: of the 180 that GitHub takes in a minute, some are for others.
const githubCalls = 150

// good says whether a fleet may be started with these settings: everybody gets a token, 99 of 100 within a minute, and
// GitHub has calls left for others.
func (o Outcome) good() bool {
	return o.WithoutToken == 0 && o.Limited == 0 && o.GitHubCalls <= githubCalls && o.Wait(0.99) <= time.Minute
}

// isTooLarge says, without a simulation, that the throttle cannot let 99 of 100 through within a minute.
func (m Model) isTooLarge() bool {
	most := float64(m.ThrottlingBurstLimit) + m.ThrottlingRateLimit*(m.Within+time.Minute).Seconds()
	return most < 0.99*float64(m.Instances)
}

// recommend returns the first of the settings, which begin with the simplest, that is good for the fleet, else the
// last.
func recommend(m Model, settings ...Settings) run {
	for _, m.Settings = range settings {
		if m.isTooLarge() {
			continue
		}
		if r := (run{m, simulate(m)}); r.good() {
			return r
		}
	}
	return run{m, simulate(m)}
}

type run struct {
	Model
	Outcome
}

func writeRuns(w io.Writer, models []Model) {
	writeTable(w, sideBySide(models, func(m Model) run { return run{m, simulate(m)} }))
}

// sideBySide calls simulate for each of the models, several at a time.
func sideBySide(models []Model, simulate func(Model) run) []run {
	results := make([]run, len(models))
	slots := make(chan struct{}, runtime.GOMAXPROCS(0))
	var all sync.WaitGroup
	for i, m := range models {
		slots <- struct{}{}
		all.Go(func() {
			results[i] = simulate(m)
			<-slots
		})
	}
	all.Wait()
	return results
}

func writeTable(w io.Writer, runs []run) {
	fmt.Fprint(w, "| instances | within | targets | `ShareTokens` | `ReservedConcurrency` | throttle | without a token | "+
		"GitHub calls (limited) | seconds to a token: p50, p99, max | $ |\n"+
		"| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |\n")
	for _, r := range runs {
		share := "off"
		if r.ShareTokens {
			share = "on"
		}
		fmt.Fprintf(w, "| %s | %g s | %d | %s | %d | %g/%d | %s | %s (%s) | %.2f, %.2f, %.2f | %.3f |\n",
			number(r.Instances), r.Within.Seconds(), r.Targets,
			share, r.ReservedConcurrency, r.ThrottlingRateLimit, r.ThrottlingBurstLimit,
			number(r.WithoutToken), number(r.GitHubCalls), number(r.Limited),
			r.Wait(0.5).Seconds(), r.Wait(0.99).Seconds(), r.Wait(1).Seconds(), r.Cost())
	}
}

// number writes 10000 as 10,000.
func number(n int) string {
	s := strconv.Itoa(n)
	for i := len(s) - 3; i > 0; i -= 3 {
		s = s[:i] + "," + s[i:]
	}
	return s
}

// writeFigures writes the part of the page that comes from here.
func writeFigures(w io.Writer) error {
	text, err := assumptions()
	if err != nil {
		return err
	}
	fmt.Fprintf(w, "\n### Recommended settings\n\nFor each fleet, these are the simplest settings with which everybody "+
		"gets a token, 99 of 100 within a minute, and\nGitHub gets %d calls at most. Where none are enough, tokens are "+
		"shared.\n\n", githubCalls)
	writeTable(w, sideBySide([]Model{
		defaults.with(1_000, time.Minute, 1),
		defaults.with(1_000, 5*time.Second, 1),
		defaults.with(10_000, time.Minute, 1),
		defaults.with(1_000, 5*time.Second, 3),
		defaults.with(10_000, 5*time.Second, 1),
		defaults.with(10_000, time.Minute, 3),
		defaults.with(10_000, time.Minute, 5),
		defaults.with(10_000, time.Minute, 20),
		defaults.with(100_000, time.Minute, 1),
		defaults.with(100_000, 5*time.Second, 1),
	}, func(m Model) run {
		fewer := reserved
		fewer.ReservedConcurrency = min(reserved.ReservedConcurrency, githubCalls/m.Targets)
		return recommend(m, defaults, fewer, sharing)
	}))

	fmt.Fprint(w, "\n### What the settings change\n\n")
	var compared []Model
	for _, fleet := range []Model{
		defaults.with(10_000, time.Minute, 1),
		defaults.with(10_000, time.Minute, 20),
		defaults.with(10_000, 5*time.Second, 1),
	} {
		for _, s := range []Settings{defaults, reserved, sharing} {
			fleet.Settings = s
			compared = append(compared, fleet)
		}
	}
	writeRuns(w, compared)

	fmt.Fprint(w, "\nIf the shared tokens cannot be read, the reservation protects GitHub:\n\n")
	broken := sharing
	broken.ShareTokens = false
	writeRuns(w, []Model{
		broken.with(10_000, time.Minute, 1), broken.with(10_000, 5*time.Second, 1), broken.with(100_000, time.Minute, 1),
	})

	fmt.Fprint(w, "\nIn a new account, which may run 10 functions at once:\n\n")
	compared = nil
	for _, fleet := range []Model{defaults.with(1_000, 5*time.Second, 1), defaults.with(10_000, time.Minute, 1)} {
		for _, s := range []Settings{defaults, newcomer} {
			fleet.Settings, fleet.Concurrency = s, 10
			compared = append(compared, fleet)
		}
	}
	writeRuns(w, compared)

	fmt.Fprint(w, "\n### Pictures\n\nAll instances start within a minute. From the top down, the lines are: the "+
		"defaults; 50 reserved; shared tokens.\nAn instance that gets none counts with the time after which it gives up.\n")
	var lines [][]run
	for _, s := range []Settings{defaults, reserved, sharing} {
		var models []Model
		for _, n := range []int{1_000, 5_000, 10_000, 20_000, 30_000, 40_000} {
			models = append(models, s.with(n, time.Minute, 1))
		}
		lines = append(lines, sideBySide(models, func(m Model) run { return run{m, simulate(m)} }))
	}
	draw(w, "Seconds until the last instance has a token", "seconds", lines, func(r run) float64 {
		if r.WithoutToken > 0 {
			return r.Timeout.Seconds()
		}
		return r.Wait(1).Seconds()
	})
	draw(w, "Calls to GitHub", "calls", lines, func(r run) float64 { return float64(r.GitHubCalls) })

	fmt.Fprintf(w, "\n### Assumptions\n\n%s", text)
	return nil
}

// draw draws a chart with a line for each of lines, over the sizes of its fleets.
func draw(w io.Writer, title, unit string, lines [][]run, value func(run) float64) {
	var sizes []string
	for _, r := range lines[0] {
		sizes = append(sizes, strconv.Itoa(r.Instances))
	}
	fmt.Fprintf(w, "\n```mermaid\nxychart-beta\n    title %q\n    x-axis \"instances\" [%s]\n    y-axis %q\n",
		title, strings.Join(sizes, ", "), unit)
	for _, line := range lines {
		var values []string
		for _, r := range line {
			values = append(values, strconv.FormatFloat(math.Round(value(r)*10)/10, 'f', -1, 64))
		}
		fmt.Fprintf(w, "    line [%s]\n", strings.Join(values, ", "))
	}
	fmt.Fprint(w, "```\n")
}

//go:embed doc.go
var packageComment string

// assumptions returns that part of the package comment as Markdown.
func assumptions() (string, error) {
	mode := parser.ParseComments | parser.PackageClauseOnly
	file, err := parser.ParseFile(token.NewFileSet(), "", packageComment, mode)
	if err != nil {
		return "", err
	}
	_, text, found := strings.Cut(file.Doc.Text(), "# Assumptions\n")
	if !found {
		return "", errors.New("the package comment has no assumptions")
	}
	return string(new(comment.Printer).Markdown(new(comment.Parser).Parse(text))), nil
}

const pageCommand = "go run ./internal/fleet -page docs/performance.md"

// figures replaces the figures of the page by those of today.
func figures(text string) (string, error) {
	var b strings.Builder
	if err := writeFigures(&b); err != nil {
		return "", err
	}
	return page.Replace(text, pageCommand, b.String())
}

func updatePage(path string) error {
	var b strings.Builder
	if err := writeFigures(&b); err != nil {
		return err
	}
	return page.Update(path, pageCommand, b.String())
}
