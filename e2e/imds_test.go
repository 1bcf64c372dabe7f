package e2e_test

import (
	"bytes"
	"encoding/json"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
)

const instanceID = "i-0123456789abcdef0"

// startIMDS starts AWS's own mock of EC2's instance metadata service, version 2 only, with a role that has the
// credentials. It returns its URL and ends it with the test.
func startIMDS(t *testing.T, c aws.Credentials) string {
	t.Helper()
	program := tool(t, "ec2-metadata-mock")
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	port := strconv.Itoa(l.Addr().(*net.TCPAddr).Port)
	l.Close()

	config, err := json.Marshal(map[string]any{
		"imdsv2": true,
		"server": map[string]string{"hostname": "127.0.0.1", "port": port},
		"metadata": map[string]any{"values": map[string]any{
			"instance-id":                   instanceID,
			"iam-security-credentials-role": "github-runner",
			"iam-security-credentials": map[string]string{
				"Code": "Success", "Type": "AWS-HMAC", "LastUpdated": "2026-01-01T00:00:00Z", "Expiration": "2099-01-01T00:00:00Z",
				"AccessKeyId": c.AccessKeyID, "SecretAccessKey": c.SecretAccessKey, "Token": c.SessionToken,
			},
		}},
	})
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "config.json"), config, 0o600); err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	cmd := exec.Command(program, "--config-file", filepath.Join(dir, "config.json"))
	cmd.Env = append(withoutAWS(), "HOME="+dir)
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cmd.Process.Kill()
		cmd.Wait()
	})
	url := "http://127.0.0.1:" + port
	for deadline := time.Now().Add(10 * time.Second); ; pause(t) {
		if resp, err := http.Get(url + "/latest/meta-data/"); err == nil {
			resp.Body.Close()
			if resp.StatusCode != http.StatusUnauthorized {
				t.Fatalf("IMDSv1 is answered %d", resp.StatusCode)
			}
			return url
		}
		if time.Now().After(deadline) {
			t.Fatalf("the metadata service does not serve:\n%s", &out)
		}
	}
}
