"""What this process itself has changed in a pass: no hint tells of it, and more may follow from it at once.

Airflow's pass ends a task without a worker (an EmptyOperator, one that is skipped), its timers and the executor's
events end or reset others, and a run that is over makes room for one that is queued.
"""

from __future__ import annotations

from typing import Any

from airflow.models.dagrun import DagRun
from airflow.models.taskinstance import TaskInstance
from sqlalchemy import Engine, event

TASKS, RUNS = (f"UPDATE {model.__table__.fullname} SET" for model in (TaskInstance, DagRun))
# On its way to a worker; a run that has begun is examined in the same pass.
ON_ITS_WAY = frozenset({"scheduled", "queued", "running"})
HEARD = "after_cursor_execute"


class Changes:
    """What was given a state, other than on its way to a worker, since it was asked last: TASKS, RUNS, both or nothing.

    :param engine: of Airflow's database, in this process.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._found: set[str] = set()
        self._begun = False
        event.listen(engine, HEARD, self._hear)

    def close(self) -> None:
        """Hear no more."""
        event.remove(self._engine, HEARD, self._hear)

    def take(self) -> set[str]:
        """Return what was found, and forget it."""
        found, self._found = self._found, set()
        return found

    def take_begun(self) -> bool:
        """Return whether a run has begun since this was asked last."""
        begun, self._begun = self._begun, False
        return begun

    def _hear(self, connection: Any, cursor: Any, statement: str, parameters: Any, context: Any, many: bool) -> None:
        for table in (TASKS, RUNS):
            if statement.startswith(table) and cursor.rowcount and context is not None:
                states = {_name(values["state"]) for values in context.compiled_parameters if "state" in values}
                if states - ON_ITS_WAY:
                    self._found.add(table)
                self._begun |= table == RUNS and "running" in states


def _name(state: Any) -> str:
    return str(getattr(state, "value", state) or "")
