package template_test

import (
	"debug/elf"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"runner-token-broker/e2e/rig"
)

// sam runs the SAM CLI at the root of the checkout.
func sam(t *testing.T, env []string, args ...string) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), rig.Tool(t, "sam"), args...)
	cmd.Dir = rig.Root
	cmd.Env = append(append(rig.Environ(), "SAM_CLI_TELEMETRY=0"), env...)
	rig.Output(t, cmd)
}

const (
	service  = rig.Root + "/template.yaml"
	scaleOut = rig.Root + "/examples/step-functions/template.yaml"
)

// As it is written, and as SAM translates it.
func TestTemplatesAreValid(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ name, file string }{
		{"the service", service},
		{"the example of Step Functions", scaleOut},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			file, err := filepath.Abs(c.file)
			if err != nil {
				t.Fatal(err)
			}
			sam(t, nil, "validate", "--lint", "--region", "us-east-1", "--template", file)
			template := rig.Translate(t, rig.ReadFile(t, file))[0]
			if template.Error != "" {
				t.Fatal(template.Error)
			}
			translated := filepath.Join(t.TempDir(), "translated.json")
			rig.WriteFile(t, translated, text(template.Translated), 0o644)
			// W3002 is for a file that SAM uploads when it deploys.
			cmd := exec.CommandContext(t.Context(), rig.Tool(t, "cfn-lint"), "--ignore-checks", "W3002", "--", file, translated)
			cmd.Env = rig.Environ()
			rig.Output(t, cmd)
		})
	}
}

// SAM does not tell make the architecture, so a mistake would show only when the function starts.
func TestSAMBuildsForItsArchitecture(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name    string
		env     []string
		args    []string
		machine elf.Machine
	}{
		{"by default", nil, nil, elf.EM_AARCH64},
		{"arm64", []string{"ARCH=arm64"}, []string{"--parameter-overrides", "Architecture=arm64"}, elf.EM_AARCH64},
		{"x86_64", []string{"ARCH=x86_64"}, []string{"--parameter-overrides", "Architecture=x86_64"}, elf.EM_X86_64},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir := t.TempDir()
			sam(t, c.env, append([]string{"build", "--build-dir", dir}, c.args...)...)
			f, err := elf.Open(filepath.Join(dir, "TokenFunction", "bootstrap"))
			if err != nil {
				t.Fatal(err)
			}
			defer f.Close()
			if f.Machine != c.machine {
				t.Errorf("bootstrap is for %s, want %s", f.Machine, c.machine)
			}
			if libraries, err := f.ImportedLibraries(); err == nil && len(libraries) > 0 {
				t.Errorf("bootstrap needs %s, which provided.al2023 need not have", libraries)
			}
			files, err := os.ReadDir(filepath.Join(dir, "TokenFunction"))
			if err != nil {
				t.Fatal(err)
			}
			if len(files) != 1 {
				t.Errorf("the package holds %v, want bootstrap alone", files)
			}
		})
	}
}
