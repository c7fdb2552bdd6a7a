"""What start_on() and its like refuse, on Airflow's own classes."""

from __future__ import annotations

import pytest
from airflow.sdk import DAG

from aiflow_ext import event, every, restart_on, start_on


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
    with pytest.raises(TypeError, match=r"start_on: 'train' is a str; give it a task"):
        start_on("train", event("x"))
