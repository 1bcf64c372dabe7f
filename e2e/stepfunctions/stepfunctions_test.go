package stepfunctions_test

import (
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"os/exec"
	"reflect"
	"slices"
	"strings"
	"testing"

	"runner-token-broker/e2e/rig"
	"runner-token-broker/internal/local/github"
)

const (
	stepFunctions = rig.Root + "/examples/step-functions/"
	byLambda      = "scale-out.asl.json"
	byAPI         = "scale-out-apigateway.asl.json"

	functionARN = "arn:aws:lambda:eu-central-1:123456789012:function:runner-token-broker"
	apiEndpoint = "a1b2c3d4e5.execute-api.eu-central-1.amazonaws.com"
	clusterARN  = "arn:aws:ecs:eu-central-1:123456789012:cluster/runners"
	taskARN     = "arn:aws:ecs:eu-central-1:123456789012:task-definition/runner:1"
	topicARN    = "arn:aws:sns:eu-central-1:123456789012:alarms"
)

// errorOf is what a state machine sees of a code of the service's.
type errorOf map[string]string

func TestStateMachines(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		file  string
		error errorOf
		whole bool // or GetToken alone: the rest of the two state machines is the same, as another test says
	}{
		{byLambda, errorOf{
			"RateLimited": "RateLimited", "TargetNotAllowed": "TargetNotAllowed", "TargetNotFound": "TargetNotFound",
			"InvalidRequest": "InvalidRequest", "CredentialRejected": "CredentialRejected",
		}, true},
		{byAPI, errorOf{
			"RateLimited": "ApiGateway.503", "TargetNotAllowed": "ApiGateway.403", "TargetNotFound": "ApiGateway.404",
			"InvalidRequest": "ApiGateway.400", "CredentialRejected": "ApiGateway.502",
		}, false},
	} {
		t.Run(c.file, func(t *testing.T) {
			t.Parallel()
			a := newAccount(t)
			t.Run("start a fleet with one token", func(t *testing.T) { startsAFleet(t, a, c.file) })
			t.Run("wait out a limit", func(t *testing.T) { waitsOutALimit(t, a, c.file, c.error["RateLimited"]) })
			if c.whole {
				t.Run("refuse other counts", func(t *testing.T) { refusesOtherCounts(t, a, c.file) })
				t.Run("see which runners do not start", func(t *testing.T) { seesWhichRunnersDoNotStart(t, a, c.file) })
			}
			// The last of it rejects the PAT for ever.
			t.Run("tell the operators what no waiting mends", func(t *testing.T) { tellsTheOperators(t, a, c.file, c.error) })
		})
	}
}

func startsAFleet(t *testing.T, a *account, file string) {
	const count = 12 // more than MaxConcurrency
	e := a.execute(t, file, "orgs/acme", fmt.Sprintf(`{"count": %d}`, count))
	a.succeeded(t, e, count)
	if tokens := a.GitHub.Tokens(); len(tokens) != 1 || len(a.runTasks) != count {
		t.Fatalf("%d tokens and %d runners, want one for %d", len(tokens), len(a.runTasks), count)
	}
	result := a.Invoke(t, `{"target":"orgs/acme"}`) // the same token again
	var issued struct {
		Token     string
		RunnerURL string `json:"runner_url"`
	}
	if err := json.Unmarshal([]byte(result), &issued); err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(e.history, issued.Token) {
		t.Error("the history is encrypted for the token's sake, which is not in it")
	}
	for _, asked := range a.runTasks {
		if asked.Cluster != clusterARN || asked.TaskDefinition != taskARN {
			t.Errorf("RunTask was asked for %s in %s", asked.TaskDefinition, asked.Cluster)
		}
		if asked.LaunchType != "FARGATE" || asked.StartedBy != "a-fleet" {
			t.Errorf("RunTask was asked on %s by %s", asked.LaunchType, asked.StartedBy)
		}
		vpc := asked.NetworkConfiguration.AwsvpcConfiguration
		if !slices.Equal(vpc.Subnets, a.subnets) || !slices.Equal(vpc.SecurityGroups, a.groups) ||
			vpc.AssignPublicIp != "DISABLED" {
			t.Errorf("RunTask was asked for the network %v", vpc)
		}
		got := map[string]string{}
		for _, container := range asked.Overrides.ContainerOverrides {
			for _, variable := range container.Environment {
				got[container.Name+" "+variable.Name] = variable.Value
			}
		}
		if want := map[string]string{
			"runner ACTIONS_RUNNER_INPUT_TOKEN":  issued.Token,
			"runner ACTIONS_RUNNER_INPUT_URL":    issued.RunnerURL,
			"runner ACTIONS_RUNNER_INPUT_NAME":   asked.ClientToken,
			"runner ACTIONS_RUNNER_INPUT_LABELS": "fargate,linux",
		}; !maps.Equal(got, want) || !strings.Contains(e.Output, `"`+asked.ClientToken+`"`) {
			delete(got, "runner ACTIONS_RUNNER_INPUT_TOKEN")
			t.Errorf("the runner %s gets, the token aside, %v", asked.ClientToken, got)
		}
	}
}

