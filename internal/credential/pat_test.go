package credential

import (
	"strings"
	"testing"

	"runner-token-broker/internal/runner"
	"runner-token-broker/internal/secret"
)

const token = "ghp_thisMustNotBeSeen"

func TestParseTakesTheLayoutsThatPeopleUse(t *testing.T) {
	t.Parallel()
	for name, held := range map[string]string{
		"text":                   token,
		"white space":            " \t" + token + "\r\n",
		"byte order mark":        "\ufeff" + token,
		"mark among white space": "\n\ufeff " + token + "\n",
		"JSON":                   `{"token":"` + token + `"}`,
		"JSON, other keys":       "\n" + `{"other":1,"token":" ` + token + `\n","Token":"no"}` + "\n",
		"JSON after a mark":      "\ufeff" + `{"token":"` + token + `"}`,
		"CodeBuild's":            `{"ServerType":"GITHUB","AuthType":"PERSONAL_ACCESS_TOKEN","Token":"` + token + `"}`,
		"any one name":           `{"GITHUB_TOKEN":"` + token + `"}`,
		"one among others":       `{"user":"bot","password":"` + token + `","url":"https://github.com"}`,
	} {
		t.Run(name, func(t *testing.T) {
			if v, err := parseOne(secret.New(held)); err != nil || v.Reveal() != token {
				t.Errorf("Parse = %q, %v", v.Reveal(), err)
			}
		})
	}
	for name, want := range map[string]string{
		"fine-grained": "github_pat_11AAAA_bbb", "installation token": "ghs_123_eyJhbGciOi.eyJpc3Mi-_.c2ln",
		"of before 2021": "0123456789abcdef0123456789abcdef01234567", "padded": "abc==", "placeholder": "REPLACE_ME",
	} {
		t.Run(name, func(t *testing.T) {
			if v, err := parseOne(secret.New(want)); err != nil || v.Reveal() != want {
				t.Errorf("Parse = %q, %v", v.Reveal(), err)
			}
		})
	}
}

func TestParseSaysWhatIsWrongAndQuotesNothing(t *testing.T) {
	t.Parallel()
	const noToken = "without exactly one value that begins as GitHub's"
	for name, test := range map[string]struct{ held, says string }{
		"empty":               {"", "is empty"},
		"blank":               {" \n", "is empty"},
		"padding alone":       {"==", "is empty"},
		"mark alone":          {"\ufeff", "is empty"},
		"{}":                  {"{}", noToken},
		"no string":           {`{"token":{"x":"` + token + `"}}`, `is JSON without a string "token"`},
		"empty token":         {`{"token":""}`, "is empty"},
		"null":                {`{"token":null}`, "is empty"},
		"two tokens":          {`{"a":"` + token + `","b":"ghp_other"}`, noToken},
		"no GitHub token":     {`{"password":"x` + token + `"}`, noToken},
		"not of strings":      {`{"password":"` + token + `","n":1}`, noToken},
		"CodeBuild, no Token": {`{"ServerType":"GITHUB","AuthType":"PERSONAL_ACCESS_TOKEN"}`, `without a string "Token"`},
		"half a JSON":         {`{"token":"` + token, "neither a token nor JSON"},
		"control in JSON":     {`{"token":"` + token + `\u0000x"}`, "U+0000 at position 22"},
		"quotes":              {`"` + token + `"`, "U+0022 at position 1: "},
		"two lines":           {token + "\n" + token, "U+000A at position 22"},
		"header":              {token + "\r\nX-Evil: 1", "U+000D at position 22"},
		"delete":              {token + "\x7f", "U+007F at position 22"},
		"comment":             {token + " # comment", "U+0020 at position 22"},
		"accent":              {token + "é", "U+00E9 at position 22"},
		"zero-width space":    {"ghp_th\u200bisMustNotBeSeen", "U+200B at position 7"},
		"NAME=VALUE":          {"GITHUB_PAT=" + token, "store the value alone"},
		"private key": {
			"-----BEGIN RSA PRIVATE KEY-----\n" + token + "\n-----END RSA PRIVATE KEY-----\n", "is a private key",
		},
	} {
		t.Run(name, func(t *testing.T) {
			v, err := parseOne(secret.New(test.held))
			e := runner.AsError(err)
			if err == nil || e.Code != runner.CredentialMissing || e.Cause != "secret-malformed" || !v.IsZero() {
				t.Fatalf("Parse = %q, %v", v.Reveal(), err)
			}
			if !strings.Contains(e.Error(), test.says) || strings.Contains(e.Error(), "MustNotBeSeen") {
				t.Errorf("%q, want %q and nothing of the secret", e, test.says)
			}
		})
	}
}

// parseOne returns the one PAT that the secret holds.
func parseOne(held secret.Value) (secret.Value, error) {
	entries, err := Parse(held)
	if err != nil || len(entries) != 1 {
		return secret.Value{}, err
	}
	return entries[0].pat, nil
}
