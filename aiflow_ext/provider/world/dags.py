"""The state of rules on Dags: read from our table.  It is written as that of tasks is."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection

from airflow.models.dag import DagModel
from airflow.models.dag_version import DagVersion
from sqlalchemy import select
from sqlalchemy.orm import Session

from aiflow_ext.provider.db import models
from aiflow_ext.provider.world.blame import Blame, Key
from aiflow_ext.provider.world.registry import Registry
from aiflow_ext.provider.world.runs import stored_row, stored_task
from aiflow_ext.provider.world.task import TaskState, new_task


def read_dags(
    session: Session, registry: Registry, heard: Callable[[str], int], now_ms: int, aside: Collection[Key]
) -> dict[str, TaskState]:
    """Return it by dag_id.  One that somebody has deleted has none, and begins anew where it is made again.

    Its first version tells one from the other.  ``airflow db clean`` may delete that: then it is taken for the same.

    :param heard: up to which offset the rules of a Dag have heard: new ones hear what comes beyond it.
    :param aside: Dags that are left out, as (dag_id, "").
    :raises RunError: the rules of a Dag cannot be read.
    """
    table, dags, found = models.rule_state, list(registry.with_run_rules()), {}
    if not dags:
        return {}
    of_dag = (table.c.dag_id == DagModel.dag_id) & (table.c.run_id == "") & (table.c.task_id == "")
    is_first = (DagVersion.dag_id == DagModel.dag_id) & (DagVersion.version_number == 1)
    there = select(DagModel.dag_id.label("there"), DagVersion.id.label("first"), table)
    there = there.outerjoin(DagVersion, is_first).outerjoin(table, of_dag)
    stored = {row.there: row for row in session.execute(there.where(DagModel.dag_id.in_([d.dag_id for d in dags])))}
    for dag in dags:
        if dag.run is not None and dag.dag_id in stored and (key := (dag.dag_id, "")) not in aside:
            with Blame(key):
                task, row = new_task(*key, "", dag.run, heard(dag.dag_id), now_ms), stored[dag.dag_id]
                first = {"version": str(row.first)} if row.first else None
                if row.dag_id is not None:
                    known = json.loads(row.started) if row.started else None
                    if first and known not in (None, first):  # it was deleted, and made again
                        task.stored = stored_row(row)
                    else:
                        task, first = stored_task(row, task, None, now_ms), first or known
                task.started = first
                found[dag.dag_id] = task
    return found
