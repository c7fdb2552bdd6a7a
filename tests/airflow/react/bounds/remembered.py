"""What a scheduler's process remembers of what is gone, in an Airflow with a Dag `told`; it fails at a leak."""

from __future__ import annotations

import time
from datetime import timedelta
from uuid import uuid4

from airflow.models.dag_version import DagVersion
from airflow.models.serialized_dag import SerializedDagModel
from airflow.utils.session import create_session
from sqlalchemy import select
from sqlalchemy.orm import Session

from aiflow_ext import EventLog
from aiflow_ext.provider.assets.feed import Watchers
from aiflow_ext.provider.config import Config
from aiflow_ext.provider.db.consumers import Place
from aiflow_ext.provider.react.starts import KEPT_STARTS, wait
from aiflow_ext.provider.react.transaction import Reactor
from aiflow_ext.provider.world.registry import Registry
from aiflow_ext.provider.world.task import NO_RULES, TaskState


def versions(session: Session) -> None:
    """A Dag is another one at each parse; a run is pinned to its first version."""
    registry = Registry()
    registry.refresh(session)
    row = session.scalars(select(SerializedDagModel).where(SerializedDagModel.dag_id == "told")).first()
    assert row is not None
    for n in range(1, 400):
        version = DagVersion(
            id=uuid4(), dag_id="told", version_number=1000 + n, bundle_name=row.dag_version.bundle_name
        )
        session.add(version)
        session.flush()
        columns = {"id": uuid4(), "dag_id": "told", "data": row._data, "dag_hash": str(n), "created_at": row.created_at}
        written = {"dag_version_id": version.id, "last_updated": row.last_updated + timedelta(minutes=n)}
        session.execute(SerializedDagModel.__table__.insert().values(**columns, **written))
        registry.refresh(session)
        for pinned in (row.dag_version_id, None):
            assert registry.of_run(session, "told", pinned) is not None
    assert row.dag_version_id in registry._versions
    assert len(registry._versions) < 250, len(registry._versions)
    session.rollback()


def watchers(session: Session) -> None:
    """One that is gone."""
    memory = Watchers(EventLog("mem:"))
    memory._level["gone"] = memory._missed["gone"] = 1
    memory.feed(session, Place(0, None), [])
    assert not memory._level
    assert not memory._missed


def reactor() -> None:
    """Runs that were aside once, tries that were asked to stop with their run, and how long we have been shut out."""
    memory = Reactor(Config.from_airflow(), None, None, lambda: True, lambda: None, lambda: None, lambda: None, [])
    now = time.monotonic()
    memory._aside = {("d", "long ago"): (now - 1000, 10.0), ("d", "now"): (now + 1000, 10.0)}
    assert memory.aside() == {("d", "now")} == {*memory._aside}
    for name in ("one", "two"):
        memory._stops.ask(name, "why")
    memory._stops.under_way = {"one"}
    memory._stops.carry_out()
    assert memory._stops.asked == {"one"}
    with create_session() as session:  # another scheduler reacts: we look less and less often, until it lets us in
        for _ in range(2):
            assert [memory.shut_out(session, 7) for _ in range(7)] == [5, 10, 20, 40, 80, 100, 100]
            memory.let_in()
    memory.close()


def starts() -> None:
    """Each for 1,000 events."""
    task = TaskState("d", "r", "t", NO_RULES, b"", None)
    for n in range(150):
        wait(task, {"events": list(range(1000 * n, 1000 * (n + 1)))}, KEPT_STARTS)
    assert [start["events"][0] for start in task.pending] == [1000 * n for n in range(50, 150)]
    assert len(task.dropped) == 50


starts()
with create_session() as session:
    versions(session)
    watchers(session)
reactor()
