"""Asset events become events, in the reaction's transaction.

Each is told with the asset event's id as identity, so telling it again changes nothing.  What came as an event is not
sent back as one.
"""

from __future__ import annotations

import json
import secrets
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import structlog
from airflow.models.asset import AssetEvent, AssetModel
from sqlalchemy import and_, func, or_, select, update
from sqlalchemy.orm import Session

from aiflow_ext import _core
from aiflow_ext._event import Event
from aiflow_ext.errors import ConflictError
from aiflow_ext.provider.assets.trigger import is_payload
from aiflow_ext.provider.db import models
from aiflow_ext.provider.db.consumers import Place, begin_at

log = structlog.get_logger(__name__)

NAMESPACE = "airflow"
TYPE = "ASSET_UPDATED"
ROW = "assets:"  # of aiflow_consumer, followed by a random part that tells this database from another
READ = 1000  # asset events in a transaction
GAP_SEC = 900.0  # longer than any transaction of Airflow's: an id that is not there by then will not come
GAPS = 100

Publish = Callable[[Sequence[Event], str, int], None]
Asked = Callable[[Event], bool]


@dataclass
class _Gap:
    """Ids that were not there when later ones were: their transactions may still be open."""

    low: int
    high: int
    until: float


class AssetNews:
    """Asset events become events.

    Ids are given before the commit, so a lower one may appear after a higher one.  Ids that are missing are looked for
    again, for GAP_SEC; the row in aiflow_consumer stays below them, and so does a scheduler that begins anew.
    """

    def __init__(self) -> None:
        self._name = ""
        self._high = 0
        self._gaps: list[_Gap] = []

    def forget(self) -> None:
        """The transaction was undone: begin at the row again."""
        self._name, self._high, self._gaps = "", 0, []

    def waiting(self, session: Session) -> bool:
        """Whether there may be something to tell.  Reads only."""
        if not self._name and not self._load(session):
            return True
        return session.scalar(select(AssetEvent.id).where(self._unseen()).limit(1)) is not None

    def tell(self, session: Session, publish: Publish, asked: Asked) -> int:
        """Publish what is new, and move the row; return how many that were.

        :param asked: whether anybody waits for an event.
        :param publish: makes events of a producer, from its first sequence on, durable, or raises.
        """
        if not self._name and not self._load(session):
            self._begin(session)
        rows = session.execute(_rows().where(self._unseen()).order_by(AssetEvent.id).limit(READ)).all()
        told = 0
        for first, events in _chunks(rows, asked):
            self._publish(publish, events, first)
            told += len(events)
        self._note([row.id for row in rows])
        low = self._gaps[0].low - 1 if self._gaps else self._high
        table = models.consumer
        session.execute(update(table).where(table.c.name == self._name, table.c.offset != low).values(offset=low))
        return told

    def _load(self, session: Session) -> bool:
        table = models.consumer
        row = session.execute(select(table.c.name, table.c.offset).where(table.c.name.startswith(ROW))).first()
        if row is not None:
            self._name, self._high = row.name, row.offset
        return row is not None

    def _begin(self, session: Session) -> None:
        """What happened before anybody could listen is not told."""
        self._name = ROW + secrets.token_hex(4)
        self._high = session.scalar(select(func.max(AssetEvent.id))) or 0
        begin_at(session, self._name, Place(self._high, None))

    def _unseen(self) -> Any:
        gaps = [and_(AssetEvent.id >= gap.low, AssetEvent.id <= gap.high) for gap in self._gaps]
        return or_(AssetEvent.id > self._high, *gaps)

    def _publish(self, publish: Publish, events: list[Event], first: int) -> None:
        producer = f"airflow-asset-{self._name.removeprefix(ROW)}"
        try:
            publish(events, producer, first)
        except (ConflictError, ValueError) as e:  # edited rows, a name that is no key: the others shall go on
            if len(events) > 1:
                for n, event in enumerate(events):
                    self._publish(publish, [event], first + n)
                return
            log.error("aiflow: asset event is no event", asset_event=first, asset=events[0].key[:100], error=str(e))

    def _note(self, ids: list[int]) -> None:
        """Bring what is known up to date."""
        now = time.monotonic()
        for number in ids:
            if number > self._high:
                if number > self._high + 1:
                    self._gaps.append(_Gap(self._high + 1, number - 1, now + GAP_SEC))
                self._high = number
            else:
                self._fill(number)
        self._gaps = [gap for gap in self._gaps if gap.until > now][-GAPS:]

    def _fill(self, number: int) -> None:
        for gap in self._gaps:
            if gap.low <= number <= gap.high:
                self._gaps.remove(gap)
                left, right = _Gap(gap.low, number - 1, gap.until), _Gap(number + 1, gap.high, gap.until)
                self._gaps += [part for part in (left, right) if part.low <= part.high]
                self._gaps.sort(key=lambda gap: gap.low)
                return


def _rows() -> Any:
    asset = (AssetModel.name, AssetModel.uri)
    return select(AssetEvent, *asset, AssetEvent.id).outerjoin(AssetModel, AssetModel.id == AssetEvent.asset_id)


def _chunks(rows: Sequence[Any], asked: Asked) -> Iterator[tuple[int, list[Event]]]:
    """Join what has consecutive ids, which are their sequences: one append each."""
    first, events = 0, list[Event]()
    for row in rows:
        extra = row.AssetEvent.extra
        if row.name is None or (isinstance(extra, dict) and is_payload(extra.get("payload"))):
            continue  # its asset is gone, or it came as an event
        event = _event(row)
        if not asked(event):
            continue
        if events and row.id != first + len(events):
            yield first, events
            events = []
        first = first if events else row.id
        events.append(event)
    if events:
        yield first, events


def _event(row: Any) -> Event:
    of = row.AssetEvent
    value = {
        "uri": row.uri,
        "timestamp": of.timestamp.isoformat(),
        "source_dag_id": of.source_dag_id,
        "source_run_id": of.source_run_id,
        "source_task_id": of.source_task_id,
        "source_map_index": of.source_map_index,
        "partition_key": of.partition_key,
        "extra": of.extra,
    }
    text = json.dumps(value, sort_keys=True)
    if len(text) > _core.VALUE_MAX:
        text = json.dumps(value | {"extra": None, "extra_too_long": True}, sort_keys=True)
    return Event(row.name, text, TYPE, namespace=NAMESPACE, sender=of.source_dag_id or "")
