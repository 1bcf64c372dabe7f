package main

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"log"
	"os"
	"strconv"
	"strings"
	"time"
)

func main() {
	log.SetFlags(0)
	switch err := command(os.Args[1:], os.Stdout, os.Stderr); {
	case errors.Is(err, flag.ErrHelp):
	case err != nil:
		log.Fatal(err)
	}
}

func command(args []string, stdout, stderr io.Writer) error {
	m := standard()
	flags := flag.NewFlagSet("fleet", flag.ContinueOnError)
	flags.SetOutput(stderr)
	flags.Usage = func() {
		fmt.Fprintln(flags.Output(), "usage: fleet [FLAGS] INSTANCES/TIME[/TARGETS] ..., such as 10000/60s or 10000/5s/3")
		flags.PrintDefaults()
	}
	table := flags.Bool("table", false, "print the figures of docs/performance.md")
	page := flags.String("page", "", "write the figures into this `file`, where they are now")

	flags.IntVar(&m.ReservedConcurrency, "reserved", m.ReservedConcurrency, "ReservedConcurrency; 0: none")
	flags.Float64Var(&m.ThrottlingRateLimit, "rate", m.ThrottlingRateLimit, "ThrottlingRateLimit")
	flags.IntVar(&m.ThrottlingBurstLimit, "burst", m.ThrottlingBurstLimit, "ThrottlingBurstLimit")
	flags.BoolVar(&m.ShareTokens, "share", m.ShareTokens, "ShareTokens")
	flags.DurationVar(&m.Timeout, "timeout", m.Timeout, "linux.sh's RUNNER_TOKEN_TIMEOUT")

	flags.IntVar(&m.APIRate, "api-rate", m.APIRate, "the account's requests a second to APIs")
	flags.IntVar(&m.APIBurst, "api-burst", m.APIBurst, "and at once; 0: no limit")
	flags.IntVar(&m.Concurrency, "concurrency", m.Concurrency, "functions that the account may run at once; 0: no limit")
	flags.IntVar(&m.NewEnvironments, "new", m.NewEnvironments, "environments that Lambda starts in 10 s; 0: no limit")
	flags.IntVar(&m.InvocationRate, "invocations", m.InvocationRate, "a second for each function at once; 0: no limit")
	flags.IntVar(&m.SecretReads, "reads", m.SecretReads, "of secrets a second; 0: no limit")
	flags.IntVar(&m.GitHubMinute, "github-minute", m.GitHubMinute, "tokens that GitHub makes in a minute; 0: no limit")
	flags.IntVar(&m.GitHubHour, "github-hour", m.GitHubHour, "and in an hour; 0: no limit")
	flags.IntVar(&m.GitHubAtOnce, "github-at-once", m.GitHubAtOnce, "and calls under way; 0: no limit")
	flags.DurationVar(&m.GitHubWait, "github-wait", m.GitHubWait, "GitHub's Retry-After")

	flags.DurationVar(&m.Start, "start", m.Start, "the start of an environment takes")
	flags.DurationVar(&m.Read, "read", m.Read, "reading a secret takes")
	flags.DurationVar(&m.Call, "call", m.Call, "GitHub's token takes")
	flags.DurationVar(&m.Limit, "limited", m.Limit, "GitHub's refusal takes")
	flags.DurationVar(&m.Cached, "cached", m.Cached, "a cached token takes")
	flags.Float64Var(&m.Spread, "spread", m.Spread, "sigma of all these times; 0: always the same")
	flags.DurationVar(&m.Script, "script", m.Script, "at most this long linux.sh works before a request")
	flags.Uint64Var(&m.Seed, "seed", m.Seed, "decides all that is random")
	if err := flags.Parse(args); err != nil {
		return err
	}
	if *table {
		return writeFigures(stdout)
	}
	if *page != "" {
		return updatePage(*page)
	}
	if flags.NArg() == 0 {
		return errors.New("which fleet? Give INSTANCES/TIME, such as 10000/60s; -help says more")
	}
	var models []Model
	for _, arg := range flags.Args() {
		if err := m.parseFleet(arg); err != nil {
			return err
		}
		if err := m.check(); err != nil {
			return err
		}
		models = append(models, m)
	}
	writeRuns(stdout, models)
	return nil
}

// parseFleet reads INSTANCES/TIME[/TARGETS].
func (m *Model) parseFleet(arg string) error {
	instances, rest, _ := strings.Cut(arg, "/")
	within, targets, several := strings.Cut(rest, "/")
	n, notNumber := strconv.Atoi(instances)
	d, notTime := time.ParseDuration(within)
	t, notTargets := 1, error(nil)
	if several {
		t, notTargets = strconv.Atoi(targets)
	}
	if errors.Join(notNumber, notTime, notTargets) != nil || n < 1 || n > 1_000_000 || d < 0 || t < 1 {
		return fmt.Errorf("%q is not INSTANCES/TIME[/TARGETS], such as 10000/60s or 10000/5s/3; "+
			"a million instances at most", arg)
	}
	m.Instances, m.Within, m.Targets = n, d, t
	return nil
}

func (m *Model) check() error {
	for _, n := range []int{
		m.ReservedConcurrency, m.APIRate, m.APIBurst, m.Concurrency, m.NewEnvironments, m.InvocationRate, m.SecretReads,
		m.GitHubMinute, m.GitHubHour, m.GitHubAtOnce,
		int(m.GitHubWait), int(m.Start), int(m.Read), int(m.Call), int(m.Limit), int(m.Cached), int(m.Script),
	} {
		if n < 0 {
			return errors.New("a flag is negative: no quota and no time can be")
		}
	}
	if m.Concurrency > 0 && m.ReservedConcurrency > m.Concurrency {
		return errors.New("-reserved is more than -concurrency: the account has no more to reserve")
	}
	if !(m.ThrottlingRateLimit > 0) || m.ThrottlingBurstLimit < 1 || !(m.Spread >= 0) || m.Timeout < time.Second {
		return errors.New("-rate and -spread must not be negative, -burst must be at least 1, and -timeout at least 1s")
	}
	return nil
}
