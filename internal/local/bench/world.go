package main

import (
	"crypto/rand"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"maps"
	"net/http"
	"net/http/httptest"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"

	"runner-token-broker/internal/local/github"
	"runner-token-broker/internal/local/kms"
	"runner-token-broker/internal/local/network"
	"runner-token-broker/internal/local/secretsmanager"
	"runner-token-broker/internal/secret"
)

// What the secret can hold, and "shared": a PAT and, in a second secret, shared tokens.
var kinds = []string{"PAT", "App", "KMS", "shared"}

const target = "orgs/acme"

// world is what the function calls.
type world struct {
	github      *github.Server
	secrets     *secretsmanager.Server
	env         map[string]string
	credentials aws.Credentials
	servers     []*httptest.Server
}

// place is how far away the world is: a round trip takes rtt, and the servers use TLS, with certificates of roots, and
// take their time. At the zero place they are at hand.
type place struct {
	rtt   time.Duration
	roots *roots
}

func newWorld(p place) (*world, error) {
	pat := secret.New("ghp_bench")
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		return nil, err
	}
	w := &world{credentials: aws.Credentials{AccessKeyID: "AKIDBENCH", SecretAccessKey: "bench"}}
	w.github, w.secrets = github.New(pat), secretsmanager.New("us-east-1", w.credentials)
	w.github.PutApp(github.App{ID: 1, ClientID: "Iv1.bench", Keys: []*rsa.PublicKey{&key.PublicKey},
		Installations: []github.Installation{{
			ID: 1, Owner: "acme", Permissions: map[string]string{"organization_self_hosted_runners": "write"},
		}}})
	keys := kms.New("us-east-1", w.credentials)
	keys.Put("alias/bench", kms.Key{Private: key})
	text := pem.EncodeToMemory(&pem.Block{Type: "RSA PRIVATE KEY", Bytes: x509.MarshalPKCS1PrivateKey(key)})
	w.secrets.Put("PAT", pat)
	w.secrets.Put("App", secret.New(fmt.Sprintf(`{"client_id":"Iv1.bench","private_key":%q}`, text)))
	w.secrets.Put("KMS", secret.New(`{"client_id":"Iv1.bench","kms_key_id":"alias/bench"}`))
	now := time.Now().UTC()
	w.secrets.Put("shared", secret.New(fmt.Sprintf(`{"written_at":%q,"tokens":[{"target":%q,"kind":"registration-token",
		"token":"SHARED","made_at":%[1]q,"expires_at":%[3]q}]}`, now.Format(time.RFC3339), target,
		now.Add(time.Hour).Format(time.RFC3339))))

	const gitHubTakes, awsTakes = 250 * time.Millisecond, 15 * time.Millisecond
	w.env = map[string]string{
		"ALLOWED_TARGETS": target, "GITHUB_API_URL": w.serve(p, w.github, gitHubTakes),
		"AWS_ENDPOINT_URL_SECRETS_MANAGER": w.serve(p, w.secrets, awsTakes),
		"AWS_ENDPOINT_URL_KMS":             w.serve(p, keys, awsTakes),
	}
	if p.roots != nil {
		maps.Copy(w.env, p.roots.env)
	}
	return w, nil
}

// serve returns the URL of a server at the place.
func (w *world) serve(p place, h http.Handler, takes time.Duration) string {
	if p.roots == nil {
		server := httptest.NewServer(h)
		w.servers = append(w.servers, server)
		return server.URL
	}
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		time.Sleep(takes)
		h.ServeHTTP(w, r)
	}))
	server.Listener = network.Far(server.Listener, p.rtt)
	server.TLS = &tls.Config{Certificates: []tls.Certificate{p.roots.server}}
	server.StartTLS()
	w.servers = append(w.servers, server)
	return server.URL
}

func (w *world) close() {
	for _, s := range w.servers {
		s.Close()
	}
}

// with is the environment of a function whose credential, or whose tokens, are of that kind.
func (w *world) with(kind string) map[string]string {
	env := maps.Clone(w.env)
	env["GITHUB_SECRET_ID"] = kind
	if kind == "shared" {
		env["GITHUB_SECRET_ID"], env["SHARED_TOKENS_SECRET_ID"] = "PAT", "shared"
	}
	return env
}
