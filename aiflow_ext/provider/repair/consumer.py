"""``aiflow events reset-consumer``: the scheduler goes on at another offset, or with another log."""

from __future__ import annotations

import json
import time

from airflow.utils.session import create_session
from sqlalchemy import ColumnElement, String, cast, delete, select, update
from sqlalchemy.orm import Session

from aiflow_ext import _core
from aiflow_ext.provider.assets.offsets import watchers
from aiflow_ext.provider.config import Config
from aiflow_ext.provider.db import models
from aiflow_ext.provider.db.consumers import Place, Stand, stand_of
from aiflow_ext.provider.points import point
from aiflow_ext.provider.react.starts import number_of
from aiflow_ext.provider.react.transaction import CONSUMER
from aiflow_ext.provider.world.begins import ROW
from aiflow_ext.provider.world.blame import Key, RunError
from aiflow_ext.provider.world.progress import Progress
from aiflow_ext.provider.world.registry import Registry
from aiflow_ext.provider.world.world import World

Skipped = tuple[str, str, int]
"""What is skipped ("events", "start", or a "run" that cannot be read), where it was, and how many events that are."""


def reset(to: int | None, *, other_log: bool, dry_run: bool) -> list[Skipped]:
    """Move the scheduler's consumer, in one transaction; return what nobody will act on.

    :param to: the scheduler acts on events beyond this offset; None: beyond the log's end.
    :param other_log: the log is not the one whose events were acted on.  So it is in any case that it has another id or
        is shorter.
    :param dry_run: change nothing.
    :raises ValueError: the log does not have `to`, or no scheduler has run in event mode.
    :raises Error: the log failed.
    """
    aside: set[Key] = set()
    while True:
        try:
            return _reset(to, other_log, dry_run, aside)
        except RunError as e:  # nothing was done yet
            if e.key in aside:
                raise
            aside.add(e.key)


def _reset(to: int | None, other_log: bool, dry_run: bool, aside: set[Key]) -> list[Skipped]:
    with _core.EventLog(Config.from_airflow().log) as log, create_session() as session:
        row = update(models.consumer).where(models.consumer.c.name == CONSUMER)
        session.execute(row.values(offset=models.consumer.c.offset))  # no scheduler reacts meanwhile
        stand = stand_of(session, CONSUMER)
        if stand is None:
            raise ValueError("no scheduler has run in event mode with this database: there is nothing to reset")
        was = stand.place
        head, log_id = log.head_and_id()
        to = head if to is None else to
        if not 0 <= to <= head:
            raise ValueError(f"--to {to}: the log has no such offset, it ends at {head}")
        progress = Progress()
        progress.read(session, stand)
        other_log |= head < progress.ahead or to < was.offset or not was.is_in(log_id)
        skipped = _events(log, to, 0 if other_log else progress.ahead, "")
        if progress.behind and not other_log:
            skipped = _events(log, min(to, progress.ahead), was.offset, ", of Dags that are behind") + skipped
        if other_log:
            skipped += _begin_anew(session, stand, Place(to, log_id), aside)
        session.execute(row.values(offset=to, log_id=log_id))
        point("reset.moved")
        if dry_run:
            session.rollback()
    return skipped


def _events(log: _core.EventLog, to: int, after: int, of: str) -> list[Skipped]:
    return [("events", f"{after + 1} to {to}{of}", log.count(after, None, to))] if to > after else []


def _begin_anew(session: Session, stand: Stand, to: Place, aside: set[Key]) -> list[Skipped]:
    """Let rules and watchers go on beyond `to`; what they had heard, and starts still owed, was of another log."""
    registry = Registry()
    registry.refresh(session)
    now_ms = time.time_ns() // 1_000_000
    world = World(registry, CONSUMER, lambda: None)
    world.refresh(session, now_ms, stand, aside)
    skipped: list[Skipped] = [("run", " ".join(filter(None, key)), 0) for key in sorted(aside)]
    for task in [*(task for _, task in world.tasks()), *world.dags.values()]:
        whose = " ".join(filter(None, (task.dag_id, task.run_id, task.task_id)))
        skipped += [("start", whose, number_of(entry)) for entry in task.pending]
        task.pending.clear()
        if task.started is not None:  # a retry still starts, without events
            task.started |= {"events": [], "older": 0}
        task.core = task.rules.core.start(to.offset, now_ms)
        task.due_ms = task.rules.core.due(task.core)
        world.touch((task.dag_id, task.run_id))
    world.progress.begin(to.offset)
    world.save(session, to.log_id)
    _forget_offsets(
        session, {(t.dag_id, t.run_id, t.task_id) for _, t in world.tasks()} | {(d, "", "") for d in world.dags}
    )
    newest = select(models.consumer.c.version).where(models.consumer.c.name == CONSUMER).scalar_subquery()
    session.execute(update(models.run).values(since=to.offset, version=newest))
    session.execute(delete(models.consumer).where(models.consumer.c.name.startswith(ROW)))
    session.execute(update(models.consumer).where(_watches(session, stand.place)).values(**to._asdict()))
    # The same offsets come again, and are other events.
    cause = models.action.c.cause
    old = ~cause.startswith("t") & ~cause.contains("@")
    session.execute(update(models.action).where(old).values(cause=cause + "@" + cast(models.action.c.id, String(12))))
    return skipped


def _watches(session: Session, was: Place) -> ColumnElement[bool]:
    """Which rows are of asset watchers of our own log, not of one that another broker serves."""
    name, log_id = models.consumer.c.name, models.consumer.c.log_id
    known = {watcher.name: watcher.trigger.broker is None for watcher in watchers(session)}
    ours = name.in_([name for name, served in known.items() if served])
    gone = name.not_in(list(known)) & (log_id.is_(None) | (log_id == was.log_id))
    return name.startswith("asset:", autoescape=True) & (ours | gone)


def _forget_offsets(session: Session, done: set[tuple[str, str, str]]) -> None:
    """Let go what is kept of runs that are over, of runs aside, and of Dags without rules now: it names old offsets."""
    table = models.rule_state
    for row in session.execute(select(table).where((table.c.pending != "[]") | table.c.started.is_not(None))).all():
        if (row.dag_id, row.run_id, row.task_id) in done:
            continue
        key = (table.c.dag_id == row.dag_id, table.c.run_id == row.run_id, table.c.task_id == row.task_id)
        started = json.dumps(json.loads(row.started) | {"events": [], "older": 0}) if row.started else None
        session.execute(update(table).where(*key).values(pending="[]", started=started))
