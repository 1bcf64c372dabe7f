package template_test

import (
	"bytes"
	"encoding/json"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"runner-token-broker/e2e/rig"
	"runner-token-broker/internal/github"
	standin "runner-token-broker/internal/local/secretsmanager"
	"runner-token-broker/internal/network"
	"runner-token-broker/internal/runner"
	"runner-token-broker/internal/secretsmanager"
)

const (
	secretARN = "arn:aws:secretsmanager:eu-central-1:123456789012:secret:runners/github-pat-a1B2c3"
	keyARN    = "arn:aws:kms:eu-central-1:123456789012:key/1234abcd-12ab-34cd-56ef-1234567890ab"
	logKeyARN = "arn:aws:kms:eu-central-1:123456789012:key/4321dcba-12ab-34cd-56ef-1234567890ab"
	topicARN  = "arn:aws:sns:eu-central-1:123456789012:alarms"
	appKeyARN = "arn:aws:kms:eu-central-1:123456789012:key/mrk-1234abcd12ab34cd56ef1234567890ab"
	boundary  = "arn:aws:iam::123456789012:policy/boundaries/runners"

	function = "Resources/TokenFunction/Properties/"
	events   = function + "Events/"
	api      = "Resources/Api/Properties/"
	role     = "Resources/TokenFunctionRole/Properties/"
	rights   = role + "Policies/0/PolicyDocument/Statement/"
	caller   = "Resources/CallerPolicy/Properties/PolicyDocument/Statement/0/"

	denial       = "Resources/SharedTokensPolicy/Properties/ResourcePolicy/Statement/0/"
	refreshes    = "Resources/SharedTokensSchedule/Properties/"
	checks       = "Resources/SelfCheckSchedule/Properties/"
	scheduleRole = "Resources/ScheduleRole/Properties/"
)

// settings are what the function reads; the two below are declared only where they are given.
var settings = []string{
	"GITHUB_SECRET_ID", "ALLOWED_TARGETS", "GITHUB_API_URL", "GITHUB_API_VERSION", "GITHUB_CA_CERTIFICATES", "SECRET_TTL",
	"TOKEN_MIN_LIFE", "METRICS", "HTTPS_PROXY", "NO_PROXY",
}

const (
	endpoint     = "AWS_ENDPOINT_URL_SECRETS_MANAGER"
	sharedTokens = "SHARED_TOKENS_SECRET_ID"
	certificates = "SSL_CERT_DIR" // Go's crypto/x509 reads it
)

// notSet are read only to be checked: whoever adds one to the function by hand must not be surprised.
var notSet = []string{"AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_KMS", "HTTP_PROXY"}

