// Command bench measures the function under the local Lambda: beside a hello-world Lambda of the same aws-lambda-go,
// its first answer in a model of the network and of a processor, and a burst of requests. What a table compares runs in
// turns, in one run. Machines differ and drift, so the ratios count. It prints figures and judges nothing.
//
// # Limits
//
//   - Nothing was measured on AWS. What Lambda does before the start, fetching the zip and making the micro-VM, is left
//     out, and so is freezing between invocations.
//   - The network is a delay of half a round trip (RTT) in each direction, and one round trip more for a connection.
//     Nothing is lost, and names are not looked up.
//   - "256 MB" is 256/1769 of a processor, from the first request for an event on. AWS says that 1,769 MB are one
//     processor, and that a start has a whole one. The kernel gives it out every 20 ms, which is a guess.
//   - A processor of this machine may be twice as fast as one of Lambda's.
//   - GitHub takes 250 ms for each call, Secrets Manager and KMS take 15 ms. These are guesses.
//   - The servers' certificates have keys on P-256 and an intermediate authority. The system's certificates are 144,
//     made for the purpose. "Folders read" has them as in Amazon Linux 2023, and no SSL_CERT_DIR; see golang/go#79018.
package main

import (
	_ "embed"
	"errors"
	"flag"
	"fmt"
	"go/doc/comment"
	"go/parser"
	"go/token"
	"io"
	"log"
	"os"
	"strings"

	"runner-token-broker/internal/local/page"
)

func main() {
	log.SetFlags(0)
	var o options
	flag.IntVar(&o.starts, "starts", 40, "process starts of each")
	flag.IntVar(&o.calls, "calls", 4000, "warm invocations of each")
	flag.IntVar(&o.cold, "cold", 15, "first answers of each")
	flag.StringVar(&o.other, "other", "", "compare with the function of this `folder`, another checkout")
	path := flag.String("page", "", "write the figures into this `file`, too, where they are now")
	flag.Parse()
	var text strings.Builder
	err := bench(o, io.MultiWriter(os.Stdout, &text))
	if err == nil && *path != "" {
		err = page.Update(*path, "go run ./internal/local/bench -page docs/performance.md", text.String())
	}
	if err != nil {
		log.Fatal(err)
	}
}

type options struct {
	starts, calls, cold int
	other               string // "": none
}

func bench(o options, w io.Writer) error {
	dir, err := os.MkdirTemp("", "bench")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	programs, err := newPrograms(dir, o.other)
	if err != nil {
		return err
	}
	roots, err := newRoots(dir)
	if err != nil {
		return err
	}
	limits, err := limits()
	if err != nil {
		return err
	}

	fmt.Fprint(w, "\n### Beside hello world\n\nThe ratio to the first column and, in brackets, the figure. Each column "+
		"is a credential, or shared tokens.\nThe servers are at hand.\n\n")
	if err := beside(w, programs, o); err != nil {
		return err
	}
	fmt.Fprint(w, "\n### The first answer\n\n")
	if err := cold(w, programs, roots, o); err != nil {
		return err
	}
	fmt.Fprintf(w, "\n### A burst\n\n%d requests at once, for one target, to environments that have just started. "+
		"RTT is 2 ms; all share this machine.\n\n", burstRequests)
	if err := burst(w, programs, roots); err != nil {
		return err
	}
	fmt.Fprintf(w, "\n### Limits of the model\n\n%s", limits)
	return nil
}

//go:embed main.go
var source string

// limits returns that part of the package comment as Markdown.
func limits() (string, error) {
	file, err := parser.ParseFile(token.NewFileSet(), "", source, parser.ParseComments|parser.PackageClauseOnly)
	if err != nil {
		return "", err
	}
	_, text, found := strings.Cut(file.Doc.Text(), "# Limits\n")
	if !found {
		return "", errors.New("the package comment has no limits")
	}
	return string(new(comment.Printer).Markdown(new(comment.Parser).Parse(text))), nil
}
