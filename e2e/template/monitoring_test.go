package template_test

import (
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"regexp"
	"slices"
	"strings"
	"testing"

	"runner-token-broker/e2e/rig"
	"runner-token-broker/internal/local/github"
	standin "runner-token-broker/internal/local/secretsmanager"
	"runner-token-broker/internal/runner"
)

// alarms are all, with what rings them: what each measures, with its statistic, and in which comparison.
var alarms = map[string]string{
	"CredentialRefusedAlarm": "FILL(rejected, 0) + FILL(forbidden, 0) >= 1 in 1 of 1 x 300 s, else notBreaching:" +
		" rejected=Sum Invocations Outcome=CredentialRejected, forbidden=Sum Invocations Outcome=CredentialForbidden",
	"CredentialMissingAlarm":     "Sum Invocations Outcome=CredentialMissing >= 1 in 1 of 1 x 300 s, else notBreaching",
	"CredentialExpiresSoonAlarm": "Minimum CredentialDaysLeft < 14 in 1 of 1 x 21600 s, else ignore",
	"CredentialExpiresNowAlarm":  "Minimum CredentialDaysLeft < 3 in 1 of 1 x 21600 s, else ignore",
	"QuotaLowAlarm":              "Minimum QuotaRemaining < 10 in 1 of 1 x 300 s, else notBreaching",
	"CheckFailedAlarm":           "Sum CheckFailed >= 1 in 1 of 1 x 21600 s, else ignore",
	"CheckMissingAlarm":          "Sum Invocations Outcome=checked < 1 in 26 of 26 x 3600 s, else breaching",
	"SharedTokensAlarm":          "SampleCount SharedTokensWritten < 1 in 2 of 2 x 1200 s, else breaching",
	"CallerNotAuthenticatedAlarm": "Sum Invocations Outcome=CallerNotAuthenticated >= 1 in 1 of 1 x 300 s," +
		" else notBreaching",
	"UnavailableAlarm": "100 * (FILL(unavailable, 0) + FILL(limited, 0)) / all >= UnavailablePercent in 2 of 3 x 300 s," +
		" else notBreaching: unavailable=Sum Invocations Outcome=Unavailable, limited=Sum Invocations Outcome=RateLimited," +
		" all=SampleCount GitHubCalls",
	"TargetLostAlarm": "FILL(renamed, 0) + FILL(uninstalled, 0) >= 1 in 1 of 1 x 300 s, else notBreaching:" +
		" renamed=Sum Refusals Cause=renamed, uninstalled=Sum Refusals Cause=app-not-installed",
	"GatewayRefusesAlarm": "Sum AWS/ApiGateway 4xx >= RefusedByGateway in 2 of 3 x 300 s, else notBreaching",
	"GatewayFailsAlarm": "100 * failed / all >= 50 in 2 of 3 x 300 s, else notBreaching:" +
		" failed=Sum AWS/ApiGateway 5xx, all=Sum AWS/ApiGateway Count",
	"ThrottlesAlarm": "Sum AWS/Lambda Throttles >= 1 in 2 of 3 x 300 s, else notBreaching",
	"CrashAlarm": "errors - FILL(refused, 0) + FILL(internal, 0) >= 1 in 1 of 1 x 300 s, else notBreaching:" +
		" errors=Sum AWS/Lambda Errors, refused=Sum RefusedDirectly, internal=Sum Invocations Outcome=Internal",
}

const alarm = "Resources/UnavailableAlarm/Properties/"