// Who may call, what the function may do, what it is told.
func TestServiceTemplate(t *testing.T) {
	t.Parallel()
	hold(t, service, []situation{
		{"with defaults", map[string]string{"AllowedTargets": "orgs/acme"}},
		{"with everything", map[string]string{
			"AllowedTargets":         "orgs/acme,repos/acme/*",
			"CallerTarget":           "repos/acme/widgets",
			"SecretArn":              secretARN,
			"SecretKmsKeyArn":        keyARN,
			"ReservedConcurrency":    "5",
			"SubnetIds":              "subnet-0a1b2c3d",
			"SecurityGroupIds":       "sg-0a1b2c3d",
			"SecretsManagerEndpoint": "https://vpce-1.secretsmanager.eu-central-1.vpce.amazonaws.com",
			"AlarmTopicArn":          topicARN,
			"AppKmsKeyArn":           appKeyARN,
			"PermissionsBoundaryArn": boundary,
			"RolePath":               "/runners/",
			"LogKmsKeyArn":           logKeyARN,
			"KeepLogs":               "true",
			"ShareTokens":            "true",
			"CheckSchedule":          "cron(0 6 * * ? *)",
			"ThrottlingRateLimit":    "300",
			"ThrottlingBurstLimit":   "70",
		}},
		{"sharing tokens alone", map[string]string{
			"AllowedTargets": "orgs/acme", "ShareTokens": "true", "CheckSchedule": "", "Metrics": "off",
			"AlarmTopicArn": topicARN,
		}},
		{"with no limit of its own", map[string]string{
			"AllowedTargets": "orgs/acme", "ShareTokens": "true", "ReservedConcurrency": "0",
		}},
		{"without schedules", map[string]string{"AllowedTargets": "orgs/acme", "CheckSchedule": ""}},
	}, []check{
		{"the routes are the six of GitHub", routesAreGitHubs, []mistake{
			{"a catch-all route", events + "Extra", route("POST", "/{proxy+}")},
			{"a default route", events + "Extra", route("X-AMAZON-APIGATEWAY-ANY-METHOD", "$default")},
			{"a GET route", events + "Extra", route("GET", "/orgs/{org}/actions/runners/remove-token")},
			{"a route that is missing", events + "RepoRemoveToken", ""},
		}},
		{"every route is signed", everyRouteIsSigned, []mistake{
			{"no default authorizer", api + "Auth/DefaultAuthorizer", ""},
			{"no authorizer at all", api + "Auth", ""},
			{"one open route", events + "OrgRemoveToken/Properties/Auth", `{"Authorizer": "NONE"}`},
		}},
		{"every route sends what the function reads, and waits for it", everyRouteWaits, []mistake{
			{"a short route", events + "OrgRemoveToken/Properties/TimeoutInMillis", `20000`},
			{"payload format 1.0", events + "OrgRemoveToken/Properties/PayloadFormatVersion", `"1.0"`},
		}},
		{"requests are throttled", requestsAreThrottled, []mistake{
			{"no throttling", api + "DefaultRouteSettings", ""},
			{"no limit for a burst", api + "DefaultRouteSettings/ThrottlingBurstLimit", ""},
			{"a rate at which instances give up", api + "DefaultRouteSettings/ThrottlingRateLimit/Fn::If/1/Fn::If/2", `20`},
			{"a burst above GitHub's limit", api + "DefaultRouteSettings/ThrottlingBurstLimit/Fn::If/1/Fn::If/2", `500`},
			{"a rate that is too low for shared tokens", api + "DefaultRouteSettings/ThrottlingRateLimit/Fn::If/1", `200`},
			{"a rate that nobody can change", api + "DefaultRouteSettings/ThrottlingRateLimit", `200`},
		}},
		{"the stage is the one that the policies name", stageIsNamed, []mistake{
			{"a named stage", api + "StageName", `"v1"`},
		}},
		{"the access log names the caller", accessLogNamesTheCaller, []mistake{
			{"no access log", api + "AccessLogSettings", ""},
			{"no caller in it", api + "AccessLogSettings/Format", `"{\"path\":\"$context.path\"}"`},
		}},
		{"API Gateway alone invokes the function", gatewayAloneInvokes, []mistake{
			{"everybody", "Resources/Extra", permission("*", "arn:aws:execute-api:eu-central-1:123456789012:a/*/POST/")},
			{"every method", "Resources/Extra", permission("apigateway.amazonaws.com", "arn:aws:execute-api:*")},
		}},
		{"the function has the rights it needs", functionHasItsRights, []mistake{
			{"every secret", rights + "0/Resource", `"*"`},
			{"every action on the secret", rights + "0/Action", `"secretsmanager:*"`},
			{"unbound decryption", rights + "1/Fn::If/1/Condition", ""},
			{"decryption by default", rights + "1/Fn::If/2", `{"Effect": "Allow", "Action": "kms:Decrypt", "Resource": "*"}`},
			{"more of the shared tokens' secret", rights + "2/Fn::If/1/Action", `"secretsmanager:*"`},
			{"the shared tokens' right on every secret", rights + "2/Fn::If/1/Resource", `"*"`},
			{"that right where nothing is shared", rights + "2/Fn::If/2", `{"Effect": "Allow", "Action": "*", "Resource": "*"}`},
			{"unbound encryption", rights + "3/Fn::If/1/Condition", ""},
			{"signatures by every key", rights + "4/Fn::If/1/Resource", `"*"`},
			{"the App's key may decrypt", rights + "4/Fn::If/1/Action", `["kms:Sign", "kms:Decrypt"]`},
			{"signatures by default", rights + "4/Fn::If/2", `{"Effect": "Allow", "Action": "kms:Sign", "Resource": "*"}`},
			{"a right that is missing", rights + "6", `{"Ref": "AWS::NoValue"}`},
			{"a managed policy", role + "ManagedPolicyArns", `["arn:aws:iam::aws:policy/SecretsManagerReadWrite"]`},
		}},
		{"Lambda alone takes the function's role", lambdaAloneTakesTheRole, []mistake{
			{"everybody", role + "AssumeRolePolicyDocument/Statement/0/Principal", `{"AWS": "*"}`},
		}},
		{"roles and policies are what the organization asks for", iamIsAsAsked, []mistake{
			{"no boundary", role + "PermissionsBoundary", ""},
			{"a boundary where none is given", role + "PermissionsBoundary", `{"Ref": "PermissionsBoundaryArn"}`},
			{"a role in another place", role + "Path", ""},
			{"a policy in another place", "Resources/CallerPolicy/Properties/Path", ""},
		}},
		{"callers get the two paths of their target", callersGetTheirTarget, []mistake{
			{"a wildcard", caller + "Resource/1", `{"Fn::Sub": "arn:${AWS::Partition}:execute-api:*"}`},
			{"a policy without a target", "Resources/CallerPolicy/Condition", ""},
			{"no policy", "Resources/CallerPolicy", ""},
		}},
		{"the function is told its settings", functionIsToldItsSettings, []mistake{
			{"a variable that is missing", function + "Environment/Variables/TOKEN_MIN_LIFE", ""},
			{"the credential's secret for shared tokens", function + "Environment/Variables/" + sharedTokens,
				`{"Ref": "Secret"}`},
			{"metrics that nobody can leave out", function + "Environment/Variables/METRICS", `"on"`},
			{"no endpoint", function + "Environment/Variables/" + endpoint, ""},
			{"a variable too many", function + "Environment/Variables/GITHUB_PAT", `"ghp_x"`},
			{"another secret", function + "Environment/Variables/GITHUB_SECRET_ID", `"runners"`},
			{"other certificates", function + "Environment/Variables/GITHUB_CA_CERTIFICATES", `{"Ref": "HttpsProxy"}`},
			{"every certificate twice", function + "Environment/Variables/" + certificates, ""},
			{"a folder of the system's", function + "Environment/Variables/" + certificates, `"/etc/pki/tls/certs"`},
		}},
		{"the function runs as it was made to", functionRunsAsMade, []mistake{
			{"a long function", function + "Timeout", `60`},
			{"another role", function + "Role", `"arn:aws:iam::123456789012:role/admin"`},
			{"logs as text", function + "LoggingConfig/LogFormat", `"Text"`},
			{"logs to another group", function + "LoggingConfig/LogGroup", `{"Ref": "AccessLogGroup"}`},
			{"concurrency reserved by default", "Parameters/ReservedConcurrency/Default", `5`},
			{"no belt for shared tokens", function + "ReservedConcurrentExecutions/Fn::If/1", `{"Ref": "AWS::NoValue"}`},
			{"a reservation that cannot be left out", function + "ReservedConcurrentExecutions/Fn::If/2", `200`},
			{"failures that Lambda repeats", function + "EventInvokeConfig/MaximumRetryAttempts", `2`},
			{"events that are hours old", function + "EventInvokeConfig/MaximumEventAgeInSeconds", ""},
			{"no VPC", function + "VpcConfig", ""},
		}},
		{"the resources are these", resourcesAreThese, []mistake{
			{"a function URL", function + "FunctionUrlConfig", `{"AuthType": "NONE"}`},
			{"another alarm", "Resources/Extra", `{"Type": "AWS::CloudWatch::Alarm"}`},
		}},
		{"the secret is empty", secretIsEmpty, []mistake{
			{"a value in the template", "Resources/Secret/Properties/SecretString", `"ghp_x"`},
			{"a generated value", "Resources/Secret/Properties/GenerateSecretString", `{}`},
		}},
		{"the function's role alone has the shared tokens", roleAloneHasSharedTokens, []mistake{
			{"AWS's key", "Resources/SharedTokens/Properties/KmsKeyId", ""},
			{"no policy", "Resources/SharedTokensPolicy", ""},
			{"a policy of another secret", "Resources/SharedTokensPolicy/Properties/SecretId", `{"Ref": "Secret"}`},
			{"everybody may read", denial + "Action", `"secretsmanager:PutSecretValue"`},
			{"nobody may", denial + "Condition", ""},
			{"the role of the schedules may, too", denial + "Condition/ArnNotEquals/aws:PrincipalArn",
				`[{"Fn::GetAtt": ["TokenFunctionRole", "Arn"]}, {"Fn::GetAtt": ["ScheduleRole", "Arn"]}]`},
		}},
		{"the schedules send what the function takes", schedulesSendEvents, []mistake{
			{"another event", refreshes + "Target/Input", `"{\"refresh\":1}"`},
			{"a refresh for the check", checks + "Target/Input", `"{\"refresh\":true}"`},
			{"tokens that become too old", refreshes + "ScheduleExpression", `"rate(1 hour)"`},
			{"a check that nobody can move", checks + "ScheduleExpression", `"rate(6 hours)"`},
			{"a rare check", "Parameters/CheckSchedule/Default", `"rate(2 days)"`},
			{"another function", checks + "Target/Arn", `{"Ref": "SecretArn"}`},
			{"the function's role", refreshes + "Target/RoleArn", `{"Fn::GetAtt": ["TokenFunctionRole", "Arn"]}`},
			{"retries for a day", refreshes + "Target/RetryPolicy", ""},
			{"a check that cannot be switched off", "Resources/SelfCheckSchedule/Condition", ""},
			{"a refresh where nothing is shared", "Resources/SharedTokensSchedule/Condition", ""},
		}},
		{"the role of the schedules invokes the function alone", scheduleRoleInvokes, []mistake{
			{"every function", scheduleRole + "Policies/0/PolicyDocument/Statement/0/Resource", `"*"`},
			{"other accounts' schedules", scheduleRole + "AssumeRolePolicyDocument/Statement/0/Condition", ""},
			{"a role in another place", scheduleRole + "Path", ""},
			{"no boundary", scheduleRole + "PermissionsBoundary", ""},
			{"a role for nothing", "Conditions/HasSchedule", `{"Fn::Equals": ["a", "a"]}`},
		}},
		{"logs end", logsEnd, []mistake{
			{"logs for ever", "Resources/AccessLogGroup/Properties/RetentionInDays", ""},
		}},
		{"logs are encrypted and protected as asked", logsAreAsAsked, []mistake{
			{"AWS's key", "Resources/FunctionLogGroup/Properties/KmsKeyId", ""},
			{"the secret's key", "Resources/AccessLogGroup/Properties/KmsKeyId", `{"Ref": "SecretKmsKeyArn"}`},
			{"a key where none is given", "Resources/AccessLogGroup/Properties/KmsKeyId", `{"Ref": "LogKmsKeyArn"}`},
			{"a log that goes with the stack", "Resources/AccessLogGroup/Properties/DeletionProtectionEnabled", ""},
			{"a stack that cannot be deleted", "Parameters/KeepLogs/Default", `"true"`},
		}},
		{"the outputs are these", outputsAreThese, []mistake{
			{"an output that is missing", "Outputs/ApiUrl", ""},
			{"an output too many", "Outputs/Pat", `{"Value": "ghp_x"}`},
			{"a command where there is nothing to fill", "Outputs/FillSecretCommand/Condition", ""},
			{"another list of targets", "Outputs/AllowedTargets/Value", `{"Ref": "CallerTarget"}`},
		}},
		{"the parameters ask for targets alone", parametersAskForTargets, []mistake{
			{"everything allowed by default", "Parameters/AllowedTargets/Default", `"orgs/*"`},
			{"a parameter without a default", "Parameters/SecretTtl/Default", ""},
			{"a parameter without a description", "Parameters/SecretTtl/Description", ""},
			{"another architecture", "Parameters/Architecture/Default", `"x86_64"`},
			{"an architecture that is not built", "Parameters/Architecture/AllowedValues", `["arm64", "x86_64"]`},
		}},
		{"the patterns refuse typing errors", func(s stack, p *problems) { patternsRefuseTypingErrors(t, s, p) }, []mistake{
			{"no pattern", "Parameters/SecretArn/AllowedPattern", ""},
			{"a name that only looks full", "Parameters/SecretArn/AllowedPattern", `"^$|^arn:aws[a-z-]*:.+-[A-Za-z0-9]{6}$"`},
			{"a list with spaces", "Parameters/AllowedTargets/AllowedPattern", `"^[a-z/*,_. -]+$"`},
			{"a proxy with any text", "Parameters/HttpsProxy/AllowedPattern", `"^\\S*$"`},
			{"a pattern that is too strict", "Parameters/SecretTtl/AllowedPattern", `"^[0-9]+m$"`},
		}},
	})
}

