package credential

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"runner-token-broker/internal/runner"
	"runner-token-broker/internal/secret"
)

// gitHub is GitHub's part in an App's credentials, and KMS's: it signs.
type gitHub struct {
	finds, tokens, signatures int
	installation              int64
	find, token, sign         *runner.Error
	life                      time.Duration
	used                      []int64 // the installations that tokens were asked of
}

func (g *gitHub) FindInstallation(
	ctx context.Context, jwt func(context.Context) (secret.Value, error), t runner.Target,
) (int64, error) {
	if _, err := jwt(ctx); err != nil {
		return 0, err
	}
	g.finds++
	if g.find != nil {
		return 0, g.find
	}
	return g.installation, nil
}

func (g *gitHub) CreateInstallationToken(
	ctx context.Context, jwt func(context.Context) (secret.Value, error), installation int64, t runner.Target,
) (secret.Value, time.Time, error) {
	if _, err := jwt(ctx); err != nil {
		return secret.Value{}, time.Time{}, err
	}
	g.tokens++
	g.used = append(g.used, installation)
	switch {
	case g.token != nil:
		return secret.Value{}, time.Time{}, g.token
	case installation != g.installation:
		return secret.Value{}, time.Time{}, refusal(runner.TargetNotFound)
	}
	return secret.New(fmt.Sprintf("ghs_%d_%s", g.tokens, t)), time.Now().Add(g.life), nil
}

func (g *gitHub) Sign(_ context.Context, key string, message []byte) ([]byte, error) {
	g.signatures++
	if g.sign != nil {
		return nil, g.sign
	}
	return []byte("signed"), nil
}

func refusal(code runner.Code) *runner.Error {
	return (runner.Cause{Name: "test", Code: code}).Refuse("test")
}

type appWorld struct {
	*world
	github *gitHub
}

func inAppWorld(t *testing.T, held string, f func(w *appWorld)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		w := &appWorld{&world{T: t, source: source{value: held}}, &gitHub{installation: 7, life: time.Hour}}
		w.set = NewSet(5*time.Minute, w.source.fetch, w.github, w.github)
		f(w)
	})
}

const (
	appSecret  = `{"client_id":"Iv1.a","kms_key_id":"alias/x"}`
	listSecret = `{"credentials":[
		{"targets":["repos/acme/widgets"],"token":"ghp_widgets"},
		{"targets":["orgs/acme","repos/acme/*","enterprises/acme"],"client_id":"Iv1.a","kms_key_id":"alias/x"},
		{"targets":["orgs/broken"],"token":"not a token"}]}`
)

func (w *appWorld) bearer(target string) (runner.Credential, string, error) {
	w.Helper()
	c, err := w.set.For(w.Context(), parsed(w, target))
	if err != nil {
		return nil, "", err
	}
	bearer, err := c.Bearer(w.Context())
	return c, bearer.Reveal(), err
}

func parsed(t testing.TB, target string) runner.Target {
	t.Helper()
	parsed, err := runner.ParseTarget(target)
	if err != nil {
		t.Fatal(err)
	}
	return parsed
}

// has fails the test unless the bearer for the target is the one named.
func (w *appWorld) has(target, want string) runner.Credential {
	w.Helper()
	c, bearer, err := w.bearer(target)
	if err != nil || bearer != want {
		w.Errorf("%s: %q, %v, want %q", target, bearer, err, want)
	}
	return c
}

func (w *appWorld) lacks(target string, code runner.Code, says string) {
	w.Helper()
	_, bearer, err := w.bearer(target)
	if e := runner.AsError(err); err == nil || e.Code != code || !strings.Contains(e.Error(), says) {
		w.Errorf("%s: %q, %v, want %s, %q", target, bearer, err, code, says)
	}
}

func TestInstallationTokenIsCachedUntilFiveMinutesBeforeItsEnd(t *testing.T) {
	inAppWorld(t, appSecret, func(w *appWorld) {
		c := w.has("orgs/acme", "ghs_1_orgs/acme")
		if c.Account() != "app Iv1.a at acme" || c.Name() != "app" {
			t.Errorf("account %q, name %q", c.Account(), c.Name())
		}
		time.Sleep(55 * time.Minute)
		w.has("orgs/acme", "ghs_1_orgs/acme")
		time.Sleep(time.Nanosecond)
		w.has("orgs/acme", "ghs_2_orgs/acme")
		if w.github.finds != 1 || w.github.signatures != 3 {
			t.Errorf("found %d times, signed %d times; want once, and for each call", w.github.finds, w.github.signatures)
		}
	})
}

