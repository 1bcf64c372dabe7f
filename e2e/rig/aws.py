"""Stands in for the AWS CLI 2, which would bring a botocore of another version: one operation, as botocore's models
have it, called at AWS_ENDPOINT_URL. The names of the operation and of its options are AWS's own or an error."""

import json
import sys

import botocore.session
import jmespath
from botocore import xform_name

session = botocore.session.get_session()

if sys.argv[1:] == ["configure", "export-credentials", "--format", "env"]:
    keys = session.get_credentials().get_frozen_credentials()
    print(f"export AWS_ACCESS_KEY_ID={keys.access_key}\nexport AWS_SECRET_ACCESS_KEY={keys.secret_key}")
    if keys.token:
        print(f"export AWS_SESSION_TOKEN={keys.token}")
    sys.exit()

service, operation, *rest = sys.argv[1:]
file = rest.pop() if [service, operation] == ["lambda", "invoke"] else None  # for the payload that comes back
options = {}
for word in rest:
    if word.startswith("--"):
        values = options.setdefault(word, [])
    else:
        values.append(word)
query, output = options.pop("--query", ["@"])[0], options.pop("--output", ["json"])[0]
region = options.pop("--region", [None])[0]
if options.pop("--cli-binary-format", ["raw-in-base64-out"]) != ["raw-in-base64-out"]:
    sys.exit("this stand-in takes binary values as they are")

client = session.create_client(service, region_name=region)
names = {xform_name(name, "-"): name for name in client.meta.service_model.operation_names}
members = client.meta.service_model.operation_model(names[operation]).input_shape.members
arguments = {}
for option, values in options.items():
    name = {"--" + xform_name(m, "-"): m for m in members}[option]
    match members[name].type_name:
        case "list":
            arguments[name] = json.loads(values[0]) if values[0].startswith("[") else values
            continue
        case "boolean":
            arguments[name] = True
            continue
    (value,) = values
    if value.startswith("file://"):
        with open(value.removeprefix("file://")) as f:
            value = f.read()
    arguments[name] = int(value) if members[name].type_name == "integer" else value

answer = getattr(client, xform_name(names[operation]))(**arguments)
del answer["ResponseMetadata"]
if file:
    with open(file, "wb") as f:
        f.write(answer.pop("Payload").read())
answer = jmespath.search(query, answer)
if output == "text":
    lines = answer if isinstance(answer, list) and answer and isinstance(answer[0], list) else [answer]
    for line in lines:
        print("\t".join(line) if isinstance(line, list) else line)
else:
    print(json.dumps(answer, default=str))
