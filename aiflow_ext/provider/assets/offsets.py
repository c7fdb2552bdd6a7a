"""How far each asset watcher has come, in aiflow_consumer: moved in the transaction that stores the asset event.

A watcher is an asset and the arguments of a trigger; its row is named after both, so it outlives the trigger's row,
which Airflow deletes while the Dag is paused.  Who brings an event (a triggerer, another one, the event scheduler)
does not matter: the row's offset goes up once for it, and whoever comes second finds it done.

Why nothing is lost: whoever brings events begins at the row's offset or before, and brings all that match, in order.
So when the row is at n, everything that matches up to n is stored.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, cast

import structlog
from airflow.assets.manager import AssetManager
from airflow.models.asset import AssetDagRunQueue, AssetModel, AssetWatcherModel
from airflow.models.trigger import Trigger
from airflow.serialization.decoders import smart_decode_trigger_kwargs
from sqlalchemy import delete, select, update
from sqlalchemy.exc import OperationalError
from sqlalchemy.orm import Session

from aiflow_ext.provider.assets.trigger import CLASSPATH, ELSEWHERE, EventLogTrigger
from aiflow_ext.provider.db import models
from aiflow_ext.provider.db.consumers import Place, advance, begin_at, note_log
from aiflow_ext.provider.db.session import after_commit, savepoint
from aiflow_ext.provider.metrics import count

log = structlog.get_logger(__name__)


@dataclass(frozen=True)
class Watcher:
    """An asset and what watches for it."""

    asset: AssetModel
    trigger: EventLogTrigger

    @property
    def name(self) -> str:
        """Its row in aiflow_consumer."""
        return f"asset:{self.asset.id}:{self.trigger.digest}"


def watchers(session: Session, trigger_id: int | None = None) -> list[Watcher]:
    """Return those of one trigger's row, or all."""
    rows = (
        select(AssetModel, Trigger.encrypted_kwargs)
        .join(AssetWatcherModel, AssetWatcherModel.asset_id == AssetModel.id)
        .join(Trigger, Trigger.id == AssetWatcherModel.trigger_id)
        .where(Trigger.classpath == CLASSPATH)
        .order_by(AssetModel.id, Trigger.id)
    )
    if trigger_id is not None:
        rows = rows.where(Trigger.id == trigger_id)
    found = {w.name: w for w in (Watcher(asset, _trigger(kwargs)) for asset, kwargs in session.execute(rows))}
    return list(found.values())  # two rows of the same arguments are one watcher


def stored(session: Session, names: Iterable[str]) -> dict[str, Place]:
    """Return where those are that have a row."""
    table = models.consumer
    rows = session.execute(select(table.c.name, table.c.offset, table.c.log_id).where(table.c.name.in_(list(names))))
    return {row.name: Place(row.offset, row.log_id) for row in rows}


def start(session: Session, trigger_id: int) -> Place | None:
    """Return where a trigger begins; None: it has no place yet.

    A new asset of an old trigger begins where the trigger is.
    """
    ours = watchers(session, trigger_id)
    known = stored(session, (w.name for w in ours))
    if not ours or (not known and ours[0].trigger.after is None):
        return None
    begin = max(known.values(), key=_offset) if known else Place(cast("int", ours[0].trigger.after), None)
    for watcher in ours:
        if watcher.name not in known:
            begin_at(session, watcher.name, begin)
    return min(stored(session, (w.name for w in ours)).values(), key=_offset)


def take(session: Session, trigger_id: int, mark: dict[str, Any]) -> bool:
    """Store what a trigger brought: an asset event for each of its assets, once, or how far it has come.

    :param mark: of a log that its "log_id" names.
    :return: whether it has any asset.
    """
    ours = watchers(session, trigger_id)
    known = stored(session, (w.name for w in ours))
    log_id = mark.get("log_id")  # None: a task waits
    mark = {name: value for name, value in mark.items() if name != "log_id"}
    for watcher in ours:
        at = known.get(watcher.name)
        if at is not None and at.log_id is None and log_id is not None:
            note_log(session, watcher.name, log_id)
        if at is not None and not at.is_in(log_id):
            say_elsewhere(watcher)
        elif "begin" in mark:
            begin_at(session, watcher.name, Place(mark["begin"], log_id))
        elif "seen" in mark:
            advance(session, watcher.name, Place(mark["seen"], log_id))
        elif not keep(session, watcher, [mark], log_id):
            log.info("aiflow: asset event was stored before", asset=watcher.asset.name, offset=mark["offset"])
            count("aiflow.assets.again")
        else:
            count("aiflow.assets.stored")
    return bool(ours)


