package main

import (
	"encoding/json"
	"testing"

	"runner-token-broker/internal/local/lambda"
	"runner-token-broker/internal/local/secretsmanager"
)

func TestSharedTokensCostGitHubNothing(t *testing.T) {
	t.Parallel()
	var gitHub string
	s := start(t, settings{"SHARED_TOKENS_SECRET_ID": "shared-tokens"}, func(f *lambda.Function) {
		f.Environments, gitHub = 1, f.Env["GITHUB_API_URL"]
	})
	s.secrets.PutNothing("shared-tokens")

	first := s.direct("orgs/acme") // nothing is shared yet
	if first.Token == "" || first.line["source"] != "github" || first.line["shared_passed_over"] == nil {
		t.Errorf("%+v", first)
	}
	s.calls++
	result, err := s.lambda.Invoke(t.Context(), []byte(`{"refresh":true}`))
	var refreshed struct {
		Written    int
		PassedOver []string `json:"passed_over"`
	}
	if err != nil || json.Unmarshal(result.Payload, &refreshed) != nil || refreshed.Written != 2 ||
		len(refreshed.PassedOver) != 1 {
		t.Fatalf("%s, %v", result.Payload, err)
	}
	calls, reads := len(s.github.Requests()), s.secrets.Reads()

	// Another environment, with the same secret and the same GitHub.
	other := start(t, settings{"SHARED_TOKENS_SECRET_ID": "shared-tokens", "GITHUB_API_URL": gitHub})
	other.secrets.Put("shared-tokens", s.secrets.Text("shared-tokens"))
	r := other.direct("orgs/acme")
	if r.Token == "" || r.Token == first.Token || r.line["source"] != "shared" || r.line["SharedTokensAge"] == nil {
		t.Errorf("%+v", r)
	}
	if other.secrets.Reads() != 1 {
		t.Errorf("%d reads, want one", other.secrets.Reads())
	}
	if again := other.direct("orgs/acme"); again.Token != r.Token || again.line["source"] != "cache" {
		t.Errorf("%+v", again)
	}
	if len(s.github.Requests()) != calls || s.secrets.Reads() != reads {
		t.Error("GitHub, or the first environment's secrets, were asked")
	}

	// It is a cache, never a dependency.
	denied := start(t, settings{"SHARED_TOKENS_SECRET_ID": "shared-tokens"})
	denied.secrets.OnRead(func(id string) *secretsmanager.Answer {
		if id == "shared-tokens" {
			return &secretsmanager.AccessDenied
		}
		return nil
	})
	r = denied.direct("orgs/acme")
	if r.Token == "" || r.line["shared_passed_over"] != "it cannot be read: secret-denied" {
		t.Errorf("%+v", r)
	}
}

func TestRefreshNeedsASecret(t *testing.T) {
	t.Parallel()
	s := start(t, nil)
	if r := s.invoke(`{"refresh":true}`); r.ErrorType != "InvalidRequest" {
		t.Errorf("%+v", r)
	}
}
