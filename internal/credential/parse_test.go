package credential

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"

	"runner-token-broker/internal/runner"
	"runner-token-broker/internal/secret"
)

// rsaKey is one for all tests: making one takes long.
var rsaKey = sync.OnceValue(func() *rsa.PrivateKey {
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		panic(err)
	}
	return key
})

func pkcs1(key *rsa.PrivateKey) string {
	return string(pem.EncodeToMemory(&pem.Block{Type: "RSA PRIVATE KEY", Bytes: x509.MarshalPKCS1PrivateKey(key)}))
}

func pkcs8(t *testing.T, key any) string {
	t.Helper()
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}))
}

// object returns JSON of the fields; a value is JSON itself if it is not a string.
func object(t *testing.T, fields map[string]any) string {
	t.Helper()
	text, err := json.Marshal(fields)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

func TestParseTakesAnAppsLayouts(t *testing.T) {
	t.Parallel()
	key := pkcs1(rsaKey())
	for name, test := range map[string]struct {
		fields       map[string]any
		issuer       string
		installation int64
		kms          string
	}{
		"client id":      {fields: map[string]any{"client_id": "Iv23liAbC", "private_key": key}, issuer: "Iv23liAbC"},
		"app id":         {fields: map[string]any{"app_id": 123, "private_key": key}, issuer: "123"},
		"app id as text": {fields: map[string]any{"app_id": "123", "private_key": key}, issuer: "123"},
		"both ids":       {fields: map[string]any{"client_id": "Iv1.a", "app_id": 1, "private_key": key}, issuer: "Iv1.a"},
		"installation": {
			fields: map[string]any{"app_id": 1, "installation_id": 42, "private_key": key}, issuer: "1", installation: 42,
		},
		"installation null": {fields: map[string]any{"app_id": 1, "installation_id": nil, "private_key": key}, issuer: "1"},
		"PKCS#8":            {fields: map[string]any{"app_id": 1, "private_key": pkcs8(t, rsaKey())}, issuer: "1"},
		"\\n written out": {
			fields: map[string]any{"app_id": 1, "private_key": strings.ReplaceAll(key, "\n", `\n`)}, issuer: "1",
		},
		"KMS": {
			fields: map[string]any{"client_id": "Iv1.a", "kms_key_id": "arn:aws:kms:eu-central-1:123456789012:key/0000-11"},
			issuer: "Iv1.a", kms: "arn:aws:kms:eu-central-1:123456789012:key/0000-11"},
		"KMS alias": {
			fields: map[string]any{"app_id": 1, "kms_key_id": "alias/github-app"}, issuer: "1", kms: "alias/github-app",
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			entries, err := Parse(secret.New(object(t, test.fields)))
			if err != nil || len(entries) != 1 || entries[0].app == nil {
				t.Fatalf("%v, %v", entries, err)
			}
			k := entries[0].app
			if k.issuer != test.issuer || k.installation != test.installation || k.kms != test.kms ||
				(k.private == nil) != (test.kms != "") {
				t.Errorf("issuer %q, installation %d, KMS %q", k.issuer, k.installation, k.kms)
			}
			if entries[0].name != "app" {
				t.Errorf("name %q", entries[0].name)
			}
		})
	}
}

func TestParseTakesAListAndTheFirstMatchIsUsed(t *testing.T) {
	t.Parallel()
	entries, err := Parse(secret.New(`{"credentials":[
		{"targets":["repos/acme/widgets"],"token":"ghp_one"},
		{"targets":["orgs/acme","repos/acme/*"],"app_id":1,"kms_key_id":"alias/x"},
		{"targets":["enterprises/*"],"ServerType":"GITHUB","AuthType":"PERSONAL_ACCESS_TOKEN","Token":"ghp_three"}]}`))
	if err != nil {
		t.Fatal(err)
	}
	for target, want := range map[string]string{
		"repos/acme/widgets": "pat 1", "repos/acme/gears": "app 2", "orgs/acme": "app 2", "enterprises/acme": "pat 3",
		"orgs/other": "",
	} {
		parsed, err := runner.ParseTarget(target)
		if err != nil {
			t.Fatal(err)
		}
		got := ""
		for _, e := range entries {
			if e.serves(parsed) {
				got = e.name
				break
			}
		}
		if got != want {
			t.Errorf("%s is served by %q, want %q", target, got, want)
		}
	}
}

