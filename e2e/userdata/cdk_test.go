package userdata_test

import (
	"encoding/base64"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"runner-token-broker/e2e/rig"
)

const policyARN = "arn:aws:iam::123456789012:policy/caller"

// synthesize makes the CDK's template of a stack, in the folder that it returns.
func synthesize(t *testing.T, env ...string) (dir, stderr string, status int) {
	t.Helper()
	modules, err := filepath.Abs(filepath.Join(rig.Root, ".npm/node_modules"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Join(modules, "aws-cdk-lib")); err != nil {
		rig.NotTested(t, "aws-cdk-lib is missing: see how .ci/run installs it")
	}
	dir = t.TempDir()
	rig.WriteFile(t, filepath.Join(dir, "runners.mjs"), rig.ReadFile(t, rig.Root+"/examples/ec2/cdk/runners.mjs"), 0o644)
	if err := os.Symlink(modules, filepath.Join(dir, "node_modules")); err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), rig.Tool(t, "node"), "runners.mjs")
	cmd.Dir = dir
	cmd.Env = append(append(rig.Environ(), "CDK_OUTDIR="+dir), env...)
	_, stderr, status = rig.Run(t, cmd)
	return dir, stderr, status
}

func TestCDKMakesTheSameLaunchTemplate(t *testing.T) {
	t.Parallel()
	userData := generate(t, "linux", asks)
	file := filepath.Join(t.TempDir(), "user-data")
	rig.WriteFile(t, file, userData, 0o600)
	dir, errs, status := synthesize(t, "CALLER_POLICY_ARN="+policyARN, "VPC_ID=vpc-0a1b2c3d", "USER_DATA="+file)
	if status != 0 {
		t.Fatal(errs)
	}
	path := filepath.Join(dir, "runners.template.json")
	cmd := exec.CommandContext(t.Context(), rig.Tool(t, "cfn-lint"), "--", path)
	cmd.Env = rig.Environ()
	rig.Output(t, cmd)

	var template struct {
		Resources map[string]struct {
			Type       string
			Properties json.RawMessage
		}
	}
	if err := json.Unmarshal([]byte(rig.ReadFile(t, path)), &template); err != nil {
		t.Fatal(err)
	}
	types := map[string]int{}
	properties := func(kind string, v any) {
		t.Helper()
		for _, r := range template.Resources {
			if r.Type == kind {
				types[kind]++
				if err := json.Unmarshal(r.Properties, v); err != nil {
					t.Fatal(err)
				}
			}
		}
	}
	var role struct{ ManagedPolicyArns, Policies []any }
	properties("AWS::IAM::Role", &role)
	if !reflect.DeepEqual(role.ManagedPolicyArns, []any{policyARN}) || role.Policies != nil {
		t.Errorf("the role has %+v", role)
	}
	var group struct{ SecurityGroupIngress []any }
	properties("AWS::EC2::SecurityGroup", &group)
	if group.SecurityGroupIngress != nil {
		t.Errorf("in comes %v", group.SecurityGroupIngress)
	}
	properties("AWS::IAM::InstanceProfile", &struct{}{})
	var launch struct {
		LaunchTemplateData struct {
			UserData, InstanceInitiatedShutdownBehavior string
			MetadataOptions                             map[string]any
			BlockDeviceMappings                         []struct {
				Ebs struct{ Encrypted, DeleteOnTermination bool }
			}
		}
	}
	properties("AWS::EC2::LaunchTemplate", &launch)
	data := launch.LaunchTemplateData
	if data.UserData != base64.StdEncoding.EncodeToString([]byte(userData)) {
		t.Errorf("the user data is %.100q", data.UserData)
	}
	if data.InstanceInitiatedShutdownBehavior != "terminate" || len(data.BlockDeviceMappings) != 1 ||
		!data.BlockDeviceMappings[0].Ebs.Encrypted || !data.BlockDeviceMappings[0].Ebs.DeleteOnTermination {
		t.Errorf("a shutdown: %q, disks: %+v", data.InstanceInitiatedShutdownBehavior, data.BlockDeviceMappings)
	}
	imds := map[string]any{"HttpTokens": "required", "HttpPutResponseHopLimit": 1.0}
	if !reflect.DeepEqual(data.MetadataOptions, imds) {
		t.Errorf("IMDS: %v, want %v", data.MetadataOptions, imds)
	}
	if len(template.Resources) != 4 || len(types) != 4 {
		t.Errorf("there are %d resources, want one of each of %v", len(template.Resources), types)
	}
}

func TestCDKNamesWhatIsMissing(t *testing.T) {
	t.Parallel()
	all := []string{"CALLER_POLICY_ARN=" + policyARN, "VPC_ID=vpc-0a1b2c3d", "USER_DATA=runners.mjs"}
	for i, variable := range all {
		name, _, _ := strings.Cut(variable, "=")
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, errs, status := synthesize(t, append(append([]string{}, all[:i]...), all[i+1:]...)...)
			if status == 0 || !strings.Contains(errs, name+" is not set") {
				t.Errorf("exit %d: %s", status, errs)
			}
		})
	}
}
