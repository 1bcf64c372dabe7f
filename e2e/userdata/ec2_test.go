package userdata_test

import (
	"encoding/base64"
	"encoding/json"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"runner-token-broker/e2e/rig"
)

// commands runs commands of bash in a copy of the checkout, with an aws that asks Moto. It returns the copy, and what
// they printed.
func commands(t *testing.T, lines ...string) (dir, stdout string) {
	t.Helper()
	moto := rig.StartMoto(t)
	stub, err := filepath.Abs("aws.py")
	if err != nil {
		t.Fatal(err)
	}
	dir = t.TempDir()
	for _, file := range []string{"Makefile", "examples", "go.mod", "go.sum", "internal"} {
		rig.Output(t, exec.CommandContext(t.Context(), "cp", "-r", filepath.Join(rig.Root, file), dir))
	}
	script := `aws() { "$PYTHON" "$AWS_PY" "$@"; }` + "\n" + `eval "$(aws ec2 setup)"` + "\n" + strings.Join(lines, "\n")
	cmd := exec.CommandContext(t.Context(), rig.Tool(t, "bash"), "-euo", "pipefail", "-c", script)
	cmd.Dir = dir
	cmd.Env = append(rig.Environ(), "PYTHON="+rig.Tool(t, "python"), "AWS_PY="+stub, "AWS_ENDPOINT_URL="+moto.URL,
		"AWS_ACCESS_KEY_ID=a", "AWS_SECRET_ACCESS_KEY=b", "AWS_DEFAULT_REGION="+rig.Region,
		"API_URL=https://a1b2c3d4e5.execute-api.eu-central-1.amazonaws.com", "REGION="+rig.Region)
	return dir, rig.Output(t, cmd)
}

// bash returns the blocks of bash of a page.
func bash(t *testing.T, page string) (blocks []string) {
	t.Helper()
	text := rig.ReadFile(t, filepath.Join(rig.Root, page))
	for _, m := range regexp.MustCompile("(?s)```bash\n(.*?)```").FindAllStringSubmatch(text, -1) {
		blocks = append(blocks, m[1])
	}
	return blocks
}

// sameUserData wants base64 to be what make wrote into the file user-data of the folder.
func sameUserData(t *testing.T, dir, encoded string) {
	t.Helper()
	data, err := base64.StdEncoding.DecodeString(encoded)
	if err != nil || string(data) != rig.ReadFile(t, filepath.Join(dir, "user-data")) {
		t.Errorf("it has other user data than make printed: %v", err)
	}
	if !strings.Contains(unpack(t, string(data)), "\nexport TARGET='orgs/acme'\n") {
		t.Error("the user data has no TARGET")
	}
}

// As docs/user-data.md says.
func TestInstanceGetsTheUserData(t *testing.T) {
	t.Parallel()
	blocks := bash(t, "docs/user-data.md")
	if len(blocks) != 1 {
		t.Fatalf("the page has %d blocks of bash", len(blocks))
	}
	dir, out := commands(t, blocks[0], "aws ec2 attributes")
	var got struct{ UserData, InstanceInitiatedShutdownBehavior string }
	if err := json.Unmarshal([]byte(out), &got); err != nil {
		t.Fatal(err)
	}
	sameUserData(t, dir, got.UserData)
	if got.InstanceInitiatedShutdownBehavior != "terminate" {
		t.Errorf("a shutdown: %q", got.InstanceInitiatedShutdownBehavior)
	}
}

// The README's commands, in Moto's CloudFormation, EC2 and IAM.
func TestEC2CommandsLaunchAnInstanceWithTheUserData(t *testing.T) {
	t.Parallel()
	blocks := bash(t, "examples/ec2/README.md")
	if len(blocks) != 2 {
		t.Fatalf("the README has %d blocks of bash", len(blocks))
	}
	dir, out := commands(t, blocks[0], `eval "$(aws ec2 outputs)"`, blocks[1], "aws ec2 launched")
	var got struct {
		Data struct {
			UserData                          string
			InstanceInitiatedShutdownBehavior string
			ImageId                           string
			MetadataOptions                   struct{ HttpTokens string }
		}
		Instance struct{ ImageId string }
		Groups   []struct{ IpPermissions []any }
	}
	if err := json.Unmarshal([]byte(out), &got); err != nil {
		t.Fatal(err)
	}
	sameUserData(t, dir, got.Data.UserData)
	got.Data.UserData = ""
	if got.Data.MetadataOptions.HttpTokens != "required" || got.Data.InstanceInitiatedShutdownBehavior != "terminate" ||
		!strings.HasPrefix(got.Data.ImageId, "ami-") || got.Instance.ImageId != got.Data.ImageId ||
		len(got.Groups) != 1 || len(got.Groups[0].IpPermissions) > 0 {
		t.Errorf("%+v", got)
	}
}
