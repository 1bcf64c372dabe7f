"""Prints examples/user-data/testdata/sigv4.json: what botocore makes of each case, for the signers of the user data.

.venv/bin/python e2e/linux/sigv4_vectors.py >examples/user-data/testdata/sigv4.json
"""

import datetime
import json

import botocore.auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials

API = "abc123.execute-api.eu-central-1.amazonaws.com"
KEY = "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY"
TOKEN = "IQoJb3JpZ2luX2VjEXAMPLE+/abc=="


def path(target, kind="registration-token"):
    return f"/{target}/actions/runners/{kind}"


DAY = "20261124T020304Z"
ORG = path("orgs/acme")
CASES = {
    "keys of a user, without a session token": (API, ORG, "eu-central-1", DAY, KEY, ""),
    "credentials of a role": (API, ORG, "eu-central-1", DAY, KEY, TOKEN),
    "path with . _ - ~": (API, path("repos/acme/a.b_c-d~e"), "eu-central-1", "20261231T235959Z", KEY, TOKEN),
    "remove-token": (
        API, path("enterprises/acme-corp", "remove-token"), "eu-central-1", "20270101T000000Z", KEY, TOKEN),
    "stage in the path, other region": (API, "/v1" + ORG, "us-gov-west-1", "20280229T120000Z", KEY, TOKEN),
    "host with a port": ("127.0.0.1:3000", ORG, "eu-central-1", DAY, KEY, TOKEN),
    "key as long as a hash block": (API, ORG, "eu-central-1", DAY, "k" * 60, TOKEN),
    "key longer than a hash block": (API, ORG, "eu-central-1", DAY, "longer" * 14, TOKEN),
    "key longer than a hash block, no token": (API, ORG, "eu-central-1", DAY, "k" * 61, ""),
    "long session token": (API, ORG, "eu-central-1", DAY, KEY, TOKEN * 40),
}


def authorization(host, path, region, date, access_key, secret_key, session_token):
    now = datetime.datetime.strptime(date, "%Y%m%dT%H%M%SZ")
    botocore.auth.get_current_datetime = lambda *args, **kwargs: now
    request = AWSRequest("POST", "https://" + host + path, data=b"")
    credentials = Credentials(access_key, secret_key, session_token or None)
    botocore.auth.SigV4Auth(credentials, "execute-api", region).add_auth(request)
    assert request.context["timestamp"] == date, "botocore has another clock now"
    return request.headers["Authorization"]


vectors = []
for name, (host, where, region, date, secret_key, session_token) in CASES.items():
    vector = {
        "host": host, "path": where, "region": region, "date": date,
        "access_key": "ASIAIOSFODNN7EXAMPLE", "secret_key": secret_key, "session_token": session_token,
    }
    vectors.append({"name": name, **vector, "authorization": authorization(**vector)})
print(json.dumps(vectors, indent=2))