// What wakes somebody, and what they look at then.
func TestMonitoringTemplate(t *testing.T) {
	t.Parallel()
	code := readCode(t)
	hold(t, service, []situation{
		{"with defaults", map[string]string{"AllowedTargets": "orgs/acme"}},
		{"with alarms", map[string]string{"AllowedTargets": "orgs/acme", "AlarmTopicArn": topicARN, "ShareTokens": "true"}},
		{"with alarms, without schedules", map[string]string{
			"AllowedTargets": "orgs/acme", "AlarmTopicArn": topicARN, "CheckSchedule": "",
		}},
		{"without metrics", map[string]string{"AllowedTargets": "orgs/acme", "AlarmTopicArn": topicARN, "Metrics": "off"}},
	}, []check{
		{"the alarms are these", alarmsAreThese, []mistake{
			{"no alarm", "Resources/CrashAlarm", ""},
			{"an alarm where there are no metrics", "Resources/QuotaLowAlarm/Condition", `"HasCheck"`},
			{"an alarm for a check that is not scheduled", "Resources/CheckMissingAlarm/Condition", `"HasAlarms"`},
			{"an alarm for tokens that are not shared", "Resources/SharedTokensAlarm/Condition", `"HasAlarms"`},
			{"one event that wakes somebody", alarm + "DatapointsToAlarm", `1`},
			{"another statistic", alarm + "Metrics/3/MetricStat/Stat", `"Sum"`},
			{"another sum", alarm + "Metrics/0/Expression", `"unavailable / all"`},
			{"another period", alarm + "Metrics/1/MetricStat/Period", `60`},
			{"silence that is well", "Resources/CheckMissingAlarm/Properties/TreatMissingData", `"notBreaching"`},
			{"a threshold that nobody can set", alarm + "Threshold", `20`},
			{"another function's metric", "Resources/CrashAlarm/Properties/Metrics/1/MetricStat/Metric/Dimensions", `[]`},
			{"another outcome", "Resources/CredentialMissingAlarm/Properties/Dimensions/1/Value", `"CredentialMising"`},
		}},
		{"each alarm notifies, also of its end, and names its heading", alarmsNotify, []mistake{
			{"nobody", alarm + "AlarmActions", ""},
			{"no end", alarm + "OKActions", ""},
			{"no heading", alarm + "AlarmDescription", `"Something is wrong."`},
		}},
		{"metrics are the code's", func(s stack, p *problems) { metricsAreTheCodes(code, s, p) }, []mistake{
			{"a metric that nobody writes", "Resources/QuotaLowAlarm/Properties/MetricName", `"Quota"`},
			{"a cause that is not there", "Resources/TargetLostAlarm/Properties/Metrics/1/MetricStat/Metric/Dimensions/1/Value",
				`"moved"`},
			{"a metric of the dashboard that nobody writes", "Resources/Dashboard/Properties/DashboardBody/Fn::Sub",
				`"{\"widgets\":[{\"properties\":{\"metrics\":[[\"RunnerTokenBroker\",\"Quota\"]]}}]}"`},
			{"a dashboard that lacks one", "Resources/Dashboard/Properties/DashboardBody/Fn::Sub", `"{\"widgets\":[]}"`},
			{"a dashboard without metrics", "Resources/Dashboard/Condition", ""},
		}},
		{"refused direct invocations are counted as the code writes them", refusalsAreCounted, []mistake{
			{"those over HTTP too", "Resources/RefusedDirectly/Properties/FilterPattern", `"{ $.Refusals = 1 }"`},
			{"all functions' as one", "Resources/RefusedDirectly/Properties/MetricTransformations/0/Dimensions", ""},
		}},
		{"queries ask for what is in the logs", func(s stack, p *problems) { queriesAskForFields(code, s, p) }, []mistake{
			{"another field", "Resources/OneTokenQuery/Properties/QueryString", `"filter token_sha1 = \"0\""`},
			{"the other log's field", "Resources/RefusedByTheGatewayQuery/Properties/QueryString",
				`"filter token_sha256 = \"0\""`},
			{"another log", "Resources/OneTokenQuery/Properties/LogGroupNames/0", `{"Ref": "AccessLogGroup"}`},
			{"no query", "Resources/FailuresByCauseQuery", ""},
		}},
	})
}

// code is what the function's own code can write.
type code struct {
	whole  []string            // metrics of the function as a whole
	split  map[string][]string // metrics with another dimension, as "Invocations Outcome", and its values
	fields []string            // of the log line
}

