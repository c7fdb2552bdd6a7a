"""The API server's part: tell the scheduler that somebody changed something, and note from where a run hears events."""

from __future__ import annotations

import logging
import os
import time
from typing import TYPE_CHECKING, Any

from aiflow_ext.provider.config import Config, event_mode

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

    from aiflow_ext.events.client import EventClient

log = logging.getLogger(__name__)

WATCHED = ("/execution/", "/api/v2/")
CHANGING = frozenset({"POST", "PUT", "PATCH", "DELETE"})
# Requests of tasks that make no work for the scheduler.
NO_WORK_ENDS = ("/heartbeat", "/rtif", "/rendered-map-index")
NO_WORK_BEGINS = ("/execution/xcoms/", "/execution/variables/", "/execution/store/")
PATIENCE = 1.0  # seconds that a request waits for the broker
AWAY_SEC = 5.0  # for so long none waits after one did in vain


class WakeMiddleware:
    """Send a wake-up after each request that changed something.  A hint: losing one costs a second, not an event."""

    def __init__(self, app: ASGIApp) -> None:
        from airflow import settings

        from aiflow_ext.provider.db.dialect import give_room_to_sort
        from aiflow_ext.provider.world.begins import note_begins

        self.app = app
        note_begins(log_end)
        give_room_to_sort(settings.get_engine())
        if settings.async_engine is not None:
            give_room_to_sort(settings.async_engine.sync_engine)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve the request, then wake."""
        if not _may_change(scope):
            await self.app(scope, receive, send)
            return
        status = 0

        async def observe(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        await self.app(scope, receive, observe)
        if 200 <= status < 300:
            wake(scope["path"])


def _may_change(scope: Scope) -> bool:
    return (
        scope["type"] == "http"
        and scope["method"] in CHANGING
        and scope["path"].startswith(WATCHED)
        and not scope["path"].endswith(NO_WORK_ENDS)
        and not scope["path"].startswith(NO_WORK_BEGINS)
    )


def wake(what: str) -> None:
    """Send one hint; never raises, never blocks."""
    try:
        client = _client("hints") if "api" in _config().wake_sources else None
        if client is not None:
            client.hint(what[:200])
    except Exception:
        log.warning("aiflow: the scheduler could not be woken (said once)", exc_info=not _handles.get("said"))
        _handles["said"] = True


def log_end() -> int | None:
    """Ask the broker where the log ends; None: it does not say so in time.  Never raises."""
    if time.monotonic() < _handles.get("away", 0.0):
        return None
    try:
        client = _client("questions")  # a hint does not wait until one is answered
        return client.head(PATIENCE) if client is not None else None
    except Exception as e:
        _handles["away"] = time.monotonic() + AWAY_SEC
        log.warning("aiflow: a run that is made now may hear events from before, if the scheduler is behind: %s", e)
        return None


_handles: dict[str, Any] = {}
os.register_at_fork(after_in_child=_handles.clear)


def _config() -> Config:
    config: Config = _handles.get("config") or Config.from_airflow()
    _handles["config"] = config
    return config


def _client(use: str) -> EventClient | None:
    """The client of the broker, one for each use; None where there is no event mode."""
    config = _config()
    path = config.broker.removeprefix("ipc://")
    # `airflow scheduler --event-mode` does not reach our configuration, but its socket is there to be seen.
    to_be_seen = config.embedded and path != config.broker
    if not (os.path.exists(path) if to_be_seen else event_mode()):
        return None
    if use not in _handles:
        _handles[use] = config.client()
    client: EventClient = _handles[use]
    return client
