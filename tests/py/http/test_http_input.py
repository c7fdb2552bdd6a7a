"""What comes by HTTP, as far as it needs no server: CloudEvents, signatures, identities.  All of it pure."""

import base64
import hashlib
import hmac
import json
from datetime import UTC, datetime

import pytest

from aiflow_ext import Event
from aiflow_ext.provider.http import cloudevents, jsontext, plain, signatures
from aiflow_ext.provider.http.arrivals import Caller, checked, identity_of, one_of_its_own
from aiflow_ext.provider.http.problems import Problem, of_error

NOW = datetime(2026, 11, 21, 9, 30, tzinfo=UTC)
WHOLE = {"specversion": "1.0", "id": "1", "source": "/training", "type": "model.generated"}


def structured(**changed):
    found = {name: value for name, value in (WHOLE | changed).items() if value is not ...}
    return cloudevents.structured(json.dumps(found).encode(), NOW)[0]


def binary(body=b"", **headers):
    names = {f"ce-{name}": value for name, value in WHOLE.items()} | {
        n.replace("_", "-"): v for n, v in headers.items()
    }
    return cloudevents.binary([(n, v) for n, v in names.items() if v is not ...], body, NOW)[0]


def refused(status, text, call, *args, **kwargs):
    with pytest.raises(Problem) as e:
        call(*args, **kwargs)
    assert e.value.status == status, e.value.detail
    assert text in e.value.detail
    return e.value


def test_the_attributes_become_fields():
    event, identity = structured(subject="digits", data={"version": 3, "n": [1, None]}, namespace="ml", context="c")
    assert event == Event("digits", '{"version":3,"n":[1,null]}', "model.generated", "c", "ml", "/training")
    assert identity == identity_of("/training", "1")
    assert structured().event == Event("/training", "", "model.generated", None, "default", "/training")


@pytest.mark.parametrize("name", ["specversion", "id", "source", "type"])
def test_a_required_attribute_is_missing(name):
    for absent in (..., None):  # null is absent, says the format
        refused(400, f"not a CloudEvent: it has no {name}", structured, **{name: absent})
    refused(400, f"it has no {name}", binary, **{f"ce_{name}": ...})
    refused(400, f"{name} is a string that is not empty", structured, **{name: ""})
    refused(400, f"{name} is a string that is not empty", structured, **{name: 1})


@pytest.mark.parametrize(
    ("changed", "status", "text"),
    [
        ({"specversion": "0.3"}, 400, "specversion is '1.0', not '0.3'"),
        ({"Subject": "a"}, 400, "only a-z and 0-9, not 'Subject'"),
        ({"partition_key": "a"}, 400, "only a-z and 0-9"),
        ({"subject": ""}, 400, "subject is a string that is not empty"),
        ({"extension": {"a": 1}}, 400, "extension is a string, a boolean or an integer"),
        ({"extension": 1.5}, 400, "extension is a string, a boolean or an integer"),
        ({"subject": "x" * 1025}, 422, "key has 1,025 bytes of UTF-8, at most 1,024"),
        ({"source": "x" * 256, "subject": "a"}, 422, "sender has 256 bytes"),
        ({"type": "é" * 128}, 422, "type has 256 bytes"),
        ({"data": "x" * 2**20}, 422, "value has 1,048,578 bytes"),
        ({"data": 1, "data_base64": "AA=="}, 400, "there is data, and data_base64 as well"),
        ({"data_base64": "???"}, 400, "data_base64 is not Base64"),
        ({"data_base64": 5}, 400, "data_base64 is not Base64"),
        ({"data_base64": "/w=="}, 422, "data_base64 is not UTF-8 text"),
        ({"data_base64": "AA=="}, 422, "value has a NUL"),
        ({"namespace": "airflow"}, 403, "the namespace 'airflow' is the scheduler's own"),
        ({"namespace": "aiflow"}, 403, "the namespace 'aiflow' is the scheduler's own"),
        ({"time": "yesterday"}, 400, "time is no RFC 3339 timestamp"),
        ({"time": "2026-11-21"}, 400, "time is no RFC 3339 timestamp"),
        ({"time": "2026-11-21T09:30:00"}, 400, "time is no RFC 3339 timestamp"),
        ({"time": "2026-13-21T09:30:00Z"}, 400, "time is no RFC 3339 timestamp"),
        ({"time": "2026-11-21T09:35:01Z"}, 422, "time is in the future"),
        ({"time": "2026-11-20T09:30:60Z"}, 400, "time is no RFC 3339 timestamp"),  # a leap second is at midnight UTC
        ({"namespace": "mlflow"}, 403, "the namespace 'mlflow' is the webhook's own"),
    ],
)
def test_what_is_no_cloud_event(changed, status, text):
    refused(status, text, structured, **changed)


