package rig

import (
	"context"
	"net/http"
	"os/exec"
	"syscall"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/secretsmanager"

	"runner-token-broker/internal/secret"
)

// Moto is Moto's server, which has many of AWS's services in memory.
type Moto struct {
	*Program
	URL            string
	SecretsManager *secretsmanager.Client
}

// StartMoto starts one; env is added to its environment.
func StartMoto(t *testing.T, env ...string) *Moto {
	t.Helper()
	port := FreePort(t)
	cmd := exec.Command(Tool(t, "moto_server"), "-H", "127.0.0.1", "-p", port)
	cmd.Env = append(Environ(), env...)
	m := &Moto{URL: "http://127.0.0.1:" + port}
	m.Program = Start(t, cmd, syscall.SIGKILL, func() bool { return Answers(m.URL+"/moto-api/", http.StatusOK) })
	m.SecretsManager = secretsmanager.New(secretsmanager.Options{
		BaseEndpoint: &m.URL,
		Region:       Region,
		Credentials: aws.CredentialsProviderFunc(func(context.Context) (aws.Credentials, error) {
			return RoleCredentials(), nil
		}),
	})
	return m
}

// CreateSecret creates a secret with a value.
func (m *Moto) CreateSecret(t *testing.T, name string, v secret.Value) {
	t.Helper()
	_, err := m.SecretsManager.CreateSecret(t.Context(), &secretsmanager.CreateSecretInput{
		Name: &name, SecretString: aws.String(v.Reveal()),
	})
	if err != nil {
		t.Fatal(err)
	}
}

// PutSecret makes text the secret's value.
func (m *Moto) PutSecret(ctx context.Context, name, text string) error {
	_, err := m.SecretsManager.PutSecretValue(ctx, &secretsmanager.PutSecretValueInput{
		SecretId: &name, SecretString: &text,
	})
	return err
}
