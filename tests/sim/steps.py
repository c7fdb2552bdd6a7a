"""The steps of a history: what programs, workers, people and time do.  Each is a tuple, its name first.

Runs, workers and tasks are named by a number that is taken modulo what there is, so a step keeps its meaning when steps
before it are taken out.  A step whose object is not there does nothing.
"""

from __future__ import annotations

import copy
import re
import traceback
from datetime import UTC, datetime, timedelta
from random import Random
from types import SimpleNamespace
from typing import Any

from airflow import settings
from airflow.api.common.delete_dag import delete_dag
from airflow.api.common.mark_tasks import set_dag_run_state_to_failed, set_dag_run_state_to_success
from airflow.api_fastapi.execution_api.datamodels import taskinstance as payloads
from airflow.api_fastapi.execution_api.routes import task_instances as api
from airflow.models.dag import DagModel
from airflow.models.dagrun import DagRun
from airflow.models.pool import Pool
from airflow.models.taskinstance import TaskInstance, clear_task_instances
from airflow.models.trigger import Trigger
from airflow.models.xcom import XComModel
from airflow.triggers.base import TriggerEvent
from airflow.utils.session import create_session
from airflow.utils.state import DagRunState, TaskInstanceState
from airflow.utils.types import DagRunTriggeredByType, DagRunType
from fastapi import HTTPException, Response
from sqlalchemy import select, update
from sqlalchemy.exc import OperationalError

from aiflow_ext._event import Event
from aiflow_ext.provider.author.operators import dag_rules, task_rules
from sim import chance, dags
from sim.chance import CONTEXTS, KEYS, VALUES
from sim.check import Check, fresh_bag
from sim.world import SAFETY_SEC, Finding, Killed, Worker, World

Step = tuple[Any, ...]
HOST, USER = "host", "user"
POINTS = ("apply.locked", "apply.acted", "apply.saved", "apply.committed")
IN_PASSES = ("kept.made", "pass.examined", "pass.queued", "pass.committed")
PEOPLE = ("clear", "clear_run", "mark", "mark_run", "mark_run", "pause", "delete_run", "edit")
BRANCHES = ("branch", "short")
LAPS = 10  # jumps of time at the end
ROUNDS = 40  # of work there