func waitsOutALimit(t *testing.T, a *account, file, name string) {
	calls := len(a.GitHub.Requests())
	limited := github.Refusal(http.StatusTooManyRequests, "You have exceeded a secondary rate limit")
	limited.Header = http.Header{"Retry-After": {"1"}}
	a.GitHub.OnRequest(func(*http.Request) *github.Answer {
		if len(a.GitHub.Requests())-calls <= 2 {
			return limited
		}
		return nil
	})
	e := a.execute(t, file, "repos/acme/limited", `{"count": 2}`)
	a.GitHub.OnRequest(nil)
	a.succeeded(t, e, 2)
	refusals := strings.Count(e.history, `"error": "`+name+`"`)
	// A try that comes within the second is refused without a call.
	if calls := len(a.GitHub.Requests()) - calls; calls != 3 || refusals < 2 {
		t.Errorf("GitHub was asked %d times, want 3; the history has %d times %s, want 2 or more", calls, refusals, name)
	}
}

func refusesOtherCounts(t *testing.T, a *account, file string) {
	calls := len(a.GitHub.Requests())
	for _, input := range []string{
		`{}`, `{"count": 0}`, `{"count": -1}`, `{"count": 101}`, `{"count": "5"}`, `{"count": null}`, `{"count": [5]}`,
	} {
		t.Run(input, func(t *testing.T) {
			a.failed(t, a.execute(t, file, "repos/acme/counted", input), "InvalidCount", false)
		})
	}
	if calls := len(a.GitHub.Requests()) - calls; calls > 0 {
		t.Errorf("GitHub was asked %d times for a token", calls)
	}
	a.succeeded(t, a.execute(t, file, "repos/acme/counted", `{"count": 1}`), 1)
}

