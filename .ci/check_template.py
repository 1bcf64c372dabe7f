"""Asserts on template.yaml as SAM translates it: who may call, what the function may do, what it is told.

Usage: check_template.py OUTPUT, where the translated template goes.

The same assertions then run on copies that are broken on purpose (MUTATIONS): one that nobody can fail proves nothing.
"""

import copy
import json
import logging
import os
import re
import sys
from collections import Counter
from pathlib import Path

os.environ.setdefault("AWS_DEFAULT_REGION", "us-east-1")  # samtranslator asks boto3 for a Region

from samtranslator.translator.transform import transform  # noqa: E402
from samtranslator.yaml_helper import yaml_parse  # noqa: E402

logging.disable(logging.WARNING)  # it warns of metrics that nobody collects

ROOT = Path(__file__).resolve().parent.parent

ROUTES = {
    f"/{owner}/actions/runners/{kind}"
    for owner in ("orgs/{org}", "repos/{owner}/{repo}", "enterprises/{enterprise}")
    for kind in ("registration-token", "remove-token")
}

SETTINGS = {
    "GITHUB_SECRET_ID", "ALLOWED_TARGETS", "GITHUB_API_URL", "GITHUB_API_VERSION", "SECRET_TTL", "TOKEN_MIN_LIFE",
    "HTTPS_PROXY", "NO_PROXY",
}
ENDPOINT = "AWS_ENDPOINT_URL_SECRETS_MANAGER"
FROM_LAMBDA = re.compile(r"AWS_SAM_LOCAL|AWS_REGION|AWS_LAMBDA_\w+|_HANDLER")

# Another type of resource may be another way in or another right, so it has to be thought about here.
TYPES = Counter({
    "AWS::ApiGatewayV2::Api": 1,
    "AWS::ApiGatewayV2::Stage": 1,
    "AWS::IAM::Role": 1,
    "AWS::Lambda::Function": 1,
    "AWS::Lambda::Permission": len(ROUTES),
    "AWS::Logs::LogGroup": 2,
    "AWS::SecretsManager::Secret": 1,
})

SECRET_ARN = "arn:aws:secretsmanager:eu-central-1:123456789012:secret:runners/github-pat-a1B2c3"
KEY_ARN = "arn:aws:kms:eu-central-1:123456789012:key/1234abcd-12ab-34cd-56ef-1234567890ab"
DEFAULTS = {"AllowedTargets": "orgs/acme"}
EVERYTHING = {
    "AllowedTargets": "orgs/acme repos/acme/*",
    "CallerTarget": "repos/acme/widgets",
    "SecretArn": SECRET_ARN,
    "SecretKmsKeyArn": KEY_ARN,
    "ReservedConcurrency": "5",
    "SubnetIds": "subnet-0a1b2c3d",
    "SecurityGroupIds": "sg-0a1b2c3d",
    "SecretsManagerEndpoint": "https://vpce-1.secretsmanager.eu-central-1.vpce.amazonaws.com",
    "AlarmTopicArn": "arn:aws:sns:eu-central-1:123456789012:alarms",
}

# parameter: (accepted, refused)
PATTERNS = {
    "AllowedTargets": (
        ["orgs/acme", "orgs/*", "orgs/acme,repos/acme/*", " orgs/a_b, repos/acme/wid.gets\n enterprises/acme-corp ", "enterprises/*"],
        ["", "*", "orgs/Acme", "acme", "repos/*", "repos/acme", "orgs/acme/*", "orgs/acme,", "orgs/a,,orgs/b", "orgs/ac*", "org/acme"],
    ),
    "CallerTarget": (
        ["", "orgs/acme", "repos/acme/.github", "enterprises/acme-corp"],
        ["orgs/*", "repos/acme/*", "orgs/Acme", "repos/acme", "acme", "orgs/acme,orgs/b", "orgs/acme/", "orgs/acm?"],
    ),
    "SecretArn": (
        ["", SECRET_ARN, "arn:aws-us-gov:secretsmanager:us-gov-west-1:123456789012:secret:x-Abc123"],
        ["runners/github-pat", SECRET_ARN[:-7], SECRET_ARN + "*", SECRET_ARN[:-6] + "??????"],
    ),
    "SecretKmsKeyArn": (["", KEY_ARN], ["alias/pat", KEY_ARN.replace("key/", "alias/"), KEY_ARN + "*"]),
    "GitHubApiUrl": (
        ["https://api.github.com", "https://github.example.com/api/v3", "https://github.example.com:8443/api/v3/", "https://api.acme.ghe.com"],
        ["", "http://github.example.com/api/v3", "https://user@github.com", "https://api.github.com?x=1", "https://github.com/acme"],
    ),
    "GitHubApiVersion": (["2022-11-28", "2026-03-10"], ["", "latest", "2022-11"]),
    "SecretTtl": (["30s", "5m", "1h30m"], ["", "0s", "5", "-5m", "5 m"]),
    "TokenMinLife": (["10m", "1h", "1h30m"], ["", "0m", "30s", "30"]),
    "AlarmTopicArn": (["", EVERYTHING["AlarmTopicArn"]], ["alarms", "arn:aws:sqs:eu-central-1:123456789012:alarms"]),
}


