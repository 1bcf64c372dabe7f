package main

import (
	"os"
	"os/exec"
	"path/filepath"

	"runner-token-broker/internal/local/lambda"
)

// programs are what is compared.
type programs []program

type program struct {
	name   string // "" for the function
	path   string
	folder string // the checkout that it is built in
	pkg    string
}

// newPrograms builds hello world, the function and, where there is one, that of the other checkout into dir.
func newPrograms(dir, other string) (programs, error) {
	all := programs{
		{"hello world", filepath.Join(dir, "hello"), ".", "./internal/local/bench/hello"},
		{"", filepath.Join(dir, "function"), ".", "./functions/token"},
	}
	if other != "" {
		all = append(all, program{" of the other", filepath.Join(dir, "other"), other, "./functions/token"})
	}
	for _, p := range all {
		if err := p.build(p.path, ""); err != nil {
			return nil, err
		}
	}
	return all, nil
}

// functions are those that are not hello world.
func (p programs) functions() []program { return p[1:] }

// contenders are the functions, with a credential or tokens of that kind.
func (p programs) contenders(kind string, w *world) []*contender {
	var all []*contender
	for _, f := range p.functions() {
		all = append(all, &contender{name: kind + f.name, program: f, events: []string{direct}, function: lambda.Function{
			Path: f.path, Credentials: w.credentials, Env: w.with(kind),
		}})
	}
	return all
}

// build builds with the Makefile's flags. arch "" is this machine's.
func (p program) build(path, arch string) error {
	cmd := exec.Command("go", "build", "-trimpath", "-buildvcs=false", "-tags", "lambda.norpc", "-ldflags=-s -w",
		"-o", path, p.pkg)
	cmd.Dir = p.folder
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if arch != "" {
		cmd.Env = append(cmd.Env, "GOOS=linux", "GOARCH="+arch)
	}
	cmd.Stderr = os.Stderr
	return cmd.Run()
}
