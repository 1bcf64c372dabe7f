// Command causes prints docs/errors.md: every cause that a log line can have, with its code and remedy, from the tables
// in the code. `make docs` calls it.
package main

import (
	"fmt"
	"io"
	"os"
	"slices"
	"strings"

	"runner-token-broker/internal/credential"
	"runner-token-broker/internal/doctor"
	"runner-token-broker/internal/github"
	"runner-token-broker/internal/handler"
	"runner-token-broker/internal/kms"
	"runner-token-broker/internal/network"
	"runner-token-broker/internal/runner"
	"runner-token-broker/internal/secretsmanager"
	"runner-token-broker/internal/shared"
)

func main() { write(os.Stdout) }

// rooms are in the order in which a request comes through them.
var rooms = []struct {
	title  string
	causes []runner.Cause
}{
	{"The request", append(handler.Causes(), runner.Causes()...)},
	{"The secret's value", credential.Causes()},
	{"AWS Secrets Manager", secretsmanager.Causes()},
	{"AWS KMS", kms.Causes()},
	{"The network", network.Causes()},
	{"GitHub", github.Causes()},
	{"The self-check alone", doctor.Causes()},
	{"The refresh of the shared tokens", shared.Causes()},
}

const head = `# Causes

Each log line of a failure has a ` + "`cause`" + `, and so has each finding of the self-check. It says more than the
code that callers get. Search this page for the word. What to do about each code is in the [runbook](operating.md).

` + "`make docs`" + ` makes this page from the tables in the code. Change it there.
`

func write(w io.Writer) {
	fmt.Fprint(w, head)
	for _, room := range rooms {
		fmt.Fprintf(w, "\n## %s\n\n| cause | code | what to do |\n| --- | --- | --- |\n", room.title)
		for _, r := range rows(room.causes) {
			fmt.Fprintf(w, "| `%s` | %s | %s |\n", r.name, strings.Join(r.codes, ", "), r.remedy)
		}
	}
}

// row is one cause: some have several codes, by the status that GitHub, or what stands in its place, answered.
type row struct {
	name, remedy string
	codes        []string
}

func rows(causes []runner.Cause) []row {
	var rows []row
	for _, c := range causes {
		remedy, code := strings.ReplaceAll(c.Remedy, "|", `\|`), "`"+string(c.Code)+"`"
		if remedy == "" {
			remedy = "the line says what is wrong"
		}
		i := slices.IndexFunc(rows, func(r row) bool { return r.name == c.Name && r.remedy == remedy })
		if i < 0 {
			rows = append(rows, row{name: c.Name, remedy: remedy})
			i = len(rows) - 1
		}
		if !slices.Contains(rows[i].codes, code) {
			rows[i].codes = append(rows[i].codes, code)
		}
	}
	return rows
}
