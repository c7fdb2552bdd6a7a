"""How a task that waits for its rules is parked in event mode."""

from __future__ import annotations

from datetime import timedelta
from types import SimpleNamespace
from typing import Any, cast

import pytest
from airflow.models.taskinstance import TaskInstance
from airflow.triggers.base import StartTriggerArgs

from aiflow_ext.provider.act.tasks import parking
from aiflow_ext.provider.author.operators import RESUME_METHOD


class Session:
    """What is written by it."""

    def __init__(self) -> None:
        self.written: list[Any] = []

    def add(self, row: Any) -> None:
        """Note it."""
        self.written.append(row)

    def flush(self) -> None:
        """A database gives an id."""
        self.written[-1].id = 7


@pytest.mark.parametrize(("method", "trigger"), [(RESUME_METHOD, None), ("of_its_own", 7)])
def test_a_task_that_waits_for_its_rules_is_parked_without_a_trigger(method: str, trigger: int | None) -> None:
    args = StartTriggerArgs("a.Trigger", method, trigger_kwargs={}, next_kwargs=None, timeout=None)
    task = SimpleNamespace(execution_timeout=timedelta(days=1))
    ti: Any = SimpleNamespace(start_trigger_args=args, task=task, state=None, try_number=0, test_mode=False)
    session = Session()
    with parking():
        assert TaskInstance.defer_task(ti, session=cast("Any", session))
    assert (ti.state, ti.next_method, ti.try_number, ti.trigger_id) == ("deferred", method, 1, trigger)
    assert (ti.trigger_timeout is None, bool(session.written)) == (trigger is None, trigger is not None)
