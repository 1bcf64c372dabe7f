package rig

import (
	"encoding/json"
	"net/http"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
)

// InstanceID is the instance's, as the metadata service tells it.
const InstanceID = "i-0123456789abcdef0"

// StartIMDS starts AWS's own mock of EC2's instance metadata service, version 2 only, with a role that has the
// credentials, and returns its URL.
func StartIMDS(t *testing.T, c aws.Credentials) string {
	t.Helper()
	port := FreePort(t)
	config, err := json.Marshal(map[string]any{
		"imdsv2": true,
		"server": map[string]string{"hostname": "127.0.0.1", "port": port},
		"metadata": map[string]any{"values": map[string]any{
			"instance-id":                   InstanceID,
			"iam-security-credentials-role": "github-runner",
			"iam-security-credentials": map[string]string{
				"Code": "Success", "Type": "AWS-HMAC",
				"LastUpdated": "2026-01-01T00:00:00Z", "Expiration": "2099-01-01T00:00:00Z",
				"AccessKeyId": c.AccessKeyID, "SecretAccessKey": c.SecretAccessKey, "Token": c.SessionToken,
			},
		}},
	})
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	WriteFile(t, filepath.Join(dir, "config.json"), string(config), 0o600)
	cmd := exec.Command(Tool(t, "ec2-metadata-mock"), "--config-file", filepath.Join(dir, "config.json"))
	cmd.Env = append(Environ(), "HOME="+dir)
	url := "http://127.0.0.1:" + port
	Start(t, cmd, syscall.SIGKILL, func() bool {
		return Answers(url+"/latest/meta-data/", http.StatusUnauthorized) // as version 1 asks
	})
	return url
}
