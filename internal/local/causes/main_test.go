package main

import (
	"bytes"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
)

func TestErrorsPageIsMadeFromTheCode(t *testing.T) {
	t.Parallel()
	page, err := os.ReadFile("../../../docs/errors.md")
	if err != nil {
		t.Fatal(err)
	}
	var want bytes.Buffer
	write(&want)
	if !bytes.Equal(page, want.Bytes()) {
		t.Error("docs/errors.md is not what the code says: run make docs")
	}
}

// A cause that no table lists would be in a log line and not on the page.
func TestEachCauseOfTheCodeIsOnThePage(t *testing.T) {
	t.Parallel()
	var page bytes.Buffer
	write(&page)
	found := 0
	for _, root := range []string{"../../../internal", "../../../functions"} {
		err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
			if err != nil || !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") ||
				strings.Contains(path, "local") {
				return err
			}
			file, err := parser.ParseFile(token.NewFileSet(), path, nil, 0)
			if err != nil {
				return err
			}
			ast.Inspect(file, func(n ast.Node) bool {
				name, ok := causeName(n)
				if ok {
					found++
					if !strings.Contains(page.String(), "| `"+name+"` |") {
						t.Errorf("%s: the cause %s is not on the page", path, name)
					}
				}
				return true
			})
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	if found < 50 {
		t.Errorf("only %d causes were found in the code", found)
	}
}

// causeName returns the Name of a literal of type Cause.
func causeName(n ast.Node) (string, bool) {
	literal, ok := n.(*ast.CompositeLit)
	if !ok {
		return "", false
	}
	switch t := literal.Type.(type) {
	case *ast.Ident:
		ok = t.Name == "Cause"
	case *ast.SelectorExpr:
		ok = t.Sel.Name == "Cause"
	default:
		ok = false
	}
	if !ok {
		return "", false
	}
	for _, e := range literal.Elts {
		field, isField := e.(*ast.KeyValueExpr)
		if !isField || field.Key.(*ast.Ident).Name != "Name" {
			continue
		}
		value, isText := field.Value.(*ast.BasicLit)
		if !isText {
			return "", false
		}
		name, err := strconv.Unquote(value.Value)
		return name, err == nil
	}
	return "", false
}
