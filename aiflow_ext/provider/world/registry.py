"""Which Dags have rules: read from what Airflow serialized, compiled once per Dag version."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID
from weakref import WeakValueDictionary

import structlog
from airflow.models.dag_version import DagVersion
from airflow.models.serialized_dag import SerializedDagModel
from sqlalchemy import bindparam, exists, select
from sqlalchemy.orm import Session, aliased

from aiflow_ext import _core
from aiflow_ext.provider.author.operators import Rules, holds, stored_rules
from aiflow_ext.provider.world.task import Pattern, Ruleset
from aiflow_ext.rules import compile_rules

log = structlog.get_logger(__name__)

OVERLAP = timedelta(seconds=30)  # rows committed late, with an older last_updated, are seen all the same
AGAIN = timedelta(minutes=1)  # after so long all are looked at: the clocks of Dag processors may differ by more
BEGINNING = datetime(1970, 1, 1, tzinfo=UTC)
FEW = 100  # versions that need not be counted


@dataclass(frozen=True)
class DagRules:
    """All rules of one version of a Dag; `run` are those on the Dag itself."""

    dag_id: str
    tasks: dict[str, Ruleset]
    run: Ruleset | None


class Registry:
    """Dag versions that have rules.  Dags without any cost a look at their hash, once a minute.

    `changed` are the Dags of which a rule may have changed; who acts on that clears it.
    """

    def __init__(self) -> None:
        self._versions: dict[UUID, tuple[str, DagRules | None]] = {}
        self._latest: dict[str, UUID] = {}
        self._since = BEGINNING
        self._looked = self._read_all = BEGINNING
        self.changed: set[str] = set()
        self._used: set[UUID] = set()  # by runs that are pinned to them
        self._in_use: WeakValueDictionary[UUID, DagRules] = WeakValueDictionary()  # also by runs that are remembered
        self._patterns: frozenset[Pattern] | None = None
        self._most = FEW  # then what is not used any more is forgotten

    def refresh(self, session: Session) -> None:
        """Read what was serialized since the last time (all, if the clock went back)."""
        now = datetime.now(UTC)
        if now < self._looked or now >= self._read_all + AGAIN:
            self._since, self._read_all = BEGINNING, now
        self._looked = now
        since = self._since
        for version_id, dag_id, dag_hash, updated in session.execute(_CHANGED_SINCE, {"since": since}).all():
            since = max(since, min(updated, now) - OVERLAP)  # a clock may have gone back since
            if self._latest.get(dag_id) != version_id:  # also where what follows fails
                self.changed.add(dag_id)
            if self._load(session, version_id, dag_hash):
                self.changed.add(dag_id)
            self._latest[dag_id] = version_id
        self._since = since  # where something has failed, all of it is read again
        if len(self._versions) > self._most:
            self._forget_unused(session)

    def look_at_all(self) -> None:
        """Let the next refresh() read all: a Dag was edited, at whatever time its row says."""
        self._since = BEGINNING

    def of_run(self, session: Session, dag_id: str, pinned: UUID | None) -> DagRules | None:
        """Return the rules a run follows: of the version it is pinned to, else of its Dag's latest."""
        version_id = pinned or self._latest.get(dag_id)
        if version_id is None:
            return None
        if pinned:
            self._used.add(pinned)
        if version_id not in self._versions:
            self._load(session, version_id, None)
        return self._versions[version_id][1]

    def dag_ids(self) -> list[str]:
        """Return the Dags whose tasks or runs follow rules."""
        return [d for d, v in self._latest.items() if self._versions[v][1] is not None]

    def patterns(self) -> frozenset[Pattern]:
        """Return which events any rule waits for."""
        if self._patterns is None:
            found = list(self._in_use.values())
            rulesets = [ruleset for rules in found for ruleset in (*rules.tasks.values(), rules.run) if ruleset]
            self._patterns = frozenset(pattern for ruleset in rulesets for pattern in ruleset.patterns)
        return self._patterns

    def with_run_rules(self) -> list[DagRules]:
        """Return the Dags that events start or stop."""
        found = (self._versions[v][1] for v in self._latest.values())
        return [rules for rules in found if rules is not None and rules.run is not None]

    def _forget_unused(self, session: Session) -> None:
        """Keep the latest versions of the Dags that are there, and those that runs asked for since the last time."""
        there = set(session.scalars(select(DagVersion.dag_id).distinct()))
        self._latest = {dag_id: version for dag_id, version in self._latest.items() if dag_id in there}
        used = self._used | {*self._latest.values()}
        self._versions = {version: rules for version, rules in self._versions.items() if version in used}
        self._used.clear()
        self._patterns = None
        self._most = 2 * len(self._versions) + FEW

    def _load(self, session: Session, version_id: UUID, dag_hash: str | None) -> bool:
        known = self._versions.get(version_id)
        if known is not None and known[0] == dag_hash:
            return False
        row = session.scalar(select(SerializedDagModel).where(SerializedDagModel.dag_version_id == version_id))
        rules = rules_of(row) if row is not None else None
        self._versions[version_id] = (row.dag_hash if row is not None else "", rules)
        if rules is not None:
            self._in_use[version_id] = rules
        self._patterns = None
        return rules is not None or (known is not None and known[1] is not None)


def _changed_since() -> Any:
    """The latest version of each Dag that was written after `since`."""
    newer = aliased(DagVersion)
    return (
        select(
            SerializedDagModel.dag_version_id,
            SerializedDagModel.dag_id,
            SerializedDagModel.dag_hash,
            SerializedDagModel.last_updated,
        )
        .join(DagVersion, DagVersion.id == SerializedDagModel.dag_version_id)
        .where(
            SerializedDagModel.last_updated > bindparam("since"),
            # With 50,000 versions this takes half the time of a join with the newest one of each Dag.
            ~exists().where(newer.dag_id == DagVersion.dag_id, newer.version_number > DagVersion.version_number),
        )
    )


_CHANGED_SINCE = _changed_since()  # asked in each look, and made once


def rules_of(row: SerializedDagModel) -> DagRules | None:
    """Compile the rules of a serialized Dag; None: it has none, or they cannot be read.

    :raises MemoryError: it is not known whether it has any: tasks that wait for rules must not be taken for plain ones.
    """
    try:
        tasks, run = stored_rules(row.data or {"dag": {"tasks": []}})
        if not tasks and run is None:
            return None
        return DagRules(
            row.dag_id,
            {task_id: _ruleset(rules, row.dag_id) for task_id, rules in tasks.items()},
            _ruleset(run, row.dag_id) if run is not None else None,
        )
    except MemoryError:
        raise
    except Exception:
        log.exception("aiflow: the rules of a Dag cannot be read; it runs without them", dag_id=row.dag_id)
        return None


def _ruleset(rules: Rules, dag_id: str) -> Ruleset:
    spec = compile_rules(rules, dag_id)
    patterns = tuple(cond[1:5] for _, conds in spec for cond in conds if cond[0] == "event")
    digest = hashlib.sha256(json.dumps(rules, sort_keys=True).encode()).hexdigest()
    return Ruleset(tuple(rules["rules"]), _core.Rules(spec), patterns, digest, holds(rules))