func TestParseNamesTheFieldAndItsPlaceAndQuotesNothing(t *testing.T) {
	t.Parallel()
	key := pkcs1(rsaKey())
	small, err := rsa.GenerateKey(rand.Reader, 1024)
	if err != nil {
		t.Fatal(err)
	}
	elliptical, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	public := string(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: []byte("x")}))
	app := func(fields map[string]any) string {
		all := map[string]any{"app_id": 1, "private_key": key}
		for name, value := range fields {
			if value == nil {
				delete(all, name)
			} else {
				all[name] = value
			}
		}
		return object(t, all)
	}
	listed := func(entries string) string { return `{"credentials":[` + entries + `]}` }
	for name, test := range map[string]struct{ held, says string }{
		"not RSA":   {app(map[string]any{"private_key": pkcs8(t, elliptical)}), `"private_key" that is not RSA`},
		"1024 bits": {app(map[string]any{"private_key": pkcs1(small)}), `"private_key" of 1024 bits`},
		"truncated": {
			app(map[string]any{"private_key": key[:len(key)/2]}), `"private_key" that is not PEM, or is cut off`,
		},
		"broken": {
			app(map[string]any{"private_key": strings.Replace(key, "MII", "AAA", 1)}), `"private_key" that cannot be parsed`,
		},
		"public":                 {app(map[string]any{"private_key": public}), `"private_key" that is something else`},
		"two keys":               {app(map[string]any{"private_key": key + key}), "something behind the key"},
		"empty key":              {app(map[string]any{"private_key": ""}), `neither "private_key" nor "kms_key_id"`},
		"a number for a key":     {app(map[string]any{"private_key": 7}), `"private_key" that is not a string`},
		"key and KMS":            {app(map[string]any{"kms_key_id": "alias/x"}), `both "private_key" and "kms_key_id"`},
		"odd KMS":                {app(map[string]any{"private_key": nil, "kms_key_id": "a b"}), `"kms_key_id" that is not`},
		"PAT and App":            {app(map[string]any{"token": "ghp_thisMustNotBeSeen"}), "a GitHub App's fields and others"},
		"neither id":             {app(map[string]any{"app_id": nil}), `neither "client_id" nor "app_id"`},
		"id in words":            {app(map[string]any{"app_id": "seven"}), `"app_id" that is not a number`},
		"id below one":           {app(map[string]any{"app_id": 0}), `"app_id" that is not a number above zero`},
		"fraction":               {app(map[string]any{"installation_id": 1.5}), `"installation_id" that is not a number`},
		"client id with a space": {app(map[string]any{"client_id": "a b"}), `"client_id" with characters that none has`},
		"misspelt":               {app(map[string]any{"instalation_id": 1}), "a GitHub App's fields and others"},
		"not a list":             {`{"credentials":{}}`, "not a list of objects"},
		"list of texts":          {listed(`"ghp_thisMustNotBeSeen"`), "not a list of objects"},
		"empty list":             {listed(""), "empty list"},
		"beside the list":        {`{"credentials":[],"token":"ghp_thisMustNotBeSeen"}`, "other fields beside"},
		"no targets": {
			listed(`{"token":"ghp_thisMustNotBeSeen"}`), `number 1 of its credentials has no list "targets"`,
		},
		"empty targets":      {listed(`{"targets":[],"token":"ghp_x"}`), `no list "targets", or an empty one`},
		"targets of numbers": {listed(`{"targets":[1],"token":"ghp_x"}`), `no list "targets"`},
		"malformed target": {
			listed(`{"targets":["orgs/a","ghp_thisMustNotBeSeen"],"token":"ghp_x"}`), "malformed target, number 2",
		},
		"two targets in one": {listed(`{"targets":["orgs/a orgs/b"],"token":"ghp_x"}`), "malformed target, number 1"},
		"upper case":         {listed(`{"targets":["orgs/Acme"],"token":"ghp_x"}`), "in lower case"},
		"twice in one": {
			listed(`{"targets":["orgs/a","orgs/a"],"token":"ghp_x"}`), "number 2, that an earlier one covers",
		},
		"twice in two": {
			listed(`{"targets":["orgs/a"],"token":"ghp_x"},{"targets":["orgs/b","orgs/a"],"token":"ghp_y"}`),
			"number 2 of its credentials has a target, number 2,",
		},
		"behind a wildcard": {
			listed(`{"targets":["repos/a/*"],"token":"ghp_x"},{"targets":["repos/a/b"],"token":"ghp_y"}`),
			"that an earlier one covers",
		},
		"wildcard twice": {
			listed(`{"targets":["orgs/*"],"token":"ghp_x"},{"targets":["orgs/*"],"token":"ghp_y"}`),
			"that an earlier one covers",
		},
		"unknown field": {
			listed(`{"targets":["orgs/a"],"token":"ghp_x","kind":"thisMustNotBeSeen"}`), "unknown field",
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			entries, err := Parse(secret.New(test.held))
			e := runner.AsError(err)
			if err == nil || e.Code != runner.CredentialMissing || e.Cause != "secret-malformed" || entries != nil {
				t.Fatalf("Parse = %v, %v", entries, err)
			}
			if !strings.Contains(e.Error(), test.says) || strings.Contains(e.Error(), "MustNotBeSeen") ||
				strings.Contains(e.Error(), key[40:60]) {
				t.Errorf("%q, want %q and nothing of the secret", e, test.says)
			}
		})
	}
}