class NoManagedPolicies:
    """The template names no managed policy by its short name, so there is no list to load from AWS."""

    def load(self):
        return {}


def translate(template):
    template = copy.deepcopy(template)
    template["Resources"]["TokenFunction"]["Properties"]["CodeUri"] = "s3://bucket/key"
    return transform(template, {}, NoManagedPolicies())


def resolve(translated, given):
    """The translated template as it is with these parameters: conditions decided, dropped parts gone."""
    parameters = {name: given.get(name, p.get("Default")) for name, p in translated["Parameters"].items()}

    def decide(condition):
        (function, arguments), = condition.items()
        if function == "Fn::Not":
            return not decide(arguments[0])
        if function == "Fn::Equals":
            return value(arguments[0]) == value(arguments[1])
        raise ValueError(f"the check does not know the condition function {function}")

    def value(node):
        if isinstance(node, dict) and "Ref" in node:
            return str(parameters[node["Ref"]])
        if isinstance(node, dict) and "Fn::Join" in node:  # of a list parameter
            return value(node["Fn::Join"][1])
        return str(node)

    conditions = {name: decide(c) for name, c in translated["Conditions"].items()}
    gone = {"Ref": "AWS::NoValue"}

    def walk(node):
        if isinstance(node, list):
            return [v for v in map(walk, node) if v != gone]
        if not isinstance(node, dict):
            return node
        if "Fn::If" in node:
            name, yes, no = node["Fn::If"]
            return walk(yes if conditions[name] else no)
        return {k: v for k, v in ((k, walk(v)) for k, v in node.items()) if v != gone}

    def present(section):
        return {k: walk(v) for k, v in section.items() if conditions.get(v.get("Condition"), True)}

    return present(translated["Resources"]), present(translated["Outputs"])


def of_type(resources, kind):
    return {name: r["Properties"] for name, r in resources.items() if r["Type"] == kind}


def check_routes(resources):
    for name, api in of_type(resources, "AWS::ApiGatewayV2::Api").items():
        body = api["Body"]
        routes = {(path, method) for path, methods in body["paths"].items() for method in methods}
        wanted = {(path, "post") for path in ROUTES}
        for path, method in sorted(routes - wanted):
            yield f"{name}: route {method} {path} must not be there"
        for path, method in sorted(wanted - routes):
            yield f"{name}: route {method} {path} is missing"
        schemes = body.get("components", {}).get("securitySchemes", {})
        if schemes.get("AWS_IAM", {}).get("x-amazon-apigateway-authtype") != "awsSigv4":
            yield f"{name}: the scheme AWS_IAM is not awsSigv4"
        for path, method in sorted(routes):
            route = body["paths"][path][method]
            if route.get("security") != [{"AWS_IAM": []}]:
                yield f"{name}: {method} {path} has security {route.get('security')}"
            integration = route.get("x-amazon-apigateway-integration", {})
            if integration.get("payloadFormatVersion") != "2.0":
                yield f"{name}: {method} {path} has payload format {integration.get('payloadFormatVersion')}"
            if integration.get("timeoutInMillis") != 29000:
                yield f"{name}: {method} {path} has timeout {integration.get('timeoutInMillis')}"


def check_stage(resources):
    for name, stage in of_type(resources, "AWS::ApiGatewayV2::Stage").items():
        throttling = {k: v for k, v in stage.get("DefaultRouteSettings", {}).items() if k.startswith("Throttling")}
        if throttling != {k: {"Ref": k} for k in ("ThrottlingRateLimit", "ThrottlingBurstLimit")}:
            yield f"{name}: throttling is {throttling}"
        if stage.get("StageName") != "$default":
            yield f"{name}: the stage is {stage.get('StageName')}, which the policies do not name"
        log = stage.get("AccessLogSettings")
        if not log:
            yield f"{name}: there is no access log"
            continue
        fields = json.loads(log["Format"])
        if fields.get("caller") != "$context.identity.userArn":
            yield f"{name}: the access log lacks the caller"


