"""CloudEvents 1.0 over HTTP: structured, batched and binary ones, to events of ours.  Pure.

The parser is our own, for it has to be strict: the SDK (cloudevents 2.2) makes up an ``id``, a ``time`` and a
``specversion`` where they are missing, and has no batches.  The tests send what the SDK writes.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import unquote_to_bytes

from aiflow_ext._event import Event
from aiflow_ext.provider.http import jsontext
from aiflow_ext.provider.http.arrivals import BATCH_MAX, Arrival, checked, identity_of, utf8
from aiflow_ext.provider.http.problems import Problem

STRUCTURED = "application/cloudevents+json"
BATCH = "application/cloudevents-batch+json"
PREFIX = "ce-"
REQUIRED = ("specversion", "id", "source", "type")
AHEAD = timedelta(minutes=5)  # of our clock: two that differ by more are not both right

_NAME = re.compile(r"[a-z0-9]+")
_JSON = re.compile(r"[^;/]+/([^;]+\+)?json\s*(;.*)?", re.I)
_RFC3339 = re.compile(
    r"(\d{4}-\d\d-\d\d)[Tt](\d\d:\d\d:\d\d)(\.\d+)?([Zz]|[+-]\d\d:\d\d)"  # fromisoformat takes much more
)


def structured(body: bytes, now: datetime) -> list[Arrival]:
    """Return the one event of an ``application/cloudevents+json`` body."""
    return [_from_json(jsontext.read(body), now, "")]


def batch(body: bytes, now: datetime) -> list[Arrival]:
    """Return the events of an ``application/cloudevents-batch+json`` body, which may be none."""
    found = jsontext.read(body)
    if not isinstance(found, list):
        raise Problem(400, "a batch of CloudEvents is a JSON array")
    if len(found) > BATCH_MAX:
        raise Problem(422, f"{len(found)} events in one batch, at most {BATCH_MAX} are allowed")
    return [_from_json(one, now, f"event {i}: ") for i, one in enumerate(found)]


def is_binary(headers: Iterable[tuple[str, str]]) -> bool:
    """Return whether a request is a CloudEvent by its headers."""
    return any(name.lower().startswith(PREFIX) for name, _ in headers)


def binary(headers: Iterable[tuple[str, str]], body: bytes, now: datetime) -> list[Arrival]:
    """Return the event whose attributes are ``ce-`` headers and whose data is the body, as it is."""
    attributes: dict[str, Any] = {}
    media_type = ""
    for name, value in headers:
        name = name.lower()
        if name == "content-type":
            media_type = value
        if not name.startswith(PREFIX):
            continue
        name = name.removeprefix(PREFIX)
        if name in attributes:
            raise Problem(400, f"the header ce-{name} is there twice")
        attributes[name] = _unquoted(name, value)
    if "datacontenttype" in attributes:
        raise Problem(400, "datacontenttype is the header Content-Type, not ce-datacontenttype")
    if media_type:
        attributes["datacontenttype"] = media_type
    _check(attributes, now, "")
    if body and media_type and _is_json(attributes):  # without a type it may be anything: there is no default here
        jsontext.read(body)  # only to see that it is what it says
    return [_arrival(attributes, _text(body, "the body"), "")]


def _from_json(found: Any, now: datetime, where: str) -> Arrival:
    if not isinstance(found, dict):
        raise Problem(400, f"{where}a CloudEvent is a JSON object")
    attributes = {name: value for name, value in found.items() if value is not None}  # null is the same as absent
    data, encoded = attributes.pop("data", None), attributes.pop("data_base64", None)
    _check(attributes, now, where)
    if encoded is not None and data is not None:
        raise Problem(400, f"{where}there is data, and data_base64 as well")
    if encoded is not None:
        return _arrival(attributes, _from_base64(encoded, where), where)
    if data is None and "data" not in found:
        return _arrival(attributes, "", where)
    text = isinstance(data, str) and not _is_json(attributes)
    return _arrival(attributes, data if text else jsontext.write(data), where)


def _arrival(attributes: Mapping[str, Any], value: str, where: str) -> Arrival:
    """Map the attributes; docs/http.md has the table."""
    source = attributes["source"]
    event = Event(
        key=attributes.get("subject", source),
        value=value,
        type=attributes["type"],
        context=attributes.get("context"),
        namespace=attributes.get("namespace", "default"),
        sender=source,
    )
    try:
        return Arrival(checked(event), identity_of(source, attributes["id"]))
    except Problem as e:
        raise Problem(e.status, where + e.detail) from None


def _check(attributes: Mapping[str, Any], now: datetime, where: str) -> None:
    missing = [name for name in REQUIRED if name not in attributes]
    if missing:
        raise Problem(400, f"{where}not a CloudEvent: it has no {', '.join(missing)}")
    for name, value in attributes.items():
        if name == "data":
            raise Problem(400, f"{where}data is no attribute")
        if not _NAME.fullmatch(name):
            raise Problem(400, f"{where}an attribute's name has only a-z and 0-9, not {name[:100]!r}")
        if name in _TEXTS and not (isinstance(value, str) and value):
            raise Problem(400, f"{where}the attribute {name} is a string that is not empty")
        if not isinstance(value, str | bool | int):
            raise Problem(400, f"{where}the attribute {name} is a string, a boolean or an integer")
        if isinstance(value, str):
            utf8(f"{where}{name}", value)
    if attributes["specversion"] != "1.0":
        raise Problem(400, f"{where}specversion is '1.0', not {attributes['specversion'][:20]!r}")
    if "time" in attributes:
        _check_time(attributes["time"], now, where)


_TEXTS = frozenset(
    {*REQUIRED, "subject", "time", "datacontenttype", "dataschema", "namespace", "context"}  # the rest is not kept
)


def _check_time(text: str, now: datetime, where: str) -> None:
    try:
        match = _RFC3339.fullmatch(text)
        if match is None:
            raise ValueError
        zone = match[4].upper().replace("Z", "+00:00")
        leap = match[2].endswith(":60")  # datetime has none
        time = datetime.fromisoformat(f"{match[1]}T{match[2][:6]}{'59' if leap else match[2][6:]}{zone}")
        if leap and time.astimezone(UTC).strftime("%H:%M:%S") != "23:59:59":
            raise ValueError
        ahead = time - now > AHEAD
    except (ValueError, OverflowError):
        raise Problem(
            400, f"{where}time is no RFC 3339 timestamp, such as 2026-11-21T09:30:00Z: {text[:40]!r}"
        ) from None
    if ahead:
        raise Problem(422, f"{where}time is in the future: {text[:40]}, and here it is {now:%Y-%m-%dT%H:%M:%SZ}")


def _is_json(attributes: Mapping[str, Any]) -> bool:
    return _JSON.fullmatch(attributes.get("datacontenttype", "application/json").strip()) is not None


def _unquoted(name: str, value: str) -> str:
    """Undo the percent-encoding of a header (HTTP binding, 3.1.3.2); one in double quotes is taken as a quoted one.

    Starlette gives each byte of a header as one character (Latin-1), and a header that is not encoded is UTF-8.
    """
    value = value.strip()
    if len(value) >= 2 and value[0] == value[-1] == '"':
        value = re.sub(r"\\(.)", r"\1", value[1:-1])
    return _text(unquote_to_bytes(value.encode("latin-1")), f"the header ce-{name}")


def _from_base64(encoded: Any, where: str) -> str:
    try:
        if not isinstance(encoded, str):
            raise ValueError
        raw = base64.b64decode(encoded, validate=True)
    except (ValueError, binascii.Error):
        raise Problem(400, f"{where}data_base64 is not Base64") from None
    return _text(raw, f"{where}data_base64")


def _text(raw: bytes, what: str) -> str:
    try:
        return raw.decode()
    except UnicodeDecodeError:
        raise Problem(422, f"{what} is not UTF-8 text, and the value of an event is") from None


def utc_now() -> datetime:
    """Return the time, for the checks above."""
    return datetime.now(UTC)
