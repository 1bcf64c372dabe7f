package template_test

import (
	"maps"
	"regexp"
	"slices"
	"testing"

	"runner-token-broker/e2e/rig"
)

const (
	machine        = "Resources/ScaleOut/Properties/"
	scaleOutRole   = "Resources/ScaleOutRole/Properties/"
	scaleOutRights = scaleOutRole + "Policies/0/PolicyDocument/Statement/"

	self = `{"Fn::Sub": "arn:${AWS::Partition}:states:${AWS::Region}:${AWS::AccountId}:stateMachine:${AWS::StackName}"}`
)

// What the state machine of the example may do, and where the token that it handles is not to be read.
func TestScaleOutTemplate(t *testing.T) {
	t.Parallel()
	hold(t, scaleOut, []situation{
		{"by the function", nil},
		{"by the API", map[string]string{"ApiId": "a1b2c3d4e5"}},
	}, []check{
		{"executions are encrypted with its own key", executionsAreEncrypted, []mistake{
			{"AWS's key", machine + "EncryptionConfiguration/Type", `"AWS_OWNED_KEY"`},
			{"another key", machine + "EncryptionConfiguration/KmsKeyId", `{"Ref": "TaskRoleArns"}`},
		}},
		{"the log has no data", logHasNoData, []mistake{
			{"the data in the log", machine + "LoggingConfiguration/IncludeExecutionData", `true`},
			{"a setting that is missing", machine + "LoggingConfiguration/IncludeExecutionData", ""},
		}},
		{"the definition gets what it asks for", func(s stack, p *problems) { definitionGetsItsValues(t, s, p) }, []mistake{
			{"another definition", machine + "DefinitionS3Location", `"scale-out-apigateway.asl.json"`},
			{"no value for a substitution", machine + "DefinitionSubstitutions/AssignPublicIp", ""},
			{"a value that is not asked for", machine + "DefinitionSubstitutions/PublicIp", `"ENABLED"`},
		}},
		{"the role has the rights it needs", machineHasItsRights, []mistake{
			{"every function", scaleOutRights + "0/Fn::If/2/Resource", `"*"`},
			{"every path of the API", scaleOutRights + "0/Fn::If/1/Resource",
				`{"Fn::Sub": "arn:${AWS::Partition}:execute-api:${AWS::Region}:${AWS::AccountId}:${ApiId}/$default/POST/*"}`},
			{"every task definition", scaleOutRights + "1/Resource", `"*"`},
			{"every cluster", scaleOutRights + "1/Condition", ""},
			{"more of ECS", scaleOutRights + "1/Action", `"ecs:*"`},
			{"roles for other services", scaleOutRights + "2/Condition/StringEquals/iam:PassedToService", `"ec2.amazonaws.com"`},
			{"other state machines' data", scaleOutRights + "4/Condition", ""},
			{"a managed policy", scaleOutRole + "ManagedPolicyArns", `["arn:aws:iam::aws:policy/AmazonECS_FullAccess"]`},
		}},
		{"Step Functions alone takes the role", stepFunctionsAloneTakesTheRole, []mistake{
			{"everybody", scaleOutRole + "AssumeRolePolicyDocument/Statement/0/Principal", `{"AWS": "*"}`},
			{"every state machine", scaleOutRole + "AssumeRolePolicyDocument/Statement/0/Condition", ""},
		}},
	})
}

func executionsAreEncrypted(s stack, p *problems) {
	p.want("the encryption", at(s.properties("ScaleOut"), "EncryptionConfiguration"), `{"Type": "CUSTOMER_MANAGED_KMS_KEY",
		"KmsKeyId": {"Fn::GetAtt": ["Key", "Arn"]}, "KmsDataKeyReusePeriodSeconds": 300}`)
}

func logHasNoData(s stack, p *problems) {
	p.want("data in the log", at(s.properties("ScaleOut"), "LoggingConfiguration", "IncludeExecutionData"), `false`)
}