def secret_of(given):
    return given.get("SecretArn") and {"Ref": "SecretArn"} or {"Ref": "Secret"}


def allow(sid, action, resource, condition=None):
    statement = {"Sid": sid, "Effect": "Allow", "Action": action, "Resource": resource}
    return statement | ({"Condition": condition} if condition else {})


def check_rights(resources, given):
    secret = secret_of(given)
    wanted = [allow("ReadTheSecret", "secretsmanager:GetSecretValue", secret)]
    if given.get("SecretKmsKeyArn"):
        wanted.append(allow("DecryptTheSecretOnly", "kms:Decrypt", {"Ref": "SecretKmsKeyArn"}, {"StringEquals": {
            "kms:ViaService": {"Fn::Sub": "secretsmanager.${AWS::Region}.${AWS::URLSuffix}"},
            "kms:EncryptionContext:SecretARN": secret,
        }}))
    if given.get("SubnetIds"):
        wanted.append(allow("UseTheSubnets", [
            "ec2:CreateNetworkInterface", "ec2:DescribeNetworkInterfaces", "ec2:DescribeSubnets",
            "ec2:DeleteNetworkInterface", "ec2:AssignPrivateIpAddresses", "ec2:UnassignPrivateIpAddresses",
        ], "*"))
    wanted.append(allow("WriteItsLog", ["logs:CreateLogStream", "logs:PutLogEvents"], {"Fn::GetAtt": ["FunctionLogGroup", "Arn"]}))
    wanted.append(allow("SendTraces", ["xray:PutTraceSegments", "xray:PutTelemetryRecords"], "*"))
    role = resources["TokenFunctionRole"]["Properties"]
    got = [s for p in role["Policies"] for s in p["PolicyDocument"]["Statement"]]
    for statement in got:
        if statement not in wanted:
            yield f"the function has a right it should not have: {json.dumps(statement)}"
    for statement in wanted:
        if statement not in got:
            yield f"the function lacks a right: {json.dumps(statement)}"
    if role.get("ManagedPolicyArns"):
        yield f"the function's role has managed policies {role['ManagedPolicyArns']}"
    trust = role["AssumeRolePolicyDocument"]["Statement"]
    if [s.get("Principal") for s in trust] != [{"Service": "lambda.amazonaws.com"}]:
        yield f"others than Lambda may take the function's role: {json.dumps(trust)}"


def check_callers(resources, given):
    policies = of_type(resources, "AWS::IAM::ManagedPolicy")
    if not given.get("CallerTarget"):
        if policies:
            yield f"there is a policy for callers though no target was named: {sorted(policies)}"
        return
    prefix = "arn:${AWS::Partition}:execute-api:${AWS::Region}:${AWS::AccountId}:${Api}/$default/POST/${CallerTarget}/actions/runners/"
    wanted = [{
        "Effect": "Allow",
        "Action": "execute-api:Invoke",
        "Resource": [{"Fn::Sub": prefix + kind} for kind in ("registration-token", "remove-token")],
    }]
    for name, policy in policies.items():
        if policy["PolicyDocument"]["Statement"] != wanted:
            yield f"{name}: callers get {json.dumps(policy['PolicyDocument']['Statement'])}"
    if len(policies) != 1:
        yield f"there are {len(policies)} policies for callers"
    for name, permission in of_type(resources, "AWS::Lambda::Permission").items():
        source = json.dumps(permission.get("SourceArn", ""))
        if permission["Principal"] != "apigateway.amazonaws.com" or "/POST/" not in source:
            yield f"{name}: the function may be invoked by {permission['Principal']} for {source}"


def read_by_the_function():
    """Names of the environment variables that the function's own code looks up."""
    sources = [p for p in (ROOT / "functions" / "token").glob("*.go") if not p.name.endswith("_test.go")]
    names = {n for p in sources for n in re.findall(r'"([A-Z][A-Z0-9]*(?:_[A-Z0-9]+)+)"', p.read_text())}
    return {n for n in names if not FROM_LAMBDA.fullmatch(n)}


