package credential

import (
	"context"
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/golang-jwt/jwt/v5"

	"runner-token-broker/internal/secret"
)

// Signer signs by RS256 with keys that cannot be read: AWS KMS. Its errors are *runner.Error. It ends with the context
// and is safe for concurrent use.
type Signer interface {
	Sign(ctx context.Context, key string, message []byte) ([]byte, error)
}

// key is a GitHub App's.
type key struct {
	issuer       string          // the App's client id or id
	private      *rsa.PrivateKey // or
	kms          string          // the key's id, ARN or alias
	installation int64           // 0: to be found
}

var appFields = []string{"client_id", "app_id", "private_key", "kms_key_id", "installation_id"}

// parseApp parses {"client_id" or "app_id", "private_key" or "kms_key_id", "installation_id"?}. Its errors quote
// nothing.
func parseApp(object map[string]json.RawMessage) (*key, error) {
	known := 0
	for _, name := range appFields {
		if _, ok := object[name]; ok {
			known++
		}
	}
	if known < len(object) {
		return nil, errors.New("has a GitHub App's fields and others: there are " + strings.Join(appFields, ", "))
	}
	var k key
	clientID, err := textField(object, "client_id")
	if err != nil {
		return nil, err
	}
	appID, err := numberField(object, "app_id")
	if err != nil {
		return nil, err
	}
	if k.installation, err = numberField(object, "installation_id"); err != nil {
		return nil, err
	}
	pemText, err := textField(object, "private_key")
	if err != nil {
		return nil, err
	}
	if k.kms, err = textField(object, "kms_key_id"); err != nil {
		return nil, err
	}
	switch {
	case clientID != "":
		k.issuer = clientID
	case appID != 0:
		k.issuer = strconv.FormatInt(appID, 10)
	default:
		return nil, errors.New(`has neither "client_id" nor "app_id" for its GitHub App`)
	}
	switch {
	case pemText != "" && k.kms != "":
		return nil, errors.New(`has both "private_key" and "kms_key_id": keep one`)
	case pemText != "":
		k.private, err = parsePrivateKey(pemText)
	case k.kms == "":
		err = errors.New(`has neither "private_key" nor "kms_key_id" for its GitHub App`)
	case strings.ContainsFunc(k.kms, notInKeyID):
		err = errors.New(`has a "kms_key_id" that is not the id, ARN or alias of a key`)
	}
	if err != nil {
		return nil, err
	}
	if strings.ContainsFunc(k.issuer, notInKeyID) {
		return nil, errors.New(`has a "client_id" with characters that none has`)
	}
	return &k, nil
}

func textField(object map[string]json.RawMessage, name string) (string, error) {
	var s string
	if value, ok := object[name]; ok && json.Unmarshal(value, &s) != nil {
		return "", fmt.Errorf("has a %q that is not a string", name)
	}
	return strings.TrimSpace(s), nil
}

// numberField takes a number, or its digits as a string; 0 is absent.
func numberField(object map[string]json.RawMessage, name string) (int64, error) {
	value, ok := object[name]
	if !ok || string(value) == "null" {
		return 0, nil
	}
	n, err := strconv.ParseInt(strings.Trim(string(value), `"`), 10, 64)
	if err != nil || n <= 0 {
		return 0, fmt.Errorf("has %q that is not a number above zero", name)
	}
	return n, nil
}

func notInKeyID(r rune) bool {
	letter := 'a' <= r && r <= 'z' || 'A' <= r && r <= 'Z'
	return !letter && (r < '0' || '9' < r) && !strings.ContainsRune(":/_.-", r)
}

// parsePrivateKey parses an RSA key in PEM, PKCS#1 as GitHub hands it out or PKCS#8, also with \n written out.
func parsePrivateKey(text string) (*rsa.PrivateKey, error) {
	block, rest := pem.Decode([]byte(strings.ReplaceAll(text, `\n`, "\n")))
	if block == nil {
		return nil, errors.New(`has a "private_key" that is not PEM, or is cut off`)
	}
	if strings.TrimSpace(string(rest)) != "" {
		return nil, errors.New(`has a "private_key" with something behind the key`)
	}
	var parsed any
	var err error
	switch block.Type {
	case "RSA PRIVATE KEY":
		parsed, err = x509.ParsePKCS1PrivateKey(block.Bytes)
	case "PRIVATE KEY":
		parsed, err = x509.ParsePKCS8PrivateKey(block.Bytes)
	default:
		return nil, errors.New(`has a "private_key" that is something else: store the .pem file of the App's page`)
	}
	private, ok := parsed.(*rsa.PrivateKey)
	switch {
	case err != nil:
		return nil, errors.New(`has a "private_key" that cannot be parsed: is it cut off, or encrypted?`)
	case !ok:
		return nil, errors.New(`has a "private_key" that is not RSA`)
	case private.N.BitLen() < 2048:
		return nil, fmt.Errorf(`has a "private_key" of %d bits: GitHub's have 2048`, private.N.BitLen())
	}
	return private, nil
}

// id tells the key from others, by a digest.
func (k *key) id() string {
	sum := sha256.New()
	fmt.Fprintf(sum, "%q %q %d ", k.issuer, k.kms, k.installation)
	if k.private != nil {
		sum.Write(k.private.N.Bytes())
	}
	return hex.EncodeToString(sum.Sum(nil))
}

const (
	issuedBack = 60 * time.Second // clocks differ
	jwtLife    = 9 * time.Minute  // GitHub takes ten
)

// jwt returns a new JWT of the App's, signed with its key. No two are the same: GitHub answers 404 to one that it has
// seen (github-aws-runners/terraform-aws-github-runner#5025).
func (k *key) jwt(ctx context.Context, signer Signer) (secret.Value, error) {
	token := jwt.NewWithClaims(jwt.SigningMethodRS256, jwt.RegisteredClaims{
		Issuer:    k.issuer,
		IssuedAt:  jwt.NewNumericDate(time.Now().Add(-issuedBack)),
		ExpiresAt: jwt.NewNumericDate(time.Now().Add(jwtLife)),
		ID:        rand.Text(),
	})
	text, err := token.SigningString()
	if err != nil {
		return secret.Value{}, err
	}
	var signature []byte
	if k.private == nil {
		signature, err = signer.Sign(ctx, k.kms, []byte(text))
	} else {
		digest := sha256.Sum256([]byte(text))
		signature, err = rsa.SignPKCS1v15(nil, k.private, crypto.SHA256, digest[:])
	}
	if err != nil {
		return secret.Value{}, err
	}
	return secret.New(text + "." + token.EncodeSegment(signature)), nil
}
