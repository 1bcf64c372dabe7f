// Command bench compares the function with a hello-world Lambda of the same aws-lambda-go, side by side in one run
// under the local Lambda. Machines differ and drift, so the ratios count. It prints figures and judges nothing.
//
// It does not measure the network, or what Lambda adds: fetching the zip, the micro-VM, freezing and thawing.
package main

import (
	"archive/zip"
	"context"
	"flag"
	"fmt"
	"io"
	"log"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"

	"runner-token-broker/internal/local/github"
	"runner-token-broker/internal/local/lambda"
	"runner-token-broker/internal/local/secretsmanager"
	"runner-token-broker/internal/secret"
)

func main() {
	log.SetFlags(0)
	starts := flag.Int("starts", 40, "process starts of each")
	calls := flag.Int("calls", 4000, "warm invocations of each")
	flag.Parse()
	if err := bench(*starts, *calls); err != nil {
		log.Fatal(err)
	}
}

// contender is one of the two that are compared.
type contender struct {
	function lambda.Function
	event    string

	starts, calls []time.Duration
	memory        int64 // bytes, the largest peak
}

func bench(starts, calls int) error {
	dir, err := os.MkdirTemp("", "bench")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	function, hello := filepath.Join(dir, "function"), filepath.Join(dir, "hello")
	if err := build(function, "", "./functions/token"); err != nil {
		return err
	}
	if err := build(hello, "", "./internal/local/bench/hello"); err != nil {
		return err
	}

	pat := secret.New("ghp_bench")
	credentials := aws.Credentials{AccessKeyID: "AKIDBENCH", SecretAccessKey: "bench"}
	secrets := secretsmanager.New("us-east-1", credentials)
	secrets.Put("github-pat", pat)
	sm, gh := httptest.NewServer(secrets), httptest.NewServer(github.New(pat))
	defer sm.Close()
	defer gh.Close()

	env := map[string]string{
		"GITHUB_SECRET_ID": "github-pat", "ALLOWED_TARGETS": "orgs/acme", "GITHUB_API_URL": gh.URL,
		"AWS_ENDPOINT_URL_SECRETS_MANAGER": sm.URL,
	}
	token := &contender{
		event:    `{"target":"orgs/acme"}`,
		function: lambda.Function{Path: function, Credentials: credentials, Env: env},
	}
	world := &contender{event: `{}`, function: lambda.Function{Path: hello, Credentials: credentials}}

	for range starts {
		for _, c := range []*contender{token, world} {
			if err := c.run(1); err != nil {
				return err
			}
		}
	}
	const rounds = 10 // in turns, so that both run under the same load
	for range rounds {
		for _, c := range []*contender{token, world} {
			if err := c.run(calls / rounds); err != nil {
				return err
			}
		}
	}

	fmt.Printf("%-44s %12s %12s %7s\n", "", "function", "hello world", "ratio")
	row := func(name string, of func(*contender) float64, format string) {
		a, b := of(token), of(world)
		fmt.Printf("%-44s %12s %12s %7.2f\n", name, fmt.Sprintf(format, a), fmt.Sprintf(format, b), a/b)
	}
	row("process start to first /next, median", func(c *contender) float64 { return median(c.starts) }, "%.2f ms")
	row("warm round trip (cached answer), median", func(c *contender) float64 { return median(c.calls) }, "%.3f ms")
	row("peak memory", func(c *contender) float64 { return float64(c.memory) / (1 << 20) }, "%.1f MB")
	for _, arch := range []string{"arm64", "amd64"} {
		var sizes [2]float64
		for i, pkg := range []string{"./functions/token", "./internal/local/bench/hello"} {
			path := filepath.Join(dir, "bootstrap")
			if err := build(path, arch, pkg); err != nil {
				return err
			}
			if sizes[i], err = zipped(path); err != nil {
				return err
			}
		}
		fmt.Printf("%-44s %9.2f MB %9.2f MB %7.2f\n", "zip, "+arch, sizes[0], sizes[1], sizes[0]/sizes[1])
	}
	return nil
}

// run starts the function once and invokes it. The first invocation makes the token, and is not counted.
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
	for i := range calls + 1 {
		start := time.Now()
		result, err := service.Invoke(ctx, []byte(c.event))
		if err != nil {
			return err
		}
		if result.FunctionError != "" {
			return fmt.Errorf("%s: %s", c.function.Path, result.Payload)
		}
		if i > 0 {
			c.calls = append(c.calls, time.Since(start))
		}
	}
	process := service.Processes()[0]
	c.starts = append(c.starts, process.Init)
	c.memory = max(c.memory, process.PeakMemory)
	return nil
}

// build builds with the Makefile's flags. arch "" is this machine's.
func build(path, arch, pkg string) error {
	cmd := exec.Command("go", "build", "-trimpath", "-buildvcs=false", "-tags", "lambda.norpc", "-ldflags=-s -w",
		"-o", path, pkg)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if arch != "" {
		cmd.Env = append(cmd.Env, "GOOS=linux", "GOARCH="+arch)
	}
	cmd.Stderr = os.Stderr
	return cmd.Run()
}

// zipped returns the size in MB of a zip with the file in it.
func zipped(path string) (float64, error) {
	file, err := os.Open(path)
	if err != nil {
		return 0, err
	}
	defer file.Close()
	size := new(counter)
	archive := zip.NewWriter(size)
	w, err := archive.Create("bootstrap")
	if err != nil {
		return 0, err
	}
	if _, err := io.Copy(w, file); err != nil {
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

// median returns it in milliseconds.
func median(d []time.Duration) float64 {
	slices.Sort(d)
	return float64(d[len(d)/2]) / float64(time.Millisecond)
}
