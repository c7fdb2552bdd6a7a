"""What a running task may ask: which events started me, and should I stop?"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from jinja2 import pass_context

if TYPE_CHECKING:
    from aiflow_ext._event import Event
    from aiflow_ext.events.subscription import Subscription

STOP_NAMESPACE = "aiflow"
STOP_TYPE = "STOP"

_stop: tuple[str, Subscription] | None = None  # of this try: its id and where the request would arrive
_stopped: set[str] = set()


def triggering_events() -> list[Event]:
    """Return the events that started this task, oldest first; [] for one that no event started.

    At most the newest 1,000, and as many as fit in 1 MiB.  In a template write
    ``{{ macros.aiflow.triggering_events() }}``.

    :raises RuntimeError: called outside a running task.
    """
    return _events_of(_this_try())


@pass_context
def triggering_events_macro(context: Mapping[str, Any]) -> list[Event]:
    """triggering_events() for templates."""
    return _events_of(context["ti"])


triggering_events_macro.__name__ = "triggering_events"  # its name in templates


def stop_requested() -> bool:
    """Return whether a rule has asked this task to stop.  Cheap enough for an inner loop; only the first call waits.

    :raises RuntimeError: called outside a running task.
    :raises TimeoutError: no broker answered the first call within 30 s; the next one asks again.
    """
    ti = _this_try()
    try_id = str(ti.id)
    if try_id not in _stopped and _stop_subscription(try_id).poll(0):
        _stopped.add(try_id)
    return try_id in _stopped


def stop_patterns() -> list[tuple[str, str, str, str]]:
    """Return the patterns of a request to stop this task; [] outside a task.  EventClient.subscribe() ends on them."""
    try:
        return [_pattern(str(_this_try().id))]
    except RuntimeError:
        return []


def _pattern(try_id: str) -> tuple[str, str, str, str]:
    return (STOP_NAMESPACE, try_id, STOP_TYPE, "*")


def _this_try() -> Any:
    from airflow.sdk import get_current_context

    return get_current_context()["ti"]


def _events_of(ti: Any) -> list[Event]:
    from aiflow_ext._event import Event

    context = getattr(ti, "_ti_context_from_server", None)
    kwargs = getattr(context, "next_kwargs", None) or {}
    kwargs = kwargs.get("__var", kwargs)
    text = kwargs.get("events") or kwargs.get("event") or "[]"
    return [Event(*fields) for fields in json.loads(text)]


def _stop_subscription(try_id: str) -> Subscription:
    global _stop
    if _stop is None or _stop[0] != try_id:
        from aiflow_ext.provider.config import Config

        with Config.from_airflow().client(STOP_NAMESPACE) as client:
            _stop = (try_id, client.subscribe(key=try_id, type=STOP_TYPE, control=()))
            if client.list(key=try_id, type=STOP_TYPE, limit=1):  # asked before we listened
                _stopped.add(try_id)
    return _stop[1]