// route is another event of the function's.
func route(method, path string) string {
	return text(map[string]any{"Type": "HttpApi", "Properties": map[string]any{
		"ApiId": map[string]any{"Ref": "Api"}, "Path": path, "Method": method,
		"TimeoutInMillis": 29000, "PayloadFormatVersion": "2.0",
	}})
}

func permission(principal, source string) string {
	return text(map[string]any{"Type": "AWS::Lambda::Permission", "Properties": map[string]any{
		"Action": "lambda:InvokeFunction", "FunctionName": map[string]any{"Ref": "TokenFunction"},
		"Principal": principal, "SourceArn": source,
	}})
}

// routes calls f for each route.
func (s stack) routes(f func(name string, route any)) {
	paths, _ := at(s.properties("Api"), "Body", "paths").(map[string]any)
	for path, methods := range paths {
		for method, route := range methods.(map[string]any) {
			f(method+" "+path, route)
		}
	}
}

func routesAreGitHubs(s stack, p *problems) {
	var got, want []string
	s.routes(func(name string, _ any) { got = append(got, name) })
	for _, owner := range []string{"orgs/{org}", "repos/{owner}/{repo}", "enterprises/{enterprise}"} {
		for _, kind := range []string{"registration-token", "remove-token"} {
			want = append(want, "post /"+owner+"/actions/runners/"+kind)
		}
	}
	p.wantAll("route", got, want)
}