func TestAnAppsJWTIsAsGitHubWantsIt(t *testing.T) {
	t.Parallel()
	k := &key{issuer: "Iv23liAbC", private: rsaKey()}
	seen := map[string]bool{}
	for range 3 {
		text, err := k.jwt(t.Context(), nil)
		if err != nil {
			t.Fatal(err)
		}
		var claims jwt.RegisteredClaims
		public := func(*jwt.Token) (any, error) { return rsaKey().Public(), nil }
		token, err := jwt.ParseWithClaims(text.Reveal(), &claims, public, jwt.WithValidMethods([]string{"RS256"}))
		if err != nil || token.Header["typ"] != "JWT" {
			t.Fatalf("%v, %v", err, token)
		}
		back, ahead := time.Since(claims.IssuedAt.Time), time.Until(claims.ExpiresAt.Time)
		if claims.Issuer != "Iv23liAbC" || back < 59*time.Second || back > 62*time.Second ||
			ahead < 8*time.Minute || ahead > 9*time.Minute {
			t.Errorf("issuer %q, issued %v ago, for %v", claims.Issuer, back, ahead)
		}
		if seen[claims.ID] || len(claims.ID) < 20 {
			t.Errorf("jti %q", claims.ID)
		}
		seen[claims.ID] = true
	}
}

func TestAnEntryDoesNotLeakItsKey(t *testing.T) {
	t.Parallel()
	entries, err := Parse(secret.New(object(t, map[string]any{"app_id": 1, "private_key": pkcs1(rsaKey())})))
	if err != nil {
		t.Fatal(err)
	}
	for _, holder := range []any{entries, entries[0], entries[0].app} {
		for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%d", "%x"} {
			text := fmt.Sprintf(verb, holder)
			for _, part := range []string{
				rsaKey().D.String(), rsaKey().Primes[0].String(), fmt.Sprintf("%x", rsaKey().D),
			} {
				if strings.Contains(text, part[:20]) {
					t.Errorf("%s of %T has a part of the key", verb, holder)
				}
			}
		}
	}
}
