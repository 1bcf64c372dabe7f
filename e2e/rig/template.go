package rig

import (
	"bytes"
	"encoding/json"
	"os/exec"
	"path/filepath"
	"testing"
)

// Template is one of SAM's.
type Template struct {
	Source     map[string]any // intrinsic functions are in their long form
	Translated map[string]any // as SAM hands it to CloudFormation
	Error      string         // why SAM does not
}

// Translate has SAM translate templates: each is a text in YAML, or a Source.
func Translate(t *testing.T, templates ...any) []Template {
	t.Helper()
	in, err := json.Marshal(templates)
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), Tool(t, "python"), filepath.Join(Root, "e2e/rig/translate.py"))
	cmd.Stdin = bytes.NewReader(in)
	cmd.Env = Environ()
	var translated []Template
	if err := json.Unmarshal([]byte(Output(t, cmd)), &translated); err != nil || len(translated) != len(templates) {
		t.Fatalf("%d of %d templates came back: %v", len(translated), len(templates), err)
	}
	return translated
}