func everyRouteIsSigned(s stack, p *problems) {
	scheme := at(s.properties("Api"), "Body", "components", "securitySchemes", "AWS_IAM", "x-amazon-apigateway-authtype")
	p.want("the scheme AWS_IAM", scheme, `"awsSigv4"`)
	s.routes(func(name string, route any) {
		p.want("security of "+name, at(route, "security"), `[{"AWS_IAM": []}]`)
	})
}

func everyRouteWaits(s stack, p *problems) {
	s.routes(func(name string, route any) {
		integration := at(route, "x-amazon-apigateway-integration")
		p.want("payload format of "+name, at(integration, "payloadFormatVersion"), `"2.0"`)
		p.want("timeout of "+name, at(integration, "timeoutInMillis"), `29000`)
	})
}

// stage returns the properties of the one stage.
func (s stack) stage() any {
	for _, stage := range s.ofType("AWS::ApiGatewayV2::Stage") {
		return stage
	}
	return nil
}

// shares reports whether the stack shares tokens.
func (s stack) shares() bool { return s.given["ShareTokens"] == "true" }

// 10,000 instances in a minute are 167 requests a second. A burst makes as many calls to GitHub, which takes 100 at
// once. Shared tokens make none.
func requestsAreThrottled(s stack, p *problems) {
	for limit, usual := range map[string][2]string{
		"ThrottlingRateLimit": {`200`, `2000`}, "ThrottlingBurstLimit": {`50`, `1000`},
	} {
		want := usual[0]
		switch {
		case s.given[limit] != "":
			want = `{"Ref": "` + limit + `"}`
		case s.shares():
			want = usual[1]
		}
		p.want(limit, at(s.stage(), "DefaultRouteSettings", limit), want)
	}
}

func stageIsNamed(s stack, p *problems) {
	p.want("the stage", at(s.stage(), "StageName"), `"$default"`)
}

func accessLogNamesTheCaller(s stack, p *problems) {
	format, ok := at(s.stage(), "AccessLogSettings", "Format").(string)
	if !ok {
		p.add("there is no access log")
		return
	}
	p.want("the caller in the access log", at(parse(format), "caller"), `"$context.identity.userArn"`)
}

func gatewayAloneInvokes(s stack, p *problems) {
	for name, permission := range s.ofType("AWS::Lambda::Permission") {
		p.want("who invokes by "+name, at(permission, "Principal"), `"apigateway.amazonaws.com"`)
		if source := text(at(permission, "SourceArn")); !strings.Contains(source, "/POST/") {
			p.add("%s: the function is invoked for %s", name, source)
		}
	}
}

// secret is what names the secret: the template's own or one that was given.
func (s stack) secret() string {
	if s.given["SecretArn"] != "" {
		return `{"Ref": "SecretArn"}`
	}
	return `{"Ref": "Secret"}`
}

