package stepfunctions_test

import (
	"bytes"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"runner-token-broker/e2e/rig"
	"runner-token-broker/internal/local/sigv4"
)

// account is an AWS account on loopback: Moto with its interpreter of state machines, its ECS and its SNS, and the
// built function. Moto runs functions in containers only, so an invocation goes past it to the function that runs here.
// RunTask and Publish are recorded and passed on to it.
type account struct {
	*rig.Function
	endpoint        string
	subnets, groups []string
	moto            *rig.Moto
	mu              sync.Mutex
	answerRunTask   func(n int) (status int, answer string) // to the nth, from 1; status 0: Moto answers
	runTasks        []runTask
	published       []url.Values
	refusePublish   bool
}

// runTask is what RunTask was asked for, in the names of ECS's API.
type runTask struct {
	Cluster, TaskDefinition, LaunchType, ClientToken, StartedBy string
	NetworkConfiguration                                        struct {
		AwsvpcConfiguration struct {
			Subnets, SecurityGroups []string
			AssignPublicIp          string
		}
	}
	Overrides struct {
		ContainerOverrides []struct {
			Name        string
			Environment []struct{ Name, Value string }
		}
	}
}

func newAccount(t *testing.T) *account {
	t.Helper()
	a := &account{Function: rig.NewFunction(t)}
	front := httptest.NewUnstartedServer(nil)
	_, port, _ := strings.Cut(front.Listener.Addr().String(), ":")
	a.moto = rig.StartMoto(t, "MOTO_PORT="+port) // where its interpreter looks for all of AWS
	behind, err := url.Parse(a.moto.URL)
	if err != nil {
		t.Fatal(err)
	}
	proxy := httputil.NewSingleHostReverseProxy(behind)
	front.Config.Handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { a.serve(w, r, proxy) })
	front.Start()
	t.Cleanup(front.Close)
	a.endpoint = front.URL
	t.Cleanup(func() {
		printed := a.moto.Printed()
		for _, token := range a.GitHub.Tokens() {
			if strings.Contains(printed, token.Reveal()) {
				t.Errorf("Moto printed the token with the SHA-256 %s", token.SHA256())
			}
		}
	})

	const ecs = "AmazonEC2ContainerServiceV20141113."
	a.send(t, "states", "/moto-api/config", http.Header{"Content-Type": {"application/json"}},
		`{"stepfunctions": {"execute_state_machine": true}}`)
	var made any
	a.call(t, "ecs", ecs+"CreateCluster", `{"clusterName": "runners"}`, &made)
	a.call(t, "ecs", ecs+"RegisterTaskDefinition", `{"family": "runner", "requiresCompatibilities": ["FARGATE"],
		"networkMode": "awsvpc", "cpu": "256", "memory": "512",
		"containerDefinitions": [{"name": "runner", "image": "runner", "memory": 512}]}`, &made)
	a.query(t, "sns", "Action=CreateTopic&Name=alarms&Version=2010-03-31")
	ids := func(action, pattern string) []string {
		found := regexp.MustCompile(pattern).FindAllString(a.query(t, "ec2", "Action="+action+"&Version=2016-11-15"), -1)
		slices.Sort(found)
		return slices.Compact(found)
	}
	a.subnets, a.groups = ids("DescribeSubnets", `subnet-[0-9a-f]+`), ids("DescribeSecurityGroups", `sg-[0-9a-f]+`)
	if len(a.subnets) < 2 || len(a.groups) == 0 {
		t.Fatalf("Moto has the subnets %s and the security groups %s", a.subnets, a.groups)
	}
	return a
}

