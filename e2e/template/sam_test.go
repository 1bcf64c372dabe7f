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

func TestSAMValidates(t *testing.T) {
	t.Parallel()
	sam(t, nil, "validate", "--lint", "--region", "us-east-1")
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