// readCode reads the names where they are written.
func readCode(t *testing.T) code {
	t.Helper()
	all := func(file, pattern string) (found [][]string) {
		found = regexp.MustCompile(pattern).FindAllStringSubmatch(rig.ReadFile(t, rig.Root+file), -1)
		if len(found) < 2 {
			t.Fatalf("%s has nothing like %s", file, pattern)
		}
		return found
	}
	c := code{
		split:  map[string][]string{"Tokens Source": nil, "Invocations Outcome": nil, "Refusals Cause": nil},
		fields: []string{"timestamp", "level", "message"},
	}
	for _, m := range all("/internal/handler/metrics.go", `\bvalue\("(\w+)",`) {
		c.whole = append(c.whole, m[1])
	}
	for _, m := range all("/internal/handler/metrics.go", `\bdimension\("(\w+)", .*, "(\w+)"\)`) {
		if _, ok := c.split[m[2]+" "+m[1]]; !ok {
			t.Errorf("there is a new metric %s of each %s", m[2], m[1])
		}
	}
	for _, m := range all("/internal/handler/record.go", `\n\t*return "(\w+)"\n`) { // of what was done
		c.split["Invocations Outcome"] = append(c.split["Invocations Outcome"], m[1])
	}
	for _, code := range runner.Codes {
		c.split["Invocations Outcome"] = append(c.split["Invocations Outcome"], string(code))
	}
	for _, m := range all("/docs/errors.md", "(?m)^\\| `([a-z-]+)`") {
		c.split["Refusals Cause"] = append(c.split["Refusals Cause"], m[1])
	}
	for _, m := range all("/internal/handler/record.go", `(?:text|slog\.\w+)\("(\w+)", `) {
		c.fields = append(c.fields, m[1])
	}
	return c
}

// metric returns a metric of the stack's as "Namespace Name Dimension=Value", without what is ours and the function's.
func metric(m any, p *problems) string {
	namespace, _ := at(m, "Namespace").(string)
	words := []string{fmt.Sprint(at(m, "MetricName"))}
	if namespace != "RunnerTokenBroker" {
		words = slices.Insert(words, 0, namespace)
	}
	own, dimensions := `{"Name":"FunctionName","Value":{"Ref":"TokenFunction"}}`, at(m, "Dimensions")
	if namespace == "AWS/ApiGateway" {
		own = `{"Name":"ApiId","Value":{"Ref":"Api"}}`
	}
	list, _ := dimensions.([]any)
	if len(list) == 0 || text(list[0]) != own {
		p.add("%s has the dimensions %s", words, text(dimensions))
		return ""
	}
	for _, d := range list[1:] {
		words = append(words, fmt.Sprintf("%v=%v", at(d, "Name"), at(d, "Value")))
	}
	return strings.Join(words, " ")
}

// rings says in a line when an alarm rings.
func rings(a any, p *problems) string {
	var periods []string
	measure := func(m any, statistic, period string) string {
		periods = append(periods, fmt.Sprint(at(m, period)))
		stat, name := at(m, statistic), ""
		if inner := at(m, "Metric"); inner != nil {
			name = metric(inner, p)
		} else {
			name = metric(m, p)
		}
		return fmt.Sprintf("%v %s", stat, name)
	}
	what, inputs := "", ""
	if list, ok := at(a, "Metrics").([]any); ok {
		what = fmt.Sprint(at(list[0], "Expression"))
		for _, m := range list[1:] {
			inputs += fmt.Sprintf(", %v=%s", at(m, "Id"), measure(at(m, "MetricStat"), "Stat", "Period"))
		}
		inputs = ":" + strings.TrimPrefix(inputs, ",")
	} else {
		what = measure(a, "Statistic", "Period")
	}
	n := at(a, "EvaluationPeriods")
	m := at(a, "DatapointsToAlarm")
	if m == nil {
		m = n
	}
	threshold := at(a, "Threshold")
	if name := at(threshold, "Ref"); name != nil {
		threshold = name
	}
	operators := map[any]string{"GreaterThanOrEqualToThreshold": ">=", "LessThanThreshold": "<"}
	operator := operators[at(a, "ComparisonOperator")]
	return fmt.Sprintf("%s %s %v in %v of %v x %s s, else %v%s", what, operator, threshold, m, n,
		strings.Join(slices.Compact(periods), ","), at(a, "TreatMissingData"), inputs)
}