@pytest.mark.parametrize(
    "time",
    [
        "2026-11-21T09:35:00Z",
        "1985-04-12t23:20:50.52z",
        "2026-11-21T10:30:00.123456789+01:00",
        "1990-12-31T23:59:60Z",
        "1990-12-31T15:59:60.5-08:00",
    ],
)
def test_times_that_are_good(time):
    assert structured(time=time).event.key == "/training"


@pytest.mark.parametrize(
    ("changed", "value"),
    [
        ({"data": "text"}, '"text"'),  # of JSON, which is the default
        ({"data": "text", "datacontenttype": "application/vnd.x+json; a=b"}, '"text"'),
        ({"data": "text", "datacontenttype": "text/plain"}, "text"),
        ({"data": {"a": 1}, "datacontenttype": "text/plain"}, '{"a":1}'),
        ({"data": None}, "null"),
        ({"data": "é\n"}, '"é\\n"'),
        ({"data_base64": base64.b64encode("é".encode()).decode()}, "é"),
    ],
)
def test_the_data_becomes_the_value(changed, value):
    assert structured(**changed).event.value == value


def test_binary_mode():
    event, identity = binary(
        b'{ "a": 1.10 }', ce_subject="Euro%20%E2%82%AC", content_type="application/json", ce_namespace='"quoted"'
    )
    assert event == Event("Euro €", '{ "a": 1.10 }', "model.generated", None, "quoted", "/training")  # data as it is
    assert identity == identity_of("/training", "1")
    assert binary(b"text", content_type="text/plain").event.value == "text"
    refused(400, "not JSON", binary, b"text", content_type="application/json")
    refused(422, "not UTF-8 text", binary, b"\xff", content_type="image/png")
    refused(400, "Content-Type, not ce-datacontenttype", binary, ce_datacontenttype="text/plain")
    assert binary(b"hello", content_type=...).event.value == "hello"  # there is no default of JSON
    raw = "naïve".encode().decode("latin-1")  # as a server gives the bytes of a header
    assert binary(ce_subject=raw).event.key == "naïve"
    assert binary(ce_subject=raw + "%20%E2%82%AC").event.key == "naïve €"
    refused(422, "ce-subject is not UTF-8", binary, ce_subject="na\xefve")
    refused(422, "ce-subject is not UTF-8", binary, ce_subject="%FF")
    refused(400, "data is no attribute", binary, ce_data="x")
    twice = [("ce-id", "1"), ("CE-ID", "2")]
    refused(400, "ce-id is there twice", cloudevents.binary, twice, b"", NOW)


def test_batches():
    body = json.dumps([WHOLE, WHOLE | {"id": "2"}]).encode()
    assert [a.identity for a in cloudevents.batch(body, NOW)] == [identity_of("/training", i) for i in "12"]
    assert cloudevents.batch(b"[]", NOW) == []
    refused(400, "a JSON array", cloudevents.batch, b"{}", NOW)
    refused(422, "1001 events in one batch, at most 1000", cloudevents.batch, b"[" + b"1," * 1000 + b"1]", NOW)
    refused(400, "event 1: a CloudEvent is a JSON object", cloudevents.batch, json.dumps([WHOLE, 5]).encode(), NOW)
    long = json.dumps([WHOLE, WHOLE | {"subject": "x" * 2000}]).encode()
    refused(422, "event 1: key has 2,000 bytes", cloudevents.batch, long, NOW)


@pytest.mark.parametrize(
    ("raw", "text"),
    [
        (b"", "not JSON: Expecting value"),
        (b"\xff", "not UTF-8: byte 0"),
        (b"NaN", "NaN is not a number of JSON"),
        (b"-Infinity", "-Infinity is not a number of JSON"),
        (b'{"a": 1, "a": 2}', "the member 'a' is there twice"),
        (b"[" * 100_000, "nested too deeply"),
        (b"1" * 5000, "not JSON"),
        (b'{"a": [1e400]}', "1e400 is too great a number"),
        (b"{}{}", "Extra data"),
    ],
)
def test_json_is_strict(raw, text):
    refused(400, text, jsontext.read, raw)


def test_text_that_is_none():
    refused(422, "subject is not Unicode text", structured, subject="\ud800")
    refused(422, "value is not Unicode text", structured, data="\udfff")
    refused(422, "id has a NUL", structured, id="\0")
    refused(422, "key is empty", checked, Event(""))


