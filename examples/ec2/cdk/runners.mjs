// The launch template of ../template.yaml, for the CDK. It reads three variables of the environment: CALLER_POLICY_ARN
// is the broker's output CallerPolicyArn, VPC_ID the runners' VPC, USER_DATA the file that make user-data wrote.
//
//   npm install aws-cdk-lib constructs && npx cdk deploy --app 'node runners.mjs'
import { readFileSync } from 'node:fs'
import { App, CfnOutput, Stack, Tags, aws_ec2 as ec2, aws_iam as iam } from 'aws-cdk-lib'

class Runners extends Stack {
  constructor(scope, id, { callerPolicyArn, vpcId, userData, ...props }) {
    super(scope, id, props)

    // Jobs can use this role too, so it must not be able to do more.
    const role = new iam.Role(this, 'Role', {
      assumedBy: new iam.ServicePrincipal('ec2.amazonaws.com'),
      managedPolicies: [iam.ManagedPolicy.fromManagedPolicyArn(this, 'CallerPolicy', callerPolicyArn)],
    })
    const securityGroup = new ec2.SecurityGroup(this, 'SecurityGroup', {
      vpc: ec2.Vpc.fromVpcAttributes(this, 'Vpc', { vpcId, availabilityZones: ['not used'] }),
      description: 'GitHub runners, nothing comes in',
    })
    const launchTemplate = new ec2.LaunchTemplate(this, 'LaunchTemplate', {
      role,
      securityGroup,
      machineImage: ec2.MachineImage.latestAmazonLinux2023(),
      instanceType: new ec2.InstanceType('m7i.large'),
      instanceInitiatedShutdownBehavior: ec2.InstanceInitiatedShutdownBehavior.TERMINATE,
      requireImdsv2: true,
      httpPutResponseHopLimit: 1,
      blockDevices: [{
        deviceName: '/dev/xvda', // of the image; /dev/sda1 for Ubuntu and Windows
        volume: ec2.BlockDeviceVolume.ebs(40, {
          encrypted: true,
          volumeType: ec2.EbsDeviceVolumeType.GP3,
          deleteOnTermination: true,
        }),
      }],
    })
    // Not ec2.UserData: it is text, and what cloud-init unpacks is not.
    launchTemplate.node.defaultChild.addPropertyOverride('LaunchTemplateData.UserData', userData.toString('base64'))
    Tags.of(this).add('Name', id)
    new CfnOutput(this, 'LaunchTemplateId', { value: launchTemplate.launchTemplateId })
    new CfnOutput(this, 'LaunchTemplateVersion', { value: launchTemplate.latestVersionNumber })
  }
}

for (const name of ['CALLER_POLICY_ARN', 'VPC_ID', 'USER_DATA']) {
  if (!process.env[name]) throw new Error(`${name} is not set`)
}
const { CALLER_POLICY_ARN, VPC_ID, USER_DATA } = process.env
new Runners(new App(), 'runners', {
  callerPolicyArn: CALLER_POLICY_ARN,
  vpcId: VPC_ID,
  userData: readFileSync(USER_DATA),
})