class Player:
    """Plays steps in a world."""

    def __init__(self, world: World, check: Check, specs: list[dict[str, Any]]) -> None:
        self.world, self.check = world, check
        self.specs = {spec["id"]: copy.deepcopy(spec) for spec in specs}
        self._runs = 0
        self._pid = 100_000
        self._bag = fresh_bag()
        self._no_hint = False
        with create_session() as session:
            session.add(Pool(pool="narrow", slots=1, description="", include_deferred=False))
            session.add(Pool(pool="deferred", slots=1, description="", include_deferred=True))
            for dag_id in self.specs:
                self._store(session, dag_id)

    def play(self, step: Step) -> None:
        """Do one step."""
        self.world.clock.move(0.01)
        try:
            getattr(self, f"do_{step[0]}")(*step[1:])
        except Exception as e:
            if any("aiflow_ext" in f.filename for f in traceback.extract_tb(e.__traceback__)):
                raise
            where = traceback.extract_tb(e.__traceback__)[-1]  # Airflow's own: docs/simulation.md
            self.check.passed[f"airflow: {type(e).__name__} in {where.name}"] += 1
            settings.Session.remove()

    # -- programs

    def do_event(self, key: str, value: str, context: str | None, n: int) -> None:
        self.world.publish(Event(key, value, "t", context=context, namespace="default", sender=""), n)

    # -- people

    def do_run(self, dag: int, context: str | None) -> None:
        spec = self._dag(dag)
        with create_session() as session:
            found = self._bag.get_latest_version_of_dag(spec["id"], session=session)
            if found is None:
                return
            self._runs += 1
            self._make_run(session, found, f"run{self._runs}", context)
        self.world.changed()

    def _make_run(self, session: Any, dag: Any, run_id: str, context: str | None) -> None:
        self.check.begins((dag.dag_id, run_id))
        self.check.contexts[dag.dag_id, run_id] = context
        dag.create_dagrun(
            run_id=run_id,
            run_after=datetime.now(UTC),
            logical_date=datetime.now(UTC) if self._runs % 3 else None,
            conf={"aiflow": {"context": context}} if context else {},
            run_type=DagRunType.MANUAL,
            triggered_by=DagRunTriggeredByType.REST_API,
            state=DagRunState.QUEUED,
            session=session,
        )

    def do_clear(self, run: int, task: int, up: bool, down: bool) -> None:
        with create_session() as session:
            row, dag = self._run(session, run)
            if row is None:
                return
            ids = sorted(dag.task_dict)
            wanted = {ids[task % len(ids)]}
            first = next(iter(wanted))
            if down:
                wanted |= {t.task_id for t in dag.get_task(first).get_flat_relatives(upstream=False)}
            if up:
                wanted |= {t.task_id for t in dag.get_task(first).get_flat_relatives(upstream=True)}
            found = dag.clear(dry_run=True, task_ids=sorted(wanted), run_id=row.run_id, session=session)
            self._cleared(row, found)
            clear_task_instances(list(found), session, DagRunState.QUEUED)
        self.world.changed()

    def _cleared(self, run: Any, tis: Any) -> None:
        key = (run.dag_id, run.run_id)
        if run.state not in (DagRunState.RUNNING, DagRunState.QUEUED):
            self.check.begins(key)
        for ti in tis:
            ledger = self.check.ledgers[*key, ti.task_id]
            if ti.state is not None:
                ledger.again, ledger.told = ledger.last is not None, None
            ledger.restart_of, ledger.cleared = None, ti.id.hex

    def do_clear_run(self, run: int) -> None:
        with create_session() as session:
            row, dag = self._run(session, run)
            if row is None:
                return
            found = dag.clear(dry_run=True, task_ids=None, run_id=row.run_id, session=session)
            self._cleared(row, found)
            dag.clear(run_id=row.run_id, task_ids=None, session=session)
        self.world.changed()

    def do_mark(self, run: int, task: int, state: str) -> None:
        with create_session() as session:
            row, dag = self._run(session, run)
            if row is None:
                return
            ids = sorted(dag.task_dict)
            task_id = ids[task % len(ids)]
            if row.state not in (DagRunState.RUNNING, DagRunState.QUEUED):
                self.check.begins((row.dag_id, row.run_id))
            # What failed below it is cleared by Airflow.
            for other in self.check.below(row.dag_id, task_id):
                ledger = self.check.ledgers[row.dag_id, row.run_id, other]
                ti = row.get_task_instance(other, session=session)
                if ti is not None and ti.state in ("failed", "upstream_failed"):
                    ledger.again, ledger.told = ledger.last is not None, None
            dag.set_task_instance_state(
                task_id=task_id, run_id=row.run_id, state=TaskInstanceState(state), commit=True, session=session
            )
        self.world.changed()

    def do_mark_run(self, run: int, state: str) -> None:
        with create_session() as session:
            row, dag = self._run(session, run)
            if row is None:
                return
            end = set_dag_run_state_to_failed if state == "failed" else set_dag_run_state_to_success
            end(dag=dag, run_id=row.run_id, commit=True, session=session)
            session.flush()
            if session.scalar(select(DagRun.state).where(DagRun.id == row.id)) not in ("running", "queued"):
                self.check.ended.add((row.dag_id, row.run_id))  # else teardowns go on
        self.world.changed()

    def do_pause(self, dag: int, paused: bool) -> None:
        with create_session() as session:
            session.get(DagModel, self._dag(dag)["id"]).is_paused = paused
        self.world.changed()

    def do_stale(self, dag: int, stale: bool) -> None:
        with create_session() as session:
            session.get(DagModel, self._dag(dag)["id"]).is_stale = stale
        self.world.changed()

    def do_delete_run(self, run: int, again: str | None = None) -> None:
        """Delete a run; and make another one of its name at once, with the context `again`."""
        with create_session() as session:
            row, dag = self._run(session, run)
            if row is None or row.state == DagRunState.RUNNING:
                return
            key = (row.dag_id, row.run_id)
            session.delete(row)
            if again is not None:
                session.flush()
                self._runs += 1
                self._make_run(session, dag, row.run_id, again or None)
        for task in [t for t in self.check.ledgers if t[:2] == key]:
            del self.check.ledgers[task]
        self.world.changed()

    def do_delete_dag(self, dag: int) -> None:
        """A Dag is deleted with its runs, and as its file is still there, it comes back."""
        dag_id = self._dag(dag)["id"]
        with create_session() as session:
            if session.scalar(select(DagRun.id).where(DagRun.dag_id == dag_id, DagRun.state == DagRunState.RUNNING)):
                return
            delete_dag(dag_id, session=session)
            session.commit()
            self._store(session, dag_id)
        self.check.dag_made_again(dag_id)
        self.world.changed()

    def do_edit(self, dag: int, change: Step) -> None:
        """The Dag file changes.  A file with an import error changes nothing."""
        spec = self._dag(dag)
        old, new = spec, copy.deepcopy(spec)
        _change(new, change)
        if not dags.is_right(new):
            return
        self.specs[spec["id"]] = new
        with create_session() as session:
            self._store(session, spec["id"])
        self._edited(old, new)
        self.world.changed()

    def _edited(self, old: Any, new: Any) -> None:
        """Where a task's waiting itself changed, or its place, what comes next is open."""
        before = {t["id"]: t for t in old["tasks"]}
        after = {t["id"]: t for t in new["tasks"]}
        for task in {**before, **after}:
            a, b = before.get(task), after.get(task)
            if a is None or b is None or _waits(a) != _waits(b) or a.get("up") != b.get("up"):
                for key in list(self.check.heads):
                    if key[0] == new["id"]:
                        self.check.ledgers[*key, task].free = True

    def _store(self, session: Any, dag_id: str) -> None:
        spec = self.specs[dag_id]
        dag = dags.build(spec)
        dags.store(session, dag)
        found = {t.task_id: rules["rules"] for t in dag.tasks if (rules := task_rules(t)) is not None}
        of_dag = dag_rules(dag)
        self.check.specs[dag_id] = spec
        for task in spec["tasks"]:
            starts = [rule for rule in task.get("rules", ()) if rule["on"] != "stop"]
            self.check.downstream[dag_id, task["id"]] |= {bool(rule.get("downstream")) for rule in starts}
        self.check.rules[dag_id] = (found, of_dag["rules"] if of_dag else None)

    # -- workers

    def do_begin(self, n: int) -> None:
        if sent := [w for w in self.world.workers if w.state == "sent"]:
            self._begin(sent[n % len(sent)])

    def _begin(self, worker: Worker) -> None:
        self._pid += 1
        worker.pid = self._pid
        payload = payloads.TIEnterRunningPayload(
            state="running", hostname=HOST, unixname=USER, pid=worker.pid, start_date=datetime.now(UTC)
        )
        token = SimpleNamespace(claims=SimpleNamespace(scope="execution"))
        task = (worker.key.dag_id, worker.key.run_id, worker.key.task_id)
        try:
            with create_session() as session:
                worker.context = api.ti_run(worker.ti_id, payload, Response(), session, self._bag, None, token)
        except HTTPException:
            self._gone(worker, failed=True)
            return
        worker.state = "running"
        kwargs = worker.context.next_kwargs
        from sim.check import _told

        told = _told(kwargs) if worker.context.next_method == "aiflow_start" else ()
        self.check.began(task, worker.context.next_method, told)
        self.world.changed()

    def _gone(self, worker: Worker, *, failed: bool) -> None:
        worker.state = "gone"
        (worker.executor.fail if failed else worker.executor.success)(worker.key)
        for s in self.world.schedulers:
            s.wake.executor = True

    def do_end(self, n: int, how: str) -> None:
        running = [w for w in self.world.workers if w.state == "running"]
        if running:
            self._end(running[n % len(running)], how)

    def do_work(self, n: int, how: str) -> None:
        """Begin one that was sent, or end one that runs."""
        there = [w for w in self.world.workers if w.state != "gone"]
        if there:
            worker = there[n % len(there)]
            if worker.state == "sent":
                self._begin(worker)
            elif worker.state == "slow":
                self._gone(worker, failed=False)
            if worker.state == "running":
                self._end(worker, how)

    def do_all(self, how: str) -> None:
        """All that were sent begin, and all end."""
        self._hear_of_slow_ones()
        for worker in [w for w in self.world.workers if w.state != "gone"]:
            if worker.state == "sent":
                self._begin(worker)
            if worker.state == "running":
                self._end(worker, how)

    def _hear_of_slow_ones(self) -> None:
        for worker in [w for w in self.world.workers if w.state == "slow"]:
            self._gone(worker, failed=False)

    def _end(self, worker: Worker, how: str) -> None:
        spec = self.check._spec((worker.key.dag_id, worker.key.run_id, worker.key.task_id)) or {"kind": "work"}
        now = datetime.now(UTC)
        if how == "vanish":
            self._gone(worker, failed=True)
            return
        if how == "lost":  # its host is gone: nobody says anything
            worker.state = "gone"
            worker.executor.running.discard(worker.key)
            return
        kind = spec["kind"]
        payload: Any
        if how == "wait" and kind not in ("sensor", "deferrable") and worker.context.should_retry:
            how = "failed"  # each kind waits elsewhere in its own way
        if how == "failed":
            payload = payloads.TITerminalStatePayload(state="failed", end_date=now)
            if worker.context.should_retry:
                payload = payloads.TIRetryStatePayload(state="up_for_retry", end_date=now)
        elif how == "skipped":
            payload = payloads.TITerminalStatePayload(state="skipped", end_date=now)
        elif kind == "deferrable" and worker.context.next_method in (None, "aiflow_start"):
            payload = payloads.TIDeferredStatePayload(
                state="deferred", classpath="sim.Trigger", trigger_kwargs={}, next_method="done", next_kwargs={}
            )
        elif kind == "sensor" and (how == "wait" or (how == "slow" and not worker.context.task_reschedule_count)):
            again = now + timedelta(seconds=60 if how == "wait" else 0)
            payload = payloads.TIRescheduleStatePayload(state="up_for_reschedule", reschedule_date=again, end_date=now)
        else:
            payload = payloads.TISuccessStatePayload(state="success", end_date=now)
        try:
            if payload.state == "success" and kind in BRANCHES:
                self._skip(worker, spec, how)
            with create_session() as session:
                api.ti_update_state(worker.ti_id, payload, session, self._bag)
        except HTTPException:
            self._gone(worker, failed=True)
        else:
            worker.state = "slow"
            if how != "slow":
                self._gone(worker, failed=False)
        self.world.changed()

    def _skip(self, worker: Worker, spec: Any, how: str) -> None:
        """What a branch (its first follower wins) or a short circuit (none does) does before it ends."""
        below = sorted(t["id"] for t in self.check.specs[worker.key.dag_id]["tasks"] if spec["id"] in t.get("up", ()))
        follow = below[:1] if spec["kind"] == "branch" or how == "success" else []
        skipped = [t for t in below if t not in follow]
        if not skipped:
            return
        with create_session() as session:
            XComModel.set(
                key="skipmixin_key",
                value={"followed": follow} if spec["kind"] == "branch" else {"skipped": skipped},
                dag_id=worker.key.dag_id,
                task_id=worker.key.task_id,
                run_id=worker.key.run_id,
                session=session,
            )
            payload = payloads.TISkippedDownstreamTasksStatePayload(tasks=skipped)
            api.ti_skip_downstream(worker.ti_id, payload, session)
        for task_id in skipped:
            self.check.ledgers[worker.key.dag_id, worker.key.run_id, task_id].told = None

    def do_trigger(self, n: int) -> bool:
        """The triggerer: a trigger fires; whether there was one."""
        with create_session() as session:
            waits = TaskInstance.trigger_id == Trigger.id  # who waits no more leaves its trigger behind for a while
            ids = sorted(
                session.scalars(select(Trigger.id).join(TaskInstance, waits).where(Trigger.classpath == "sim.Trigger"))
            )
            if not ids:
                return False
            Trigger.submit_event(ids[n % len(ids)], TriggerEvent("x"), session=session)
        self.world.changed()
        return True

    # -- time, and what goes wrong

    def do_time(self, seconds: float) -> None:
        self.world.clock.move(seconds)
        self._no_hint |= seconds >= 30
        self.check.clock_back |= seconds < 0
        if seconds > 1:
            self._hear_of_slow_ones()
        self._beat()
        with create_session() as session:  # the Dag processor, each few minutes
            session.execute(update(DagModel).values(last_parsed_time=datetime.now(UTC)))

    def _beat(self) -> None:
        """Each worker's heartbeat: one whose row is another's now ends."""
        for worker in [w for w in self.world.workers if w.state == "running"]:
            try:
                with create_session() as session:
                    api.ti_heartbeat(worker.ti_id, payloads.TIHeartbeatInfo(hostname=HOST, pid=worker.pid), session)
            except HTTPException:
                self._gone(worker, failed=False)
                continue
            if worker.term:
                self._end(worker, "failed")

    def do_kill(self, point: str, n: int) -> None:
        self.world.kill_at = (point, n, Killed())

    def do_fail(self, point: str, n: int) -> None:
        """The database fails there: the transaction is undone, and the scheduler goes on."""
        self.world.kill_at = (point, n, OperationalError("a lost connection", None, Exception()))

    def do_meanwhile(self, *step: Any) -> None:
        """Somebody does this after the scheduler has read which runs run, and before it examines the first one.

        A server has locked them then, so whoever changes one comes before or after.  A Dag file is edited between two
        transactions of a reaction.
        """
        if step[0] == "edit":
            self.world.meanwhile = "apply.committed", lambda: self.play(step)
        elif self.world.home.store != "sqlite":
            self.play(step)
        else:
            self.world.meanwhile = "pass.read", lambda: self.play(step)

    def do_die(self) -> None:
        """The scheduler is killed where it waits, and another takes its place."""
        scheduler = self.world.schedulers[0]
        self.world.end_scheduler(scheduler, orphans=True)
        self.world.start_scheduler()

    def do_second(self) -> None:
        """A second scheduler comes, or goes."""
        if len(self.world.schedulers) > 1:
            self.world.end_scheduler(self.world.schedulers[-1], orphans=True)
        else:
            self.world.start_scheduler()

    def do_lose(self) -> None:
        """No hint of what happens next arrives."""
        self.world.lose = True

    def do_broker(self, up: bool) -> None:
        self.world.broker_up = up
        if up:
            self.world.wake(events=True)

    def do_nothing(self) -> None: ...

    # -- the end

    def finish(self) -> None:
        """Let everything that can end, end: workers, triggers, time; no events, people or schedules."""
        self.world.broker_up, self.world.lose, self.world.kill_at, self.world.meanwhile = True, False, None, None
        with create_session() as session:
            session.execute(update(DagModel).values(is_paused=False, is_stale=False, next_dagrun_create_after=None))
        self.world.changed()
        jumps, laps = [130, 430, 130], LAPS
        for _ in range(ROUNDS):
            self.settle()
            if any(w.state != "gone" for w in self.world.workers):
                self.do_all("success")
                continue
            if self.do_trigger(0):
                for n in range(1, 8):
                    self.do_trigger(n)
                continue  # somebody did something: it was not the time
            if not jumps:
                break
            if laps == 0:
                if "every(" not in repr(self.specs):
                    self.check.fault("endless", "something changes at each jump of time, and no rule has a period")
                return
            laps -= 1
            before = self.world._fingerprint()
            self.do_time(jumps[0])
            self.settle()
            if before == self.world._fingerprint():
                jumps.pop(0)
        else:
            self.check.passed["end: not reached"] += 1  # a period, or a rule that its own task's end fires, goes on
            return
        self.check.over()

    def settle(self) -> None:
        """Let the schedulers run, then look."""
        was_lost = self.world.lose
        self._run_schedulers()
        if was_lost or self.world.failed:
            self._safety_passes()
            was_lost = True
        if self._no_hint and self.world.full_at != self.world.clock.writes:
            # Stock's timers, an edit of a Dag file and a run that is deleted have no hint: the next full pass sees it.
            self.world.wake(full=True)
            self._run_schedulers()
        self._no_hint = False
        self.check.heard()
        late = held = self.check.held()
        for _ in range(4):  # the safety pass makes up for it
            if not held:
                break
            self.world.wake(full=True)
            self._run_schedulers()
            held = self.check.held()
        if held:
            self.check.fault("stock-held" + self.check.owed(held[0]), held[1])
        elif late and not was_lost:
            empty = any(t["kind"] == "empty" for t in self.check.specs[late[0][0]]["tasks"])
            self.check.fault("late-empty" if empty else f"late-{self.world.home.store}", late[1])
        self.check.quiet()

    def _safety_passes(self) -> None:
        """Nobody hears of what has happened, or a reaction failed: time alone makes up for it."""
        for _ in range(2):
            self.world.failed = False
            self.world.forget()
            self.world.clock.move(SAFETY_SEC)
            self._run_schedulers()

    def _run_schedulers(self) -> None:
        try:
            self.world.settle()
        except Finding as e:
            if e.name != "spin":
                raise
            self.check.fault(e.name + self.check.owed(), str(e))
        self.check.run_seen()

    # -- which one

    def _dag(self, n: int) -> dict[str, Any]:
        ids = sorted(self.specs)
        return self.specs[ids[n % len(ids)]]

    def _run(self, session: Any, n: int) -> tuple[Any, Any]:
        rows = session.scalars(select(DagRun).order_by(DagRun.id)).unique().all()
        if not rows:
            return None, None
        row = rows[n % len(rows)]
        dag = self._bag.get_dag_for_run(dag_run=row, session=session)
        return (row, dag) if dag is not None else (None, None)