def check_function(resources, given):
    function = resources["TokenFunction"]["Properties"]
    variables = set(function["Environment"]["Variables"])
    wanted = SETTINGS | ({ENDPOINT} if given.get("SecretsManagerEndpoint") else set())
    for name in sorted(wanted - variables):
        yield f"the variable {name} is not declared"
    for name in sorted(variables - wanted):
        yield f"the variable {name} is declared, but the check does not know it"
    for name in sorted(read_by_the_function() - SETTINGS - {ENDPOINT}):
        yield f"the function reads {name}, which is not declared"
    if function["Environment"]["Variables"].get("GITHUB_SECRET_ID") != secret_of(given):
        yield "the function is told of another secret than it may read"
    for name, value in (("Timeout", 25), ("Runtime", "provided.al2023"), ("Handler", "bootstrap"),
                        ("Role", {"Fn::GetAtt": ["TokenFunctionRole", "Arn"]}), ("TracingConfig", {"Mode": "Active"})):
        if function.get(name) != value:
            yield f"the function's {name} is {function.get(name)}"
    if function["LoggingConfig"].get("LogGroup") != {"Ref": "FunctionLogGroup"} or function["LoggingConfig"]["LogFormat"] != "JSON":
        yield f"the function logs to {function['LoggingConfig']}"
    for name, parameter in (("ReservedConcurrentExecutions", "ReservedConcurrency"), ("VpcConfig", "SubnetIds")):
        if (name in function) != (parameter in given):
            yield f"the function's {name} is {function.get(name)} although {parameter} is {given.get(parameter)}"


def check_rest(resources, outputs, given):
    types = Counter(r["Type"] for r in resources.values())
    wanted = TYPES.copy()
    if given.get("CallerTarget"):
        wanted["AWS::IAM::ManagedPolicy"] += 1
    if given.get("AlarmTopicArn"):
        wanted["AWS::CloudWatch::Alarm"] += 3
    if given.get("SecretArn"):
        del wanted["AWS::SecretsManager::Secret"]
    if types != wanted:
        yield f"resources: {dict(types - wanted)} too many, {dict(wanted - types)} too few"
    for name, secret in of_type(resources, "AWS::SecretsManager::Secret").items():
        if {"SecretString", "GenerateSecretString"} & set(secret):
            yield f"{name}: the template gives the secret a value"
    for name, group in of_type(resources, "AWS::Logs::LogGroup").items():
        if group.get("RetentionInDays") != {"Ref": "LogRetentionInDays"}:
            yield f"{name}: kept for {group.get('RetentionInDays')}"
    expected = {"ApiUrl", "InvokeArnPrefix", "FunctionName", "FunctionArn", "SecretArn", "FunctionLogGroupName", "AccessLogGroupName"}
    expected |= {"CallerPolicyArn"} if given.get("CallerTarget") else set()
    expected |= set() if given.get("SecretArn") else {"FillSecretCommand"}
    if set(outputs) != expected:
        yield f"outputs: {sorted(set(outputs) ^ expected)} too many or too few"


def check_parameters(parameters):
    required = {name for name, p in parameters.items() if "Default" not in p}
    if required != {"AllowedTargets"}:
        yield f"parameters without a default: {sorted(required)}"
    for name, p in parameters.items():
        if not p.get("Description"):
            yield f"parameter {name} has no description"
    if parameters["Architecture"]["Default"] != "arm64":
        yield f"the default architecture is {parameters['Architecture']['Default']}"
    for name, (accepted, refused) in PATTERNS.items():
        pattern = re.compile(parameters[name].get("AllowedPattern", ".*"), re.ASCII)
        for value, wanted in [(v, True) for v in accepted] + [(v, False) for v in refused]:
            if bool(pattern.fullmatch(value)) != wanted:
                yield f"parameter {name} {'refuses' if wanted else 'accepts'} {value!r}"


def problems(template):
    try:
        translated = translate(template)
    except Exception as e:  # samtranslator's errors have no common type; a template that it refuses is a problem like others
        return [f"SAM cannot translate it: {e}"]
    found = list(check_parameters(translated["Parameters"]))
    for given in (DEFAULTS, EVERYTHING):
        resources, outputs = resolve(translated, given)
        for check in (check_routes(resources), check_stage(resources), check_rights(resources, given),
                      check_callers(resources, given), check_function(resources, given), check_rest(resources, outputs, given)):
            found += [p for p in check if p not in found]
    return found