// RunTask fails in two ways, by an error and by a success with failures in it. Neither may cost others their start.
func seesWhichRunnersDoNotStart(t *testing.T, a *account, file string) {
	const (
		noCapacity = `{"tasks": [], "failures": [{"reason": "Capacity is unavailable at this time"}]}`
		throttled  = `{"__type": "ThrottlingException", "message": "Rate exceeded"}`
		down       = `{"__type": "ServerException", "message": "Service Unavailable"}`
		blocked    = `{"__type": "BlockedException", "message": "Your account is blocked"}`
	)
	for _, c := range []struct {
		name    string
		count   int
		answers []string // of RunTask, in turn; "" and what follows them are Moto's own
		calls   int      // of RunTask
		tokens  int      // different ClientTokens in them
		cause   []string // of the failure; none: all start
	}{
		// With another ClientToken two runners might start.
		{"throttled, then down", 1, []string{throttled, down}, 3, 1, nil},
		// With the same ClientToken ECS might repeat its first answer.
		{"no capacity twice", 1, []string{noCapacity, noCapacity}, 3, 3, nil},
		{"no capacity", 2, slices.Repeat([]string{noCapacity}, 100), 10, 10,
			[]string{"2 of 2 runners did not start", "Capacity is unavailable"}},
		{"one is blocked", 15, []string{"", blocked}, 15, 15,
			[]string{"1 of 15 runners did not start", "BlockedException"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			a.answerRunTask = func(n int) (int, string) {
				switch {
				case n > len(c.answers) || c.answers[n-1] == "":
					return 0, ""
				case c.answers[n-1] == noCapacity:
					return http.StatusOK, noCapacity
				}
				return http.StatusBadRequest, c.answers[n-1]
			}
			defer func() { a.answerRunTask = nil }()
			e := a.execute(t, file, "repos/acme/unlucky", fmt.Sprintf(`{"count": %d}`, c.count))
			if c.cause == nil {
				a.succeeded(t, e, c.count)
			} else {
				a.failed(t, e, "RunnersNotStarted", true)
			}
			for _, part := range c.cause {
				if !strings.Contains(e.Cause, part) {
					t.Errorf("the cause is %s, want %q in it", e.Cause, part)
				}
			}
			tokens := map[string]bool{}
			for _, asked := range a.runTasks {
				tokens[asked.ClientToken] = true
			}
			if len(a.runTasks) != c.calls || len(tokens) != c.tokens {
				t.Errorf("RunTask was called %d times with %d ClientTokens, want %d with %d",
					len(a.runTasks), len(tokens), c.calls, c.tokens)
			}
		})
	}
}

func tellsTheOperators(t *testing.T, a *account, file string, of errorOf) {
	a.GitHub.Restrict("repos/acme/known")
	for _, c := range []struct {
		name          string
		code, target  string
		refusePublish bool
		revoke        bool // the PAT, and it stays so
		calls         int  // of GitHub
	}{
		{name: "and not SNS's own error", code: "TargetNotAllowed", target: "orgs/other", refusePublish: true},
		{name: "TargetNotAllowed", code: "TargetNotAllowed", target: "orgs/other"},
		{name: "TargetNotFound", code: "TargetNotFound", target: "repos/acme/gone", calls: 1},
		{name: "InvalidRequest", code: "InvalidRequest", target: "orgs/Acme"},
		{name: "CredentialRejected", code: "CredentialRejected", target: "repos/acme/known", revoke: true, calls: 1},
	} {
		t.Run(c.name, func(t *testing.T) {
			if c.revoke {
				a.GitHub.Rotate()
			}
			a.refusePublish = c.refusePublish
			calls := len(a.GitHub.Requests())
			e := a.execute(t, file, c.target, `{"count": 2}`)
			a.failed(t, e, of[c.code], true)
			if !strings.Contains(e.Cause, c.code) {
				t.Errorf("the cause is %s", e.Cause)
			}
			if calls := len(a.GitHub.Requests()) - calls; calls != c.calls || len(a.runTasks) > 0 {
				t.Errorf("GitHub was asked %d times, want %d; %d runners started", calls, c.calls, len(a.runTasks))
			}
		})
	}
}

func TestStateMachinesAreValid(t *testing.T) {
	t.Parallel()
	validate := func(t *testing.T, text string) (printed string, valid bool) {
		t.Helper()
		cmd := exec.CommandContext(t.Context(), rig.Tool(t, "asl-validator"), "--json-definition", text)
		out, errs, status := rig.Run(t, cmd)
		return out + errs, status == 0
	}
	for _, file := range []string{byLambda, byAPI} {
		t.Run(file, func(t *testing.T) {
			t.Parallel()
			text := definition(t, file, "orgs/acme", []string{"subnet-1", "subnet-2"}, []string{"sg-1"})
			if printed, valid := validate(t, text); !valid {
				t.Error(printed)
			}
		})
	}
	text := definition(t, byLambda, "orgs/acme", []string{"subnet-1", "subnet-2"}, []string{"sg-1"})
	for _, c := range []struct{ name, old, new string }{
		{"a state that is not there", `"Next": "StartRunners"`, `"Next": "StartRunner"`},
		{"a field that ASL lacks", `"MaxConcurrency"`, `"MaximumConcurrency"`},
		{"a task without a resource", `"Resource": "arn:aws:states:::sns:publish",`, ``},
		{"a payload without its path", `"count.$": "$.count"`, `"count.$": "count"`},
	} {
		t.Run("not with "+c.name, func(t *testing.T) {
			t.Parallel()
			broken := strings.Replace(text, c.old, c.new, 1)
			if _, valid := validate(t, broken); broken == text || valid {
				t.Error("the validator does not notice")
			}
		})
	}
}

