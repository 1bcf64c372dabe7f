"""Translates templates as SAM does before it hands them to CloudFormation.

Reads a JSON list from stdin: each template as its text in YAML, or as JSON already. Prints a JSON list of the templates
with their intrinsic functions in the long form ("source"), and what SAM makes of them ("translated") or why it makes
nothing of them ("error").
"""

import copy
import json
import logging
import os
import sys

os.environ.setdefault("AWS_DEFAULT_REGION", "eu-central-1")  # samtranslator asks boto3 for a Region

from samtranslator.translator.transform import transform  # noqa: E402
from samtranslator.yaml_helper import yaml_parse  # noqa: E402

logging.disable(logging.WARNING)  # it warns of metrics, which are not collected


class NoManagedPolicies:
    """In place of a list from AWS: the templates do not name managed policies by their short names."""

    def load(self):
        return {}


def translate(template):
    source = yaml_parse(template) if isinstance(template, str) else template
    uploaded = copy.deepcopy(source)
    for resource in uploaded["Resources"].values():
        if resource["Type"] == "AWS::Serverless::Function":
            resource["Properties"]["CodeUri"] = "s3://bucket/key"
    try:
        return {"source": source, "translated": transform(uploaded, {}, NoManagedPolicies())}
    except Exception as e:  # samtranslator's errors have no common type
        return {"source": source, "error": str(e)}


json.dump([translate(template) for template in json.load(sys.stdin)], sys.stdout)