func (a *account) serve(w http.ResponseWriter, r *http.Request, moto http.Handler) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	r.Body = io.NopCloser(bytes.NewReader(body))
	form, _ := url.ParseQuery(string(body))
	switch {
	case r.URL.Path == "/2015-03-31/functions/"+functionARN+"/invocations":
		a.invoke(w, r, body)
		return
	case r.URL.Path == "/2015-03-31/functions/apigateway/invocations":
		a.invokeAPI(w, r, body)
		return
	case strings.HasSuffix(r.Header.Get("X-Amz-Target"), ".RunTask"):
		if status, answer := a.runTask(body); status != 0 {
			respond(w, status, answer)
			return
		}
	case form.Get("Action") == "Publish":
		a.mu.Lock()
		a.published = append(a.published, form)
		refuse := a.refusePublish
		a.mu.Unlock()
		if refuse {
			respond(w, http.StatusForbidden, "<ErrorResponse><Error><Code>AuthorizationError</Code>"+
				"<Message>not authorized</Message></Error><RequestId>1b2c3d4e</RequestId></ErrorResponse>")
			return
		}
	}
	moto.ServeHTTP(w, r)
}

func respond(w http.ResponseWriter, status int, body string) {
	w.Header().Set("X-Amzn-RequestId", "1b2c3d4e") // Moto fails without one
	w.WriteHeader(status)
	io.WriteString(w, body)
}

