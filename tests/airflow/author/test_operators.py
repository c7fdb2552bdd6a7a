"""What start_on() and its like refuse, on Airflow's own classes."""

from __future__ import annotations

import pytest
from airflow.exceptions import AirflowClusterPolicyViolation
from airflow.models.dag import DagModel
from airflow.providers.standard.operators.empty import EmptyOperator
from airflow.sdk import DAG, Param, task_group
from airflow.serialization.serialized_objects import DagSerialization

from aiflow_ext import any_of, event, every, restart_on, start_on, stop_on
from aiflow_ext.provider.author.operators import rule_lines
from aiflow_ext.provider.policy import dag_policy


def test_what_a_dag_cannot_have_is_said_where_it_is_written() -> None:
    dag = DAG("d")
    with pytest.raises(ValueError, match="a run is not restarted"):
        restart_on(dag, event("x"))
    with pytest.raises(ValueError, match="give the Dag schedule="):
        start_on(dag, every(hours=1))
    with pytest.raises(ValueError, match="leave while_running out"):
        start_on(dag, event("x"), while_running="each")
    assert not dag.default_args


def test_what_is_neither_a_task_nor_a_dag() -> None:
    with pytest.raises(TypeError, match=r"start_on: 'train' is neither a task nor a Dag; give"):
        start_on("train", event("x"))


def test_where_a_rule_is_written_is_known_and_makes_no_new_version_of_the_dag() -> None:
    with DAG("d") as dag:
        start_on(EmptyOperator(task_id="a"), event("x"))
    ((of, where),) = rule_lines(dag).items()
    assert of == ("a", "start_1")
    assert "test_operators.py:" in where
    assert "test_operators.py:" not in str(DagSerialization.to_dict(dag)["dag"]["tasks"])


def test_what_cannot_wait_is_said_where_it_is_written() -> None:
    with DAG("d"):

        @task_group
        def each(n: int) -> None:
            start_on(EmptyOperator(task_id="work"), event("x"))

        with pytest.raises(TypeError, match=r"task 'each.work' is in a mapped task group.*map the group after it"):
            each.expand(n=[1, 2])


def test_a_run_that_an_event_starts_can_have_no_required_params() -> None:
    params = {"free": Param(type="string"), "wrong": Param(None, type="integer"), "good": Param(1, type="integer")}
    params["aiflow"] = Param("ours", type="string")
    dag = DAG("d", params=params)
    stop_on(dag, event("x"))
    dag_policy(dag)
    start_on(dag, event("x"))
    with pytest.raises(AirflowClusterPolicyViolation) as e:
        dag_policy(dag)
    first, second, third = str(e.value).splitlines()
    assert "param 'aiflow'" in third
    assert "give the Param another name" in third
    assert "Dag 'd', param 'free'" in first
    assert "Dag 'd', param 'wrong'" in second
    assert "give the Param a default" in first


def test_what_is_shown_of_many_rules_fits_into_airflows_columns() -> None:
    dag = DAG("d", schedule=None)
    start_on(dag, any_of(*(event(f"orders.region-{n:02}.closed", type="DAY_CLOSED") for n in range(30))))
    columns = DagModel.__table__.columns
    assert len(dag.timetable.description) == columns["timetable_description"].type.length
    assert dag.timetable.summary.endswith("…")
