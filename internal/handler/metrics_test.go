package handler

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/santhosh-tekuri/jsonschema/v6"

	"runner-token-broker/internal/runner"
)

// extract reads a line as CloudWatch does: the value of each metric, by its name and dimensions.
func extract(t *testing.T, line map[string]any) map[string]float64 {
	t.Helper()
	schema, err := jsonschema.NewCompiler().Compile("testdata/emf.schema.json")
	if err != nil {
		t.Fatal(err)
	}
	if err := schema.Validate(line); err != nil {
		t.Errorf("%v: %v", line, err)
	}
	metrics := map[string]float64{}
	for _, d := range line["_aws"].(map[string]any)["CloudWatchMetrics"].([]any) {
		directive := d.(map[string]any)
		if directive["Namespace"] != "RunnerTokenBroker" {
			t.Errorf("namespace %v", directive["Namespace"])
		}
		for _, set := range directive["Dimensions"].([]any) {
			name := ""
			for _, dimension := range set.([]any) {
				value, ok := line[dimension.(string)].(string)
				if !ok || value == "" || len(value) > 1024 {
					t.Errorf("dimension %v is %v", dimension, line[dimension.(string)])
				}
				name += fmt.Sprintf(",%v=%s", dimension, value)
			}
			for _, m := range directive["Metrics"].([]any) {
				metric := m.(map[string]any)["Name"].(string)
				value, ok := line[metric].(float64)
				if !ok {
					t.Errorf("metric %s is %v", metric, line[metric])
				}
				metrics[metric+name] = value
			}
		}
	}
	return metrics
}

func TestMetricsAreInTheLine(t *testing.T) {
	t.Parallel()
	i := good()
	i.token.GitHub = runner.Trace{
		RateLimit: "5000", RateLimitRemaining: "4000", CredentialExpires: time.Now().Add(36 * time.Hour),
	}
	m := extract(t, invoke(t, &Handler{Issuer: i, Function: "token"}, read(t, "direct-org.json")).line)
	days := m["CredentialDaysLeft,FunctionName=token"]
	delete(m, "CredentialDaysLeft,FunctionName=token")
	want := map[string]float64{
		"Invocations,FunctionName=token,Outcome=issued": 1, "Tokens,FunctionName=token,Source=github": 1,
		"GitHubCalls,FunctionName=token": 0, "QuotaRemaining,FunctionName=token": 80,
	}
	if !maps.Equal(m, want) || days < 1.49 || days > 1.5 {
		t.Errorf("metrics %v and %v days, want %v", m, days, want)
	}
}

func TestMetricsOfAFailure(t *testing.T) {
	t.Parallel()
	e := refusal(runner.RateLimited)
	e.GitHub = runner.Trace{RateLimit: "5000", RateLimitRemaining: "0"}
	m := extract(t, invoke(t, &Handler{Issuer: &issuer{err: e}, Function: "token"}, read(t, "direct-org.json")).line)
	want := map[string]float64{
		"Invocations,FunctionName=token,Outcome=RateLimited": 1, "Refusals,FunctionName=token,Cause=test": 1,
		"GitHubCalls,FunctionName=token": 0, "QuotaRemaining,FunctionName=token": 0,
	}
	if !maps.Equal(m, want) {
		t.Errorf("metrics %v, want %v", m, want)
	}
}

func TestWhatWasAskedOfOthersIsMeasured(t *testing.T) {
	t.Parallel()
	i := good()
	i.before = func(ctx context.Context) {
		for range 3 {
			runner.MeterOf(ctx).GitHub(40 * time.Millisecond)
		}
		runner.MeterOf(ctx).SecretsManager(7 * time.Millisecond)
	}
	m := extract(t, invoke(t, &Handler{Issuer: i, Function: "token"}, read(t, "direct-org.json")).line)
	if m["GitHubCalls,FunctionName=token"] != 3 || m["GitHubLatency,FunctionName=token"] != 40 ||
		m["SecretsManagerLatency,FunctionName=token"] != 7 {
		t.Errorf("metrics %v", m)
	}
}

func TestMetricsCanBeLeftOut(t *testing.T) {
	t.Parallel()
	line := invoke(t, &Handler{Issuer: good()}, read(t, "direct-org.json")).line
	for name := range line {
		if name == "_aws" || strings.ToUpper(name[:1]) == name[:1] {
			t.Errorf("the line has %s", name)
		}
	}
}

// A metric for each target or caller would cost each month, and could be made without end.
func TestSeriesOfMetricsAreFew(t *testing.T) {
	t.Parallel()
	series := map[string]bool{}
	for n := range 1000 {
		i := good()
		if n%3 == 0 {
			i = &issuer{err: refusal(runner.Codes[n%len(runner.Codes)])}
		}
		event := newEvent("POST", fmt.Sprintf("/orgs/acme-%d/actions/runners/registration-token", n), "$default", nil)
		event = strings.Replace(event, "user/x", fmt.Sprint("user/x", n), 1)
		for name := range extract(t, invoke(t, &Handler{Issuer: i, Function: "token"}, event).line) {
			series[name] = true
		}
	}
	if len(series) > 2+len(runner.Codes)+4 {
		t.Errorf("%d series: %q", len(series), slices.Sorted(maps.Keys(series)))
	}
}

func TestPercentIsOfWholeNumbers(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name        string
		part, whole string
		want        float64
		ok          bool
	}{
		{name: "a fifth", part: "1000", whole: "5000", want: 20, ok: true},
		{name: "nothing left", part: "0", whole: "5000", ok: true},
		{name: "absent"},
		{name: "of nothing", part: "0", whole: "0"},
		{name: "more than all", part: "6000", whole: "5000"},
		{name: "not numbers", part: "many", whole: "5000"},
		{name: "below zero", part: "-1", whole: "5000"},
	} {
		t.Run(test.name, func(t *testing.T) {
			if got, ok := percent(test.part, test.whole); ok != test.ok || ok && got != test.want {
				t.Errorf("%v, %t", got, ok)
			}
		})
	}
}
