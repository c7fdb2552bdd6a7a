"""What is remembered where a look at the database fails on the way, and where much is new at once."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast
from uuid import uuid4

import pytest
from sqlalchemy import create_engine, text

from aiflow_ext import Event
from aiflow_ext.provider.db.consumers import Place, Stand
from aiflow_ext.provider.db.manager import AiflowDBManager, is_migrated
from aiflow_ext.provider.metrics import Work
from aiflow_ext.provider.react import status
from aiflow_ext.provider.react.tell import NOTED_SEC, Teller
from aiflow_ext.provider.scheduler.quiet import all_quiet
from aiflow_ext.provider.world.progress import Progress
from aiflow_ext.provider.world.registry import DagRules, Registry
from aiflow_ext.provider.world.runs import CHUNK, Run
from aiflow_ext.provider.world.task import Pattern, Try
from aiflow_ext.provider.world.world import FRESH, World

MANY = 2 * FRESH + 1


@pytest.mark.parametrize("how", ["refresh", "audit"])
def test_hints_that_are_lost_on_the_way_have_all_read_anew(monkeypatch: pytest.MonkeyPatch, how: str) -> None:
    registry, session = Registry(), cast("Any", None)
    world = World(registry, "scheduler", lambda: {("d", "r")})
    stand = Stand(Place(0, None), 7)
    monkeypatch.setattr("aiflow_ext.provider.world.world.stand_of", lambda *_: stand)
    monkeypatch.setattr(world.progress, "read", lambda *_: None)
    monkeypatch.setattr("aiflow_ext.provider.world.world.active_runs", lambda *args, **kwargs: [])
    for name in ("_read_all", "_read", "_read_dags"):
        monkeypatch.setattr(world, name, lambda session, now_ms, aside: None)
    look = {"refresh": lambda: world.refresh(session, 0, stand), "audit": lambda: world.audit(session, 0, ())}[how]
    for whole in (True, False):
        world.refresh(session, 0, stand)
        assert world.whole == whole

    def no_memory() -> Any:
        raise MemoryError

    with monkeypatch.context() as patch:
        patch.setattr(registry, "dag_ids", no_memory)
        with pytest.raises(MemoryError):
            look()
    monkeypatch.setattr(world, "_changed", set)  # each is told once
    world.refresh(session, 0, stand)
    assert world.whole


def test_a_scheduler_that_reads_all_tells_that_it_is_alive(monkeypatch: pytest.MonkeyPatch) -> None:
    rules, beats = DagRules("d", {}, None), []
    found = [(("d", str(n)), Run(n, "d", str(n), "running", rules, 0, None, {})) for n in range(2 * CHUNK + 1)]
    monkeypatch.setattr("aiflow_ext.provider.world.world.active_runs", lambda *_: [])
    monkeypatch.setattr("aiflow_ext.provider.world.world.read_runs", lambda *_: iter(found))
    monkeypatch.setattr("aiflow_ext.provider.world.world._stored", lambda *_: set())
    world = World(Registry(), "scheduler", lambda: None, lambda: beats.append(1))
    world._read_all(cast("Any", None), 0, ())
    assert len(world.runs) == len(found)
    assert len(beats) == 2


@pytest.fixture
def many(monkeypatch: pytest.MonkeyPatch) -> World:
    """Runs that are new, and of which nothing was told."""
    world, rules = World(Registry(), "scheduler", set), DagRules("d", {}, None)
    world.whole = False
    for n in range(MANY):
        ti = Try(uuid4(), "t", -1, "deferred", 1, parked=True, pid=None, hostname="")
        world.put(Run(n, "d", str(n), "running", rules, 0, None, {}, {"t": ti}))

    def save(session: Any, runs: list[Run], version: int) -> None:
        for run in runs:
            run.stored_seen = "{}"

    monkeypatch.setattr("aiflow_ext.provider.world.world.save_runs", save)
    return world


def test_runs_that_are_new_are_written_in_slices(many: World) -> None:
    session = cast("Any", SimpleNamespace(execute=lambda _: None))
    written = []
    for left in (True, True, False):
        many.save(session, None)
        written.append(len(many._touched))
        many.committed()
        assert many.left == left
    assert written == [FRESH, FRESH, 1]
    assert not many.fresh


def test_each_dag_that_is_behind_has_its_turn() -> None:
    progress, turns = Progress(), []
    progress.begin(1000)
    for dag_id, offset in (("z", 10), ("a", 10), ("b", 50), ("c", 900)):
        progress.move(dag_id, offset, unfinished=False)
    for reaction in range(9):
        progress.committed(reaction)  # whichever scheduler has made it
        turn = progress.turn()
        assert turn is not None
        offset, dag_ids = turn
        turns.append(sorted(dag_ids))
        for dag_id in dag_ids:
            progress.move(dag_id, offset + 1, unfinished=False)
    assert [turns.count(dag_ids) for dag_ids in (["a", "z"], ["b"], ["c"])] == [3, 3, 3]
    assert (progress.of("a"), progress.of("quiet"), progress.least) == (13, 1000, 13)


def test_states_are_told_in_slices(many: World) -> None:
    told: list[Event] = []
    client = SimpleNamespace(publish=lambda events, *_: told.extend(events))
    teller = Teller(cast("Any", client), None, lambda: True, None)
    for left in (True, True, False):
        teller.tell(cast("Any", None), many, Work(), all_of=True)
        for key in {*many._touched}:
            many._note(many.runs[key])
        many._touched.clear()
        assert bool(many.untold) == left
    assert len({event.sender for event in told}) == MANY


@pytest.mark.parametrize(
    ("pattern", "asks"),
    [
        (("airflow", "d.t", status.TYPE, "*"), True),
        (("airflow", "d.g.t", status.TYPE, "*"), True),
        (("*", "*", "*", "*"), True),
        (("air*", "d.*", "TASK*", "r"), True),
        (("airflow", "d*", "*", "*"), True),
        (("airflow", "dd.t", "*", "*"), False),
        (("airflow", "d", "*", "*"), False),
        (("airflow", "dd*", "*", "*"), False),
        (("airflow", "d.t", "ASSET_UPDATED", "*"), False),
        (("", "d.t", "*", "*"), False),
    ],
)
def test_states_that_nobody_asks_for_are_noted_later(
    many: World, monkeypatch: pytest.MonkeyPatch, pattern: Pattern, asks: bool
) -> None:
    session, watchers = cast("Any", None), cast("Any", SimpleNamespace(exist=lambda _: False))
    now = [1000.0]
    monkeypatch.setattr("aiflow_ext.provider.react.tell.time", SimpleNamespace(monotonic=lambda: now[0]))
    monkeypatch.setattr(many.registry, "patterns", lambda: frozenset([pattern]))
    teller = Teller(cast("Any", None), None, lambda: True, watchers)
    assert teller.waiting(session, many, all_of=False) == asks
    assert teller.waiting(session, many, all_of=True)
    if not asks:
        now[0] += NOTED_SEC / 2
        assert teller.due_ms(many, 5) == 5 + round(NOTED_SEC * 500)
        assert not teller.waiting(session, many, all_of=False)
        now[0] += NOTED_SEC / 2
        assert teller.waiting(session, many, all_of=False)


@pytest.mark.parametrize(("running", "rests"), [({"d": 2}, True), ({"d": 2, "other": 1}, False), ({"d": 3}, False)])
def test_it_is_no_rest_while_a_run_may_have_to_be_examined(running: dict[str, int], rests: bool) -> None:
    """Quiet runs of a Dag that is paused are not counted there, and stand for no other run."""
    world = World(Registry(), "scheduler", set)
    for dag_id, number in (("d", 2), ("paused", 10)):
        for n in range(number):
            world.put(Run(n, dag_id, str(n), "running", DagRules(dag_id, {}, None), 0, None, {}, quiet=True))
    session = cast("Any", SimpleNamespace(execute=lambda _: running.items()))
    assert not all_quiet(world, session)  # it is not known what has changed
    world.current = True
    assert all_quiet(world, session) == rests


def test_a_database_without_our_tables_is_not_migrated() -> None:
    """It ended the scheduler, stock scheduling and all."""
    engine = create_engine("sqlite://")
    assert not is_migrated(engine)
    with engine.begin() as connection:
        connection.execute(text("CREATE TABLE aiflow_alembic_version (version_num TEXT)"))
        connection.execute(text("INSERT INTO aiflow_alembic_version VALUES ('0008')"))
    assert not is_migrated(engine)
    with engine.begin() as connection:
        newest = [*AiflowDBManager.revision_heads_map.values()][-1]
        connection.execute(text("UPDATE aiflow_alembic_version SET version_num = :newest"), {"newest": newest})
    assert is_migrated(engine)
    engine.dispose()
