"""The parts of the OpenAPI document that FastAPI cannot see."""

from __future__ import annotations

from typing import Any

from aiflow_ext.provider.http import cloudevents
from aiflow_ext.provider.http.arrivals import BATCH_MAX
from aiflow_ext.provider.http.models import CloudEvent, PlainEvent, ProblemModel

Responses = dict[int | str, dict[str, Any]]

RETRY_AFTER = {"Retry-After": {"schema": {"type": "integer"}, "description": "Seconds"}}


def _problem(description: str, **more: Any) -> dict[str, Any]:
    return {"model": ProblemModel, "description": description, **more}


_AUTH: Responses = {
    401: _problem("Nobody is logged in"),
    403: _problem("The user, or the api-server, may not do that"),
}
_AWAY: Responses = {
    502: _problem("The broker's answer cannot be used"),
    503: _problem("The broker does not answer, or is busy: try again", headers=RETRY_AFTER),
}
READING: Responses = {
    **_AUTH,
    410: _problem("Events were let go, and it was asked for what came after one of them"),
    422: _problem("A filter is not valid: an unknown one, a time in the future, an `after` beyond the newest"),
    **_AWAY,
}
_BODY: Responses = {
    400: _problem("Not JSON, or not a CloudEvent"),
    408: _problem("The body did not come in time"),
    413: _problem("The body is too long"),
    415: _problem("The body's type is none that is taken"),
    422: _problem("A field is missing, or against its limit"),
}
SENDING: Responses = {**_AUTH, **_BODY, **_AWAY}
WEBHOOK: Responses = {
    **_BODY,
    401: _problem("The signature is missing or wrong"),
    403: _problem("The signature is too old, or the event log refuses"),
    404: _problem("This webhook is off: there is no secret for it"),
    **_AWAY,
}
LINK = {"Link": {"schema": {"type": "string"}, "description": 'The next page: `<?...>; rel="next"`'}}

_PLAIN = PlainEvent.model_json_schema()
_CLOUD = CloudEvent.model_json_schema()


def _header(name: str, description: str) -> dict[str, Any]:
    return {"name": name, "in": "header", "description": description, "schema": {"type": "string"}}


EVENTS_BODY: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {
            "application/json": {
                "schema": {"anyOf": [_PLAIN, {"type": "array", "maxItems": BATCH_MAX, "items": _PLAIN}]},
            },
            cloudevents.STRUCTURED: {"schema": _CLOUD},
            cloudevents.BATCH: {"schema": {"type": "array", "maxItems": BATCH_MAX, "items": _CLOUD}},
        },
    }
}


GITHUB: dict[str, Any] = {
    "type": "object",
    "description": "What GitHub sends; these are looked at, all of it becomes the value.",
    "properties": {
        "action": {"type": "string", "maxLength": 50},
        "repository": {"type": "object", "properties": {"full_name": {"type": "string", "maxLength": 200}}},
        "organization": {"type": "object", "properties": {"login": {"type": "string", "maxLength": 50}}},
        "sender": {"type": "object", "properties": {"login": {"type": "string", "maxLength": 50}}},
    },
}
MLFLOW: dict[str, Any] = {
    "type": "object",
    "description": "What MLflow sends; it all becomes the value.",
    "required": ["entity", "action"],
    "properties": {
        "entity": {"type": "string", "minLength": 1, "maxLength": 50, "examples": ["model_version"]},
        "action": {"type": "string", "minLength": 1, "maxLength": 50, "examples": ["created"]},
        "timestamp": {"type": "string"},
        "data": {"type": "object", "properties": {"name": {"type": "string", "maxLength": 250}}},
    },
}


def webhook_body(schema: dict[str, Any]) -> dict[str, Any]:
    """Return the request body of a webhook."""
    return {"requestBody": {"required": True, "content": {"application/json": {"schema": schema}}}}