// hasAlarms reports whether the stack has alarms.
func (s stack) hasAlarms() bool { return s.given["AlarmTopicArn"] != "" && s.given["Metrics"] != "off" }

// alarmsOf are those of the stack.
func (s stack) alarmsOf() []string {
	if !s.hasAlarms() {
		return nil
	}
	return slices.DeleteFunc(slices.Collect(maps.Keys(alarms)), func(name string) bool {
		return name == "CheckMissingAlarm" && !s.checksItself() || name == "SharedTokensAlarm" && !s.shares()
	})
}

func alarmsAreThese(s stack, p *problems) {
	found := s.ofType("AWS::CloudWatch::Alarm")
	p.wantAll("alarm", slices.Collect(maps.Keys(found)), s.alarmsOf())
	for name, a := range found {
		if got := rings(a, p); got != alarms[name] {
			p.add("%s rings at %s, want %s", name, got, alarms[name])
		}
	}
}

func alarmsNotify(s stack, p *problems) {
	for name, a := range s.ofType("AWS::CloudWatch::Alarm") {
		p.want("whom "+name+" tells", at(a, "AlarmActions"), `[{"Ref": "AlarmTopicArn"}]`)
		p.want("whom it tells of the end", at(a, "OKActions"), `[{"Ref": "AlarmTopicArn"}]`)
		description, _ := at(a, "AlarmDescription").(string)
		if !strings.HasSuffix(description, ". See docs/alarms.md#"+strings.ToLower(name)) {
			p.add("%s says %q", name, description)
		}
	}
}

func metricsAreTheCodes(c code, s stack, p *problems) {
	measured := regexp.MustCompile(`(?:Sum|Minimum|SampleCount) (\w+)(?: (\w+)=(\S+?))?(?:,| [<>]|$)`)
	for name, a := range s.ofType("AWS::CloudWatch::Alarm") {
		for _, m := range measured.FindAllStringSubmatch(rings(a, p), -1) {
			switch {
			case m[1] == "RefusedDirectly" || m[1] == "AWS": // the template's own; AWS's
			case m[2] == "" && !slices.Contains(c.whole, m[1]):
				p.add("%s: nobody writes %s", name, m[1])
			case m[2] != "" && !slices.Contains(c.split[m[1]+" "+m[2]], m[3]):
				p.add("%s: nobody writes %s with %s=%s", name, m[1], m[2], m[3])
			}
		}
	}
	body, _ := at(s.properties("Dashboard"), "DashboardBody", "Fn::Sub").(string)
	if (body == "") != (s.given["Metrics"] == "off") {
		p.add("the dashboard is %q", body)
	}
	if body == "" {
		return
	}
	var dashboard struct {
		Widgets []struct{ Properties struct{ Metrics [][]any } }
	}
	if err := json.Unmarshal([]byte(body), &dashboard); err != nil {
		p.add("the dashboard: %v", err)
	}
	var shown, split []string
	for _, w := range dashboard.Widgets {
		for _, m := range w.Properties.Metrics {
			if m[0] == "RunnerTokenBroker" {
				shown = append(shown, fmt.Sprint(m[1]))
			}
			if search, ok := at(m[0], "expression").(string); ok {
				split = append(split, search)
			}
		}
	}
	p.wantAll("metric on the dashboard", shown, c.whole)
	var want []string
	for name := range c.split {
		_, dimension, _ := strings.Cut(name, " ")
		want = append(want, `SEARCH('{RunnerTokenBroker,FunctionName,`+dimension+
			`} FunctionName="${TokenFunction}"','Sum',300)`)
	}
	p.wantAll("search on the dashboard", split, want)
}