def test_identities():
    producer, sequence = identity_of("a", "b")
    assert (len(producer.encode()), producer[:3], sequence) == (64, "ce:", 1)
    assert producer == "ce:" + hashlib.sha256(b"a\0b").hexdigest()[:61]
    assert len({identity_of("a", "bc"), identity_of("ab", "c"), identity_of("a", "bd"), one_of_its_own()}) == 4
    assert one_of_its_own() != one_of_its_own()


def test_who_says_it():
    clerk, gateway = Caller("clerk", for_others=False), Caller("gateway", for_others=True)
    event = structured()
    assert gateway.says(event) == event
    assert clerk.says(event).event.sender == "clerk"
    theirs = Caller("other", for_others=False).says(event)
    assert len({a.identity for a in (event, clerk.says(event), theirs)}) == 3
    assert clerk.says(event) == clerk.says(structured())  # sent again it is a duplicate
    alone = plain.parse(b'{"key": "k"}', clerk)[0]
    assert clerk.says(alone).identity == alone.identity
    refused(403, "the sender cannot be 'gateway'", plain.parse, b'{"key": "k", "sender": "gateway"}', clerk)
    assert plain.parse(b'{"key": "k", "sender": "x"}', gateway)[0].event.sender == "x"


def github(secret, body):
    return "sha256=" + hmac.new(secret, body, hashlib.sha256).hexdigest()


def test_github_signature():
    # GitHub's own example, in its "Validating webhook deliveries".
    signature = "sha256=757107ea0eb2509fc211221cce984b8a37570b6d7586c22c46f4379c8b043e17"
    secret, body = b"It's a Secret to Everybody", b"Hello, World!"
    signatures.check_github([b"other", secret], signature, body)
    refused(401, "no X-Hub-Signature-256", signatures.check_github, [secret], None, body)
    for wrong in (signature.upper(), signature[:-1], signature[7:], "", "é", github(b"x", body)):
        refused(401, "not one of this body", signatures.check_github, [secret], wrong, body)
    refused(401, "not one of this body", signatures.check_github, [secret], signature, body + b" ")


def test_mlflow_signature():
    # Made by mlflow 3.18's _generate_hmac_signature.
    signature = "v1,RXwfXRQrwsm9YWKUNPqnNxy8s/XwQgX4LIz7USC3Vfc="
    secret, body = b"ml-secret", b'{"entity": "model_version"}'
    delivery, timestamp, now = "5bc95b87-0f5f-4a30-9ef9-8a9bd6c5ba3b", "1795253400", 1795253400.0

    def check(signature=signature, delivery=delivery, timestamp=timestamp, now=now, body=body):
        signatures.check_mlflow([b"old", secret], signature, delivery, timestamp, body, now)

    check()
    check(signature=f"v1,AAAA {signature}")
    check(now=now + 300)
    check(now=now - 300)
    refused(403, "more than 300 s apart", check, now=now + 301)
    refused(403, "more than 300 s apart", check, now=now - 301)
    refused(401, "no X-MLflow-Signature", check, signature=None)
    refused(401, "are signed too", check, delivery=None)
    refused(401, "are signed too", check, timestamp=None)
    for wrong in ({"delivery": "x"}, {"timestamp": "1795253401"}, {"body": b"{}"}, {"signature": signature[3:]}):
        refused(401, "not one of this body", check, **wrong)


def test_ids_of_deliveries():
    assert signatures.check_id("X", "5bc95b87-0f5f") == "5bc95b87-0f5f"
    refused(400, "there is no X-Delivery", signatures.check_id, "X-Delivery", None)
    for bad in ("", "a b", "é", "x" * 201):
        refused(400, "visible ASCII", signatures.check_id, "X", bad)


def test_errors_of_the_log_become_answers(caplog):
    from aiflow_ext.errors import AccessError, ConflictError, CorruptError, ReplacedError, RetentionError, StoreError

    statuses = {
        TimeoutError("ipc:///secret/path"): 503,
        StoreError("secret text of the database"): 503,
        ConflictError("busy"): 503,
        RetentionError("events up to 5 were let go"): 410,
        ReplacedError("the log was replaced"): 410,
        AccessError("not yours"): 403,
        CorruptError("secret bytes"): 502,
        ValueError("offset 9 is beyond the newest one, 3"): 422,
    }
    for error, status in statuses.items():
        problem = of_error(error)
        assert problem.status == status
        assert "secret" not in problem.detail
        assert ("Retry-After" in problem.headers) == (status == 503)
    assert of_error(KeyError("a bug")) is None
    assert "may be in the log or not" in of_error(TimeoutError(), sending=True).detail
