"""What a running task may ask: which events started me, and should I stop?"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from jinja2 import pass_context

from aiflow_ext.errors import ReplacedError, RetentionError

if TYPE_CHECKING:
    from aiflow_ext._event import Event
    from aiflow_ext.events.subscription import Subscription

log = logging.getLogger(__name__)

STOP_NAMESPACE = "aiflow"
STOP_TYPE = "STOP"

_stop: tuple[str, Subscription] | None = None  # of this try: its id and where the request would arrive
_stopped: set[str] = set()


def triggering_events() -> list[Event]:
    """Return the events that started this task, or else its run, oldest first; [] where no event did.

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
    global _stop
    try_id = str(_this_try().id)
    if try_id not in _stopped:
        try:
            asked = _stop_subscription(try_id).poll(0)
        except (ReplacedError, RetentionError):  # which closed it: a new one also asks for what it has missed
            _stop = None
            asked = _stop_subscription(try_id).poll(0)
        if asked:
            _note_stop(try_id, asked[0])
        if try_id in _stopped and _stop is not None:
            _stop[1].close()  # a task's process ends without saying good-bye
            _stop = None
    return try_id in _stopped


def events_of_conf(conf: Any) -> list[Event]:
    """Return the events in the conf of a run that a rule made (docs/rules.md has its shape); [] in any other conf."""
    from aiflow_ext._event import Event

    ours = conf.get("aiflow") if isinstance(conf, Mapping) else None
    found = ours.get("events") if isinstance(ours, Mapping) else None
    try:
        return [Event(**fields) for fields in found or ()]
    except TypeError:  # a user wrote it, not a rule
        return []


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
    from aiflow_ext.provider.author.operators import KEY, RESUME_METHOD

    context = getattr(ti, "_ti_context_from_server", None)
    kwargs = getattr(context, "next_kwargs", None) or {}
    kwargs = kwargs.get("__var", kwargs)
    method, text = getattr(context, "next_method", None), None
    if method == RESUME_METHOD:
        text = kwargs.get("events") or kwargs.get("event")
    elif method:  # it has deferred itself since
        text = ti.xcom_pull(task_ids=ti.task_id, key=KEY)
    if text:
        return [Event(*fields) for fields in json.loads(text)]
    return events_of_conf(getattr(getattr(context, "dag_run", None), "conf", None))


def _note_stop(try_id: str, request: Event) -> None:
    _stopped.add(try_id)
    log.info(request.value)


def _stop_subscription(try_id: str) -> Subscription:
    global _stop
    if _stop is None or _stop[0] != try_id:
        from aiflow_ext.provider.config import Config

        with Config.from_airflow().client(STOP_NAMESPACE) as client:
            _stop = (try_id, client.subscribe(key=try_id, type=STOP_TYPE, control=()))
            for request in client.list(key=try_id, type=STOP_TYPE, limit=1):  # asked before we listened
                _note_stop(try_id, request)
    return _stop[1]
