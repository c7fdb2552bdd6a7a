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
from sqlalchemy import select, update
from sqlalchemy.exc import OperationalError
from sqlalchemy.orm import Session

from aiflow_ext.provider.assets.trigger import CLASSPATH, LATEST, EventLogTrigger
from aiflow_ext.provider.db import models
from aiflow_ext.provider.db.consumers import advance, begin_at
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


def stored(session: Session, names: Iterable[str]) -> dict[str, int]:
    """Return the offsets of those that have one."""
    table = models.consumer
    rows = session.execute(select(table.c.name, table.c.offset).where(table.c.name.in_(list(names))))
    return {row.name: row.offset for row in rows}


def start(session: Session, trigger_id: int) -> int | str:
    """Return where a trigger begins: an offset, or LATEST for one that has none yet.

    A new asset of an old trigger begins where the trigger is.
    """
    ours = watchers(session, trigger_id)
    known = stored(session, (w.name for w in ours))
    if not ours or (not known and ours[0].trigger.after is None):
        return LATEST
    begin = max(known.values()) if known else cast("int", ours[0].trigger.after)
    for watcher in ours:
        if watcher.name not in known:
            begin_at(session, watcher.name, begin)
    return min(stored(session, (w.name for w in ours)).values())


def take(session: Session, trigger_id: int, mark: dict[str, Any]) -> bool:
    """Store what a trigger brought: an asset event for each of its assets, once, or how far it has come.

    :return: whether it has any asset.
    """
    ours = watchers(session, trigger_id)
    for watcher in ours:
        if "begin" in mark:
            begin_at(session, watcher.name, mark["begin"])
        elif "seen" in mark:
            advance(session, watcher.name, mark["seen"])
        elif not keep(session, watcher, [mark]):
            log.info("aiflow: asset event was stored before", asset=watcher.asset.name, offset=mark["offset"])
            count("aiflow.assets.again")
        else:
            count("aiflow.assets.stored")
    return bool(ours)


def keep(session: Session, watcher: Watcher, payloads: Iterable[dict[str, Any]]) -> int:
    """Move the watcher's offset to that of each event and store the asset event; return how many were not there.

    Airflow queues a Dag at the first asset event, and the run it makes takes none that is newer than that moment, nor
    makes another run for those.  So the Dags' places in the queue are held, and renewed behind the last one.
    """
    queue = AssetDagRunQueue.asset_id == watcher.asset.id
    session.execute(select(AssetDagRunQueue.asset_id).where(queue).with_for_update())
    kept = sum([_keep(session, watcher, payload) for payload in payloads])
    session.flush()
    session.execute(update(AssetDagRunQueue).where(queue).values(created_at=datetime.now(UTC)))
    return kept


def _keep(session: Session, watcher: Watcher, payload: dict[str, Any]) -> bool:
    """Do so for one; False: it was there.

    An asset event that Airflow refuses is given up, and said so: it must not hold up those behind it.
    """
    if not advance(session, watcher.name, payload["offset"]):
        return False
    extra = {"from_trigger": True, "payload": payload}  # as Trigger.submit_event has it
    try:
        with session.begin_nested():
            AssetManager.register_asset_change(asset=watcher.asset.to_serialized(), extra=extra, session=session)
    except OperationalError:
        raise
    except Exception:
        log.exception("aiflow: no asset event", asset=watcher.asset.name, offset=payload["offset"])
    return True


@functools.lru_cache(1024)
def _trigger(encrypted: str) -> EventLogTrigger:
    kwargs = Trigger._decrypt_kwargs(encrypted)
    return EventLogTrigger(**{name: smart_decode_trigger_kwargs(value) for name, value in kwargs.items()})