def _waits(task: Any) -> bool:
    return any(rule["on"] in ("start", "restart") for rule in task.get("rules", ()))


def _change(spec: Any, change: Step) -> None:
    what, n, *rest = change
    task = spec["tasks"][n % len(spec["tasks"])]
    rules = task.get("rules", [])
    if what == "drop_rule" and rules:
        del rules[rest[0] % len(rules)]
    elif what == "rename_rule" and rules:
        rules[rest[0] % len(rules)]["name"] = f"n{rest[0]}"
    elif what == "add_rule" and task["kind"] != "empty":
        task.setdefault("rules", []).append(copy.deepcopy(rest[0]))
    elif what == "drop_task" and len(spec["tasks"]) > 1:
        spec["tasks"].remove(task)
        for other in spec["tasks"]:
            other["up"] = [up for up in other.get("up", ()) if up != task["id"]]
    elif what == "add_task":
        spec["tasks"].append({**copy.deepcopy(rest[0]), "id": f"n{len(spec['tasks'])}"})


# -- chance -------------------------------------------------------------------------------------------------------

ENDS = ("success",) * 6 + ("failed",) * 4 + ("skipped", "vanish", "lost", "wait", "none", "slow", "slow")


# How often each kind of step is chosen; a history has favourites, so that they meet each other.
WEIGHTS = {
    "event": 28, "begin": 12, "end": 12, "work": 10, "all": 3, "time": 6, "run": 5, "clear": 4, "clear_run": 1,
    "mark": 3, "mark_run": 1, "pause": 2, "stale": 1, "delete_run": 1, "delete_dag": 0.5, "edit": 4, "kill": 3,
    "fail": 2, "die": 1, "second": 1, "trigger": 2, "broker": 1, "lose": 1.5, "meanwhile": 2,
}  # fmt: skip


