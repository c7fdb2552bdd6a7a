"""Dag policy: a wrong rule is an import error that says what to write instead.  Entry point ``airflow.policy``."""

from __future__ import annotations

from typing import TYPE_CHECKING

from airflow.policies import hookimpl

if TYPE_CHECKING:
    from airflow.sdk import DAG


@hookimpl
def dag_policy(dag: DAG) -> None:
    """Check the rules of a Dag that has any.

    :param dag: the Dag as its file made it.
    :raises AirflowClusterPolicyViolation: one line for each thing that is wrong.
    """
    from aiflow_ext.provider.author.operators import dag_rules, task_rules

    tasks = {t.task_id: rules for t in dag.tasks if (rules := task_rules(t)) is not None}
    of_dag = dag_rules(dag)
    if not tasks and of_dag is None:
        return
    from airflow.exceptions import AirflowClusterPolicyViolation

    from aiflow_ext.rules import check_dag

    if errors := check_dag(dag.dag_id, tasks, set(dag.task_ids), of_dag):
        raise AirflowClusterPolicyViolation("\n".join(errors))
