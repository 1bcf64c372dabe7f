package main

import (
	"encoding/json"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"runner-token-broker/internal/local/lambda"
	"runner-token-broker/internal/secret"
)

func TestABurstCostsACallForEachEnvironmentAndTargetOrNone(t *testing.T) {
	t.Parallel()
	const requests, environments = 10_000, 20
	targets := []string{"orgs/acme", "repos/acme/a", "repos/acme/b"}
	for _, shared := range []bool{false, true} {
		t.Run(fmt.Sprint("shared ", shared), func(t *testing.T) {
			t.Parallel()
			with := settings{"METRICS": "off"}
			if shared {
				with["SHARED_TOKENS_SECRET_ID"] = "shared-tokens"
			}
			s := start(t, with, func(f *lambda.Function) { f.Environments = environments })
			if shared {
				s.secrets.Put("shared-tokens", sharedTokens(targets))
			}
			if err := s.lambda.Ready(t.Context()); err != nil {
				t.Fatal(err)
			}
			s.calls = requests
			var mu sync.Mutex
			given := map[string]map[string]bool{} // the tokens of each target
			var all sync.WaitGroup
			for n := range 100 {
				all.Go(func() {
					for i := n; i < requests; i += 100 {
						target := targets[i%len(targets)]
						result, err := s.lambda.Invoke(t.Context(), []byte(`{"target":"`+target+`"}`))
						var answer struct{ Token string }
						if err != nil || json.Unmarshal(result.Payload, &answer) != nil || answer.Token == "" {
							t.Errorf("%s: %s, %v", target, result.Payload, err)
							return
						}
						mu.Lock()
						if given[target] == nil {
							given[target] = map[string]bool{}
						}
						given[target][answer.Token] = true
						mu.Unlock()
					}
				})
			}
			all.Wait()

			calls, reads := len(s.github.Requests()), s.secrets.Reads()
			if most := environments * len(targets); shared && calls != 0 || calls > most {
				t.Errorf("%d calls to GitHub", calls)
			}
			if reads > environments {
				t.Errorf("%d reads of the secret by %d environments", reads, environments)
			}
			for target, tokens := range given {
				for token := range tokens {
					if shared && token != sharedToken(target) {
						t.Errorf("%s got the token %s", target, token)
					}
				}
			}
			if len(given) != len(targets) || !shared && calls != len(s.github.Tokens()) {
				t.Errorf("tokens for %d targets, %d of GitHub's for %d calls", len(given), len(s.github.Tokens()), calls)
			}
			t.Logf("%d calls to GitHub, %d reads", calls, reads)
		})
	}
}

// sharedTokens is the shared secret with a good token for each target.
func sharedTokens(targets []string) secret.Value {
	now := time.Now().UTC()
	var tokens []map[string]any
	for _, target := range targets {
		tokens = append(tokens, map[string]any{
			"target": target, "kind": "registration-token", "token": sharedToken(target),
			"made_at": now, "expires_at": now.Add(time.Hour),
		})
	}
	text, err := json.Marshal(map[string]any{"written_at": now, "tokens": tokens})
	if err != nil {
		panic(err)
	}
	return secret.New(string(text))
}

func sharedToken(target string) string { return "SHARED" + strings.ReplaceAll(target, "/", "_") }
