package template_test

import (
	"debug/elf"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"runner-token-broker/e2e/rig"
)

// sam returns the SAM CLI's call in a checkout.
func sam(t *testing.T, dir string, env []string, args ...string) *exec.Cmd {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), rig.Tool(t, "sam"), args...)
	cmd.Dir = dir
	cmd.Env = append(append(rig.Environ(), "SAM_CLI_TELEMETRY=0"), env...)
	return cmd
}

const (
	service  = rig.Root + "/template.yaml"
	scaleOut = rig.Root + "/examples/step-functions/template.yaml"
	ec2      = rig.Root + "/examples/ec2/template.yaml"
)

// As it is written, and as SAM translates it.
func TestTemplatesAreValid(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ name, file string }{
		{"the service", service},
		{"the example of Step Functions", scaleOut},
		{"the example of EC2", ec2},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			file, err := filepath.Abs(c.file)
			if err != nil {
				t.Fatal(err)
			}
			rig.Output(t, sam(t, rig.Root, nil, "validate", "--lint", "--region", "us-east-1", "--template", file))
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

// SAM does not tell make the processor, and CloudFormation does not look into the package: a function that is built for
// another one would be deployed, and not start.
func TestSAMBuildsForTheProcessorThatIsDeployed(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name, processor string // the template's; "" as it is
		env, args       []string
		machine         elf.Machine
		refused         string
	}{
		{name: "by default", machine: elf.EM_AARCH64},
		{name: "another one in the template", processor: "x86_64", machine: elf.EM_X86_64},
		{
			name: "another one as SAM's parameter", args: []string{"--parameter-overrides", "Architecture=x86_64"},
			machine: elf.EM_AARCH64, // and CloudFormation refuses the parameter
		},
		{
			name: "another one in the environment", env: []string{"ARCH=x86_64"},
			refused: "ARCH=x86_64, but template.yaml deploys arm64",
		},
		{
			name: "the old one in the environment", processor: "x86_64", env: []string{"ARCH=arm64"},
			refused: "ARCH=arm64, but template.yaml deploys x86_64",
		},
		{name: "one that Lambda lacks", processor: "riscv64", refused: "ARCH=riscv64 is neither arm64 nor x86_64"},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir := rig.Checkout(t)
			if c.processor != "" {
				file := filepath.Join(dir, "template.yaml")
				rig.WriteFile(t, file, strings.ReplaceAll(rig.ReadFile(t, file), "arm64", c.processor), 0o644)
			}
			out, errs, status := rig.Run(t, sam(t, dir, c.env, append([]string{"build"}, c.args...)...))
			if c.refused != "" {
				if status == 0 || !strings.Contains(errs, c.refused) {
					t.Errorf("exit %d, want %q in\n%s%s", status, c.refused, out, errs)
				}
				return
			}
			if status != 0 {
				t.Fatalf("exit %d\n%s%s", status, out, errs)
			}
			built := filepath.Join(dir, ".aws-sam/build/TokenFunction")
			f, err := elf.Open(filepath.Join(built, "bootstrap"))
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
			files, err := os.ReadDir(built)
			if err != nil {
				t.Fatal(err)
			}
			if len(files) != 1 {
				t.Errorf("the package holds %v, want bootstrap alone", files)
			}
		})
	}
}

// SAM would take the source for the function, with .git and without the program.
func TestNothingIsDeployedThatIsNotBuilt(t *testing.T) {
	t.Parallel()
	out, errs, status := rig.Run(t, sam(t, rig.Checkout(t), []string{"AWS_ENDPOINT_URL=http://127.0.0.1:1",
		"AWS_DEFAULT_REGION=" + rig.Region}, "deploy", "--parameter-overrides", "AllowedTargets=orgs/acme"))
	if status == 0 || !strings.Contains(errs, "Template file not found") {
		t.Errorf("exit %d\n%s%s", status, out, errs)
	}
}