func TestInstallationTokenIsEachTargetsOwn(t *testing.T) {
	inAppWorld(t, appSecret, func(w *appWorld) {
		w.has("orgs/acme", "ghs_1_orgs/acme")
		w.has("repos/acme/a", "ghs_2_repos/acme/a")
		w.has("repos/acme/b", "ghs_3_repos/acme/b")
		w.has("repos/acme/a", "ghs_2_repos/acme/a")
		w.has("orgs/other", "ghs_4_orgs/other")
		if w.github.finds != 2 {
			t.Errorf("found %d times, want once for each owner", w.github.finds)
		}
	})
}

func TestInstallationIsFoundAgainOnceOn404(t *testing.T) {
	inAppWorld(t, appSecret, func(w *appWorld) {
		w.has("orgs/acme", "ghs_1_orgs/acme")
		w.github.installation = 8
		time.Sleep(time.Hour)
		w.has("orgs/acme", "ghs_3_orgs/acme")
		w.has("repos/acme/a", "ghs_4_repos/acme/a")
		if !slices.Equal(w.github.used, []int64{7, 7, 8, 8}) || w.github.finds != 2 {
			t.Errorf("asked %v, found %d times", w.github.used, w.github.finds)
		}
		w.github.token = refusal(runner.TargetNotFound)
		w.lacks("repos/acme/b", runner.TargetNotFound, "")
		if w.github.finds != 3 || w.github.tokens != 6 {
			t.Errorf("found %d times, asked %d times: it is found again once", w.github.finds, w.github.tokens)
		}
	})
	inAppWorld(t, `{"client_id":"Iv1.a","kms_key_id":"alias/x","installation_id":9}`, func(w *appWorld) {
		w.lacks("orgs/acme", runner.TargetNotFound, "")
		if w.github.finds != 0 || !slices.Equal(w.github.used, []int64{9}) {
			t.Errorf("asked %v, found %d times: the secret says which it is", w.github.used, w.github.finds)
		}
	})
}

func TestARejectedInstallationTokenIsMadeAnewOnce(t *testing.T) {
	inAppWorld(t, appSecret, func(w *appWorld) {
		c := w.has("orgs/acme", "ghs_1_orgs/acme")
		w.has("orgs/other", "ghs_2_orgs/other")
		c.Reject(secret.New("ghs_1_orgs/acme"), rejected())
		w.has("orgs/acme", "ghs_3_orgs/acme")
		c.Reject(secret.New("ghs_1_orgs/acme"), rejected()) // late, of a token that was replaced
		w.has("orgs/acme", "ghs_3_orgs/acme")
		c.Reject(secret.New("ghs_3_orgs/acme"), rejected())
		w.lacks("orgs/acme", runner.CredentialRejected, "the secret, read again, still holds the rejected value")
		w.lacks("repos/acme/a", runner.CredentialRejected, "")
		w.has("orgs/other", "ghs_2_orgs/other") // what one owner does is not another's trouble
		time.Sleep(time.Minute)
		w.has("orgs/acme", "ghs_4_orgs/acme")
		time.Sleep(time.Second)
		c.Reject(secret.New("ghs_4_orgs/acme"), rejected())
		w.has("orgs/acme", "ghs_5_orgs/acme")
	})
}

func TestARejectedJWTRejectsTheKey(t *testing.T) {
	inAppWorld(t, appSecret, func(w *appWorld) {
		c, _, _ := w.bearer("orgs/acme")
		c.Reject(secret.Value{}, rejected())
		w.lacks("orgs/acme", runner.CredentialRejected, "")
		w.lacks("orgs/other", runner.CredentialRejected, "")
		w.source.value = `{"client_id":"Iv1.a","kms_key_id":"alias/y"}`
		time.Sleep(5 * time.Second)
		w.has("orgs/acme", "ghs_2_orgs/acme")
	})
}

func TestWhatFailsOnTheWayToAnInstallationTokenIsPassedOn(t *testing.T) {
	for name, f := range map[string]func(*gitHub, *runner.Error){
		"sign": func(g *gitHub, e *runner.Error) { g.sign = e }, "find": func(g *gitHub, e *runner.Error) { g.find = e },
		"token": func(g *gitHub, e *runner.Error) { g.token = e },
	} {
		t.Run(name, func(t *testing.T) {
			inAppWorld(t, appSecret, func(w *appWorld) {
				f(w.github, refusal(runner.RateLimited))
				w.lacks("orgs/acme", runner.RateLimited, "test")
				f(w.github, nil)
				if _, _, err := w.bearer("orgs/acme"); err != nil {
					t.Error(err)
				}
			})
		})
	}
}

