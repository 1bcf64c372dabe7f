// Package local_test runs AWS's own clients and signers against the stand-ins of internal/local.
package local_test

import (
	"os/exec"
	"testing"

	"runner-token-broker/e2e/rig"
)

// The vectors that the local gateway is tested with are what the signers make today.
func TestVectorsAreTheSigners(t *testing.T) {
	t.Parallel()
	const testdata = rig.Root + "/internal/local/sigv4/testdata/"
	for signer, command := range map[string][]string{
		"botocore": {"python", testdata + "vectors.py"},
		"aws4":     {"node", testdata + "vectors.mjs", "aws4"},
		"smithy":   {"node", testdata + "vectors.mjs", "smithy"},
	} {
		t.Run(signer, func(t *testing.T) {
			t.Parallel()
			if command[0] == "node" {
				rig.Tool(t, "../aws4") // a package of npm, beside its programs
			}
			printed := rig.Output(t, exec.CommandContext(t.Context(), rig.Tool(t, command[0]), command[1:]...))
			if printed != rig.ReadFile(t, testdata+signer+".json") {
				t.Errorf("%s.json is not what %q prints", signer, command)
			}
		})
	}
}
