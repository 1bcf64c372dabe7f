package secretsmanager

import (
	"strings"
	"testing"
)

func TestParseIDTakesNamesAndARNs(t *testing.T) {
	t.Parallel()
	const arn = "arn:aws:secretsmanager:eu-central-1:123456789012:secret:github-pat-AbCdEf"
	for name, test := range map[string]struct {
		id   string
		says string // of the error; "" for a good one
	}{
		"ARN":                    {arn, ""},
		"ARN of a path":          {"arn:aws-cn:secretsmanager:eu-central-1:123456789012:secret:ci/github-AbCdEf", ""},
		"ARN without its suffix": {"arn:aws:secretsmanager:eu-central-1:123456789012:secret:github-runner", ""},
		"name":                   {"ci/github_pat+x=.@-", ""},
		"two words":              {"two words", "neither the name nor the ARN"},
		"too long":               {strings.Repeat("x", 513), "neither the name nor the ARN"},
		"another service":        {"arn:aws:iam::123456789012:role/x", "not the ARN of a secret"},
		"half an ARN":            {"arn:aws", "not the ARN of a secret"},
		"ARN without a name":     {"arn:aws:secretsmanager:eu-central-1:123456789012:secret:", "not the ARN of a secret"},
		"ARN with a space":       {arn + " x", "not the ARN of a secret"},
		"JSON key":               {arn + ":token::", "JSON key"},
		"version":                {arn + "::AWSPREVIOUS:", "JSON key or a version"},
		"another region": {strings.Replace(arn, "eu-central-1", "us-east-1", 1),
			"in us-east-1, and the function runs in eu-central-1"},
		"classic PAT":             {"ghp_thisMustNotBeSeen", "holds a token"},
		"fine-grained PAT":        {"github_pat_thisMustNotBeSeen", "holds a token"},
		"something secret though": {"thisMustNotBeSeen!", "neither the name nor the ARN"},
	} {
		t.Run(name, func(t *testing.T) {
			id, err := ParseID(test.id, "eu-central-1")
			if test.says == "" {
				if err != nil || string(id) != test.id {
					t.Errorf("ParseID = %q, %v", id, err)
				}
				return
			}
			if err == nil || !strings.Contains(err.Error(), test.says) || strings.Contains(err.Error(), "thisMustNotBeSeen") {
				t.Errorf("%v, want %q and nothing of the value", err, test.says)
			}
		})
	}
	if _, err := ParseID(arn, ""); err != nil {
		t.Errorf("without a region: %v", err)
	}
}

func TestOneSecretHasSeveralIDs(t *testing.T) {
	t.Parallel()
	const prefix = "arn:aws:secretsmanager:eu-central-1:123456789012:secret:"
	for name, test := range map[string]struct {
		a, b ID
		same bool
	}{
		"name":                   {"github", "github", true},
		"name and ARN":           {"github", prefix + "github-AbCdEf", true},
		"name and short ARN":     {"ci/github", prefix + "ci/github", true},
		"both ARNs":              {prefix + "github", prefix + "github-AbCdEf", true},
		"another name":           {"github", "github-tokens", false},
		"another ARN":            {"github", prefix + "github-tokens-AbCdEf", false},
		"another's full ARN":     {prefix + "github-AbCdEf", prefix + "github-tokens-AbCdEf", false},
		"six characters are few": {"git", prefix + "-AbCdEf", false},
	} {
		t.Run(name, func(t *testing.T) {
			if test.a.MayBe(test.b) != test.same || test.b.MayBe(test.a) != test.same {
				t.Errorf("%s and %s: want %t", test.a, test.b, test.same)
			}
		})
	}
}