func refusalsAreCounted(s stack, p *problems) {
	want := `null`
	if s.hasAlarms() {
		want = `{"LogGroupName": {"Ref": "FunctionLogGroup"},
			"FilterPattern": "{ $.entry = \"direct\" && $.Refusals = 1 }",
			"MetricTransformations": [{"MetricNamespace": "RunnerTokenBroker", "MetricName": "RefusedDirectly",
				"MetricValue": "1", "Dimensions": [{"Key": "FunctionName", "Value": "$.FunctionName"}]}]}`
	}
	p.want("the filter", s.properties("RefusedDirectly"), want)
}

func queriesAskForFields(c code, s stack, p *problems) {
	format, _ := at(s.stage(), "AccessLogSettings", "Format").(string)
	logged, _ := parse(format).(map[string]any)
	fields := map[string][]string{
		`[{"Ref":"FunctionLogGroup"}]`: c.fields, `[{"Ref":"AccessLogGroup"}]`: slices.Collect(maps.Keys(logged)),
	}
	queries := s.ofType("AWS::Logs::QueryDefinition")
	p.wantAll("query", slices.Collect(maps.Keys(queries)), []string{"TokensOfATargetQuery", "RefusedCallersQuery",
		"RefusedByTheGatewayQuery", "OneTokenQuery", "FailuresByCauseQuery"})
	ofLanguage := strings.Fields("fields filter stats sort by as and desc like count latest bin ispresent 1h " +
		"refused last times")
	for name, q := range queries {
		query, _ := at(q, "QueryString").(string)
		plain := regexp.MustCompile(`"[^"]*"|/[^/]*/|@timestamp`).ReplaceAllString(query, " ")
		for _, word := range regexp.MustCompile(`\w+`).FindAllString(plain, -1) {
			if !slices.Contains(ofLanguage, word) && !slices.Contains(fields[text(at(q, "LogGroupNames"))], word) {
				p.add("%s asks for %s, which is in no line", name, word)
			}
		}
	}
}

// Each fault of a real run moves the metric of its alarm, and a good run does not.
func TestFaultsMoveTheMetricsOfTheirAlarms(t *testing.T) {
	t.Parallel()
	const token = `{"target":"orgs/acme","fresh":true}`
	const unsigned = `{"version":"2.0","rawPath":"/","requestContext":{"http":{"method":"POST"}}}`
	with := func(status int, header ...string) func(*rig.Function) {
		a := github.Refusal(status, "Refused")
		a.Header, a.Broken = http.Header{}, true
		for i := 0; i < len(header); i += 2 {
			a.Header.Set(header[i], header[i+1])
		}
		return func(f *rig.Function) { f.GitHub.OnRequest(func(*http.Request) *github.Answer { return a }) }
	}
	for _, c := range []struct {
		name, event, alarm string
		secret             string
		fault              func(*rig.Function)
	}{
		{name: "nothing", event: token},
		{name: "a rejected credential", event: token, fault: with(401), alarm: "CredentialRefusedAlarm"},
		{name: "a forbidden target", event: token, fault: with(403), alarm: "CredentialRefusedAlarm"},
		{name: "no secret", event: token, secret: "none", alarm: "CredentialMissingAlarm"},
		{name: "a limit", event: token, fault: with(429), alarm: "UnavailableAlarm"},
		{name: "a renamed target", event: token, fault: with(301, "Location", "/x"), alarm: "TargetLostAlarm"},
		{name: "an open route", event: unsigned, alarm: "CallerNotAuthenticatedAlarm"},
		{name: "an answer that nobody knows", event: token, fault: with(422), alarm: "CrashAlarm"},
		{name: "a target that the check finds", event: `{"check":true}`, fault: with(404), alarm: "CheckFailedAlarm"},
		{name: "a credential that expires", event: token, alarm: "CredentialExpiresSoonAlarm",
			fault: with(404, "GitHub-Authentication-Token-Expiration", "2020-01-01 00:00:00 UTC")},
		{name: "a quota at its end", event: token, alarm: "QuotaLowAlarm",
			fault: with(404, "X-Ratelimit-Limit", "5000", "X-Ratelimit-Remaining", "499")},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			pats := rig.NewPATs(1)
			sm := standin.New(rig.Region, rig.RoleCredentials())
			sm.Put("github-pat", pats[0])
			id := "github-pat"
			if c.secret != "" {
				id = c.secret
			}
			f := rig.StartFunction(t, pats, map[string]string{
				"GITHUB_SECRET_ID": id, "AWS_ENDPOINT_URL_SECRETS_MANAGER": rig.Serve(t, sm),
			})
			if c.fault != nil {
				c.fault(f)
			}
			f.Invoke(t, c.event)
			moved := f.Metrics(t)
			for name, when := range alarms {
				if name == "CredentialExpiresNowAlarm" || name == "CheckMissingAlarm" || name == "SharedTokensAlarm" {
					continue // the sooner one has the same metric; these ring when a metric is missing
				}
				if got, want := rang(when, moved), name == c.alarm; got != want {
					t.Errorf("%s rings: %t, want %t; %v", name, got, want, moved)
				}
			}
		})
	}
}