def some_steps(r: Random, specs: list[dict[str, Any]], n: int) -> list[Step]:
    """A history by chance: each item is a step, or ("and", step) where the schedulers do not run in between."""
    weights = {kind: weight * r.choice((0.3, 1, 1, 2.5)) for kind, weight in WEIGHTS.items()}
    out: list[Step] = [("run", 0, r.choice(CONTEXTS))]
    while len(out) < n:
        if r.random() < 0.25:
            out += _some_scene(r, specs)
            continue
        (kind,) = r.choices(list(weights), list(weights.values()))
        out.append(_and(r, _some_step(r, specs, kind), 0.45))
    return out


def _and(r: Random, step: Step, chance: float) -> Step:
    return ("and", *step) if r.random() < chance else step


def _some_step(r: Random, specs: list[dict[str, Any]], kind: str) -> Step:
    big = r.randrange(12)
    rest: dict[str, Any] = {
        "event": lambda: (r.choice(KEYS), r.choice(VALUES), r.choice(CONTEXTS), r.choice((1, 1, 1, 1, 1, 2, 4))),
        "begin": lambda: (big,),
        "end": lambda: (big, r.choice(ENDS)),
        "work": lambda: (big, r.choice(ENDS)),
        "all": lambda: (r.choice(ENDS),),
        "time": lambda: (r.choice((0.05, 1, 5, 15, 30, 61, 130, 400, -30)),),
        "run": lambda: (big, r.choice(CONTEXTS)),
        "clear": lambda: (big, r.randrange(12), r.random() < 0.25, r.random() < 0.35),
        "clear_run": lambda: (big,),
        "mark": lambda: (big, r.randrange(12), r.choice(("success", "failed", "skipped"))),
        "mark_run": lambda: (big, r.choice(("success", "failed"))),
        "pause": lambda: (big, r.random() < 0.5),
        "stale": lambda: (big, r.random() < 0.5),
        "delete_run": lambda: (big, r.choice((None, "", "c0"))),
        "delete_dag": lambda: (big,),
        "edit": lambda: (big, _some_change(r, specs)),
        "kill": lambda: (r.choice(POINTS + POINTS + IN_PASSES), r.choice((1, 1, 2))),
        "fail": lambda: (r.choice(POINTS), r.choice((1, 1, 2))),
        "trigger": lambda: (big,),
        "broker": lambda: (r.random() < 0.5,),
        "meanwhile": lambda: _some_step(r, specs, r.choice(PEOPLE)),
    }
    return (kind, *rest.get(kind, tuple)())


