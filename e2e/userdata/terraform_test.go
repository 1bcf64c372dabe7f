package userdata_test

import (
	"encoding/base64"
	"encoding/json"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"runner-token-broker/e2e/rig"
)

const terraform = rig.Root + "/examples/ec2/terraform"

// tofu runs OpenTofu, which knows no home and no account.
func tofu(t *testing.T, dir string, args ...string) (stdout, stderr string, status int) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), rig.Tool(t, "tofu"), args...)
	cmd.Dir = dir
	cmd.Env = append(rig.Environ(), "HOME="+t.TempDir(), "TF_IN_AUTOMATION=1", "TF_CLI_ARGS=-no-color")
	return rig.Run(t, cmd)
}

// apply gives user-data.tf of the example a script and variables. What it needs no provider for is all that it has.
func apply(t *testing.T, script string, variables map[string]any) (userData, stderr string, status int) {
	t.Helper()
	dir := t.TempDir()
	rig.WriteFile(t, filepath.Join(dir, "user-data/linux.sh"), script, 0o644)
	module := filepath.Join(dir, "ec2/terraform")
	rig.WriteFile(t, filepath.Join(module, "user-data.tf"), rig.ReadFile(t, terraform+"/user-data.tf"), 0o644)
	rig.WriteFile(t, filepath.Join(module, "output.tf"), `output "user_data" { value = local.user_data }`, 0o644)
	text, err := json.Marshal(variables)
	if err != nil {
		t.Fatal(err)
	}
	rig.WriteFile(t, filepath.Join(module, "terraform.tfvars.json"), string(text), 0o644)
	if _, stderr, status = tofu(t, module, "apply", "-auto-approve", "-input=false"); status != 0 {
		return "", stderr, status
	}
	userData, stderr, status = tofu(t, module, "output", "-raw", "user_data")
	data, err := base64.StdEncoding.DecodeString(userData)
	if err != nil {
		t.Fatal(err)
	}
	return string(data), stderr, status
}

// variables are what user-data.tf needs, with more.
func variables(more map[string]any) map[string]any {
	all := map[string]any{"api_url": "https://api.example.com", "target": "orgs/acme", "region": rig.Region}
	for name, value := range more {
		all[name] = value
	}
	return all
}

func TestTerraformGivesTheScriptItsSettings(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ name, group string }{
		{"plain", "my group"},
		{"commands", "$(touch evil) `touch evil` ; touch evil"},
		{"Terraform's own", "${var.target} %{if true}x%{endif} $${x}"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			settings := map[string]string{"RUNNER_GROUP": c.group}
			data, errs, status := apply(t, asks, variables(map[string]any{"settings": settings}))
			if status != 0 {
				t.Fatal(errs)
			}
			out, errs, status := boot(t, data, nil)
			want := "<https://api.example.com>\n<orgs/acme>\n<" + rig.Region + ">\n<>\n<" + c.group +
				">\n</opt/actions-runner>\n<extra=>\n"
			if status != 0 || out != want {
				t.Errorf("exit %d, it got %s, want %s\n%s", status, out, want, errs)
			}
		})
	}
	t.Run("the script itself", func(t *testing.T) {
		t.Parallel()
		script := rig.ReadFile(t, rig.Root+"/examples/user-data/linux.sh")
		data, errs, status := apply(t, script, variables(nil))
		if status != 0 || len(data) > 16384-3000 || !strings.HasSuffix(unpack(t, data), "\n"+script) {
			t.Errorf("exit %d, %d bytes, or not the script\n%s", status, len(data), errs)
		}
	})
}

func TestTerraformRefusesBadSettings(t *testing.T) {
	t.Parallel()
	settings := func(name, value string) map[string]any {
		return map[string]any{"settings": map[string]string{name: value}}
	}
	for _, c := range []struct {
		name      string
		variables map[string]any
		says      string
	}{
		{"no TLS", map[string]any{"api_url": "http://api.example.com"}, "api_url must be the stack's output ApiUrl"},
		{"a quote in the URL", map[string]any{"api_url": "https://a.example.com'"}, "api_url must be the stack's output"},
		{"upper case", map[string]any{"target": "orgs/Acme"}, "target must be orgs/ORG"},
		{"no Region", map[string]any{"region": "Frankfurt"}, "region must be the API's AWS Region"},
		{"a quote", settings("RUNNER_GROUP", "it's"), "settings must have names of linux.sh"},
		{"two lines", settings("RUNNER_GROUP", "a\nb"), "settings must have names of linux.sh"},
		{"another name", settings("runner_group", "a"), "settings must have names of linux.sh"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			_, errs, status := apply(t, asks, variables(c.variables))
			if status == 0 || !strings.Contains(errs, c.says) || strings.Count(errs, "Error:") != 1 {
				t.Errorf("exit %d, want one error with %q\n%s", status, c.says, errs)
			}
		})
	}
}

// Without the provider, which is not to be had from a package manager, this is all that can be said of main.tf.
func TestTerraformIsWrittenAsTerraformIs(t *testing.T) {
	t.Parallel()
	out, errs, status := tofu(t, terraform, "fmt", "-check", "-diff")
	if status != 0 {
		t.Errorf("exit %d\n%s%s", status, out, errs)
	}
}