func functionHasItsRights(s stack, p *problems) {
	want := []string{`{"Sid": "ReadTheSecret", "Effect": "Allow", "Action": "secretsmanager:GetSecretValue",
		"Resource": ` + s.secret() + `}`}
	if s.given["SecretKmsKeyArn"] != "" {
		want = append(want, `{"Sid": "DecryptTheSecretOnly", "Effect": "Allow", "Action": "kms:Decrypt",
			"Resource": {"Ref": "SecretKmsKeyArn"}, "Condition": {"StringEquals": {
				"kms:ViaService": {"Fn::Sub": "secretsmanager.${AWS::Region}.${AWS::URLSuffix}"},
				"kms:EncryptionContext:SecretARN": `+s.secret()+`}}}`)
	}
	if s.shares() {
		want = append(want, `{"Sid": "ReadAndWriteTheSharedTokens", "Effect": "Allow",
			"Action": ["secretsmanager:GetSecretValue", "secretsmanager:PutSecretValue"], "Resource": {"Ref": "SharedTokens"}}`)
	}
	if s.shares() && s.given["SecretKmsKeyArn"] != "" {
		want = append(want, `{"Sid": "EncryptTheSharedTokensOnly", "Effect": "Allow",
			"Action": ["kms:Decrypt", "kms:GenerateDataKey"],
			"Resource": {"Ref": "SecretKmsKeyArn"}, "Condition": {"StringEquals": {
				"kms:ViaService": {"Fn::Sub": "secretsmanager.${AWS::Region}.${AWS::URLSuffix}"},
				"kms:EncryptionContext:SecretARN": {"Ref": "SharedTokens"}}}}`)
	}
	if s.given["AppKmsKeyArn"] != "" {
		want = append(want, `{"Sid": "SignAsTheApp", "Effect": "Allow", "Action": "kms:Sign",
			"Resource": {"Ref": "AppKmsKeyArn"}}`)
	}
	if s.given["SubnetIds"] != "" {
		want = append(want, `{"Sid": "UseTheSubnets", "Effect": "Allow", "Action": [
			"ec2:CreateNetworkInterface", "ec2:DescribeNetworkInterfaces", "ec2:DescribeSubnets",
			"ec2:DeleteNetworkInterface", "ec2:AssignPrivateIpAddresses", "ec2:UnassignPrivateIpAddresses"],
			"Resource": "*"}`)
	}
	want = append(want,
		`{"Sid": "WriteItsLog", "Effect": "Allow", "Action": ["logs:CreateLogStream", "logs:PutLogEvents"],
			"Resource": {"Fn::GetAtt": ["FunctionLogGroup", "Arn"]}}`,
		`{"Sid": "SendTraces", "Effect": "Allow", "Action": ["xray:PutTraceSegments", "xray:PutTelemetryRecords"],
			"Resource": "*"}`)
	p.wantRights(s.properties("TokenFunctionRole"), want)
}

func lambdaAloneTakesTheRole(s stack, p *problems) {
	p.want("the role's trust", at(s.properties("TokenFunctionRole"), "AssumeRolePolicyDocument", "Statement"),
		`[{"Effect": "Allow", "Action": "sts:AssumeRole", "Principal": {"Service": "lambda.amazonaws.com"}}]`)
}

func iamIsAsAsked(s stack, p *problems) {
	role := s.properties("TokenFunctionRole")
	p.want("the role's path", at(role, "Path"), `{"Ref": "RolePath"}`)
	p.want("the role's boundary", at(role, "PermissionsBoundary"), s.ifGiven("PermissionsBoundaryArn"))
	for name, policy := range s.ofType("AWS::IAM::ManagedPolicy") {
		p.want("the path of "+name, at(policy, "Path"), `{"Ref": "RolePath"}`)
	}
}

// ifGiven is a reference to the parameter, if it is given, and else nothing.
func (s stack) ifGiven(parameter string) string {
	if s.given[parameter] == "" {
		return `null`
	}
	return `{"Ref": "` + parameter + `"}`
}

func callersGetTheirTarget(s stack, p *problems) {
	policies := s.ofType("AWS::IAM::ManagedPolicy")
	var want []string
	if s.given["CallerTarget"] != "" {
		want = append(want, "CallerPolicy")
	}
	p.wantAll("policy for callers", slices.Collect(maps.Keys(policies)), want)
	for name, policy := range policies {
		const path = "arn:${AWS::Partition}:execute-api:${AWS::Region}:${AWS::AccountId}:${Api}" +
			"/$default/POST/${CallerTarget}/actions/runners/"
		p.want(name, at(policy, "PolicyDocument", "Statement"), `[{"Effect": "Allow", "Action": "execute-api:Invoke",
			"Resource": [{"Fn::Sub": "`+path+`registration-token"}, {"Fn::Sub": "`+path+`remove-token"}]}]`)
	}
}

func functionIsToldItsSettings(s stack, p *problems) {
	variables, _ := at(s.properties("TokenFunction"), "Environment", "Variables").(map[string]any)
	want := append(slices.Clone(settings), certificates)
	if s.given["SecretsManagerEndpoint"] != "" {
		want = append(want, endpoint)
	}
	if s.shares() {
		want = append(want, sharedTokens)
		p.want("the secret of the shared tokens", variables[sharedTokens], `{"Ref": "SharedTokens"}`)
	}
	p.want("whether there are metrics", variables["METRICS"], `{"Ref": "Metrics"}`)
	p.wantAll("variable", slices.Collect(maps.Keys(variables)), want)
	p.want("the secret that it is told of", variables["GITHUB_SECRET_ID"], s.secret())
	p.want("the certificates of GitHub's server", variables["GITHUB_CA_CERTIFICATES"], `{"Ref": "GitHubCaCertificates"}`)
	p.want("the folder of certificates", variables[certificates], `"/opt/certs"`) // of a layer
}

// Variables of Lambda, or of SAM, that the function reads too.
var ofLambda = regexp.MustCompile(`^(AWS_SAM_LOCAL|AWS_REGION|AWS_LAMBDA_\w+|_HANDLER)$`)

// The names of variables in the function's own code are those that the template sets.
func TestFunctionReadsWhatTheTemplateSets(t *testing.T) {
	t.Parallel()
	files, err := filepath.Glob(rig.Root + "/functions/token/*.go")
	if err != nil {
		t.Fatal(err)
	}
	var read []string
	for _, file := range files {
		if strings.HasSuffix(file, "_test.go") {
			continue
		}
		source, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		for _, name := range regexp.MustCompile(`"([A-Z][A-Z0-9_]+)"`).FindAllSubmatch(source, -1) {
			if !ofLambda.Match(name[1]) {
				read = append(read, string(name[1]))
			}
		}
	}
	for _, name := range read {
		if !slices.Contains(slices.Concat(settings, notSet, []string{endpoint, sharedTokens}), name) {
			t.Errorf("the function reads %s", name)
		}
	}
	for _, name := range append(settings, notSet...) {
		if !slices.Contains(read, name) {
			t.Errorf("the function does not read %s", name)
		}
	}
}

