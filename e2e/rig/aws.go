package rig

import (
	"fmt"
	"path/filepath"
	"testing"
)

// AWSCLI returns a folder for the PATH, with an aws that asks the server of AWS_ENDPOINT_URL.
func AWSCLI(t *testing.T) string {
	t.Helper()
	program, err := filepath.Abs(filepath.Join(Root, "e2e/rig/aws.py"))
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	script := fmt.Sprintf("#!/bin/sh\nexec %q %q \"$@\"\n", Tool(t, "python"), program)
	WriteFile(t, filepath.Join(dir, "aws"), script, 0o755)
	return dir
}
