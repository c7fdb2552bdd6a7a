"""The states that rules know are those of this Airflow."""

from airflow.utils.state import TaskInstanceState

from aiflow_ext.rules import STATES


def test_r65_the_states_are_airflows():
    assert sorted(STATES) == sorted(state.value for state in TaskInstanceState)