func (a *account) runTask(body []byte) (status int, answer string) {
	var asked runTask
	if err := json.Unmarshal(body, &asked); err != nil {
		return http.StatusInternalServerError, err.Error()
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	a.runTasks = append(a.runTasks, asked)
	if a.answerRunTask == nil {
		return 0, ""
	}
	return a.answerRunTask(len(a.runTasks))
}

// invoke is Lambda's Invoke, for the function.
func (a *account) invoke(w http.ResponseWriter, r *http.Request, event []byte) {
	result, err := a.Lambda.Invoke(r.Context(), event)
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	if result.FunctionError != "" {
		w.Header().Set("X-Amz-Function-Error", result.FunctionError)
	}
	w.Write(result.Payload)
}

// invokeAPI does what AWS documents of apigateway:invoke, which Moto 5.2.5 has but cannot call: it signs and makes the
// request. What it hands back is a function's result or error, since that is what Moto takes it for.
func (a *account) invokeAPI(w http.ResponseWriter, r *http.Request, parameters []byte) {
	fail := func(errorType, message string) {
		w.Header().Set("X-Amz-Function-Error", "Unhandled")
		json.NewEncoder(w).Encode(map[string]string{"errorType": errorType, "errorMessage": message})
	}
	var p struct{ ApiEndpoint, Method, Path, AuthType string }
	d := json.NewDecoder(bytes.NewReader(parameters))
	d.DisallowUnknownFields()
	if err := d.Decode(&p); err != nil || p.ApiEndpoint != apiEndpoint || p.AuthType != "IAM_ROLE" {
		fail("ApiGateway.Unexpected", fmt.Sprintf("%v, %s", err, parameters))
		return
	}
	request, err := http.NewRequestWithContext(r.Context(), p.Method, a.URL+"/"+p.Path, nil)
	if err == nil {
		err = sigv4.Sign(request, nil, rig.RoleCredentials(), rig.Region, "execute-api")
	}
	if err != nil {
		fail("ApiGateway.Unexpected", err.Error())
		return
	}
	resp, err := http.DefaultClient.Do(request)
	if err != nil {
		fail("ApiGateway.Unexpected", err.Error())
		return
	}
	defer resp.Body.Close()
	body, _ := io.ReadAll(resp.Body)
	if resp.StatusCode/100 != 2 {
		fail(fmt.Sprintf("ApiGateway.%d", resp.StatusCode), string(body))
		return
	}
	json.NewEncoder(w).Encode(map[string]any{"StatusCode": resp.StatusCode, "ResponseBody": json.RawMessage(body)})
}

// call calls a JSON API of Moto's.
func (a *account) call(t *testing.T, service, target, in string, out any) {
	t.Helper()
	header := http.Header{"Content-Type": {"application/x-amz-json-1.1"}, "X-Amz-Target": {target}}
	if err := json.Unmarshal([]byte(a.send(t, service, "/", header, in)), out); err != nil {
		t.Fatalf("%s: %v", target, err)
	}
}

// query calls an API of Moto's that takes a form.
func (a *account) query(t *testing.T, service, form string) string {
	t.Helper()
	return a.send(t, service, "/", http.Header{"Content-Type": {"application/x-www-form-urlencoded"}}, form)
}

func (a *account) send(t *testing.T, service, path string, header http.Header, body string) string {
	t.Helper()
	r := rig.NewPost(t, a.endpoint+path, body, header)
	// Moto reads the service and the Region in it.
	if err := sigv4.Sign(r, []byte(body), rig.RoleCredentials(), rig.Region, service); err != nil {
		t.Fatal(err)
	}
	answer := rig.Send(t, r)
	if answer.Status/100 != 2 {
		t.Fatalf("%s %s: %d %s", service, header, answer.Status, answer.Body)
	}
	return string(answer.Body)
}

// definition is a state machine as CloudFormation deploys it.
func definition(t *testing.T, file, target string, subnets, groups []string) string {
	t.Helper()
	values := map[string]string{
		"FunctionArn": functionARN, "ApiEndpoint": apiEndpoint, "Target": target, "Labels": "fargate,linux",
		"ClusterArn": clusterARN, "TaskDefinitionArn": taskARN, "ContainerName": "runner", "AssignPublicIp": "DISABLED",
		"SubnetIds": strings.Join(subnets, ","), "SecurityGroupIds": strings.Join(groups, ","), "AlarmTopicArn": topicARN,
	}
	text := rig.ReadFile(t, stepFunctions+file)
	return regexp.MustCompile(`\$\{\w+\}`).ReplaceAllStringFunc(text, func(s string) string {
		value, ok := values[s[2:len(s)-1]]
		if !ok {
			t.Errorf("%s: what is %s?", file, s)
		}
		return value
	})
}

// forMoto changes what a test cannot wait for and what Moto 5.2.5 does otherwise than AWS: it calls ECS by the names in
// the state, where AWS spells them as ECS does; it names the SDK's errors after ecs, AWS after Ecs; a path through an
// index gives it a list; its apigateway:invoke ends in a TypeError, so a function of that name does it, see invokeAPI.
func forMoto(t *testing.T, text string) string {
	t.Helper()
	text = regexp.MustCompile(`"IntervalSeconds": \d+`).ReplaceAllString(text, `"IntervalSeconds": 1`)
	text = strings.NewReplacer(
		"States.MathRandom(15, 45)", "States.MathRandom(0, 1)",
		"$.result.Tasks[0].TaskArn", "States.ArrayGetItem($.result.tasks[*].taskArn, 0)",
		"$.result.Tasks[0]", "$.result.tasks[0]",
		`"Ecs.EcsException"`, `"ecs.ecsException"`, `"Ecs.`, `"ecs.`,
		"$.ResponseBody", "$.Payload.ResponseBody",
	).Replace(text)
	var machine struct {
		Comment, StartAt string
		TimeoutSeconds   int
		States           map[string]map[string]any
	}
	if err := json.Unmarshal([]byte(text), &machine); err != nil {
		t.Fatal(err)
	}
	each(machine.States["StartRunners"]["ItemProcessor"], "RunTask", func(state any) {
		runTask := state.(map[string]any)
		runTask["Parameters"] = lowerNames(runTask["Parameters"])
	})
	if getToken := machine.States["GetToken"]; getToken["Resource"] == "arn:aws:states:::apigateway:invoke" {
		getToken["Resource"] = "arn:aws:states:::lambda:invoke"
		getToken["Parameters"] = map[string]any{"FunctionName": "apigateway", "Payload": getToken["Parameters"]}
	}
	changed, err := json.Marshal(machine)
	if err != nil {
		t.Fatal(err)
	}
	return string(changed)
}

// lowerNames makes the names of a JSON value begin with a small letter.
func lowerNames(v any) any {
	switch v := v.(type) {
	case []any:
		for i := range v {
			v[i] = lowerNames(v[i])
		}
	case map[string]any:
		lower := map[string]any{}
		for name, value := range v {
			lower[strings.ToLower(name[:1])+name[1:]] = lowerNames(value)
		}
		return lower
	}
	return v
}

type execution struct {
	Status, Output, Error, Cause string
	history                      string
}

func (a *account) execute(t *testing.T, file, target, input string) execution {
	t.Helper()
	a.mu.Lock()
	a.runTasks, a.published = nil, nil
	a.mu.Unlock()
	call := func(action string, in map[string]any, out any) {
		t.Helper()
		body, err := json.Marshal(in)
		if err != nil {
			t.Fatal(err)
		}
		a.call(t, "states", "AWSStepFunctions."+action, string(body), out)
	}
	var made struct{ StateMachineArn, ExecutionArn string }
	call("CreateStateMachine", map[string]any{
		"name":       "scale-out-" + rand.Text(),
		"definition": forMoto(t, definition(t, file, target, a.subnets, a.groups)),
		"roleArn":    "arn:aws:iam::123456789012:role/scale-out",
	}, &made)
	call("StartExecution", map[string]any{
		"stateMachineArn": made.StateMachineArn, "name": "a-fleet", "input": input,
	}, &made)
	of := map[string]any{"executionArn": made.ExecutionArn}
	var e execution
	rig.Await(t, time.Minute, "the execution's end", func() bool {
		call("DescribeExecution", of, &e)
		return e.Status != "RUNNING"
	})
	var history struct{ Events json.RawMessage }
	call("GetExecutionHistory", of, &history)
	e.history = string(history.Events)
	// The output goes where the history does not, and a failure to a mailbox.
	for _, token := range a.GitHub.Tokens() {
		for where, text := range map[string]string{
			"output": e.Output, "error": e.Error, "cause": e.Cause, "message": fmt.Sprint(a.published),
		} {
			if strings.Contains(text, token.Reveal()) {
				t.Errorf("the token is in the %s", where)
			}
		}
	}
	return e
}

// failed wants an execution that failed, the operators told of it or not, and no runner.
func (a *account) failed(t *testing.T, e execution, name string, told bool) {
	t.Helper()
	if e.Status != "FAILED" || e.Error != name {
		t.Fatalf("the execution %s: %s, %s; want %s", e.Status, e.Error, e.Cause, name)
	}
	if !told {
		if len(a.published) > 0 {
			t.Errorf("the operators were told of %s: %v", name, a.published)
		}
		return
	}
	if len(a.published) != 1 {
		t.Fatalf("the operators were told %d times of %s: %v", len(a.published), name, a.published)
	}
	var message struct{ Execution, Error, Cause string }
	publication := a.published[0]
	err := json.Unmarshal([]byte(publication.Get("Message")), &message)
	if err != nil || publication.Get("TopicArn") != topicARN || !strings.HasSuffix(message.Execution, ":a-fleet") ||
		message.Error != name || message.Cause != e.Cause || e.Cause == "" {
		t.Errorf("the operators were told %v, %v; the cause is %s", publication, err, e.Cause)
	}
}

// succeeded wants an execution that started count runners, each by another name.
func (a *account) succeeded(t *testing.T, e execution, count int) {
	t.Helper()
	if e.Status != "SUCCEEDED" {
		t.Fatalf("the execution %s: %s, %s", e.Status, e.Error, e.Cause)
	}
	var started []struct{ Outcome, Name, Task string }
	if err := json.Unmarshal([]byte(e.Output), &started); err != nil || len(started) != count {
		t.Errorf("the output: %v, %d runners, want %d", err, len(started), count)
	}
	names := map[string]bool{}
	for _, s := range started {
		names[s.Name] = true
		if s.Outcome != "started" || !strings.HasPrefix(s.Task, "arn:aws:ecs:eu-central-1:123456789012:task/") {
			t.Errorf("a runner is %+v", s)
		}
	}
	if len(names) != count || len(a.published) > 0 {
		t.Errorf("%d runners have the names %v; the operators were told %v", count, names, a.published)
	}
}
