"""Prints what botocore makes of each of cases.json.

.venv/bin/python internal/local/sigv4/testdata/vectors.py >internal/local/sigv4/testdata/botocore.json
"""

import datetime
import json
import pathlib

import botocore.auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials

CASES = json.loads((pathlib.Path(__file__).parent / "cases.json").read_text())
HOST = "127.0.0.1:3000"
NOW = datetime.datetime(2000, 1, 1, 0, 3, 4)
USER = Credentials("AKIDEXAMPLE", "secret/+EXAMPLE")
ROLE = Credentials("ASIAEXAMPLE", "secret/+EXAMPLE", "IQoJb3JpZ2luX2Vj//8=")


def sign(case):
    signer = botocore.auth.SigV4QueryAuth if case.get("presign") else botocore.auth.SigV4Auth
    request = AWSRequest("POST", "http://" + HOST + case["path"], data=case.get("body", "").encode())
    for name, values in case.get("headers", {}).items():
        for value in values if isinstance(values, list) else [values]:
            request.headers[name] = value  # it adds
    signer(ROLE if case.get("session") else USER, "execute-api", "eu-central-1").add_auth(request)
    target = request.url.removeprefix("http://" + HOST)
    lines = [f"POST {target} HTTP/1.1", f"Host: {HOST}"]
    lines += [f"{name}: {value}" for name, value in request.headers.items()]
    return {"name": case["name"], "request": lines, "body": case.get("body", "")}


botocore.auth.get_current_datetime = lambda *args, **kwargs: NOW
print(json.dumps([sign(case) for case in CASES], indent=2, ensure_ascii=False))