func TestAnAppAndAnEnterpriseDoNotGoTogether(t *testing.T) {
	inAppWorld(t, appSecret, func(w *appWorld) {
		w.lacks("enterprises/acme", runner.CredentialForbidden, "classic PAT")
		if w.github.signatures != 0 || w.github.finds != 0 {
			t.Error("a call was made")
		}
	})
}

func TestTheFirstCredentialThatMatchesIsUsed(t *testing.T) {
	inAppWorld(t, listSecret, func(w *appWorld) {
		if name := w.has("repos/acme/widgets", "ghp_widgets").Name(); name != "pat 1" {
			t.Errorf("name %q", name)
		}
		if name := w.has("repos/acme/gears", "ghs_1_repos/acme/gears").Name(); name != "app 2" {
			t.Errorf("name %q", name)
		}
		w.lacks("orgs/other", runner.CredentialMissing, "none of the secret's credentials is for orgs/other")
		w.lacks("orgs/broken", runner.CredentialMissing, "number 3 of the secret's credentials has a character")
		if _, _, err := w.bearer("orgs/broken"); runner.AsError(err).Credential != "pat 3" ||
			runner.AsError(err).Cause != "secret-malformed" {
			t.Errorf("credential %q, %v", runner.AsError(err).Credential, err)
		}
		w.has("orgs/acme", "ghs_2_orgs/acme")
		w.lacks("enterprises/acme", runner.CredentialForbidden, "")
		if w.source.reads != 2 { // once more, in case orgs/other was put there since
			t.Errorf("the secret was read %d times", w.source.reads)
		}
		// What is mended is picked up soon.
		w.source.value = strings.Replace(listSecret, "not a token", "ghp_mended", 1)
		time.Sleep(5 * time.Second)
		w.has("orgs/broken", "ghp_mended")
	})
}

// A credential may be in the list twice. The line names the place that is the target's.
func TestARejectionNamesTheTargetsOwnPlace(t *testing.T) {
	inAppWorld(t, `{"credentials":[{"targets":["orgs/a"],"token":"ghp_x"},{"targets":["orgs/b"],"token":"ghp_x"}]}`,
		func(w *appWorld) {
			w.has("orgs/a", "ghp_x").Reject(secret.New("ghp_x"), rejected())
			for target, want := range map[string]string{"orgs/a": "pat 1", "orgs/b": "pat 2"} {
				if _, _, err := w.bearer(target); runner.AsError(err).Credential != want {
					t.Errorf("%s: credential %q, %v", target, runner.AsError(err).Credential, err)
				}
			}
		})
}

func TestCheckSaysWhichCredentialsThereAre(t *testing.T) {
	inAppWorld(t, listSecret, func(w *appWorld) {
		lacks := func(cause, says string) {
			t.Helper()
			text, err := w.set.Check(w.Context())
			if e := runner.AsError(err); err == nil || e.Cause != cause || !strings.Contains(e.Error(), says) {
				t.Errorf("%q, %v, want %s, %q", text, err, cause, says)
			}
		}
		lacks("secret-malformed", "number 3 of the secret's credentials")
		w.source.value = strings.Replace(listSecret, "not a token", "ghp_mended", 1)
		if text, err := w.set.Check(w.Context()); err != nil || text != "it was read, and holds pat 1, app 2, pat 3" {
			t.Errorf("%q, %v", text, err)
		}
		w.source.value = "{"
		lacks("secret-malformed", "neither a token nor JSON")
		w.source.err = (runner.Cause{Name: "secret-denied"}).Refuse("denied")
		lacks("secret-denied", "")
	})
}

func TestARejectionIsOneCredentialsOnly(t *testing.T) {
	inAppWorld(t, listSecret, func(w *appWorld) {
		c := w.has("repos/acme/widgets", "ghp_widgets")
		c.Reject(secret.New("ghp_widgets"), rejected())
		w.lacks("repos/acme/widgets", runner.CredentialRejected, "")
		w.has("orgs/acme", "ghs_1_orgs/acme")
	})
}

