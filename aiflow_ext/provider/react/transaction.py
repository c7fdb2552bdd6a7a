"""One transaction: the events after our offset, through the rules, into actions; all of it, or nothing.

    lock the consumer -> read events -> read runs, tries and rule state -> task states become events
    -> decide and act (decide.py) -> asset events -> save state, actions and offset -> commit

docs/design.md says why twice is impossible.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

import structlog
from airflow.utils.session import create_session
from airflow.utils.sqlalchemy import get_dialect_name
from sqlalchemy import select, text
from sqlalchemy.orm import Session

from aiflow_ext import _core
from aiflow_ext._event import Event
from aiflow_ext.errors import CorruptError, RetentionError
from aiflow_ext.provider.act.stop import Stops
from aiflow_ext.provider.assets.feed import Watchers
from aiflow_ext.provider.assets.news import AssetNews
from aiflow_ext.provider.assets.trigger import go_on_from
from aiflow_ext.provider.config import Config
from aiflow_ext.provider.db import models
from aiflow_ext.provider.db.consumers import begin_at, offset_of
from aiflow_ext.provider.points import point
from aiflow_ext.provider.react.decide import Decisions, Means, Reaction, can_settle
from aiflow_ext.provider.react.tell import Teller
from aiflow_ext.provider.world.registry import Registry
from aiflow_ext.provider.world.runs import World, load, save

log = structlog.get_logger(__name__)

CONSUMER = "scheduler"
BATCH = 1000  # events a transaction reads
ROUNDS = 20  # transactions of one react(); the rest waits for the next pass, so stock scheduling goes on


class Reactor:
    """The consumer of the log in a scheduler.  Opens its handles in the process and at the moment it is made.

    :param broker_up: whether a broker may answer.
    """

    def __init__(self, config: Config, dag_bag: Any, job_id: int | None, broker_up: Callable[[], bool]) -> None:
        self.registry = Registry()
        self._log = _core.EventLog(config.log)
        self._client = _core.Client(config.broker, config.curve())
        self._stops = Stops(self._client, config.stop_grace_sec)
        self._means = Means(self.registry, self._log, self._stops, dag_bag, job_id)
        self._watchers = Watchers(self._log)
        self._teller = Teller(self._client, AssetNews() if config.asset_events else None, broker_up)

    def close(self) -> None:
        """Close the handles."""
        self._client.close()
        self._log.close()

    def react(self) -> Reaction:
        """Act on everything that has happened.

        :raises Error: the log or Airflow's database failed; nothing was done, the next call does it.
        """
        reaction = Reaction()
        for _ in range(ROUNDS):
            try:
                with create_session() as session:
                    again = _Transaction(self, session, reaction).run()
            except BaseException:
                self._watchers.forget()
                self._teller.forget()
                raise
            self._stops.carry_out()
            if not again:
                return reaction
        reaction.busy = True
        return reaction


class _Transaction:
    """One round.  Everything it changes, it changes through its session."""

    def __init__(self, reactor: Reactor, session: Session, reaction: Reaction) -> None:
        self.r = reactor
        self.session = session
        self.reaction = reaction
        self.now_ms = time.time_ns() // 1_000_000
        self.head = 0

    def run(self) -> bool:
        """Do the round; return whether there is (or may be) more."""
        self.r.registry.refresh(self.session)
        offset = offset_of(self.session, CONSUMER)
        if offset is None:
            offset = self._first_offset()
        if not self._something_to_do(offset):
            return False
        if not self._lock():
            self.reaction.busy = True
            return False
        point("apply.locked")
        batch = self._read_events()
        self.world = load(self.session, self.r.registry, CONSUMER, self.now_ms)
        told = self.r._teller.tell(self.session, self.world, self.reaction.work)
        decisions = Decisions(self.r._means, self.session, self.reaction, self.world, self.now_ms)
        decisions.decide(batch)
        more = self._feed_watchers(batch)
        point("apply.acted")
        save(self.session, self.world, CONSUMER, batch[-1].offset if batch else self.world.offset)
        point("apply.saved")
        self.session.commit()
        point("apply.committed")
        self._note_due()
        return told or more or decisions.acted or (bool(batch) and batch[-1].offset < self.head)

    def _first_offset(self) -> int:
        """A new consumer begins at the log's end: what was published before has nobody waiting for it."""
        head = self.r._log.head()
        begin_at(self.session, CONSUMER, head)
        self.session.commit()
        return head

    def _something_to_do(self, offset: int) -> bool:
        """Look without a lock and without a write: an idle scheduler must not wake itself."""
        self.head = head = self.r._log.head()
        if head < offset:
            raise CorruptError(
                f"the log ends at offset {head}, but events up to {offset} have been acted on: it is another log. "
                f"To go on with it: UPDATE aiflow_consumer SET \"offset\" = {head} WHERE name = '{CONSUMER}'"
            )
        if head > offset:
            self.reaction.work.backlog = max(self.reaction.work.backlog, head - offset)
            return True
        world = load(self.session, self.r.registry, CONSUMER, self.now_ms)
        self._due(world)
        fresh = any(run.stored_seen is None for run in world.runs.values())
        due = self.reaction.due_ms is not None and self.reaction.due_ms <= self.now_ms
        waiting = any(can_settle(self.r._stops, run, task, self.now_ms) for run, task in world.tasks())
        if world.ended or fresh or due or waiting:
            return True
        return self.r._teller.waiting(self.session, world) or self.r._watchers.behind(self.session, offset)

    def _lock(self) -> bool:
        """Hold the consumer's row: one scheduler reacts at a time, another one goes on with its own work."""
        if get_dialect_name(self.session) == "sqlite":
            self.session.execute(
                text('UPDATE aiflow_consumer SET "offset" = "offset" WHERE name = :n'), {"n": CONSUMER}
            )
            return True
        row = select(models.consumer.c.offset).where(models.consumer.c.name == CONSUMER)
        return self.session.execute(row.with_for_update(skip_locked=True)).first() is not None

    def _read_events(self) -> list[Event]:
        """Before the runs are read: a run made before an event was published is then always seen."""
        offset = offset_of(self.session, CONSUMER) or 0
        try:
            batch = self.r._log.read(offset, BATCH)
        except RetentionError as e:
            raise RetentionError(
                f"{e}; rules have not seen those. To go on without them: "
                f"UPDATE aiflow_consumer SET \"offset\" = {go_on_from(e)} WHERE name = '{CONSUMER}'"
            ) from None
        self.reaction.work.events += len(batch)
        if batch and self.reaction.work.oldest_ms is None:
            self.reaction.work.oldest_ms = batch[0].create_time
        return batch

    def _feed_watchers(self, batch: Sequence[Event]) -> bool:
        """Events become asset events, which may start Dag runs: a full pass looks."""
        stored, more = self.r._watchers.feed(self.session, self.world.offset, batch)
        self.reaction.made_runs |= bool(stored)
        self.reaction.work.stored += stored
        return more

    def _note_due(self) -> None:
        self.reaction.due_ms = None
        self._due(self.world)

    def _due(self, world: World) -> None:
        times = [t.due_ms for run, t in world.tasks() if t.due_ms is not None and run.running]
        times += [self.r._stops.due_ms(t.stopping) for _, t in world.tasks() if t.stopping is not None]
        self.reaction.due_ms = min(times, default=None)
