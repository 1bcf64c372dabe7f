# The launch template of ../template.yaml, for Terraform and OpenTofu.

terraform {
  required_providers {
    aws = { source = "hashicorp/aws", version = ">= 5.0" }
  }
}

variable "caller_policy_arn" {
  description = "The broker's output CallerPolicyArn, the only policy that the instances get"
  type        = string
}

variable "vpc_id" {
  type = string
}

variable "image_id" {
  description = "An image of Amazon Linux 2023, Ubuntu 22.04 or 24.04, or Debian 12"
  type        = string
}

variable "root_device_name" {
  description = "The image's root device, /dev/sda1 for Ubuntu"
  type        = string
  default     = "/dev/xvda"
}

variable "instance_type" {
  type    = string
  default = "m7i.large"
}

resource "aws_launch_template" "runner" {
  name_prefix                          = "runner-"
  image_id                             = var.image_id
  instance_type                        = var.instance_type
  instance_initiated_shutdown_behavior = "terminate" # its default would be to stop
  vpc_security_group_ids               = [aws_security_group.runner.id]
  user_data                            = local.user_data
  update_default_version               = true

  iam_instance_profile {
    arn = aws_iam_instance_profile.runner.arn
  }
  metadata_options {
    http_tokens                 = "required"
    http_put_response_hop_limit = 1 # jobs in containers cannot get the role's credentials
  }
  block_device_mappings {
    device_name = var.root_device_name
    ebs {
      volume_size           = 40
      volume_type           = "gp3"
      encrypted             = true
      delete_on_termination = true
    }
  }
  tag_specifications {
    resource_type = "instance"
    tags          = { Name = "runner" }
  }
  tag_specifications {
    resource_type = "volume"
    tags          = { Name = "runner" }
  }
}

# Jobs can use this role too, so it must not be able to do more.
resource "aws_iam_role" "runner" {
  name_prefix = "runner-"
  assume_role_policy = jsonencode({
    Version = "2012-10-17"
    Statement = [{
      Effect    = "Allow"
      Principal = { Service = "ec2.amazonaws.com" }
      Action    = "sts:AssumeRole"
    }]
  })
}

resource "aws_iam_role_policy_attachment" "caller" {
  role       = aws_iam_role.runner.name
  policy_arn = var.caller_policy_arn
}

resource "aws_iam_instance_profile" "runner" {
  name_prefix = "runner-"
  role        = aws_iam_role.runner.name
}

# Terraform takes away AWS's own rule that everything may go out.
resource "aws_security_group" "runner" {
  name_prefix = "runner-"
  description = "GitHub runners, nothing comes in"
  vpc_id      = var.vpc_id
  egress {
    from_port        = 0
    to_port          = 0
    protocol         = "-1"
    cidr_blocks      = ["0.0.0.0/0"]
    ipv6_cidr_blocks = ["::/0"]
  }
}

output "launch_template_id" {
  value = aws_launch_template.runner.id
}