func TestNoneWaitsForTheReadOfAnothersRejection(t *testing.T) {
	inAppWorld(t, listSecret, func(w *appWorld) {
		w.has("repos/acme/widgets", "ghp_widgets").Reject(secret.New("ghp_widgets"), rejected())
		w.source.latency = time.Minute
		go w.set.For(w.Context(), parsed(w, "repos/acme/widgets"))
		synctest.Wait()
		start := time.Now()
		w.has("orgs/acme", "ghs_1_orgs/acme")
		if took := time.Since(start); took != 0 {
			t.Errorf("waited %v", took)
		}
		time.Sleep(time.Minute)
	})
}

func TestAnotherKindOfCredentialIsPickedUpAsARotationIs(t *testing.T) {
	inAppWorld(t, "ghp_one", func(w *appWorld) {
		c := w.has("orgs/acme", "ghp_one")
		w.source.value = appSecret
		c.Reject(secret.New("ghp_one"), rejected())
		c = w.has("orgs/acme", "ghs_1_orgs/acme")
		w.source.value = "ghp_two"
		time.Sleep(2 * time.Minute)
		w.has("orgs/acme", "ghs_1_orgs/acme") // the secret's time is not over
		time.Sleep(3 * time.Minute)
		w.has("orgs/acme", "ghp_two")
		w.source.value = appSecret
		time.Sleep(5 * time.Minute)
		w.has("orgs/acme", "ghs_2_orgs/acme") // the App was forgotten
		_ = c
	})
}

// For any order of requests, expiries, rotations, suspensions and failures: no bearer is of a credential that the
// target was not given to at the time, and none but the target's own.
func TestNoTargetGetsTheCredentialOfAnother(t *testing.T) {
	secrets := []string{
		`{"credentials":[{"targets":["orgs/a"],"token":"ghp_a"},
			{"targets":["orgs/b","repos/a/*"],"client_id":"Iv1.b","kms_key_id":"x"}]}`,
		`{"credentials":[{"targets":["orgs/b"],"token":"ghp_b"},
			{"targets":["orgs/a","repos/a/x"],"client_id":"Iv1.a","kms_key_id":"x"}]}`,
		`{"credentials":[{"targets":["orgs/*"],"client_id":"Iv1.c","kms_key_id":"y"},
			{"targets":["repos/a/y"],"token":"ghp_y"}]}`,
		"ghp_all", appSecret,
	}
	targets := []string{"orgs/a", "orgs/b", "repos/a/x", "repos/a/y"}
	for seed := range uint64(60) {
		t.Run(fmt.Sprint("seed ", seed), func(t *testing.T) {
			t.Parallel()
			random := rand.New(rand.NewPCG(seed, 2))
			inAppWorld(t, secrets[0], func(w *appWorld) {
				var mu sync.Mutex
				for range 200 {
					switch random.IntN(10) {
					case 0:
						w.source.value = secrets[random.IntN(len(secrets))]
					case 1:
						moods := []*runner.Error{nil, nil, refusal(runner.CredentialForbidden), refusal(runner.Unavailable)}
						w.github.token = moods[random.IntN(len(moods))]
					case 2:
						w.github.installation = int64(1 + random.IntN(2))
					case 3:
						time.Sleep(time.Duration(random.Int64N(int64(40 * time.Minute))))
					}
					target := targets[random.IntN(len(targets))]
					c, bearer, err := w.bearer(target)
					mu.Lock()
					if err == nil {
						checkBearer(t, w.set, target, bearer)
						if random.IntN(8) == 0 {
							c.Reject(secret.New(bearer), rejected())
						}
					}
					mu.Unlock()
					time.Sleep(time.Duration(random.Int64N(int64(time.Minute))))
				}
			})
		})
	}
}

func checkBearer(t *testing.T, s *Set, target, bearer string) {
	t.Helper()
	i := slices.IndexFunc(s.entries, func(e Entry) bool { return e.serves(parsed(t, target)) })
	if i < 0 {
		t.Fatalf("%s was given %q, and no credential is for it", target, bearer)
	}
	switch e := s.entries[i]; {
	case e.app == nil && bearer != e.pat.Reveal():
		t.Errorf("%s was given %q of another credential", target, bearer)
	case e.app != nil && (!strings.HasPrefix(bearer, "ghs_") || !strings.HasSuffix(bearer, "_"+target)):
		t.Errorf("%s was given %q", target, bearer)
	}
}
