package template_test

import (
	"testing"
)

const (
	launch        = "Resources/LaunchTemplate/Properties/LaunchTemplateData/"
	instanceRole  = "Resources/Role/Properties/"
	instanceGroup = "Resources/SecurityGroup/Properties/"
)

// What the instances may do, who may reach them, and that nothing is left of them.
func TestEC2Template(t *testing.T) {
	t.Parallel()
	hold(t, ec2, []situation{
		{"with defaults", map[string]string{"CallerPolicyArn": "arn:aws:iam::123456789012:policy/caller"}},
	}, []check{
		{"the role has the caller policy alone", instancesHaveTheCallerPolicy, []mistake{
			{"a second policy", instanceRole + "ManagedPolicyArns",
				`[{"Ref": "CallerPolicyArn"}, "arn:aws:iam::aws:policy/AmazonSSMManagedInstanceCore"]`},
			{"another policy", instanceRole + "ManagedPolicyArns/0", `"arn:aws:iam::aws:policy/AdministratorAccess"`},
			{"no policy", instanceRole + "ManagedPolicyArns", ""},
			{"a policy of its own", instanceRole + "Policies", `[{"PolicyName": "x", "PolicyDocument": {"Statement": []}}]`},
			{"everybody's role", instanceRole + "AssumeRolePolicyDocument/Statement/0/Principal", `{"AWS": "*"}`},
			{"another service's role", instanceRole + "AssumeRolePolicyDocument/Statement/0/Principal/Service",
				`"lambda.amazonaws.com"`},
			{"another role in the profile", "Resources/InstanceProfile/Properties/Roles/0", `"admin"`},
			{"another profile", launch + "IamInstanceProfile", `{"Name": "admin"}`},
		}},
		{"IMDSv2 is required, one hop away", imdsIsGuarded, []mistake{
			{"IMDSv1", launch + "MetadataOptions/HttpTokens", `"optional"`},
			{"two hops", launch + "MetadataOptions/HttpPutResponseHopLimit", `2`},
			{"the Region's defaults", launch + "MetadataOptions", ""},
			{"no IMDS", launch + "MetadataOptions/HttpEndpoint", `"disabled"`},
		}},
		{"a shutdown ends everything", nothingIsLeft, []mistake{
			{"an instance that stops", launch + "InstanceInitiatedShutdownBehavior", `"stop"`},
			{"the default, which is to stop", launch + "InstanceInitiatedShutdownBehavior", ""},
			{"a disk that stays", launch + "BlockDeviceMappings/0/Ebs/DeleteOnTermination", `false`},
			{"protection from termination", launch + "DisableApiTermination", `true`},
			{"protection from stopping", launch + "DisableApiStop", `true`},
		}},
		{"nothing comes in", nothingComesIn, []mistake{
			{"SSH", instanceGroup + "SecurityGroupIngress",
				`[{"IpProtocol": "tcp", "FromPort": 22, "ToPort": 22, "CidrIp": "0.0.0.0/0"}]`},
			{"a rule beside it", "Resources/Ingress",
				`{"Type": "AWS::EC2::SecurityGroupIngress", "Properties": {"IpProtocol": "-1"}}`},
			{"another group", launch + "SecurityGroupIds/0", `"sg-0a1b2c3d"`},
			{"a second group", launch + "SecurityGroupIds", `[{"Fn::GetAtt": ["SecurityGroup", "GroupId"]}, "sg-0a1b2c3d"]`},
			{"the VPC's default group", launch + "SecurityGroupIds", ""},
			{"an interface with a group of its own", launch + "NetworkInterfaces",
				`[{"DeviceIndex": 0, "Groups": ["sg-0a1b2c3d"]}]`},
			{"a key to log in", launch + "KeyName", `"me"`},
		}},
		{"the disk is encrypted", diskIsEncrypted, []mistake{
			{"a plain disk", launch + "BlockDeviceMappings/0/Ebs/Encrypted", `false`},
			{"the Region's default", launch + "BlockDeviceMappings/0/Ebs/Encrypted", ""},
			{"another device", launch + "BlockDeviceMappings/0/DeviceName", `"/dev/sdb"`},
			{"a second disk", launch + "BlockDeviceMappings", `[
				{"DeviceName": {"Ref": "RootDeviceName"}, "Ebs": {"Encrypted": true, "DeleteOnTermination": true}},
				{"DeviceName": "/dev/sdb", "Ebs": {"VolumeSize": 8}}]`},
		}},
		{"everything has the stack's name", everythingIsTagged, []mistake{
			{"volumes without it", launch + "TagSpecifications/1/ResourceType", `"instance"`},
			{"instances without it", launch + "TagSpecifications/0/Tags", `[]`},
			{"a launch template without it", "Resources/LaunchTemplate/Properties/TagSpecifications", ""},
			{"a security group without it", instanceGroup + "Tags", ""},
		}},
	})
}