def mutations(t):
    """(what is broken, how, a part of what must be said of it); t is the template to break."""
    r = t["Resources"]
    api, function = r["Api"]["Properties"], r["TokenFunction"]["Properties"]
    role = r["TokenFunctionRole"]["Properties"]
    statements = role["Policies"][0]["PolicyDocument"]["Statement"]
    caller = r["CallerPolicy"]["Properties"]["PolicyDocument"]["Statement"][0]

    def route(path, method="POST", **more):
        function["Events"]["Extra"] = {"Type": "HttpApi", "Properties": {
            "ApiId": {"Ref": "Api"}, "Path": path, "Method": method, "TimeoutInMillis": 29000, "PayloadFormatVersion": "2.0"} | more}

    event = function["Events"]["OrgRemoveToken"]["Properties"]
    variables = function["Environment"]["Variables"]
    return [
        ("no default authorizer", lambda: api["Auth"].pop("DefaultAuthorizer"), "has security"),
        ("no authorizer at all", lambda: api.pop("Auth"), "is not awsSigv4"),
        ("one open route", lambda: event.update(Auth={"Authorizer": "NONE"}), "has security"),
        ("a catch-all route", lambda: route("/{proxy+}"), "must not be there"),
        ("a default route", lambda: route("$default", "X-AMAZON-APIGATEWAY-ANY-METHOD"), "must not be there"),
        ("a GET route", lambda: route("/orgs/{org}/actions/runners/remove-token", "GET"), "must not be there"),
        ("a route less", lambda: function["Events"].pop("RepoRemoveToken"), "is missing"),
        ("a short route", lambda: event.update(TimeoutInMillis=20000), "has timeout"),
        ("payload format 1.0", lambda: event.update(PayloadFormatVersion="1.0"), "has payload format"),
        ("no throttling", lambda: api.pop("DefaultRouteSettings"), "throttling is"),
        ("no access log", lambda: api.pop("AccessLogSettings"), "no access log"),
        ("a named stage", lambda: api.update(StageName="v1"), "the stage is v1"),
        ("a function URL", lambda: function.update(FunctionUrlConfig={"AuthType": "NONE"}), "too many"),
        ("every secret", lambda: statements[0].update(Resource="*"), "should not have"),
        ("every action on the secret", lambda: statements[0].update(Action="secretsmanager:*"), "should not have"),
        ("unbound decryption", lambda: statements[1]["Fn::If"][1].pop("Condition"), "should not have"),
        ("decryption by default", lambda: statements.append(statements.pop(1)["Fn::If"][1]), "should not have"),
        ("a managed policy", lambda: role.update(ManagedPolicyArns=["arn:aws:iam::aws:policy/SecretsManagerReadWrite"]), "managed policies"),
        ("another role", lambda: function.update(Role="arn:aws:iam::123456789012:role/admin"), "the function's Role"),
        ("callers with a wildcard", lambda: caller["Resource"].append({"Fn::Sub": "arn:${AWS::Partition}:execute-api:*"}), "callers get"),
        ("a variable less", lambda: variables.pop("TOKEN_MIN_LIFE"), "TOKEN_MIN_LIFE is not declared"),
        ("no endpoint", lambda: variables.pop(ENDPOINT), "is not declared"),
        ("another secret", lambda: variables.update(GITHUB_SECRET_ID="runners"), "another secret"),
        ("a long function", lambda: function.update(Timeout=60), "Timeout is 60"),
        ("reserved by default", lambda: t["Parameters"]["ReservedConcurrency"].update(Default=5), "ReservedConcurrentExecutions is"),
        ("a value in the template", lambda: r["Secret"]["Properties"].update(SecretString="ghp_x"), "gives the secret a value"),
        ("logs for ever", lambda: r["AccessLogGroup"]["Properties"].pop("RetentionInDays"), "kept for"),
        ("everything allowed by default", lambda: t["Parameters"]["AllowedTargets"].update(Default="orgs/*"), "without a default"),
        ("no pattern", lambda: t["Parameters"]["SecretArn"].pop("AllowedPattern"), "parameter SecretArn accepts"),
    ]


def main():
    template = yaml_parse((ROOT / "template.yaml").read_text())
    output = Path(sys.argv[1])
    output.parent.mkdir(parents=True, exist_ok=True)
    output.write_text(json.dumps(translate(template), indent=1) + "\n")

    found = problems(template)
    for problem in found:
        print(f"template.yaml: {problem}", file=sys.stderr)
    if not read_by_the_function() >= {"ALLOWED_TARGETS", "GITHUB_SECRET_ID"}:
        found.append("self-test")
        print("check_template.py does not find the variables that the function reads", file=sys.stderr)

    count = len(mutations(copy.deepcopy(template)))
    for i in range(count):
        broken = copy.deepcopy(template)
        name, mutate, wanted = mutations(broken)[i]
        mutate()
        said = problems(broken)
        if not any(wanted in p for p in said):
            found.append(name)
            print(f"check_template.py does not notice {name}: {said}", file=sys.stderr)
    print(f"template.yaml: {len(found)} problems; {count} broken copies tried")
    return bool(found)


if __name__ == "__main__":
    sys.exit(main())
