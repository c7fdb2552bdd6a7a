"""``GET /aiflow/events/stream``: events as they come, as server-sent events.

A stream costs no thread: its subscription has a descriptor that the event loop watches.  What a client does not read
stays in the log: the subscription's credit bounds what is under way.
"""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Annotated

import anyio
from fastapi import APIRouter, Header, Query
from starlette.responses import Response

from aiflow_ext.provider.http import docs, jsontext
from aiflow_ext.provider.http.access import MAY_READ
from aiflow_ext.provider.http.filters import ONCE, Since
from aiflow_ext.provider.http.link import PATIENCE, Link, link
from aiflow_ext.provider.http.models import logged
from aiflow_ext.provider.http.problems import of_error, unavailable

if TYPE_CHECKING:
    from starlette.types import Receive, Scope, Send

    from aiflow_ext._event import Event
    from aiflow_ext.events.subscription import Subscription

router = APIRouter(tags=["events"], dependencies=[ONCE])

TICK = 0.5  # seconds between looks at what cannot wake us: the end of the server, the subscription's lease
HEARTBEAT = 15.0  # seconds without a byte, before one is sent: proxies end what is silent for long
LIFETIME = 3600.0  # seconds: then the client comes again, and is asked again who it is
STALLED = 20.0  # seconds that a client may take nothing
RECONNECT = b"retry: 2000\n\n"  # ms


class EventStream(Response):
    """A response that ends when the client does, or the server, or after an hour."""

    media_type = "text/event-stream"

    def __init__(self, subscription: Subscription, ended: Callable[[], None]) -> None:
        # Response's own would add a Content-Length.
        self.status_code = 200
        self.background = None
        self.init_headers({"Cache-Control": "no-store", "X-Accel-Buffering": "no"})
        self._subscription = subscription
        self._ended = ended

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        gone = asyncio.ensure_future(_disconnect(receive))
        try:
            await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
            await self._serve(gone, send)
            await send({"type": "http.response.body", "body": b"", "more_body": False})
        except TimeoutError:
            pass  # it takes nothing; the server closes a response that has no end
        finally:
            gone.cancel()
            self._ended()
            with anyio.CancelScope(shield=True):
                await asyncio.to_thread(self._subscription.close)

    async def _serve(self, gone: asyncio.Future[None], send: Send) -> None:
        now = asyncio.get_running_loop().time
        end = now() + LIFETIME
        beat = now() + HEARTBEAT
        await _send(send, RECONNECT)
        while not gone.done() and not _server_ends() and now() < end:
            try:
                events = self._subscription.poll()
            except Exception as e:
                if (problem := of_error(e)) is None:
                    raise
                await _send(send, f"event: problem\ndata: {jsontext.write(problem.body())}\n\n".encode())
                return
            if events:
                await _send(send, _frames(events, self._subscription.log_id))
            elif now() >= beat:  # an id without data: nothing is dispatched, but a reconnect resumes from here
                await _send(send, f"id: {_id(self._subscription.cursor, self._subscription.log_id)}\n\n".encode())
            else:
                await self._wait(gone)
                continue
            beat = now() + HEARTBEAT

    async def _wait(self, gone: asyncio.Future[None]) -> None:
        """Wait for more, a tick at most.  The subscription was polled until it had nothing."""
        loop = asyncio.get_running_loop()
        more: asyncio.Future[None] = loop.create_future()
        fd = self._subscription.fileno()
        loop.add_reader(fd, _wake, more)
        try:
            await asyncio.wait({more, gone}, timeout=TICK, return_when=asyncio.FIRST_COMPLETED)
        finally:
            loop.remove_reader(fd)
            more.cancel()


@router.get(
    "/events/stream",
    status_code=200,
    response_class=EventStream,
    responses={
        200: {"description": "Server-sent events: `id` is OFFSET:LOG, `data` the event as JSON"},
        **docs.READING,
    },
    dependencies=[MAY_READ],
    summary="Live",
)
async def stream_events(
    query: Annotated[Since, Query()],
    last_event_id: Annotated[
        str | None,
        Header(
            pattern=r"^[0-9]{1,19}(:[0-9]{1,19})?$",
            description="Resume beyond the event of this `id`, or of this offset; goes before `after`.",
        ),
    ] = None,
) -> EventStream:
    """Send each event that matches, as it comes: from now on, or from where `after`, `since` or `Last-Event-ID` say.

    While there is nothing to send, an `id` alone comes each 15 s.  The stream ends after an hour at the latest, and
    when the server ends; a browser's EventSource comes again by itself, and resumes.  When it cannot go on, an event
    `problem` says why; to resume in another log than that of the `id` is refused (410).
    """
    its_link = link()
    _take_place(its_link)
    arguments = query.arguments()
    if last_event_id is not None:
        offset, _, log_id = last_event_id.partition(":")
        arguments |= {"after": int(offset), "log_id": int(log_id) if log_id else None, "since": None}
    try:
        subscription = await its_link.ask(lambda client: client.subscribe(**arguments, control=(), timeout=PATIENCE))
    except BaseException:
        its_link.streams -= 1
        raise

    def ended() -> None:
        its_link.streams -= 1

    return EventStream(subscription, ended)


def _take_place(its_link: Link) -> None:
    if its_link.streams >= its_link.config.streams:
        raise unavailable(f"this process serves {its_link.streams} streams, and [aiflow] http_streams allows no more")
    its_link.streams += 1


def _wake(more: asyncio.Future[None]) -> None:
    if not more.done():
        more.set_result(None)


def _id(offset: int, log_id: int) -> str:
    """Return what a client resumes from: in another log the offset alone would be another event."""
    return f"{offset}:{log_id}"


def _frames(events: Iterable[Event], log_id: int) -> bytes:
    frames = (f"id: {_id(event.offset, log_id)}\ndata: {jsontext.write(logged(event))}\n\n" for event in events)
    return "".join(frames).encode()


async def _send(send: Send, data: bytes) -> None:
    async with asyncio.timeout(STALLED):
        await send({"type": "http.response.body", "body": data, "more_body": True})


async def _disconnect(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


def _server_ends() -> bool:
    """Return whether uvicorn was told to end: it waits for open responses, and tells them nothing."""
    server = getattr(signal.getsignal(signal.SIGTERM), "__self__", None)
    return bool(getattr(server, "should_exit", False))
