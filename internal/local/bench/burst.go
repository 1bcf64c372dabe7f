package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"

	"runner-token-broker/internal/local/lambda"
)

const burstRequests = 1000

// burst sends requests all at once to environments that have just started.
func burst(w io.Writer, p programs, r *roots) error {
	fmt.Fprint(w, "| environments | tokens | GitHub calls | Secrets Manager calls | ms to the answer: p50, p99, max |\n"+
		"| --- | --- | --- | --- | --- |\n")
	for _, environments := range []int{1, 10, 50} {
		for _, kind := range []string{"PAT", "shared"} {
			world, err := newWorld(place{2 * time.Millisecond, r})
			if err != nil {
				return err
			}
			took, err := world.storm(p.contenders(kind, world)[0].function, environments)
			gitHubCalls, reads := len(world.github.Requests()), world.secrets.Reads()
			world.close()
			if err != nil {
				return err
			}
			fmt.Fprintf(w, "| %d | %s | %d | %d | %.0f, %.0f, %.0f |\n", environments,
				map[string]string{"PAT": "not shared", "shared": "shared"}[kind], gitHubCalls, reads,
				percentile(0.5, took), percentile(0.99, took), percentile(1, took))
		}
	}
	return nil
}

// storm returns how long each request took.
func (w *world) storm(f lambda.Function, environments int) ([]time.Duration, error) {
	f.Environments = environments
	service, err := lambda.Start(f)
	if err != nil {
		return nil, err
	}
	defer service.Close()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	if err := service.Ready(ctx); err != nil {
		return nil, err
	}
	took, failed := make([]time.Duration, burstRequests), make([]error, burstRequests)
	var all sync.WaitGroup
	for n := range burstRequests {
		all.Go(func() {
			start := time.Now()
			result, err := service.Invoke(ctx, []byte(direct))
			if err == nil && result.FunctionError != "" {
				err = fmt.Errorf("%s", result.Payload)
			}
			took[n], failed[n] = time.Since(start), err
		})
	}
	all.Wait()
	return took, errors.Join(failed...)
}
