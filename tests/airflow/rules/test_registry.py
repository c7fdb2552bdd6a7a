"""What is known of Dags with rules where reading them fails on the way."""

from __future__ import annotations

from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any, cast
from uuid import uuid4

import pytest

from aiflow_ext import _core
from aiflow_ext.provider.world import registry
from aiflow_ext.provider.world.registry import DagRules, Registry, rules_of
from aiflow_ext.provider.world.task import Ruleset


class Database:
    """One Dag, whose rules cannot be read as long as there is an `error`."""

    def __init__(self, error: Exception | None) -> None:
        self.error = error
        self.rows = [(uuid4(), "d", "hash", datetime.now(UTC))]

    def execute(self, _: Any, since: Any) -> Any:
        """Which Dags have changed."""
        return SimpleNamespace(all=lambda: self.rows)

    def scalar(self, _: Any) -> Any:
        """What is serialized of one."""
        if self.error is not None:
            raise self.error
        rules = {"v": 1, "rules": []}
        return SimpleNamespace(dag_id="d", dag_hash="hash", data={"dag": {"tasks": [], "rules": rules}})


def test_a_dag_that_cannot_be_read_is_not_known_yet() -> None:
    known, database = Registry(), Database(OSError("the connection is lost"))
    with pytest.raises(OSError, match="lost"):
        known.refresh(cast("Any", database))
    assert known.dag_ids() == known.with_run_rules() == []  # and does not fail
    assert known.changed == {"d"}
    database.error = None
    known.refresh(cast("Any", database))
    assert database.rows[0][0] in known._versions


def test_a_dag_whose_rules_find_no_memory_is_no_dag_without_rules(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_memory(_: Any) -> Any:
        raise MemoryError

    monkeypatch.setattr(registry, "stored_rules", no_memory)
    with pytest.raises(MemoryError):
        rules_of(cast("Any", SimpleNamespace(dag_id="d", data={})))


def test_what_a_run_waits_for_is_known_as_long_as_the_run_is(monkeypatch: pytest.MonkeyPatch) -> None:
    """It follows a version that is not its Dag's newest any more, and that nobody has asked for since."""
    known, database = Registry(), Database(None)
    pattern = ("airflow", "other.task", "*", "*")
    ruleset = Ruleset((), _core.Rules([]), (pattern,), "", waits=True)
    monkeypatch.setattr(registry, "rules_of", lambda row: DagRules("d", {"t": ruleset}, None))
    of_run = known.of_run(cast("Any", database), "d", database.rows[0][0])
    for _ in range(2):
        known._forget_unused(cast("Any", SimpleNamespace(scalars=lambda _: [])))
        assert known.patterns() == {pattern}
    del of_run
    known._forget_unused(cast("Any", SimpleNamespace(scalars=lambda _: [])))
    assert not known.patterns()
