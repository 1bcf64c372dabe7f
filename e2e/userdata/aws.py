"""Stands in for the AWS CLI in the commands for EC2: what they say is done by botocore at AWS_ENDPOINT_URL.

Four commands are its own. "ec2 setup" makes the caller policy and prints variables of the shell, "ec2 outputs" prints
those of the stack, "ec2 launched" prints what the launch template and its instance have, and "ec2 attributes" what any
instance has.
"""

import argparse
import json
import sys

import botocore.session


def client(service):
    return botocore.session.get_session().create_client(service)


def pairs(texts):
    return dict(text.split("=", 1) for text in texts)


def deploy(options):
    with open(options.template_file) as template:
        client("cloudformation").create_stack(
            StackName=options.stack_name,
            TemplateBody=template.read(),
            Capabilities=options.capabilities,
            Parameters=[
                {"ParameterKey": k, "ParameterValue": v} for k, v in pairs(options.parameter_overrides).items()
            ],
        )


def user_data(url):  # the CLI reads file:// as text, and so refuses what is packed
    scheme, path = url.split("://")
    with open(path, {"file": "r", "fileb": "rb"}[scheme]) as file:
        return file.read()


def run_instances(options):
    arguments = {
        "LaunchTemplate": options.launch_template and pairs(options.launch_template.split(",")),
        "SubnetId": options.subnet_id,
        "ImageId": options.image_id,
        "IamInstanceProfile": options.iam_instance_profile and pairs([options.iam_instance_profile]),
        "InstanceInitiatedShutdownBehavior": options.instance_initiated_shutdown_behavior,
        "UserData": options.user_data and user_data(options.user_data),
    }
    given = {name: value for name, value in arguments.items() if value is not None}
    client("ec2").run_instances(MinCount=1, MaxCount=1, **given)


def setup(options):
    statement = {"Effect": "Allow", "Action": "execute-api:Invoke", "Resource": "*"}
    document = {"Version": "2012-10-17", "Statement": statement}
    policy = client("iam").create_policy(PolicyName="caller", PolicyDocument=json.dumps(document))["Policy"]
    subnet = client("ec2").describe_subnets()["Subnets"][0]
    client("iam").create_instance_profile(InstanceProfileName="runner")
    image = client("ec2").describe_images()["Images"][0]["ImageId"]
    print(f"CALLER_POLICY_ARN={policy['Arn']} VPC_ID={subnet['VpcId']} SUBNET_ID={subnet['SubnetId']}")
    print(f"IMAGE_ID={image} INSTANCE_PROFILE=runner")


def outputs(options):
    outputs = client("cloudformation").describe_stacks(StackName="runners")["Stacks"][0]["Outputs"]
    print("LAUNCH_TEMPLATE_ID=" + {o["OutputKey"]: o["OutputValue"] for o in outputs}["LaunchTemplateId"])


def launched(options):
    ec2 = client("ec2")
    template = ec2.describe_launch_templates()["LaunchTemplates"][0]["LaunchTemplateId"]
    versions = ec2.describe_launch_template_versions(LaunchTemplateId=template, Versions=["$Latest"])
    data = versions["LaunchTemplateVersions"][0]["LaunchTemplateData"]
    out = {
        "Data": data,
        "Instance": ec2.describe_instances()["Reservations"][0]["Instances"][0],
        "Groups": ec2.describe_security_groups(GroupIds=data["SecurityGroupIds"])["SecurityGroups"],
    }
    json.dump(out, sys.stdout, default=str)


def attributes(options):
    ec2 = client("ec2")
    instance = ec2.describe_instances()["Reservations"][0]["Instances"][0]["InstanceId"]
    out = {}
    for name in "userData", "instanceInitiatedShutdownBehavior":
        key = name[0].upper() + name[1:]
        out[key] = ec2.describe_instance_attribute(InstanceId=instance, Attribute=name)[key]["Value"]
    json.dump(out, sys.stdout)


parser = argparse.ArgumentParser(allow_abbrev=False)
parser.add_argument("service")
operations = parser.add_subparsers(required=True)
command = operations.add_parser("deploy", allow_abbrev=False)
command.set_defaults(run=deploy)
command.add_argument("--stack-name", required=True)
command.add_argument("--template-file", required=True)
command.add_argument("--capabilities", nargs="+")
command.add_argument("--parameter-overrides", nargs="+")
command = operations.add_parser("run-instances", allow_abbrev=False)
command.set_defaults(run=run_instances)
for option in (
    "--launch-template",
    "--subnet-id",
    "--image-id",
    "--iam-instance-profile",
    "--instance-initiated-shutdown-behavior",
    "--user-data",
):
    command.add_argument(option)
for run in setup, outputs, launched, attributes:
    operations.add_parser(run.__name__).set_defaults(run=run)
options = parser.parse_args()
options.run(options)
