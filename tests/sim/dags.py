"""Dags of a history: plain data, from which the real Dag is built, serialized and stored by Airflow's own classes.

A Dag is a dict: id, tasks, rules, and what DAG() takes.  A task is a dict: id, kind, up (upstream ids), rules, and what
an operator takes.  A rule is a dict: on ("start", "restart", "stop"), when (the text of a condition), and its options.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from airflow.exceptions import AirflowException
from airflow.models.dag import DagModel
from airflow.models.serialized_dag import SerializedDagModel
from airflow.providers.standard.operators.empty import EmptyOperator
from airflow.sdk import DAG, BaseOperator, BaseSensorOperator, TaskGroup
from airflow.sdk.bases.skipmixin import SkipMixin
from airflow.serialization.definitions.dag import SerializedDAG
from airflow.serialization.serialized_objects import LazyDeserializedDAG

from aiflow_ext.provider.author.operators import dag_rules, restart_on, start_on, stop_on, task_rules
from aiflow_ext.rules import check_dag
from sim.chance import Spec, condition
from sim.clock import BEGIN

ATTACH = {"start": start_on, "restart": restart_on, "stop": stop_on}
WRONG = (ValueError, TypeError, AirflowException)  # what makes an import error
DAG_OPTIONS = ("max_active_runs", "max_active_tasks", "fail_fast", "catchup")
TASK_OPTIONS = (
    "trigger_rule",
    "retries",
    "depends_on_past",
    "wait_for_downstream",
    "pool",
    "max_active_tis_per_dag",
    "max_active_tis_per_dagrun",
)


class Work(BaseOperator):
    """A task; the worker of the simulation decides how it ends."""


class Mapped(BaseOperator):
    """One task for each of some values; it has no rules (R87)."""

    def __init__(self, *, value: int, **options: Any) -> None:
        super().__init__(**options)
        self.value = value


class Choice(BaseOperator, SkipMixin):
    """A branch or a short circuit."""

    inherits_from_skipmixin = True  # as Airflow's own say it: it is serialized, and what was skipped stays so


class Sensor(BaseSensorOperator):
    """A sensor."""


def ups(task: dict[str, Any]) -> list[str]:
    """What a task follows: a teardown also its setups."""
    return [*task.get("up", ()), *task.get("setups", ())]


def build(spec: Spec) -> DAG:
    """Build the Dag, as its file would.

    :raises ValueError: a rule is wrong; a Dag file would have an import error.
    """
    options = {name: spec[name] for name in DAG_OPTIONS if name in spec}
    schedule = timedelta(seconds=spec["schedule"]) if spec.get("schedule") else None
    timeout = timedelta(seconds=spec["timeout"]) if spec.get("timeout") else None
    start = BEGIN - 2 * schedule if schedule and spec.get("catchup") else datetime(2025, 12, 31, tzinfo=UTC)
    with DAG(spec["id"], schedule=schedule, start_date=start, dagrun_timeout=timeout, **options) as dag:
        groups: dict[str, TaskGroup] = {}
        made: dict[str, BaseOperator] = {}
        for task in spec["tasks"]:
            made[task["id"]] = _task(task, groups)
        for task in spec["tasks"]:
            for up in task.get("up", ()):
                if up in made:
                    made[up] >> made[task["id"]]
        for task in spec["tasks"]:
            if task["kind"] == "teardown":
                setups = [made[s] for s in task.get("setups", ()) if s in made]
                made[task["id"]].as_teardown(setups=setups or None)
        for task in spec["tasks"]:
            for rule in task.get("rules", ()):
                _attach(made[task["id"]], rule)
        for rule in spec.get("rules", ()):
            _attach(dag, rule)
    dag.fileloc = __file__
    dag.relative_fileloc = f"{spec['id']}.py"
    found = {t.task_id: rules for t in dag.tasks if (rules := task_rules(t)) is not None}
    if errors := check_dag(dag.dag_id, found, set(dag.task_ids), dag_rules(dag)):
        raise ValueError(errors[0])
    dag.check_cycle()
    dag.validate()
    return dag


def _task(task: Spec, groups: dict[str, TaskGroup]) -> BaseOperator:
    options: dict[str, Any] = {name: task[name] for name in TASK_OPTIONS if name in task}
    options["retry_delay"] = timedelta(seconds=task.get("retry_delay", 30))
    if name := task.get("group"):
        options["task_group"] = groups.setdefault(name, TaskGroup(name, prefix_group_id=False))
    kind = task["kind"]
    if kind == "empty":
        return EmptyOperator(task_id=task["id"], **options)
    if kind in ("branch", "short"):
        return Choice(task_id=task["id"], **options)
    if kind == "mapped":
        return Mapped.partial(task_id=task["id"], **options).expand(value=[1, 2])
    if kind == "sensor":
        return Sensor(task_id=task["id"], mode="reschedule", poke_interval=60, timeout=10**6, **options)
    return Work(task_id=task["id"], **options)


def _attach(target: Any, rule: Spec) -> None:
    options = {k: v for k, v in rule.items() if k not in ("on", "when")}
    ATTACH[rule["on"]](target, condition(rule["when"]), **options)


def store(session: Any, dag: DAG) -> None:
    """Write it as the Dag processor does."""
    lazy = LazyDeserializedDAG.from_dag(dag)
    SerializedDAG.bulk_write_to_db("sim", None, [lazy], session=session)
    SerializedDagModel.write_dag(lazy, bundle_name="sim", session=session)
    session.flush()
    model = session.get(DagModel, dag.dag_id)
    if model.is_paused and not getattr(dag, "_sim_paused", False):
        model.is_paused = False


def is_right(spec: Spec) -> bool:
    """Whether its file would have no import error."""
    try:
        build(spec)
    except WRONG:
        return False
    return True