// A caller's typing errors wake nobody: to Lambda a refused direct invocation is an error, and the filter takes these
// off CrashAlarm's errors, and nothing else.
func TestRefusedDirectInvocationsAreNoCrash(t *testing.T) {
	t.Parallel()
	resources := rig.Translate(t, rig.ReadFile(t, service))[0].Source["Resources"]
	pattern, _ := at(resources, "RefusedDirectly", "Properties", "FilterPattern").(string)
	terms := regexp.MustCompile(`\$\.(\w+) = (\S+)`).FindAllStringSubmatch(pattern, -1)
	for _, c := range []struct {
		name, event string
		counted     bool
	}{
		{"a target that is not allowed", `{"target":"orgs/other"}`, true},
		{"a typing error", `{"target":"orgs/acme","frsh":true}`, true},
		{"no JSON object", `[]`, true},
		{"a refresh that fails", `{"refresh":true}`, true},
		{"a token", `{"target":"repos/acme/widgets"}`, false},
		{"a self-check", `{"check":true}`, false},
		{"a refusal over HTTP", `{"version":"2.0","rawPath":"/","requestContext":{"http":{"method":"POST"}}}`, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			pats := rig.NewPATs(1)
			sm := standin.New(rig.Region, rig.RoleCredentials())
			sm.Put("github-pat", pats[0])
			f := rig.StartFunction(t, pats, map[string]string{
				"GITHUB_SECRET_ID": "github-pat", sharedTokens: "none",
				"AWS_ENDPOINT_URL_SECRETS_MANAGER": rig.Serve(t, sm),
			})
			answer := f.Invoke(t, c.event)
			line := parse(strings.TrimSpace(f.Line(t)))
			matches := len(terms) > 0
			for _, term := range terms {
				matches = matches && text(at(line, term[1])) == term[2]
			}
			isError := strings.Contains(answer, `"errorType"`)
			if matches != c.counted || isError != c.counted {
				t.Errorf("the filter counts it: %t, and Lambda: %t; want %t", matches, isError, c.counted)
			}
		})
	}
}

// rang reports whether one of the alarm's own metrics is beyond 1, or beyond its threshold if it is to stay above that.
func rang(when string, values map[string]float64) bool {
	below := regexp.MustCompile(`^Minimum (\w+) < (\d+)`).FindStringSubmatch(when)
	if below != nil {
		v, ok := values[below[1]]
		var threshold float64
		fmt.Sscan(below[2], &threshold)
		return ok && v < threshold
	}
	for _, m := range regexp.MustCompile(`Sum (\w+(?: \w+=[\w-]+)?)`).FindAllStringSubmatch(when, -1) {
		if values[m[1]] >= 1 {
			return true
		}
	}
	return false
}