func instancesHaveTheCallerPolicy(s stack, p *problems) {
	role := s.properties("Role")
	p.want("managed policies", at(role, "ManagedPolicyArns"), `[{"Ref": "CallerPolicyArn"}]`)
	p.want("own policies", at(role, "Policies"), `null`)
	p.want("the role's trust", at(role, "AssumeRolePolicyDocument", "Statement"),
		`[{"Effect": "Allow", "Principal": {"Service": "ec2.amazonaws.com"}, "Action": "sts:AssumeRole"}]`)
	p.want("the profile's role", at(s.properties("InstanceProfile"), "Roles"), `[{"Ref": "Role"}]`)
	p.want("the profile", launchData(s, "IamInstanceProfile"), `{"Arn": {"Fn::GetAtt": ["InstanceProfile", "Arn"]}}`)
}

func imdsIsGuarded(s stack, p *problems) {
	p.want("IMDS", launchData(s, "MetadataOptions"), `{"HttpTokens": "required", "HttpPutResponseHopLimit": 1}`)
}

func nothingIsLeft(s stack, p *problems) {
	p.want("a shutdown", launchData(s, "InstanceInitiatedShutdownBehavior"), `"terminate"`)
	p.want("the disk", launchData(s, "BlockDeviceMappings", "0", "Ebs", "DeleteOnTermination"), `true`)
	p.want("protection from termination", launchData(s, "DisableApiTermination"), `null`)
	p.want("protection from stopping", launchData(s, "DisableApiStop"), `null`)
}

func nothingComesIn(s stack, p *problems) {
	p.want("the group's rules", at(s.properties("SecurityGroup"), "SecurityGroupIngress"), `null`)
	p.want("rules beside it", s.ofType("AWS::EC2::SecurityGroupIngress"), `{}`)
	p.want("the groups", launchData(s, "SecurityGroupIds"), `[{"Fn::GetAtt": ["SecurityGroup", "GroupId"]}]`)
	p.want("interfaces", launchData(s, "NetworkInterfaces"), `null`)
	p.want("keys", launchData(s, "KeyName"), `null`)
}

func diskIsEncrypted(s stack, p *problems) {
	p.want("encryption", launchData(s, "BlockDeviceMappings", "0", "Ebs", "Encrypted"), `true`)
	p.want("the device", launchData(s, "BlockDeviceMappings", "0", "DeviceName"), `{"Ref": "RootDeviceName"}`)
	p.want("a second disk", launchData(s, "BlockDeviceMappings", "1"), `null`)
}

func everythingIsTagged(s stack, p *problems) {
	const name = `[{"Key": "Name", "Value": {"Ref": "AWS::StackName"}}]`
	p.want("what instances have", launchData(s, "TagSpecifications"),
		`[{"ResourceType": "instance", "Tags": `+name+`}, {"ResourceType": "volume", "Tags": `+name+`}]`)
	p.want("what the launch template has", at(s.properties("LaunchTemplate"), "TagSpecifications"),
		`[{"ResourceType": "launch-template", "Tags": `+name+`}]`)
	p.want("what the group has", at(s.properties("SecurityGroup"), "Tags"), name)
}

func launchData(s stack, path ...string) any {
	return at(s.properties("LaunchTemplate"), append([]string{"LaunchTemplateData"}, path...)...)
}