def _heard_event(r: Random, specs: list[dict[str, Any]], kind: str = "") -> Step:
    """An event that one of the rules hears, if there is such a one, of this kind."""
    of_dags = [rule for spec in specs for rule in spec.get("rules", ())]
    of_tasks = [rule for spec in specs for task in spec["tasks"] for rule in task.get("rules", ())]
    rules = of_dags if of_dags and r.random() < 0.4 else of_tasks or of_dags
    rules = [rule for rule in of_dags + of_tasks if rule["on"] == kind] or rules
    return _event_of(r, rules)


def _event_of(r: Random, rules: list[dict[str, Any]]) -> Step:
    heard = re.findall(r"event\('(e\d)'(?:, '(\w)')?", r.choice(rules)["when"]) if rules else []
    key, value = r.choice(heard or [(r.choice(KEYS), "")])
    return ("event", key, value or r.choice(VALUES), None, r.choice((1, 1, 1, 2, 3)))


def _some_scene(r: Random, specs: list[dict[str, Any]]) -> list[Step]:
    """Some steps that seldom follow each other by chance alone."""

    def some(kind: str) -> Step:
        return _heard_event(r, specs) if kind == "event" else _some_step(r, specs, kind)

    big = r.randrange(12)
    start, restart, stop = (_heard_event(r, specs, kind) for kind in ("start", "restart", "stop"))
    every = [("event", key, r.choice(VALUES), None, 1) for key in KEYS]
    scenes: tuple[tuple[Step, ...], ...] = (
        # events meet a task that runs, and it ends, or does not
        (("begin", big), some("event"), some("event"), r.choice((some("end"), ("time", 11), ("time", 400)))),
        (("begin", big), stop, ("time", 11), ("time", 11)),
        (("run", big, None), ("begin", 0), ("begin", 0), stop, ("time", 11), ("time", 11)),
        (some("event"), ("begin", big), some("event"), stop, some("end")),
        # ... that waits for its retry, its reschedule, or in a trigger of its own
        (restart, ("all", "wait"), restart, ("time", r.choice((2, 61)))),
        (some("event"), ("all", "wait"), r.choice((restart, stop)), ("time", r.choice((2, 61)))),
        (("begin", big), some("event"), ("end", 0, "failed"), some("event"), ("time", 61), ("begin", big)),
        # ... whose rules are edited meanwhile
        (("begin", big), some("event"), some("edit"), some("edit"), ("end", 0, "success")),
        # ... that is cleared
        (some("event"), ("all", r.choice(ENDS)), ("all", "success"), some(r.choice(("clear", "clear_run")))),
        (*every, ("all", "success"), ("all", "success"), ("all", "success"), some("clear")),
        (*every, ("all", "success"), ("all", "success"), ("all", "success"), ("clear_run", 0)),
        # ... or its run, or another one of that name is made, before a scheduler looks
        (some("event"), ("and", "mark_run", big, "failed"), ("and", "clear_run", big), some("event")),
        (some("event"), ("and", "mark_run", big, "failed"), ("and", "delete_run", big, "c1"), some("event")),
        # a Dag is away meanwhile
        (("pause", big, True), some("event"), some("event"), ("pause", big, False)),
        (("stale", big, True), some("event"), some("event"), ("stale", big, False)),
        (("pause", big, True), some("event"), ("and", "delete_dag", big), ("pause", big, False), some("event")),
        # of two runs that wait one is started
        (
            ("run", big, "c0"),
            ("run", big, "c1"),
            ("event", *start[1:3], "c0", 1),
            ("all", "success"),
            ("all", "success"),
        ),
        # a run is younger than an event, and a queued one meets it
        (("and", *some("event")), ("run", big, None), ("begin", big)),
        (("run", big, None), ("and", *stop), ("run", big, None), ("all", "success")),
        (("run", big, None), ("run", big, None), some("event"), some("event")),
        # what happens is lost, or the scheduler dies of it
        ((r.choice(("kill", "fail")), r.choice(POINTS), 1), some("event"), some("event")),
        (("lose",), some(r.choice(("event", "run", "end")))),
        (some("event"), ("die",), some("event")),
        # another scheduler goes on where the first one ends
        (("second",), some("event"), ("die",), some("event"), ("second",)),
    )
    scenes += _aimed(r, specs) * 3
    return [_and(r, step, 0.2) if step[0] != "and" else step for step in r.choice(scenes)]


