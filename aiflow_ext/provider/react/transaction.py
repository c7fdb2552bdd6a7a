"""One transaction: the events after our offset, through the rules, into actions; all of it, or nothing.

    lock the consumer -> read events -> read runs, tries and rule state -> task states become events
    -> decide and act (decide.py) -> asset events -> save state, actions and offset -> commit

docs/design.md says why twice is impossible.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Sequence
from typing import Any

import structlog
from sqlalchemy.orm import Session

from aiflow_ext import _core
from aiflow_ext._event import Event
from aiflow_ext.errors import Error, RetentionError
from aiflow_ext.events.address import safe_uri
from aiflow_ext.provider.act.runs import closed
from aiflow_ext.provider.act.stop import Stops
from aiflow_ext.provider.assets.feed import Watchers
from aiflow_ext.provider.assets.news import AssetNews
from aiflow_ext.provider.assets.trigger import go_on_from
from aiflow_ext.provider.config import Config
from aiflow_ext.provider.db import models
from aiflow_ext.provider.db.consumers import Place, Stand, begin_at, holder_of, stand_of
from aiflow_ext.provider.db.dialect import hold
from aiflow_ext.provider.db.session import own_session
from aiflow_ext.provider.points import point
from aiflow_ext.provider.react.another_log import another_log
from aiflow_ext.provider.react.decide import SLICE_SEC, Decisions, Means, Reaction, can_settle
from aiflow_ext.provider.react.starts import due_ms
from aiflow_ext.provider.react.tell import Teller
from aiflow_ext.provider.world.blame import Key, RunError
from aiflow_ext.provider.world.registry import Registry
from aiflow_ext.provider.world.world import World

log = structlog.get_logger(__name__)

CONSUMER = "scheduler"
BATCH = 1000  # events a transaction reads
ASIDE_SEC = 10.0  # that a run which cannot be read is left out
ASIDE_MAX_SEC = 640.0  # the same, where it fails again and again
HELD_MS = 5  # between two tries while another scheduler holds the consumer's row; then twice as long each time,
HELD_MAX_MS = 100  # up to this
SHUT_OUT_SEC = 10.0  # another one holds the consumer's row for so long and acts on nothing: it is named
HANGS_SEC = 60  # of silence, twice what a log may be silent for: then the server ends the session of a reaction
NOT_OURS = (
    "aiflow: what is published to the broker has no effect: it serves another log than [aiflow] log, which the "
    "scheduler reads; give both the same one, which both reach"
)
ROUNDS = 20  # transactions of one react(); the rest waits for the next pass, so stock scheduling goes on


class Reactor:
    """The consumer of the log in a scheduler.  Opens its handles in the process and at the moment it is made.

    :param broker_up: whether a broker may answer.
    :param broker_log: the id of the log that it serves; None: not known.
    :param changed: see `World`.
    :param beat: see `World`.
    :param executors: Airflow's, of this scheduler.
    """

    def __init__(
        self,
        config: Config,
        dag_bag: Any,
        job_id: int | None,
        broker_up: Callable[[], bool],
        broker_log: Callable[[], int | None],
        changed: Callable[[], Collection[Key] | None],
        beat: Callable[[], None],
        executors: Sequence[Any],
    ) -> None:
        self.registry = Registry()
        self.world = World(self.registry, CONSUMER, changed, beat)
        self._config = config
        self._broker_log = broker_log
        self._told_of: int | None = None  # the log of a broker, which is not ours
        self._log = _core.EventLog(config.log)
        self._client = _core.Client(config.broker, config.curve())
        self._stops = Stops(self._client, config.stop_grace_sec, executors)
        self._means = Means(self.registry, self._log, self._stops, dag_bag, job_id)
        self._watchers = Watchers(self._log)
        self._aside: dict[Key, tuple[float, float]] = {}  # until when, and for how long
        news = AssetNews() if config.asset_events else None
        self._teller = Teller(self._client, news, broker_up, None if config.tell_all else self._watchers)
        self._shut_out: tuple[int, float] | None = None  # after which reaction, and when to say it
        self._held_ms = HELD_MS

    def head(self) -> int | None:
        """Return the offset of the newest event; None: the log cannot say it now."""
        try:
            return self._log.head()
        except Error:
            return None

    def close(self) -> None:
        """Close the handles."""
        self._client.close()
        self._log.close()

    def shut_out(self, session: Session, version: int) -> int:
        """Another scheduler holds the consumer's row.  That is normal, unless it does not get on.

        :param version: the number of reactions.

        :return: in how many ms to try again.
        """
        now, wait_ms = time.monotonic(), self._held_ms
        self._held_ms = min(2 * wait_ms, HELD_MAX_MS)
        if self._shut_out is not None and self._shut_out[0] == version:
            if now < self._shut_out[1]:
                return wait_ms
            log.warning("aiflow: events wait for who holds the consumer's row", **holder_of(session, CONSUMER))
        self._shut_out = version, now + SHUT_OUT_SEC
        return wait_ms

    def let_in(self) -> None:
        """Nobody else holds it, or nothing is to be done."""
        self._shut_out, self._held_ms = None, HELD_MS

    @property
    def runs(self) -> Collection[Key]:
        """Those that it knows, also where their Dags have no rules any more."""
        return self.world.runs.keys()

    def react(self, *, audit: bool = False) -> Reaction:
        """Act on everything that has happened.

        :param audit: look first whether some of what is known is so.
        :raises Error: the log or Airflow's database failed; nothing was done, the next call does it.
        """
        reaction, began = Reaction(), time.monotonic()
        self.world.current = False
        for _ in range(ROUNDS):
            try:
                with own_session() as session:
                    again = _Transaction(self, session, reaction).run(audit=audit)
                    audit = False
                    self._stops.carry_out()
            except BaseException as e:
                self.world.undone()
                self._watchers.forget()
                self._teller.forget()
                self._stops.forget()
                if not isinstance(e, RunError) or e.key in self.aside():
                    raise
                self._set_aside(e)
                again = True
            if not again:
                return reaction
            if time.monotonic() - began >= SLICE_SEC:
                break
        reaction.busy = True
        return reaction

    def compare(self, log_id: int) -> None:
        """Say once where the broker serves another log than this one, which the scheduler reads."""
        theirs = self._broker_log()
        if theirs not in (None, log_id, self._told_of):
            log.error(NOT_OURS, broker=safe_uri(self._config.broker), serves=theirs, log=log_id)
        self._told_of = None if theirs == log_id else theirs

    def aside(self) -> set[Key]:
        """The runs that the reaction leaves out for now."""
        now = time.monotonic()
        # One that was read since, or is over, is forgotten after a while; until then it waits longer if it fails again.
        self._aside = {key: kept for key, kept in self._aside.items() if now < kept[0] + ASIDE_MAX_SEC}
        return {key for key, (until, _) in self._aside.items() if now < until}

    def _set_aside(self, error: RunError) -> None:
        """Try the run again after a while: nothing was done yet, so the others lose only the time.

        Each time it fails again the while is twice as long, so that many such runs leave time for the others.
        """
        _, waited = self._aside.get(error.key, (0.0, ASIDE_SEC / 2))
        if error.key not in self._aside:  # say it once
            dag_id, run_id = error.key
            log.error(
                "aiflow: a run is set aside: its rules hear no events, until they can be read again",
                dag_id=dag_id,
                run_id=run_id,
                exc_info=error.__cause__,
            )
        while_sec = min(2 * waited, ASIDE_MAX_SEC)
        self._aside[error.key] = time.monotonic() + while_sec, while_sec


class _Transaction:
    """One round.  Everything it changes, it changes through its session."""

    def __init__(self, reactor: Reactor, session: Session, reaction: Reaction) -> None:
        self.r = reactor
        self.session = session
        self.reaction = reaction
        self.now_ms = time.time_ns() // 1_000_000
        self.head = 0
        self.log_id = 0

    def run(self, *, audit: bool) -> bool:
        """Do the round; return whether there is (or may be) more."""
        if audit:
            self.r.world.audit(self.session, self.now_ms, self.r.aside())
        stand = stand_of(self.session, CONSUMER) or self._first_stand()
        wanted = self._something_to_do(stand)
        if wanted and not self._lock():
            self.reaction.due_ms = self.now_ms + self.r.shut_out(self.session, stand.version)
            return False
        self.r.let_in()
        if not wanted:
            return False
        point("apply.locked")
        stand = stand_of(self.session, CONSUMER) or Stand(Place(0, None), 0)
        place = self._ahead(stand)
        batch = self._read_events(place)
        self.world = self._world(stand)
        told = self.r._teller.tell(self.session, self.world, self.reaction.work, all_of=self._all_of())
        decisions = Decisions(self.r._means, self.session, self.reaction, self.world, self.now_ms)
        batch = decisions.decide(batch, self.head, self._read)
        self.reaction.work.events += len(batch)
        more = self._feed_watchers(place, batch)
        point("apply.acted")
        self.world.save(self.session, self.log_id)
        point("apply.saved")
        self.session.commit()
        self.world.committed()
        point("apply.committed")
        self._note_due()
        progress = self.world.progress
        left = bool(progress.behind) or (bool(batch) and progress.ahead < self.head)
        return told or more or decisions.acted or self.world.left or left

    def _first_stand(self) -> Stand:
        """A new consumer begins at the log's end: what was published before has nobody waiting for it."""
        first = Place(*self.r._log.head_and_id())
        begin_at(self.session, CONSUMER, first)
        self.session.commit()
        # Another scheduler may have been faster, with another log.
        return stand_of(self.session, CONSUMER) or Stand(first, 0)

    def _look(self, place: Place) -> None:
        """See how far the log goes, and that it is the one whose events were acted on."""
        self.head, self.log_id = self.r._log.head_and_id()
        if not place.is_in(self.log_id) or self.head < place.offset:
            raise another_log(self.session, self.r._config.log, place, Place(self.head, self.log_id))
        self.r.compare(self.log_id)

    def _something_to_do(self, stand: Stand) -> bool:
        """Look without a lock and without a write: an idle scheduler must not wake itself."""
        place = self._ahead(stand)
        self._look(place)
        if (backlog := self.head - stand.place.offset) > 0:
            self.reaction.work.backlog = max(self.reaction.work.backlog, backlog)
            return True
        if place.log_id is None:  # of an earlier version: it gets the id
            return True
        world = self._world(stand)
        self._due(world)
        due = self.reaction.due_ms is not None and self.reaction.due_ms <= self.now_ms
        waiting = any(can_settle(self.r._stops, run, task, self.now_ms) for run, task in world.waiting())
        waiting |= any(task.pending and not closed(self.session, dag_id) for dag_id, task in world.dags.items())
        if world.ended or world.fresh or due or waiting:
            return True
        told = self.r._teller.waiting(self.session, world, all_of=self._all_of())
        return told or self.r._watchers.behind(self.session, place)

    def _all_of(self) -> bool:
        """Who is set aside may ask for any state."""
        return bool(self.r.aside())

    def _ahead(self, stand: Stand) -> Place:
        """Return up to where the Dags have heard that are not behind."""
        self.r.world.progress.read(self.session, stand)
        return Place(self.r.world.progress.ahead, stand.place.log_id)

    def _world(self, stand: Stand) -> World:
        self.r.registry.refresh(self.session)
        self.r.world.refresh(self.session, self.now_ms, stand, self.r.aside())
        return self.r.world

    def _lock(self) -> bool:
        """Hold the consumer's row: one scheduler reacts at a time, another one goes on with its own work."""
        return hold(self.session, models.consumer.c.name == CONSUMER, HANGS_SEC)

    def _read_events(self, place: Place) -> Sequence[Event]:
        """Before rules and runs are read: those made before an event was published are then always seen."""
        batch = self._read(place.offset, None)
        self._look(place)  # after the read: what was read is of the log that was looked at
        return batch

    def _read(self, after: int, until: int | None) -> Sequence[Event]:
        try:
            events = self.r._log.read(after, BATCH, None, until)
        except RetentionError as e:
            raise RetentionError(
                f"{e}; rules have not seen those. "
                f"To go on without them: aiflow events reset-consumer --to {go_on_from(e)}"
            ) from None
        if events:
            self.reaction.work.saw(events[0].create_time)
        return events

    def _feed_watchers(self, place: Place, batch: Sequence[Event]) -> bool:
        """Events become asset events, which may start Dag runs: a full pass looks."""
        stored, more = self.r._watchers.feed(self.session, place._replace(log_id=self.log_id), batch)
        self.reaction.made_runs |= bool(stored)
        self.reaction.work.stored += stored
        return more

    def _note_due(self) -> None:
        self.reaction.due_ms = None
        self._due(self.world)
        self.r._stops.under_way = {t.stopping["try"] for _, t in self.world.waiting() if t.stopping is not None}

    def _due(self, world: World) -> None:
        times = [due for due in (world.next_due(), self.r._teller.due_ms(world, self.now_ms)) if due is not None]
        times += [
            due_ms(t.stopping, self.r._stops.grace_ms, self.r._stops.asked)
            for run, t in world.waiting()
            if t.stopping is not None and run.running and t.task_id in run.tries  # as can_settle()
        ]
        self.reaction.due_ms = min(times, default=None)