def say_elsewhere(watcher: Watcher) -> None:
    """Say that a watcher waits, because its offset is of another log."""
    log.error("aiflow: no asset events", error=ELSEWHERE, asset=watcher.asset.name, row=watcher.name)


def keep(session: Session, watcher: Watcher, payloads: Iterable[dict[str, Any]], log_id: int | None) -> int:
    """Move the watcher's offset to that of each event and store the asset event; return how many were not there.

    :param log_id: of the log that has these events.

    Airflow queues a Dag at the first asset event, and the run it makes takes none that is newer than that moment, nor
    makes another run for those.  So the Dags' places in the queue are held, and renewed behind the last one.  The
    watcher's row comes first, for all who bring it events: two of them would wait for each other.
    """
    session.execute(select(models.consumer.c.name).where(models.consumer.c.name == watcher.name).with_for_update())
    queue = AssetDagRunQueue.asset_id == watcher.asset.id
    session.execute(select(AssetDagRunQueue.asset_id).where(queue).with_for_update())
    kept = sum([_keep(session, watcher, payload, log_id) for payload in payloads])
    session.flush()
    session.execute(update(AssetDagRunQueue).where(queue).values(created_at=datetime.now(UTC)))
    return kept


def sweep(session: Session, now_ms: int, before_ms: int | None, *, dry_run: bool = False) -> int:
    """Let go the rows of watchers that are gone since before_ms, and note which ones are gone now.

    One that is gone may come back: the Dag is paused, or its file is away.

    :param before_ms: None: none goes.
    :param dry_run: only count.
    :return: how many went, or would go.
    """
    name, gone_ms = models.consumer.c.name, models.consumer.c.gone_ms
    rows = session.execute(select(name, gone_ms).where(name.startswith("asset:", autoescape=True))).all()
    there = {watcher.name for watcher in watchers(session)}
    gone = [row for row in rows if row.name not in there]
    old = [row.name for row in gone if None not in (before_ms, row.gone_ms) and row.gone_ms < before_ms]
    if dry_run:
        return len(old)
    for names, value in (
        ([row.name for row in gone if row.gone_ms is None], now_ms),
        ([row.name for row in rows if row.name in there and row.gone_ms is not None], None),
    ):
        if names:
            session.execute(update(models.consumer).where(name.in_(names)).values(gone_ms=value))
    if old:
        session.execute(delete(models.consumer).where(name.in_(old), gone_ms < before_ms))
    return len(old)


def _keep(session: Session, watcher: Watcher, payload: dict[str, Any], log_id: int | None) -> bool:
    """Do so for one; False: it was there.

    An asset event that Airflow refuses is given up, and said so: it must not hold up those behind it.
    """
    if not advance(session, watcher.name, Place(payload["offset"], log_id)):
        return False
    extra = {"from_trigger": True, "payload": payload}  # as Trigger.submit_event has it
    asset, later = watcher.asset.to_serialized(), after_commit(session)
    try:
        with savepoint(session):
            AssetManager.register_asset_change(asset=asset, extra=extra, session=session, callback_sink=later)
    except OperationalError:
        raise
    except Exception:
        log.exception("aiflow: no asset event", asset=watcher.asset.name, offset=payload["offset"])
    return True


def _offset(place: Place) -> int:
    return place.offset


@functools.lru_cache(1024)
def _trigger(encrypted: str) -> EventLogTrigger:
    kwargs = Trigger._decrypt_kwargs(encrypted)
    return EventLogTrigger(**{name: smart_decode_trigger_kwargs(value) for name, value in kwargs.items()})
