package readme_test

import (
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"runner-token-broker/e2e/rig"
)

// Each command of README and docs has a test that runs it, as far as there is something to run it against. Those of
// docs/sam-local.md are e2e/samlocal's.
func TestEachCommandIsRun(t *testing.T) {
	t.Parallel()
	const data = "" // it is no command
	type row struct{ page, begins, test string }
	rows := []row{
		{"README.md", "make token", "TestTokenOfTheREADME"},
		{"README.md", "(read -rs GITHUB_PAT", "TestReadingAPATForMakeToken"},
		{"README.md", "sam build\n", "TestDeployment"},
		{"README.md", "(read -rs PAT", "TestDeployment"},
		{"README.md", "aws iam attach-role-policy", "TestDeployment"},
		{"README.md", "POST /orgs", data},
		{"README.md", "{", data},
		{"README.md", "keys=$(aws configure", "TestCurlOfTheREADMEGetsAToken"},
		{operating, "fields @timestamp", data}, // of CloudWatch Logs Insights, which nothing here can run
		{operating, "aws apigatewayv2", "TestRouteGetsItsAuthorizerBack"},
		{operating, "sam build && sam deploy", "TestDeployment"},
		{operating, "aws lambda invoke", "TestSelfCheckByHand"},
		{operating, "aws secretsmanager restore-secret", "TestSecretIsRestored"},
		{operating, "aws secretsmanager get-secret-value", "TestPATIsConfirmed"},
		{deploying, "sam build\n", "TestDeployment"},
		{deploying, "sam deploy --parameter-overrides GitHubCa", "TestDeployment"},
		{deploying, "aws cloudformation delete-stack", "TestDeployment"},
		{"docs/user-data.md", "make user-data", "TestInstanceGetsTheUserData"},
	}
	pages, err := filepath.Glob(filepath.Join(rig.Root, "docs/*.md"))
	if err != nil {
		t.Fatal(err)
	}
	seen := map[row]bool{}
	for _, page := range append(pages, filepath.Join(rig.Root, "README.md")) {
		page, _ = filepath.Rel(rig.Root, page)
		if page == "docs/sam-local.md" {
			continue
		}
		for _, block := range blocks(t, page) {
			i := slices.IndexFunc(rows, func(r row) bool { return r.page == page && strings.HasPrefix(block, r.begins) })
			if i < 0 {
				t.Errorf("%s: no test runs\n%s", page, block)
				continue
			}
			seen[rows[i]] = true
		}
	}
	for _, r := range rows {
		if !seen[r] {
			t.Errorf("%s has no block that begins with %q", r.page, r.begins)
		}
		search := exec.CommandContext(t.Context(), "grep", "-rqw", "--include=*_test.go", "func "+r.test, rig.Root+"/e2e")
		if r.test != data && search.Run() != nil {
			t.Errorf("there is no %s, which is to run %q", r.test, r.begins)
		}
	}
}