func functionRunsAsMade(s stack, p *problems) {
	function := s.properties("TokenFunction")
	for name, want := range map[string]string{
		"Timeout":       `25`,
		"Runtime":       `"provided.al2023"`,
		"Handler":       `"bootstrap"`,
		"Role":          `{"Fn::GetAtt": ["TokenFunctionRole", "Arn"]}`,
		"TracingConfig": `{"Mode": "Active"}`,
	} {
		p.want(name, at(function, name), want)
	}
	p.want("the log group", at(function, "LoggingConfig", "LogGroup"), `{"Ref": "FunctionLogGroup"}`)
	p.want("the log's format", at(function, "LoggingConfig", "LogFormat"), `"JSON"`)
	if vpc := at(function, "VpcConfig"); (vpc != nil) != (s.given["SubnetIds"] != "") {
		p.add("VpcConfig is %s, although SubnetIds is %q", text(vpc), s.given["SubnetIds"])
	}
	reserved := `null`
	switch given := s.given["ReservedConcurrency"]; {
	case given == "" && s.shares():
		reserved = `200`
	case given != "" && given != "0":
		reserved = `{"Ref": "ReservedConcurrency"}`
	}
	p.want("the reserved concurrency", at(function, "ReservedConcurrentExecutions"), reserved)
	for _, config := range s.ofType("AWS::Lambda::EventInvokeConfig") {
		p.want("Lambda's retries of events", at(config, "MaximumRetryAttempts"), `0`)
		p.want("the longest age of an event", at(config, "MaximumEventAgeInSeconds"), `300`)
	}
}

// Without them, every role that may read secrets would have the tokens.
func roleAloneHasSharedTokens(s stack, p *problems) {
	policy := `null`
	if s.shares() {
		p.want("the key of the shared tokens", at(s.properties("SharedTokens"), "KmsKeyId"), s.ifGiven("SecretKmsKeyArn"))
		policy = `{"SecretId": {"Ref": "SharedTokens"}, "BlockPublicPolicy": true, "ResourcePolicy": {
			"Version": "2012-10-17", "Statement": [{"Sid": "TheFunctionAlone", "Effect": "Deny", "Principal": "*",
				"Action": ["secretsmanager:GetSecretValue", "secretsmanager:PutSecretValue"], "Resource": "*",
				"Condition": {"ArnNotEquals": {"aws:PrincipalArn": {"Fn::GetAtt": ["TokenFunctionRole", "Arn"]}}}}]}}`
	}
	p.want("the policy of the shared tokens", s.properties("SharedTokensPolicy"), policy)
}

// checksItself reports whether the stack does so by a schedule.
func (s stack) checksItself() bool {
	schedule, given := s.given["CheckSchedule"]
	return !given || schedule != ""
}

func schedulesSendEvents(s stack, p *problems) {
	target := func(event string) string {
		return `{"Arn": {"Fn::GetAtt": ["TokenFunction", "Arn"]}, "RoleArn": {"Fn::GetAtt": ["ScheduleRole", "Arn"]},
			"Input": ` + text(event) + `, "RetryPolicy": {"MaximumEventAgeInSeconds": 300, "MaximumRetryAttempts": 5}}`
	}
	var want []string
	if s.shares() {
		want = append(want, "SharedTokensSchedule")
		schedule := s.properties("SharedTokensSchedule")
		p.want("when shared tokens are made", at(schedule, "ScheduleExpression"), `"rate(20 minutes)"`)
		p.want("what makes them", at(schedule, "Target"), target(`{"refresh":true}`))
	}
	if s.checksItself() {
		want = append(want, "SelfCheckSchedule")
		schedule := s.properties("SelfCheckSchedule")
		p.want("when it checks itself", at(schedule, "ScheduleExpression"), `{"Ref": "CheckSchedule"}`)
		p.want("what has it do so", at(schedule, "Target"), target(`{"check":true}`))
	}
	p.wantAll("schedule", slices.Collect(maps.Keys(s.ofType("AWS::Scheduler::Schedule"))), want)
	p.want("when it checks itself by default", at(s.parameters, "CheckSchedule", "Default"), `"rate(6 hours)"`)
}

func scheduleRoleInvokes(s stack, p *problems) {
	role := s.properties("ScheduleRole")
	if !s.shares() && !s.checksItself() {
		p.want("the role of the schedules", role, `null`)
		return
	}
	p.wantRights(role, []string{`{"Sid": "InvokeTheFunction", "Effect": "Allow", "Action": "lambda:InvokeFunction",
		"Resource": {"Fn::GetAtt": ["TokenFunction", "Arn"]}}`})
	p.want("the role's trust", at(role, "AssumeRolePolicyDocument", "Statement"),
		`[{"Effect": "Allow", "Action": "sts:AssumeRole", "Principal": {"Service": "scheduler.amazonaws.com"},
			"Condition": {"StringEquals": {"aws:SourceAccount": {"Ref": "AWS::AccountId"}}}}]`)
	p.want("the role's path", at(role, "Path"), `{"Ref": "RolePath"}`)
	p.want("the role's boundary", at(role, "PermissionsBoundary"), s.ifGiven("PermissionsBoundaryArn"))
}

// The events of the schedules are commands of the function: it takes them as they are.
func TestFunctionTakesTheEventsOfTheSchedules(t *testing.T) {
	t.Parallel()
	pats := rig.NewPATs(1)
	sm := standin.New(rig.Region, rig.RoleCredentials())
	sm.Put("github-pat", pats[0])
	sm.PutNothing("shared-tokens")
	f := rig.StartFunction(t, pats, map[string]string{
		"GITHUB_SECRET_ID": "github-pat", sharedTokens: "shared-tokens", "AWS_ENDPOINT_URL_SECRETS_MANAGER": rig.Serve(t, sm),
	})
	resources := rig.Translate(t, rig.ReadFile(t, service))[0].Source["Resources"]
	for name, want := range map[string]string{
		"SelfCheckSchedule": `"status":"ok"`, "SharedTokensSchedule": `"written":2`,
	} {
		event, _ := at(resources, name, "Properties", "Target", "Input").(string)
		if got := f.Invoke(t, event); !strings.Contains(got, want) {
			t.Errorf("%s sends %q, and the function answers %s", name, event, got)
		}
	}
}

