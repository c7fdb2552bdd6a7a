"""A parked task under a stock scheduler, and a task with a MessageQueueTrigger: the log is replaced while they wait."""

from __future__ import annotations

import asyncio
import contextlib
import json
import sqlite3
import time
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from airflow.triggers.base import BaseTrigger

from aiflow_ext import Event, EventClient, EventLog, _core, all_of, event
from aiflow_ext.errors import RetentionError
from aiflow_ext.provider.assets.trigger import EventLogTrigger
from aiflow_ext.provider.author.waiting import EventTrigger
from aiflow_ext.rules import Condition, Rule

PAST = 1_000_000_000_000  # ms since 1970


class Waiting:
    """A trigger that waits at a broker, whose log can be another one."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.uri = folder, f"ipc://{folder}/b"
        self.client = EventClient(self.uri)
        self.broker: _core.Broker | None = None

    def serve(self, name: str) -> None:
        self.close()
        self.broker = _core.Broker(self.uri, f"sqlite:{self.folder}/{name}.db")
        self.broker.start()

    def close(self) -> None:
        if self.broker is not None:
            self.broker.close()
            self.broker = None

    def log(self, name: str) -> EventLog:
        return EventLog(f"sqlite:{self.folder}/{name}.db")

    async def publish(self, *events: Event) -> list[int]:
        return await asyncio.to_thread(self.client.publish_many, events)

    async def until_it_listens(self) -> None:
        end = time.monotonic() + 120
        while (await asyncio.to_thread(self.client.status))["subscribers"] == 0:
            assert time.monotonic() < end


@contextlib.asynccontextmanager
async def started(trigger: BaseTrigger) -> AsyncIterator[asyncio.Task[Any]]:
    """What the trigger fires, to come."""
    async with contextlib.aclosing(trigger.run()) as events:  # type: ignore[type-var]
        fires = asyncio.ensure_future(anext(events))
        try:
            yield fires
        finally:
            fires.cancel()
            with contextlib.suppress(asyncio.CancelledError, Exception):
                await fires


@pytest.fixture
def waiting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    made = Waiting(tmp_path)
    monkeypatch.setenv("AIRFLOW__AIFLOW__BROKER", made.uri)
    yield made
    made.close()
    made.client.close()


def parked(when: Any, **more: str) -> EventTrigger:
    return EventTrigger(json.dumps({"v": 1, "rules": [Rule("r", "start", when).to_json()]}), "dag", "task", **more)


def values(fired: Any) -> list[str]:
    """Of the events that it brings."""
    found = fired.payload
    return [Event(*fields).value for fields in json.loads(found)] if isinstance(found, str) else [found["value"]]


TRIGGERS: dict[str, Callable[..., BaseTrigger]] = {
    "parked": lambda **more: parked(event("go"), **more),
    "queue": lambda **more: EventLogTrigger("go", **more),
}


@pytest.mark.parametrize("kind", TRIGGERS)
def test_another_log_is_waited_at_from_when_the_task_began_to_wait(waiting: Waiting, kind: str) -> None:
    with waiting.log("other") as other:
        other.append([Event("go", "old")] * 3, "p", 1, PAST)

    async def main() -> None:
        waiting.serve("log")
        await waiting.publish(Event("k"), Event("k"))
        async with started(TRIGGERS[kind]()) as fires:
            await waiting.until_it_listens()
            waiting.close()
            with waiting.log("other") as other:
                other.append([Event("go", "meanwhile")], "p", 4)
            waiting.serve("other")
            assert values(await asyncio.wait_for(fires, 120)) == ["meanwhile"]

    asyncio.run(main())


@pytest.mark.parametrize(
    ("when", "events", "carried"),
    [
        (event("a", count=3), [Event("a", "x" * 600_000)] * 3, 1),
        (event("a", count=1000) & event("b", count=1000), [Event("a"), Event("b")] * 1000, 1000),
    ],
)
def test_a_start_under_a_stock_scheduler_carries_the_newest_events(
    waiting: Waiting, caplog: pytest.LogCaptureFixture, when: Condition, events: list[Event], carried: int
) -> None:
    """R94, where the triggerer starts the task."""

    async def main() -> None:
        waiting.serve("log")
        async with started(parked(when)) as fires:
            await waiting.until_it_listens()
            offsets = await waiting.publish(*events)
            fired = await asyncio.wait_for(fires, 120)
            assert [Event(*fields).offset for fields in json.loads(fired.payload)] == offsets[-carried:]

    asyncio.run(main())
    assert f"carries the newest {carried} of {len(events)} events" in caplog.text


@pytest.mark.parametrize("kind", TRIGGERS)
def test_another_triggerer_hears_what_came_since_the_task_began_to_wait(waiting: Waiting, kind: str) -> None:
    async def main() -> None:
        waiting.serve("log")
        with waiting.log("log") as log:
            log.append([Event("go", "before")], "p", 1, PAST)
        began = datetime.now(UTC).isoformat()
        await waiting.publish(Event("go", "meanwhile"))
        async with started(TRIGGERS[kind](began=began)) as fires:
            assert values(await asyncio.wait_for(fires, 120)) == ["meanwhile"]

    asyncio.run(main())


def test_an_older_copy_has_what_was_heard_before(waiting: Waiting) -> None:
    async def main() -> None:
        waiting.serve("log")
        async with started(parked(all_of(event("a"), event("b")))) as fires:
            await waiting.until_it_listens()
            await waiting.publish(Event("a", "1"))
            with contextlib.closing(sqlite3.connect(waiting.folder / "log.db")) as db:
                db.execute("VACUUM INTO ?", (f"{waiting.folder}/copy.db",))
            await waiting.publish(Event("k"), Event("k"))
            waiting.close()
            with contextlib.closing(sqlite3.connect(waiting.folder / "copy.db")) as db:
                db.execute("UPDATE aiflow_log_head SET log_id = log_id + 1")  # docs/schema.md
                db.commit()
            waiting.serve("copy")
            await waiting.publish(*[Event("k")] * 5, Event("b", "2"))
            assert values(await asyncio.wait_for(fires, 120)) == ["1", "2"]

    asyncio.run(main())


@pytest.mark.parametrize("kind", TRIGGERS)
def test_events_that_were_let_go_fail_the_task_which_says_what_to_do(waiting: Waiting, kind: str) -> None:
    async def main() -> None:
        waiting.serve("log")
        await waiting.publish(Event("k"))
        async with started(TRIGGERS[kind]()) as fires:
            await waiting.until_it_listens()
            waiting.close()
            with waiting.log("log") as log:
                gone = log.append([Event("go")] * 3, "p", 1)
                log.append([Event("k")], "p", 4)
                log.purge("default", gone[-1])
            waiting.serve("log")
            with pytest.raises(RetentionError, match="clear it, and it waits anew"):
                await asyncio.wait_for(fires, 120)

    asyncio.run(main())


@pytest.mark.parametrize("kind", TRIGGERS)
def test_what_was_let_go_before_it_began_to_wait_does_not_matter(waiting: Waiting, kind: str) -> None:
    with waiting.log("log") as log:
        log.append([Event("k", namespace="kept")], "p", 1, PAST)
        log.purge("default", log.append([Event("go")] * 3, "p", 2, PAST)[-1])

    async def main() -> None:
        waiting.serve("log")
        async with started(TRIGGERS[kind](began=datetime.now(UTC).isoformat())) as fires:
            await waiting.until_it_listens()
            await waiting.publish(Event("go", "new"))
            assert values(await asyncio.wait_for(fires, 120)) == ["new"]

    asyncio.run(main())
