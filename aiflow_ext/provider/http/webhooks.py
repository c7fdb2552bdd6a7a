"""The routes below ``/aiflow/webhooks``: who may call them is told by their signature, not by Airflow."""

from __future__ import annotations

import time
from typing import Annotated, Any

from fastapi import APIRouter, Header, Request, Security
from fastapi.responses import JSONResponse
from fastapi.security import APIKeyHeader

from aiflow_ext import _core
from aiflow_ext._event import Event
from aiflow_ext.provider.http import body, docs, jsontext, signatures
from aiflow_ext.provider.http.arrivals import Arrival, checked, identity_of
from aiflow_ext.provider.http.events import answer
from aiflow_ext.provider.http.link import link
from aiflow_ext.provider.http.models import Receipts
from aiflow_ext.provider.http.problems import Problem
from aiflow_ext.provider.http.publish import publish

router = APIRouter(prefix="/webhooks", tags=["webhooks"])

Github = Security(
    APIKeyHeader(
        name="X-Hub-Signature-256",
        scheme_name="GitHub",
        description="`sha256=` and the HMAC-SHA-256 of the body, in hex.",
        auto_error=False,
    )
)
Mlflow = Security(
    APIKeyHeader(
        name="X-MLflow-Signature",
        scheme_name="MLflow",
        description="`v1,` and the HMAC-SHA-256 of delivery id, timestamp and body with dots between, in Base64.",
        auto_error=False,
    )
)
ID: dict[str, Any] = {"pattern": "^[!-~]{1,200}$"}
DELIVERY = "Its id; the same again is a duplicate."
_ANSWERS: docs.Responses = {
    200: {"model": Receipts, "description": "A delivery that was here before, or a ping: nothing was done"},
    **docs.WEBHOOK,
}


@router.post(
    "/github",
    status_code=201,
    response_model=Receipts,
    responses=_ANSWERS,
    openapi_extra=docs.webhook_body(docs.GITHUB),
    summary="GitHub",
)
async def github(
    request: Request,
    signature: Annotated[str | None, Github],
    x_github_event: Annotated[str | None, Header(description="What happened.", json_schema_extra=ID)] = None,
    x_github_delivery: Annotated[str | None, Header(description=DELIVERY, json_schema_extra=ID)] = None,
) -> JSONResponse:
    """Publish a delivery of GitHub: namespace `github`, key the repository, type as `push` or `release.published`."""
    secrets = _secrets("github")
    raw = await body.read(request)
    signatures.check_github(secrets, signature, raw)
    delivery = signatures.check_id("X-GitHub-Delivery", x_github_delivery)
    happened = signatures.check_id("X-GitHub-Event", x_github_event)
    found = _object(request, raw)  # of a ping too: so that a wrong content type is seen when the webhook is set up
    if happened == "ping":
        return answer([])
    repository, sender = _dict(found, "repository"), _dict(found, "sender")
    organization = _dict(found, "organization")
    event = Event(
        key=_text(repository, "full_name") or _text(organization, "login") or "github",
        value=_value(raw),
        type=".".join(filter(None, (happened, _text(found, "action")))),
        namespace="github",
        sender=_text(sender, "login"),
    )
    return await _publish(event, "github", delivery)


@router.post(
    "/mlflow",
    status_code=201,
    response_model=Receipts,
    responses=_ANSWERS,
    openapi_extra=docs.webhook_body(docs.MLFLOW),
    summary="MLflow",
)
async def mlflow(
    request: Request,
    signature: Annotated[str | None, Mlflow],
    x_mlflow_delivery_id: Annotated[str | None, Header(description=DELIVERY, json_schema_extra=ID)] = None,
    x_mlflow_timestamp: Annotated[
        str | None,
        Header(
            description="When it was signed, in seconds since the epoch; 5 minutes off is refused.",
            json_schema_extra={"pattern": "^[0-9]{1,15}$"},
        ),
    ] = None,
) -> JSONResponse:
    """Publish a delivery of MLflow: namespace `mlflow`, key the model's name, type as `model_version.created`.

    Where MLflow has workspaces, the key is `workspace/name`: two workspaces may each have a model of one name.
    """
    secrets = _secrets("mlflow")
    raw = await body.read(request)
    signatures.check_mlflow(secrets, signature, x_mlflow_delivery_id, x_mlflow_timestamp, raw, time.time())
    delivery = signatures.check_id("X-MLflow-Delivery-Id", x_mlflow_delivery_id)
    found = _object(request, raw)
    entity, action = _text(found, "entity"), _text(found, "action")
    if not entity or not action:
        raise Problem(422, "an event of MLflow has entity and action")
    event = Event(
        key="/".join(filter(None, (_text(found, "workspace"), _text(_dict(found, "data"), "name") or entity))),
        value=_value(raw),
        type=f"{entity}.{action}",
        namespace="mlflow",
        sender="mlflow",
    )
    return await _publish(event, "mlflow", delivery)


async def _publish(event: Event, source: str, delivery: str) -> JSONResponse:
    arrival = Arrival(checked(event, by_hand=False), identity_of(f"aiflow:webhooks/{source}", delivery))
    return answer(await link().ask(lambda client: publish(client, [arrival]), sending=True))


def _secrets(name: str) -> tuple[bytes, ...]:
    secrets: tuple[bytes, ...] = getattr(link().config, name)
    if not secrets:
        raise Problem(404, f"this webhook is off: [aiflow] {name}_webhook_secrets is not set")
    return secrets


def _object(request: Request, raw: bytes) -> dict[str, Any]:
    if body.media_type(request) != "application/json":
        raise Problem(415, "choose the content type application/json where the webhook is set up")
    found = jsontext.read(raw)
    if not isinstance(found, dict):
        raise Problem(422, "the body is a JSON object")
    return found


def _dict(found: dict[str, Any], name: str) -> dict[str, Any]:
    value = found.get(name)
    return value if isinstance(value, dict) else {}


def _text(found: dict[str, Any], name: str) -> str:
    value = found.get(name)
    return value if isinstance(value, str) else ""


def _value(raw: bytes) -> str:
    if len(raw) > _core.VALUE_MAX:
        raise Problem(413, f"the body has {len(raw):,} bytes, and the value of an event {_core.VALUE_MAX:,} at most")
    return raw.decode()