// The two files are one state machine, and one is easily forgotten.
func TestStateMachinesDifferInGetTokenAlone(t *testing.T) {
	t.Parallel()
	read := func(file string) (machine map[string]any) {
		if err := json.Unmarshal([]byte(rig.ReadFile(t, stepFunctions+file)), &machine); err != nil {
			t.Fatalf("%s: %v", file, err)
		}
		delete(machine["States"].(map[string]any), "GetToken")
		return machine
	}
	if a, b := read(byLambda), read(byAPI); !reflect.DeepEqual(a, b) {
		t.Errorf("%v\n%v", a, b)
	}
}

// Of the service's codes what waiting mends is retried, and all else is told. Of AWS's errors a few are retried, and
// never all.
func TestStateMachinesKnowTheErrorsByName(t *testing.T) {
	t.Parallel()
	const ecs = "Ecs.EcsException Ecs.ServerException Ecs.SdkClientException"
	for _, c := range []struct {
		file    string
		retried []string // the names in each list of errors
		told    string
	}{
		{byLambda, []string{
			"RateLimited Unavailable Lambda.TooManyRequestsException Lambda.ServiceException " +
				"Lambda.AWSLambdaException Lambda.SdkClientException Lambda.ClientExecutionTimeoutException",
			ecs,
		}, "InvalidRequest TargetNotAllowed TargetNotFound " +
			"CredentialMissing CredentialRejected CredentialForbidden Internal"},
		{byAPI, []string{"ApiGateway.429 ApiGateway.503 ApiGateway.504", "ApiGateway.500", ecs},
			"ApiGateway.400 ApiGateway.403 ApiGateway.404 ApiGateway.500 ApiGateway.502"},
	} {
		t.Run(c.file, func(t *testing.T) {
			var machine any
			if err := json.Unmarshal([]byte(definition(t, c.file, "orgs/acme", nil, nil)), &machine); err != nil {
				t.Fatal(err)
			}
			names := func(errors any) string { return strings.Trim(fmt.Sprint(errors), "[]") }
			var told, retried []string
			each(machine, "GetToken", func(state any) {
				each(state.(map[string]any)["Catch"], "ErrorEquals", func(errors any) { told = append(told, names(errors)) })
			})
			if !slices.Equal(told, []string{c.told}) {
				t.Errorf("the operators are told of %q, want %q", told, c.told)
			}
			each(machine, "Retry", func(retry any) {
				for _, retrier := range retry.([]any) {
					r := retrier.(map[string]any)
					retried = append(retried, names(r["ErrorEquals"]))
					if r["JitterStrategy"] != "FULL" || r["MaxDelaySeconds"] == nil || r["MaxAttempts"].(float64) > 6 {
						t.Errorf("it is retried %v", r)
					}
				}
			})
			if slices.Sort(retried); !slices.Equal(retried, slices.Sorted(slices.Values(c.retried))) {
				t.Errorf("these are retried: %q, want %q", retried, c.retried)
			}
		})
	}
}

// each calls f with every value of the key in a JSON value.
func each(v any, key string, f func(any)) {
	switch v := v.(type) {
	case []any:
		for _, e := range v {
			each(e, key, f)
		}
	case map[string]any:
		for k, e := range v {
			if k == key {
				f(e)
			}
			each(e, key, f)
		}
	}
}