def _aimed(r: Random, specs: list[dict[str, Any]]) -> tuple[tuple[Step, ...], ...]:
    """Scenes for what just these Dags have."""
    out: list[tuple[Step, ...]] = []
    for n, spec in enumerate(specs):
        for rule in spec.get("rules", ()):
            fires = _event_of(r, [rule])
            if rule["on"] == "start":  # its runs are kept
                out.append((("pause", n, True), fires, fires, ("pause", n, False), ("all", "success")))
            elif any(task["kind"] == "teardown" for task in spec["tasks"]):  # ends what is to be torn down
                out.append((("run", n, None), ("all", "success"), ("begin", 0), fires, ("all", "success")))
            else:  # and one run is younger than its event
                out.append((("run", n, None), ("and", *fires), ("and", "run", n, None), ("all", "success")))
        if any(task["kind"] == "sensor" for task in spec["tasks"]):  # it looks again, and then its executor hears
            out.append(
                (("run", n, None), ("begin", 0), ("end", 0, "slow"), ("work", 0, "success"), ("work", 0, "success"))
            )
        if any(
            task["kind"] == "deferrable" for task in spec["tasks"]
        ):  # it goes on, and then its executor hears of its end
            slow, hears = ("end", 0, "slow"), ("work", 0, "success")
            out.append((("run", n, None), ("begin", 0), ("begin", 0), slow, slow, ("trigger", 0), hears, hears))
        for i, task in enumerate(spec["tasks"]):
            starts = [rule for rule in task.get("rules", ()) if rule["on"] == "start"]
            if starts:  # more are pending when a user ends the run, which the scheduler has just read
                fires = _event_of(r, starts)
                ends = ("meanwhile", "mark_run", n, r.choice(("failed", "success")))
                out.append(
                    (
                        fires,
                        ("begin", 0),
                        fires,
                        ("and", "end", 0, "success"),
                        ("and", *fires),
                        ends,
                        _heard_event(r, specs),
                    )
                )
            if starts:  # one more is pending when its rules are edited
                change = r.choice((("rename_rule", i, 0), ("drop_rule", i, 1), ("add_rule", i, starts[0])))
                fires = _event_of(r, starts)
                out.append((fires, ("begin", 0), ("begin", 0), fires, ("edit", n, change), *[("all", "success")] * 2))
                # or in the middle of an event, which some runs have heard
                out.append(
                    (*[("run", n, None)] * 6, ("and", "meanwhile", "edit", n, change), fires, ("all", "success"))
                )
    return tuple(out)


def _some_change(r: Random, specs: list[dict[str, Any]]) -> Step:
    what = r.choice(("drop_rule", "rename_rule", "add_rule", "drop_task", "add_task"))
    ids = [task["id"] for task in specs[0]["tasks"]]
    if what == "add_rule":
        return (what, r.randrange(6), chance.some_rule(r, ids))
    if what == "add_task":
        return (what, r.randrange(6), chance.some_task(r, "n", ids, ids))
    return (what, r.randrange(6), r.randrange(3))
