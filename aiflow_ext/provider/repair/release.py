"""Tasks that wait for rules go to the triggerer, where a stock scheduler runs after one in event mode."""

from __future__ import annotations

import json

import structlog
from airflow.models.taskinstance import TaskInstance
from airflow.models.trigger import Trigger
from airflow.utils.session import create_session
from sqlalchemy import select, update

from aiflow_ext.provider.act.tasks import WAITS
from aiflow_ext.provider.author.operators import TRIGGER
from aiflow_ext.provider.points import point
from aiflow_ext.provider.world.registry import Registry

log = structlog.get_logger(__name__)


def release() -> None:
    """Give each of them the trigger that Airflow would have made: the event scheduler had taken it away."""
    TI = TaskInstance
    parked = (*WAITS, TI.trigger_id.is_(None))
    tasks = select(TI.id, TI.dag_id, TI.run_id, TI.task_id, TI.dag_version_id).where(*parked)
    registry = Registry()
    with create_session() as session:
        for ti in session.execute(tasks).all():
            of_dag = registry.of_run(session, ti.dag_id, ti.dag_version_id)
            ruleset = of_dag.tasks.get(ti.task_id) if of_dag is not None else None
            where = {"dag_id": ti.dag_id, "run_id": ti.run_id, "task_id": ti.task_id}
            if ruleset is None:
                log.warning("aiflow: a task waits for rules that its Dag no longer has; clear it", **where)
                continue
            rules = json.dumps({"v": 1, "rules": list(ruleset.rules)})
            trigger = Trigger(TRIGGER, {"rules": rules, "dag_id": ti.dag_id, "task_id": ti.task_id})
            session.add(trigger)
            session.flush()
            session.execute(update(TI).where(TI.id == ti.id, *parked).values(trigger_id=trigger.id))
            log.info("aiflow: the triggerer waits for a task's rules, event mode is off", **where)
        point("release.given")