// Another type of resource may be another way in or another right, so it has to be thought about here.
func resourcesAreThese(s stack, p *problems) {
	want := []string{"AWS::ApiGatewayV2::Api", "AWS::ApiGatewayV2::Stage", "AWS::IAM::Role", "AWS::Lambda::Function",
		"AWS::Lambda::EventInvokeConfig"}
	want = append(want, slices.Repeat([]string{"AWS::Lambda::Permission"}, 6)...) // one for each route
	want = append(want, slices.Repeat([]string{"AWS::Logs::LogGroup"}, 2)...)
	if s.given["SecretArn"] == "" {
		want = append(want, "AWS::SecretsManager::Secret")
	}
	if s.given["CallerTarget"] != "" {
		want = append(want, "AWS::IAM::ManagedPolicy")
	}
	if s.shares() {
		want = append(want, "AWS::SecretsManager::Secret", "AWS::SecretsManager::ResourcePolicy", "AWS::Scheduler::Schedule")
	}
	if s.checksItself() {
		want = append(want, "AWS::Scheduler::Schedule")
	}
	if s.shares() || s.checksItself() {
		want = append(want, "AWS::IAM::Role")
	}
	want = append(want, slices.Repeat([]string{"AWS::Logs::QueryDefinition"}, 5)...)
	if s.given["Metrics"] != "off" {
		want = append(want, "AWS::CloudWatch::Dashboard")
	}
	if s.hasAlarms() {
		want = append(want, slices.Repeat([]string{"AWS::CloudWatch::Alarm"}, len(s.alarmsOf()))...)
		want = append(want, "AWS::Logs::MetricFilter")
	}
	var got []string
	for _, resource := range s.resources {
		got = append(got, at(resource, "Type").(string))
	}
	p.wantAll("resource", got, want)
}

func secretIsEmpty(s stack, p *problems) {
	for name, secret := range s.ofType("AWS::SecretsManager::Secret") {
		p.want("the value of "+name, at(secret, "SecretString"), `null`)
		p.want("the generated value of "+name, at(secret, "GenerateSecretString"), `null`)
	}
}

func logsEnd(s stack, p *problems) {
	for name, group := range s.ofType("AWS::Logs::LogGroup") {
		p.want("the life of "+name, at(group, "RetentionInDays"), `{"Ref": "LogRetentionInDays"}`)
	}
}

func logsAreAsAsked(s stack, p *problems) {
	for name, group := range s.ofType("AWS::Logs::LogGroup") {
		p.want("the key of "+name, at(group, "KmsKeyId"), s.ifGiven("LogKmsKeyArn"))
		p.want("the protection of "+name, at(group, "DeletionProtectionEnabled"), `{"Ref": "KeepLogs"}`)
	}
	p.want("the protection by default", at(s.parameters, "KeepLogs", "Default"), `"false"`)
}

func outputsAreThese(s stack, p *problems) {
	want := []string{"ApiUrl", "AllowedTargets", "InvokeArnPrefix", "FunctionName", "FunctionArn", "SecretArn",
		"FunctionLogGroupName", "AccessLogGroupName"}
	if s.given["Metrics"] != "off" {
		want = append(want, "DashboardName")
	}
	if s.given["CallerTarget"] != "" {
		want = append(want, "CallerPolicyArn")
	}
	if s.given["SecretArn"] == "" {
		want = append(want, "FillSecretCommand")
	}
	p.wantAll("output", slices.Collect(maps.Keys(s.outputs)), want)
	p.want("the list of targets", at(s.outputs, "AllowedTargets", "Value"), `{"Ref": "AllowedTargets"}`)
}

func parametersAskForTargets(s stack, p *problems) {
	var required []string
	for name, parameter := range s.parameters {
		if at(parameter, "Default") == nil {
			required = append(required, name)
		}
		if description, _ := at(parameter, "Description").(string); description == "" {
			p.add("parameter %s has no description", name)
		}
	}
	p.wantAll("parameter without a default", required, []string{"AllowedTargets"})
	p.want("the architecture", at(s.parameters, "Architecture", "Default"), `"arm64"`)
	p.want("the architectures that it takes", at(s.parameters, "Architecture", "AllowedValues"), `["arm64"]`)
}

