"""The signatures of webhooks.  Pure: secrets, headers, body and time in; nothing or a refusal out."""

from __future__ import annotations

import base64
import hashlib
import hmac
import re
from collections.abc import Callable, Iterable, Sequence

from aiflow_ext.provider.http.problems import Problem

LATE = 300  # seconds that MLflow's timestamp may be off
_ID = re.compile(r"[\x21-\x7e]{1,200}")


def check_github(secrets: Iterable[bytes], signature: str | None, body: bytes) -> None:
    """Check ``X-Hub-Signature-256``, ``sha256=`` and the HMAC of the body in hex.

    :raises Problem: 401, it is missing or wrong.
    """
    if signature is None:
        raise Problem(401, "there is no X-Hub-Signature-256: give the webhook a secret")
    _one_of(secrets, lambda secret: "sha256=" + hmac.new(secret, body, hashlib.sha256).hexdigest(), [signature])


def check_mlflow(
    secrets: Iterable[bytes],
    signature: str | None,
    delivery: str | None,
    timestamp: str | None,
    body: bytes,
    now: float,
) -> None:
    """Check ``X-MLflow-Signature``, ``v1,`` and the HMAC of delivery id, timestamp and body in Base64.

    :raises Problem: 401, it is missing or wrong; 403, it was made more than five minutes ago, or ahead.
    """
    if signature is None:
        raise Problem(401, "there is no X-MLflow-Signature: give the webhook a secret")
    if delivery is None or timestamp is None:
        raise Problem(401, "X-MLflow-Delivery-Id and X-MLflow-Timestamp are signed too, and must be there")
    signed = f"{delivery}.{timestamp}.".encode() + body

    def expected(secret: bytes) -> str:
        return "v1," + base64.b64encode(hmac.new(secret, signed, hashlib.sha256).digest()).decode()

    _one_of(secrets, expected, signature.split())  # several, with a space between, as Standard Webhooks has it
    if not re.fullmatch(r"[0-9]{1,15}", timestamp):
        raise Problem(401, "X-MLflow-Timestamp is the seconds since the epoch")
    if abs(now - int(timestamp)) > LATE:
        raise Problem(403, f"the signature is of {timestamp}, and now it is {now:.0f}: more than {LATE} s apart")


def check_id(name: str, id: str | None) -> str:  # noqa: A002
    """Return the id of a delivery.

    :raises Problem: 400, it is missing, or cannot be one.
    """
    if id is None:
        raise Problem(400, f"there is no {name}: without it a delivery that is sent again would be a second event")
    if not _ID.fullmatch(id):
        raise Problem(400, f"{name} is 1 to 200 visible ASCII characters")
    return id


def _one_of(secrets: Iterable[bytes], expected: Callable[[bytes], str], given: Sequence[str]) -> None:
    """Compare all with all, in constant time each, whatever was found."""
    found = False
    for secret in secrets:
        wanted = expected(secret).encode()
        for one in given:
            found |= hmac.compare_digest(wanted, one.encode())
    if not found:
        raise Problem(401, "the signature is not one of this body with our secret")
