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
    from aiflow_ext.provider.author.operators import dag_rules, rule_lines, task_rules

    tasks = {t.task_id: rules for t in dag.tasks if (rules := task_rules(t)) is not None}
    of_dag = dag_rules(dag)
    if not tasks and of_dag is None:
        return
    from airflow.exceptions import AirflowClusterPolicyViolation

    from aiflow_ext.rules import check_dag

    errors = check_dag(dag.dag_id, tasks, set(dag.task_ids), of_dag, rule_lines(dag))
    if of_dag is not None and any(rule["action"] == "start" for rule in of_dag["rules"]):
        errors += _param_errors(dag)
    if errors:
        raise AirflowClusterPolicyViolation("\n".join(errors))


def _param_errors(dag: DAG) -> list[str]:
    """Return which params no event can give: a run that an event makes has the defaults, and its events in the conf."""
    from airflow.sdk.exceptions import ParamValidationError

    from aiflow_ext.provider.author.operators import KEY

    errors = []
    for name in dag.params:
        try:
            dag.params[name]
        except ParamValidationError as e:
            errors.append(
                f"Dag {dag.dag_id!r}, param {name!r}: {str(e).splitlines()[0]}; a run that an event starts has only "
                "defaults: give the Param a default that is valid; the event is in the conf of the run"
            )
    if KEY in dag.params:
        errors.append(
            f"Dag {dag.dag_id!r}, param {KEY!r}: this name in the conf of a run holds the events that started it; "
            "give the Param another name"
        )
    return errors