func patternsRefuseTypingErrors(t *testing.T, s stack, p *problems) {
	type examples struct{ Accepted, Refused []string }
	key := examples{
		[]string{"", keyARN},
		[]string{"alias/pat", strings.Replace(keyARN, "key/", "alias/", 1), keyARN + "*"},
	}
	all := map[string]examples{
		"AllowedTargets": {
			[]string{"orgs/acme", "orgs/*", "orgs/acme,repos/acme/*",
				" orgs/a_b, repos/acme/wid.gets,\n enterprises/acme-corp ", "enterprises/*"},
			[]string{"", "*", "orgs/Acme", "acme", "repos/*", "repos/acme", "orgs/acme/*", "orgs/acme,", "orgs/a,,orgs/b",
				"orgs/ac*", "org/acme", "orgs/acme repos/acme/widgets"},
		},
		"CallerTarget": {
			[]string{"", "orgs/acme", "repos/acme/.github", "enterprises/acme-corp"},
			[]string{"orgs/*", "repos/acme/*", "orgs/Acme", "repos/acme", "acme", "orgs/acme,orgs/b", "orgs/acme/", "orgs/acm?"},
		},
		"SecretArn": {
			[]string{"", secretARN, "arn:aws-us-gov:secretsmanager:us-gov-west-1:123456789012:secret:x-Abc123",
				"arn:aws:secretsmanager:eu-central-1:123456789012:secret:github-runner-abcdef"},
			[]string{"runners/github-pat", strings.TrimSuffix(secretARN, "-a1B2c3"), secretARN + "*",
				strings.TrimSuffix(secretARN, "a1B2c3") + "??????", secretARN + ":token::",
				"arn:aws:secretsmanager:eu-central-1:123456789012:secret:github-runner",
				"arn:aws:secretsmanager:eu-central-1:123456789012:secret:acme/pat-github"},
		},
		"SecretKmsKeyArn": key,
		"LogKmsKeyArn":    key,
		"AppKmsKeyArn":    key,
		"GitHubApiUrl": {
			[]string{"https://api.github.com", "https://github.example.com/api/v3",
				"https://github.example.com:8443/api/v3/", "https://api.acme.ghe.com"},
			[]string{"", "http://github.example.com/api/v3", "https://user@github.com", "https://api.github.com?x=1",
				"https://github.com/acme", "https://github.com", "https://github.example.com", "https://acme.ghe.com"},
		},
		"GitHubCaCertificates": {
			[]string{"", "LS0tLS1CRUdJTg==", "# Acme\n-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----\n",
				`-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----\n`},
			[]string{"/etc/ssl/certs/ca.pem", "-----BEGIN", "LS0t LS1C", "file://ca.pem"},
		},
		"GitHubApiVersion": {[]string{"2022-11-28", "2026-03-10"}, []string{"", "latest", "2022-11"}},
		"SecretTtl":        {[]string{"30s", "5m", "1h30m"}, []string{"", "0s", "5", "-5m", "5 m"}},
		"TokenMinLife":     {[]string{"10m", "1h", "1h30m"}, []string{"", "0m", "30s", "30"}},
		"HttpsProxy": {
			[]string{"", "http://proxy.example.com:3128", "http://10.0.0.1", "https://user:pass@proxy.example.com:8443/",
				"socks5://proxy.example.com:1080", "http://[fd00::1]:3128"},
			[]string{"proxy.example.com:3128", "http://", "http://proxy .example.com", "ftp://proxy.example.com",
				"http://proxy.example.com:port", " http://proxy.example.com", "http://user@pass@proxy"},
		},
		"NoProxy": {
			[]string{"", ".amazonaws.com", "github.example.com, 10.0.0.0/8,*,[::1]:80", "fd00::/8"},
			[]string{"a b", "http://x", "user@host", "x/y", ",a"},
		},
		"SecretsManagerEndpoint": {
			[]string{"", "https://vpce-1.secretsmanager.eu-central-1.vpce.amazonaws.com", "https://sm.example.com:8443/"},
			[]string{"vpce-1.amazonaws.com", "http://vpce-1.amazonaws.com", "https://", "https://sm.example.com/path",
				"https://user@sm.example.com"},
		},
		"PermissionsBoundaryArn": {
			[]string{"", boundary, "arn:aws-cn:iam::aws:policy/PowerUserAccess"},
			[]string{"runners", "arn:aws:iam::123456789012:role/x", boundary + "*"},
		},
		"RolePath": {
			[]string{"/", "/runners/", "/acme/ci-cd/"},
			[]string{"", "runners", "/runners", "runners/", "//", "/a b/"},
		},
		"CheckSchedule": {
			[]string{"", "rate(6 hours)", "rate(1 day)", "cron(0 6 * * ? *)"},
			[]string{"6 hours", "rate(0 hours)", "rate(6 h)", "hourly", "cron()", "at(2026-11-26T00:00:00)"},
		},
		"AlarmTopicArn": {[]string{"", topicARN}, []string{"alarms", "arn:aws:sqs:eu-central-1:123456789012:alarms"}},
	}
	// What the template accepts, the function must start with.
	for name, check := range map[string]func(string) error{
		"AllowedTargets":         func(v string) error { _, err := runner.ParsePolicy(v); return err },
		"SecretArn":              func(v string) error { _, err := secretsmanager.ParseID(v, ""); return err },
		"GitHubApiUrl":           func(v string) error { _, err := github.ParseAPI(v); return err },
		"HttpsProxy":             network.CheckProxy,
		"NoProxy":                network.CheckNoProxy,
		"SecretsManagerEndpoint": network.CheckEndpoint,
	} {
		for _, v := range all[name].Accepted {
			if err := check(v); err != nil && v != "" {
				p.add("parameter %s accepts %q, and the function does not: %v", name, v, err)
			}
		}
	}
	// The patterns are Java's, which Python's resemble: Go's have no (?!...).
	in, err := json.Marshal(map[string]any{"parameters": s.parameters, "examples": all})
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), rig.Tool(t, "python"), "-c", matchAll)
	cmd.Stdin = bytes.NewReader(in)
	*p = append(*p, strings.FieldsFunc(rig.Output(t, cmd), func(r rune) bool { return r == '\n' })...)
}

const matchAll = `
import json, re, sys
given = json.load(sys.stdin)
for name, examples in given["examples"].items():
    pattern = given["parameters"].get(name, {}).get("AllowedPattern")
    if pattern is None:
        print(f"parameter {name} has no pattern")
        continue
    for said, values, want in ("refuses", examples["Accepted"], True), ("accepts", examples["Refused"], False):
        for value in values:
            if bool(re.fullmatch(pattern, value)) != want:
                print(f"parameter {name} {said} {value!r}")
`
