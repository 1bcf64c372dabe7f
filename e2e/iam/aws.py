"""Stands in for the AWS CLI, which would bring a botocore of another version: one operation, as botocore's models have
it, called at AWS_ENDPOINT_URL. The names of the operation and of its options are AWS's own or an error."""

import json
import sys

import botocore.session
import jmespath
from botocore import xform_name

service, operation, *rest = sys.argv[1:]
options = dict(zip(rest[::2], rest[1::2], strict=True))
query, output = options.pop("--query", "@"), options.pop("--output", "json")

client = botocore.session.get_session().create_client(service)
names = {xform_name(name, "-"): name for name in client.meta.service_model.operation_names}
members = client.meta.service_model.operation_model(names[operation]).input_shape.members
arguments = {}
for option, value in options.items():
    name = {"--" + xform_name(m, "-"): m for m in members}[option]
    arguments[name] = int(value) if members[name].type_name == "integer" else value

answer = getattr(client, xform_name(names[operation]))(**arguments)
del answer["ResponseMetadata"]
answer = jmespath.search(query, answer)
if output == "text":
    print("\t".join(answer) if isinstance(answer, list) else answer)
else:
    print(json.dumps(answer, default=str))