func definitionGetsItsValues(t *testing.T, s stack, p *problems) {
	p.want("the definition", at(s.properties("ScaleOut"), "DefinitionS3Location"), `"scale-out.asl.json"`)
	var want []string
	for _, file := range []string{"scale-out.asl.json", "scale-out-apigateway.asl.json"} {
		text := rig.ReadFile(t, rig.Root+"/examples/step-functions/"+file)
		for _, name := range regexp.MustCompile(`\$\{(\w+)\}`).FindAllStringSubmatch(text, -1) {
			want = append(want, name[1])
		}
	}
	slices.Sort(want)
	given, _ := at(s.properties("ScaleOut"), "DefinitionSubstitutions").(map[string]any)
	p.wantAll("substitution", slices.Collect(maps.Keys(given)), slices.Compact(want))
}

func machineHasItsRights(s stack, p *problems) {
	tokens := `{"Sid": "GetTokens", "Effect": "Allow", "Action": "lambda:InvokeFunction",
		"Resource": {"Ref": "FunctionArn"}}`
	if s.given["ApiId"] != "" {
		tokens = `{"Sid": "GetTokensOfTheTarget", "Effect": "Allow", "Action": "execute-api:Invoke", "Resource": {"Fn::Sub":
			"arn:${AWS::Partition}:execute-api:${AWS::Region}:${AWS::AccountId}:${ApiId}` +
			`/$default/POST/${Target}/actions/runners/registration-token"}}`
	}
	const key = `"Resource": {"Fn::GetAtt": ["Key", "Arn"]}`
	p.wantRights(s.properties("ScaleOutRole"), []string{
		tokens,
		`{"Sid": "StartRunners", "Effect": "Allow", "Action": "ecs:RunTask", "Resource": {"Ref": "TaskDefinitionArn"},
			"Condition": {"ArnEquals": {"ecs:cluster": {"Ref": "ClusterArn"}}}}`,
		`{"Sid": "GiveRunnersTheirRoles", "Effect": "Allow", "Action": "iam:PassRole", "Resource": {"Ref": "TaskRoleArns"},
			"Condition": {"StringEquals": {"iam:PassedToService": "ecs-tasks.amazonaws.com"}}}`,
		`{"Sid": "TellOperators", "Effect": "Allow", "Action": "sns:Publish", "Resource": {"Ref": "AlarmTopicArn"}}`,
		`{"Sid": "EncryptItsExecutions", "Effect": "Allow", "Action": ["kms:Decrypt", "kms:GenerateDataKey"], ` + key + `,
			"Condition": {"StringEquals": {"kms:EncryptionContext:aws:states:stateMachineArn": ` + self + `}}}`,
		`{"Sid": "EncryptItsLogOnTheWay", "Effect": "Allow", "Action": "kms:GenerateDataKey", ` + key + `,
			"Condition": {"StringEquals": {"kms:EncryptionContext:SourceArn":
				{"Fn::Sub": "arn:${AWS::Partition}:logs:${AWS::Region}:${AWS::AccountId}:*"}}}}`,
		`{"Sid": "DeliverItsLog", "Effect": "Allow", "Resource": "*", "Action": [
			"logs:CreateLogDelivery", "logs:GetLogDelivery", "logs:UpdateLogDelivery", "logs:DeleteLogDelivery",
			"logs:ListLogDeliveries", "logs:PutResourcePolicy", "logs:DescribeResourcePolicies", "logs:DescribeLogGroups"]}`,
	})
}

func stepFunctionsAloneTakesTheRole(s stack, p *problems) {
	p.want("the role's trust", at(s.properties("ScaleOutRole"), "AssumeRolePolicyDocument", "Statement"), `[{
		"Effect": "Allow", "Principal": {"Service": "states.amazonaws.com"}, "Action": "sts:AssumeRole",
		"Condition": {"StringEquals": {"aws:SourceAccount": {"Ref": "AWS::AccountId"}},
			"ArnEquals": {"aws:SourceArn": `+self+`}}}]`)
}
