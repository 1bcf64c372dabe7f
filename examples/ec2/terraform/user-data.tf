# User data for Linux, without make: the settings before the script, in gzip, which cloud-init unpacks.
#
# Not templatefile("linux.sh", {}): it would take every dollar sign with a brace for its own. For Windows, and for lines
# of your own, let make user-data write a file, and set user_data = filebase64("user-data").

variable "api_url" {
  description = "The broker's output ApiUrl"
  type        = string
  validation {
    condition     = can(regex("^https://[A-Za-z0-9.-]+(:[0-9]+)?(/[A-Za-z0-9._-]+)*/?$", var.api_url))
    error_message = "api_url must be the stack's output ApiUrl, https://..."
  }
}

variable "target" {
  description = "Where the runners register: orgs/ORG, repos/OWNER/REPOSITORY or enterprises/ENTERPRISE, in lower case"
  type        = string
  validation {
    condition = can(regex(
      "^((orgs|enterprises)/[a-z0-9][a-z0-9_-]*|repos/[a-z0-9][a-z0-9_-]*/[a-z0-9._-]+)$", var.target
    ))
    error_message = "target must be orgs/ORG, repos/OWNER/REPOSITORY or enterprises/ENTERPRISE, in lower case."
  }
}

variable "region" {
  description = "The API's Region"
  type        = string
  validation {
    condition     = can(regex("^[a-z]{2}(-[a-z]+)+-[0-9]+$", var.region))
    error_message = "region must be the API's AWS Region, such as eu-central-1."
  }
}

variable "settings" {
  description = "More settings of linux.sh: { RUNNER_LABELS = \"gpu\" }"
  type        = map(string)
  default     = {}
  validation {
    condition = alltrue([
      for name, value in var.settings : can(regex("^RUNNER_[A-Z0-9_]+$", name)) && !can(regex("['\n]", value))
    ])
    error_message = "settings must have names of linux.sh, RUNNER_..., and values on one line, without single quotes."
  }
}

locals {
  settings = merge({ API_URL = var.api_url, TARGET = var.target, REGION = var.region }, var.settings)
  user_data = base64gzip(join("\n", concat(
    ["#!/usr/bin/env bash"],
    [for name, value in local.settings : "export ${name}='${value}'"],
    [file("${path.module}/../../user-data/linux.sh")],
  )))
}
