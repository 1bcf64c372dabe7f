// Command bench compares the function with a hello-world Lambda of the same aws-lambda-go, side by side in one run
// under the local Lambda. Machines differ and drift, so the ratios count. It prints figures and judges nothing.
//
// It does not measure the network, or what Lambda adds: fetching the zip, the micro-VM, freezing and thawing.
package main

import (
	"archive/zip"
	"context"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"flag"
	"fmt"
	"io"
	"log"
	"maps"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"

	"runner-token-broker/internal/local/github"
	"runner-token-broker/internal/local/kms"
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

// contender is one of those that are compared.
type contender struct {
	name     string
	function lambda.Function
	events   []string // the first makes the token

	starts, first []time.Duration
	warm          map[string][]time.Duration // by event
	memory        int64                      // bytes, the largest peak
}

const (
	direct = `{"target":"orgs/acme"}`
	sample = "events/http-api-v2-org-registration-token.json"
)

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
	http, err := os.ReadFile(sample)
	if err != nil {
		return err
	}
	env, credentials, stop, err := world()
	if err != nil {
		return err
	}
	defer stop()

	all := []*contender{{name: "hello world", function: lambda.Function{Path: hello, Credentials: credentials}}}
	for _, kind := range []string{"PAT", "App", "KMS"} {
		with := maps.Clone(env)
		with["GITHUB_SECRET_ID"] = kind
		all = append(all, &contender{name: kind, function: lambda.Function{
			Path: function, Credentials: credentials, Env: with,
		}})
	}
	for _, c := range all {
		c.events, c.warm = []string{direct, string(http)}, map[string][]time.Duration{}
	}
	for range starts {
		for _, c := range all {
			if err := c.run(0); err != nil {
				return err
			}
		}
	}
	const rounds = 10 // in turns, so that all run under the same load
	for range rounds {
		for _, c := range all[:2] {
			if err := c.run(calls / rounds); err != nil {
				return err
			}
		}
	}

	fmt.Printf("%-38s", "")
	for _, c := range all {
		fmt.Printf(" %22s", c.name)
	}
	fmt.Println()
	// In brackets is the ratio to the contender that is the measure.
	row := func(name, format string, measure *contender, of func(*contender) float64) {
		fmt.Printf("%-38s", name)
		for _, c := range all {
			if value := of(c); value > 0 {
				fmt.Printf(" %22s", fmt.Sprintf(format+" (%.2f)", value, value/of(measure)))
			} else {
				fmt.Printf(" %22s", "")
			}
		}
		fmt.Println()
	}
	world, pat := all[0], all[1]
	row("process start to first /next, median", "%.2f ms", world, func(c *contender) float64 { return median(c.starts) })
	row("first answer (makes the token), median", "%.1f ms", pat, func(c *contender) float64 {
		if c == world {
			return 0
		}
		return median(c.first)
	})
	row("warm answer, direct, median", "%.3f ms", world, func(c *contender) float64 { return median(c.warm[direct]) })
	row("warm answer, HTTP, median", "%.3f ms", world, func(c *contender) float64 { return median(c.warm[string(http)]) })
	row("peak memory", "%.1f MB", world, func(c *contender) float64 {
		if len(c.warm) == 0 { // too few calls to compare
			return 0
		}
		return float64(c.memory) / (1 << 20)
	})
	for _, arch := range []string{"arm64", "amd64"} {
		sizes := map[string]float64{}
		for _, pkg := range []string{"./functions/token", "./internal/local/bench/hello"} {
			path := filepath.Join(dir, "bootstrap")
			if err := build(path, arch, pkg); err != nil {
				return err
			}
			if sizes[pkg], err = zipped(path); err != nil {
				return err
			}
		}
		row("zip, "+arch, "%.2f MB", world, func(c *contender) float64 {
			switch c {
			case world:
				return sizes["./internal/local/bench/hello"]
			case pat:
				return sizes["./functions/token"]
			}
			return 0
		})
	}
	return nil
}

// world starts what the function calls, with a secret for each kind of credential: PAT, App, and KMS, which is an App
// whose key is there.
func world() (env map[string]string, credentials aws.Credentials, stop func(), err error) {
	pat := secret.New("ghp_bench")
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		return nil, credentials, nil, err
	}
	credentials = aws.Credentials{AccessKeyID: "AKIDBENCH", SecretAccessKey: "bench"}
	gh, secrets, keys := github.New(pat), secretsmanager.New("us-east-1", credentials), kms.New("us-east-1", credentials)
	gh.PutApp(github.App{ID: 1, ClientID: "Iv1.bench", Keys: []*rsa.PublicKey{&key.PublicKey},
		Installations: []github.Installation{{
			ID: 1, Owner: "acme", Permissions: map[string]string{"organization_self_hosted_runners": "write"},
		}}})
	keys.Put("alias/bench", kms.Key{Private: key})
	text := pem.EncodeToMemory(&pem.Block{Type: "RSA PRIVATE KEY", Bytes: x509.MarshalPKCS1PrivateKey(key)})
	secrets.Put("PAT", pat)
	secrets.Put("App", secret.New(fmt.Sprintf(`{"client_id":"Iv1.bench","private_key":%q}`, text)))
	secrets.Put("KMS", secret.New(`{"client_id":"Iv1.bench","kms_key_id":"alias/bench"}`))

	servers := []*httptest.Server{httptest.NewServer(gh), httptest.NewServer(secrets), httptest.NewServer(keys)}
	env = map[string]string{
		"ALLOWED_TARGETS": "orgs/acme", "GITHUB_API_URL": servers[0].URL,
		"AWS_ENDPOINT_URL_SECRETS_MANAGER": servers[1].URL, "AWS_ENDPOINT_URL_KMS": servers[2].URL,
	}
	return env, credentials, func() {
		for _, s := range servers {
			s.Close()
		}
	}, nil
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
	if len(d) == 0 {
		return 0
	}
	slices.Sort(d)
	return float64(d[len(d)/2]) / float64(time.Millisecond)
}
