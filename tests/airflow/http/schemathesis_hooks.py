"""Signs what schemathesis sends to the webhooks, or it would see nothing of them but 401."""

from __future__ import annotations

import base64
import hashlib
import hmac
import os
import time

import requests
import schemathesis
from requests.auth import AuthBase

SECRET = os.environ["AIF_TEST_WEBHOOK_SECRET"].encode()


def _body(request: requests.PreparedRequest) -> bytes:
    body = request.body or b""
    return body.encode() if isinstance(body, str) else body


class Github(AuthBase):
    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        request.headers["X-Hub-Signature-256"] = (
            "sha256=" + hmac.new(SECRET, _body(request), hashlib.sha256).hexdigest()
        )
        return request


class Mlflow(AuthBase):
    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        seconds, delivery = (request.headers.get(f"X-MLflow-{name}", "") for name in ("Timestamp", "Delivery-Id"))
        if seconds.isdecimal() and len(seconds) <= 15:
            seconds = request.headers["X-MLflow-Timestamp"] = str(int(time.time()))
        signed = f"{delivery}.{seconds}.".encode("latin-1", "replace") + _body(request)
        digest = hmac.new(SECRET, signed, hashlib.sha256).digest()
        request.headers["X-MLflow-Signature"] = "v1," + base64.b64encode(digest).decode()
        return request


schemathesis.auth.set_from_requests(Github()).apply_to(path="/webhooks/github")
schemathesis.auth.set_from_requests(Mlflow()).apply_to(path="/webhooks/mlflow")
