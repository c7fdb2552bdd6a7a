"""The routes below ``/aiflow/events``."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Annotated, Any
from urllib.parse import urlencode

from fastapi import APIRouter, Query, Request
from fastapi.responses import JSONResponse

from aiflow_ext.provider.http import body, cloudevents, docs, plain
from aiflow_ext.provider.http.access import MAY_PUBLISH, MAY_READ, User, may_publish_for_others
from aiflow_ext.provider.http.arrivals import Arrival, Caller
from aiflow_ext.provider.http.filters import ONCE, Count, Page, Range
from aiflow_ext.provider.http.link import PATIENCE, link
from aiflow_ext.provider.http.models import EventCount, EventPage, Latest, Receipts, logged
from aiflow_ext.provider.http.problems import Problem
from aiflow_ext.provider.http.publish import Receipt, publish

if TYPE_CHECKING:
    from aiflow_ext._event import Event
    from aiflow_ext.events.client import EventClient

SEARCH = 1.0  # seconds to look for a page that has events

router = APIRouter(tags=["events"], dependencies=[ONCE])


@router.post(
    "/events",
    status_code=201,
    response_model=Receipts,
    responses={200: {"model": Receipts, "description": "All were duplicates: nothing was done"}, **docs.SENDING},
    openapi_extra=docs.EVENTS_BODY,
    dependencies=[MAY_PUBLISH],
    summary="Publish",
)
async def publish_events(request: Request, user: User) -> JSONResponse:
    """Publish one event or up to 1,000, all or none; the answer comes when they are durable.

    What is sent is told by its Content-Type: plain JSON (an object or a list), or CloudEvents 1.0: structured, a
    batch, or binary (`ce-` headers, and the data as the body).  An event whose (source, id) is in the log already is
    a duplicate, and nothing is done with it.
    """
    caller = Caller(_short(user.get_name()), may_publish_for_others(user))
    arrivals = [caller.says(arrival) for arrival in await _arrivals(request, caller)]
    receipts = await link().ask(lambda client: publish(client, arrivals), sending=True) if arrivals else []
    return answer(receipts)


def answer(receipts: list[Receipt]) -> JSONResponse:
    """Return what is told of what was published."""
    new = any(not receipt.duplicate for receipt in receipts)
    return JSONResponse({"events": [receipt._asdict() for receipt in receipts]}, 201 if new else 200)


async def _arrivals(request: Request, caller: Caller) -> list[Arrival]:
    kind = body.media_type(request)
    headers = request.headers.items()
    now = cloudevents.utc_now()
    if kind == cloudevents.STRUCTURED:
        return cloudevents.structured(await body.read(request), now)
    if kind == cloudevents.BATCH:
        return cloudevents.batch(await body.read(request), now)
    if kind.startswith("application/cloudevents"):
        raise Problem(415, f"CloudEvents are taken as {cloudevents.STRUCTURED}, {cloudevents.BATCH} or in binary mode")
    if cloudevents.is_binary(headers):
        return cloudevents.binary(headers, await body.read(request), now)
    if kind != "application/json":
        raise Problem(415, "send application/json, or a CloudEvent")
    return plain.parse(await body.read(request), caller)


def _short(user: str) -> str:
    return user.encode()[:255].decode(errors="ignore")


@router.get(
    "/events",
    response_model=EventPage,
    responses={200: {"headers": docs.LINK}, **docs.READING},
    dependencies=[MAY_READ],
    summary="List",
)
async def list_events(query: Annotated[Page, Query()]) -> JSONResponse:
    """Return the events that match, in the order of their offsets, a page at a time.

    `next`, and the header `Link` with `rel="next"`, lead to the next page.  A page may have fewer events than `limit`,
    or none, and a next one all the same: so much of the log was looked at.
    """
    found, more = await link().ask(lambda client: _page(client, query))
    headers = {} if more is None else {"Link": f'<?{_query(query, more)}>; rel="next"'}
    return JSONResponse({"events": [logged(event) for event in found], "next": more}, headers=headers)


def _page(client: EventClient, query: Page) -> tuple[list[Event], int | None]:
    """Return the first page that has events, or the last that there was time for, and where the next one begins."""
    end = time.monotonic() + SEARCH
    asked = query.arguments() | {"limit": query.limit, "timeout": PATIENCE}
    found, more = client.page(**asked)
    while not found and more is not None and time.monotonic() < end:
        asked |= {"after": more, "since": None, "kept": True}
        found, more = client.page(**asked)
    return found, more


def _query(page: Page, after: int) -> str:
    given: dict[str, Any] = page.model_dump(exclude_defaults=True)
    return urlencode(given | {"after": after}, doseq=True)


@router.get(
    "/events/count",
    response_model=EventCount,
    response_model_exclude_unset=True,
    responses=docs.READING,
    dependencies=[MAY_READ],
    summary="Count",
)
async def count_events(query: Annotated[Count, Query()]) -> JSONResponse:
    """Return how many events match, and how many of each sender with `by=sender`."""
    arguments = query.arguments()
    if query.by is None:
        n = await link().ask(lambda client: client.count(**arguments, timeout=PATIENCE))
        return JSONResponse({"count": n})
    senders = await link().ask(lambda client: client.count_by_sender(**arguments, timeout=PATIENCE))
    return JSONResponse({"count": sum(senders.values()), "senders": senders})


@router.get(
    "/events/latest", response_model=Latest, responses=docs.READING, dependencies=[MAY_READ], summary="Newest offset"
)
async def latest_event(query: Annotated[Range, Query()]) -> JSONResponse:
    """Return the offset of the newest event that matches: `after` for who wants only what comes from now on."""
    offset = await link().ask(lambda client: client.latest(**query.arguments(), timeout=PATIENCE))
    return JSONResponse({"offset": offset})
