#!/usr/bin/env python3
"""Does the simulation find things?  Break the product in one small way at a time, and count histories until it is seen.

    tests/sim/mutants.py                      (all, SQLite)
    tests/sim/mutants.py --only act_twice
    tests/sim/mutants.py --store postgresql   (below tests/with_postgres: those of what is remembered)
    tests/sim/mutants.py --pure               (those of react/starts.py, without Airflow: seconds)

A mutant is a change of the running program: the files stay as they are.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from random import Random
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

HISTORIES = 60  # in which each must be found
FIRST = 90_000
PURE_HISTORIES = 5000


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="*", choices=sorted(MUTANTS), metavar="NAME", help=" ".join(sorted(MUTANTS)))
    parser.add_argument("--histories", type=int, default=HISTORIES)
    parser.add_argument("--store", choices=("sqlite", "postgresql"), default="sqlite")
    parser.add_argument("--pure", action="store_true", help="without Airflow: those that break react/starts.py")
    options = parser.parse_args()
    if options.pure:
        pure = [m for m in PURE if options.only is None or m.__name__ in options.only]
        if not pure:
            parser.error(f"without Airflow there are {', '.join(m.__name__ for m in PURE)}")
        return hunt_pure(pure)
    from sim.home import Home

    home = Home(options.store)
    from sim.history import Stage

    stage = Stage(home)
    missed = []
    print("| broken | found after | by |\n|---|---|---|")
    for name, mutant in MUTANTS.items():
        if (name in options.only) if options.only else (options.store == "postgresql") == (mutant in REMEMBERED):
            found = hunt(stage, mutant, options.histories)
            missed += [name] * (found is None)
            print(f"| {mutant.__doc__} | {found or f'not in {options.histories}'} |", flush=True)
    return 1 if missed else 0


def hunt(stage: Any, mutant: Callable[[], Any], histories: int) -> str | None:
    """Return after how many histories, and seconds, it was found, and by which check."""
    began = time.perf_counter()
    for n in range(histories):
        history = stage.some(Random(FIRST + n), 30)
        with mutant():
            result = stage.play(history, set(stage.known))
        if result.error is not None:
            if (own := stage.play(history, set(stage.known))).error is not None:
                print(f"seed {FIRST + n} is no witness: it finds {own.error} without it, too", flush=True)
            else:
                return f"{n + 1} histories, {time.perf_counter() - began:.0f} s | {result.name}"
    return None


def hunt_pure(mutants: list[Callable[[], Any]]) -> int:
    """Print after how many steps each is found by tests/sim/alone.py; return 1 where one is not."""
    from sim import alone

    missed = 0
    print("| broken | found after | by |\n|---|---|---|")
    for mutant in mutants:
        found = f"not in {PURE_HISTORIES * alone.STEPS} steps"
        with mutant():
            for seed in range(PURE_HISTORIES):
                history = alone.Alone(seed)
                try:
                    history.play()
                except AssertionError as e:
                    name = str(e).split(": ")[1]
                    found = f"{seed * alone.STEPS + history.step:,} steps | `{name}`"
                    break
            else:
                missed = 1
        print(f"| {mutant.__doc__} | {found} |", flush=True)
    return missed


@contextmanager
def replaced(target: Any, name: str, value: Any) -> Iterator[None]:
    """An attribute is another one for a while."""
    before = getattr(target, name)
    setattr(target, name, value)
    try:
        yield
    finally:
        setattr(target, name, before)


def no_offset() -> Any:
    """the offset is not moved"""
    from sqlalchemy import text

    from aiflow_ext.provider.world.world import World

    save = World.save

    def broken(self: Any, session: Any, log_id: Any) -> None:
        save(self, session, log_id)
        session.execute(text('UPDATE aiflow_consumer SET "offset" = "offset" - 1 WHERE "offset" > 0'))

    return replaced(World, "save", broken)


def no_reading() -> Any:
    """what others have changed is not read again"""
    from aiflow_ext.provider.world.world import World

    return replaced(World, "_hear", lambda self, changed: None)


def always_quiet() -> Any:
    """a run that was examined once is never examined again by a full pass"""
    from aiflow_ext.provider.scheduler import runner

    examined = set()

    def broken(world: Any, dag_run: Any) -> bool:
        if dag_run.id in examined:
            return True
        examined.add(dag_run.id)
        return False

    return replaced(runner, "is_quiet", broken)


def no_delta() -> Any:
    """what another scheduler's reaction has changed is not read again"""
    from aiflow_ext.provider.world import world

    stored = world._stored

    def broken(session: Any, *which: Any) -> Any:
        return set() if any("version" in str(one) for one in which) else stored(session, *which)

    return replaced(world, "_stored", broken)


def act_twice() -> Any:
    """a start is given to the task's row twice: a further try begins as well"""
    from aiflow_ext.provider.react import starts

    made = starts._made

    def broken(task: Any, moment: Any) -> None:
        first = dict(task.pending[0])
        made(task, moment)
        task.pending.append(first)

    return replaced(starts, "_made", broken)


def forget_pending() -> Any:
    """pending starts are not stored"""
    from aiflow_ext.provider.world.task import TaskState

    row = TaskState.row
    return replaced(TaskState, "row", lambda self: {**row(self), "pending": "[]"})


def no_context() -> Any:
    """an event's context is not looked at"""
    from aiflow_ext.provider.react import decide

    return replaced(decide, "_reaches", lambda event, run: event.offset > run.since)


def early_events() -> Any:
    """a run hears what was published before it, and not read yet"""
    from aiflow_ext.provider.world import runs

    return replaced(runs, "noted", lambda session, ids: {})


def early_stop() -> Any:
    """a STOP of a Dag ends runs that were made after it"""
    from aiflow_ext.provider.react import decide

    return replaced(decide, "_reaches", lambda event, run: event.context in (None, run.context))


def last_rule() -> Any:
    """the last rule that fires decides, not the first"""
    from aiflow_ext.provider.react.decide import Decisions

    decide = Decisions._decide
    return replaced(
        Decisions, "_decide", lambda self, run, task, fired, cause: decide(self, run, task, fired[::-1], cause)
    )


def ignore_is_once() -> Any:
    """while_running="ignore" is taken as "once\""""
    from aiflow_ext.provider.react import starts

    start = starts._start
    return replaced(
        starts, "_start", lambda task, ti, rule, *rest: start(task, ti, {**rule, "while_running": "once"}, *rest)
    )


def wrong_state() -> Any:
    """a stopped task is always success"""
    from aiflow_ext.provider.react import starts

    stop = starts._stop
    return replaced(starts, "_stop", lambda task, ti, rule, *rest: stop(task, ti, {**rule, "state": "success"}, *rest))


def one_event() -> Any:
    """a started task is told of its newest event alone"""
    from aiflow_ext.provider.act import tasks

    begin = tasks.start_kwargs
    return replaced(tasks, "start_kwargs", lambda events, *rest: begin(list(events)[-1:], *rest))


def commit_early() -> Any:
    """the offset is committed before the actions are"""
    from aiflow_ext.provider.react.decide import Decisions

    decide = Decisions.decide

    def broken(self: Any, batch: Any, head: int, read: Any) -> Any:
        if batch:
            from sqlalchemy import text

            at = batch[-1].offset
            self.session.execute(text(f"UPDATE aiflow_consumer SET \"offset\" = {at} WHERE name = 'scheduler'"))
            self.session.commit()
        return decide(self, batch, head, read)

    return replaced(Decisions, "decide", broken)


def deaf() -> Any:
    """the scheduler does not react when it is woken by an event"""
    from aiflow_ext.provider.scheduler.runner import EventSchedulerJobRunner

    react = EventSchedulerJobRunner._react

    def broken(self: Any, wake: Any, full: bool) -> None:
        wake.events = False
        react(self, wake, full)

    return replaced(EventSchedulerJobRunner, "_react", broken)


def unasked() -> Any:
    """a task that waits starts although nothing fired"""
    from aiflow_ext.provider.react import starts

    settle = starts.settle

    def broken(task: Any, ti: Any, moment: Any) -> Any:
        if ti is not None and ti.parked:
            yield starts.Act("resume", {"events": []})
        yield from settle(task, ti, moment)

    return replaced(starts, "settle", broken)


def edit_loses() -> Any:
    """an edit of a task's rules loses the starts that are pending"""
    from aiflow_ext.provider.world import runs

    read = runs.stored_task

    def broken(row: Any, new: Any, run: Any) -> Any:
        task = read(row, new, run)
        if row is not None and task.fresh:
            task.pending = []
        return task

    return replaced(runs, "stored_task", broken)


def retry_takes_newer() -> Any:
    """a retry takes the newer event"""
    from aiflow_ext.provider.react import starts

    settle = starts.settle

    def broken(task: Any, ti: Any, moment: Any) -> Any:
        if ti is not None and ti.parked and task.pending:
            task.started = None
        return settle(task, ti, moment)

    return replaced(starts, "settle", broken)


def clear_waits() -> Any:
    """a task that is cleared after its run has ended waits for a new event"""
    from aiflow_ext.provider.world import runs

    read = runs.stored_task

    def broken(row: Any, new: Any, run: Any) -> Any:
        task = read(row, new, run)
        if run is not None and run.stored_seen is None:
            task.started = None
        return task

    return replaced(runs, "stored_task", broken)


def waits_in_slot() -> Any:
    """a task that waits for its rules takes a slot"""
    from contextlib import nullcontext

    from aiflow_ext.provider.scheduler import runner

    return replaced(runner, "waiting_takes_no_slot", nullcontext)


def queued_not_stopped() -> Any:
    """a STOP of a queued run is forgotten"""
    from aiflow_ext.provider.react import starts

    stop = starts._stop

    def broken(task: Any, ti: Any, rule: Any, offsets: Any, moment: Any) -> Any:
        if not moment.running:
            return "forgotten"
        return (yield from stop(task, ti, rule, offsets, moment))

    return replaced(starts, "_stop", broken)


def branch_overruled() -> Any:
    """a start runs what a branch has skipped"""
    from aiflow_ext.provider.act import tasks

    class Passes:
        def get_dep_statuses(self, *_: Any, **__: Any) -> tuple[()]:
            return ()

    return replaced(tasks, "NotPreviouslySkippedDep", Passes)


def kept_lost() -> Any:
    """what fires while a Dag is paused or away is not kept"""
    from aiflow_ext.provider.react.decide import Decisions

    act = Decisions._act_on_dag

    def broken(self: Any, task: Any, *rest: Any) -> Any:
        before, after = act(self, task, *rest)
        if after == "kept":
            task.pending.pop()
        return before, after

    return replaced(Decisions, "_act_on_dag", broken)


def teardown_stopped() -> Any:
    """a STOP of a Dag ends its teardowns as well"""
    from aiflow_ext.provider.act import runs

    stop = runs.stop

    def broken(session: Any, dag: Any, run_id: str, state: str) -> str:
        from airflow.models.taskinstance import TaskInstance as TI
        from sqlalchemy import update

        stop(session, dag, run_id, state)
        of_run = TI.dag_id == dag.dag_id, TI.run_id == run_id, TI.end_date.is_(None)
        session.execute(update(TI).where(*of_run).values(state="skipped"))
        return "running"

    return replaced(runs, "stop", broken)


def restart_dropped() -> Any:
    """RESTART of a task that waits elsewhere (a retry, a reschedule, a trigger) is dropped"""
    from aiflow_ext.provider.react import starts
    from aiflow_ext.provider.world.task import UNDER_WAY

    start = starts._start

    def broken(task: Any, ti: Any, rule: Any, kind: str, *rest: Any) -> Any:
        if kind == "restart" and ti is not None and ti.state in UNDER_WAY and not ti.parked:
            return ""
        return (yield from start(task, ti, rule, kind, *rest))

    return replaced(starts, "_start", broken)


def run_endless() -> Any:
    """a start that was refused keeps its run open for ever"""
    from aiflow_ext.provider.react import unended

    return replaced(unended, "has_start", lambda pending, states: bool(pending))


def no_safety_pass() -> Any:
    """the safety pass is switched off, and a hint is lost"""
    from aiflow_ext.provider.scheduler.runner import EventSchedulerJobRunner

    return replaced(EventSchedulerJobRunner, "_until_full", lambda self, session: 1e9)


def no_lock() -> Any:
    """the consumer's row is not locked"""
    from aiflow_ext.provider.react.transaction import _Transaction

    return replaced(_Transaction, "_lock", lambda self: True)


def each_is_once() -> Any:
    """while_running="each" is taken as "once\""""
    from aiflow_ext.provider.react import starts

    start = starts._start

    def broken(task: Any, ti: Any, rule: Any, *rest: Any) -> Any:
        how = rule.get("while_running") or "once"
        return start(task, ti, {**rule, "while_running": how.replace("each", "once")}, *rest)

    return replaced(starts, "_start", broken)


def stop_keeps_pending() -> Any:
    """a STOP leaves the starts that are pending"""
    from aiflow_ext.provider.react import starts

    stop = starts._stop

    def broken(task: Any, *rest: Any) -> Any:
        pending = list(task.pending)
        after = yield from stop(task, *rest)
        task.pending.extend(pending)
        return after

    return replaced(starts, "_stop", broken)


def first_stop_stays() -> Any:
    """of the rules that stop a task, the first says what comes then"""
    from aiflow_ext.provider.react import starts

    begin = starts._begin_stop

    def broken(task: Any, *rest: Any, **what: Any) -> Any:
        if task.stopping is not None:
            return "stopping"
        return (yield from begin(task, *rest, **what))

    return replaced(starts, "_begin_stop", broken)


def stop_takes_next() -> Any:
    """a stop is not over with the try that it was for"""
    from aiflow_ext.provider.react import starts

    return replaced(
        starts, "_over", lambda stopping, ti: ti.state not in ("running", "queued", "restarting", "scheduled")
    )


def restart_begins_old() -> Any:
    """after a restart a task begins anew with what it was stopped for"""
    from aiflow_ext.provider.react import starts

    go_on = starts._go_on

    def broken(task: Any, *rest: Any) -> Any:
        started = task.started
        ti = yield from go_on(task, *rest)
        task.started = started
        return ti

    return replaced(starts, "_go_on", broken)


def refused_for_ever() -> Any:
    """a start that was refused is not tried again"""
    from aiflow_ext.provider.react import starts

    return replaced(starts, "has_start", lambda pending, states: bool(pending) and "refused" not in pending[0])


def added_forgotten() -> Any:
    """what a RESTART adds to a try that has not begun does not outlive that try"""
    from aiflow_ext.provider.react import starts

    add = starts._add
    return replaced(starts, "_add", lambda start, more: None if "downstream" not in start else add(start, more))


def newest_dropped() -> Any:
    """where too many starts wait, the newest are dropped"""
    from aiflow_ext.provider.react import starts

    wait = starts.wait

    def broken(task: Any, entry: Any, most: int) -> None:
        before = list(task.pending)
        wait(task, entry, most)
        if task.dropped:
            task.pending[:] = before

    return replaced(starts, "wait", broken)


def no_grace() -> Any:
    """SIGTERM does not wait for the task to hear that it was asked"""
    from aiflow_ext.provider.react import starts

    return replaced(starts, "_next_ms", lambda stopping, grace_ms: stopping["since"])


def late_word() -> Any:
    """what an executor says of a process that deferred its task is taken as the end of the next one"""
    from aiflow_ext.provider.scheduler import runner

    return replaced(runner, "drop_late_words", lambda *_: None)


def part_is_whole() -> Any:
    """where enough was done in the middle of an event, the other rules do not hear it"""
    from aiflow_ext.provider.react.decide import Decisions

    feed = Decisions._feed

    def broken(self: Any, event: Any, meant: Any, held: Any) -> None:
        feed(self, event, meant, held)
        held.clear()

    return replaced(Decisions, "_feed", broken)


def behind_is_lost() -> Any:
    """a Dag that is behind the others does not hear what it has not heard yet"""
    from aiflow_ext.provider.world.progress import Progress

    move = Progress.move

    def broken(self: Any, dag_id: str, offset: int, *, unfinished: bool) -> None:
        move(self, dag_id, self.ahead, unfinished=False)

    return replaced(Progress, "move", broken)


def revives() -> Any:
    """on SQLite a run that a user has ended since it was read is examined all the same"""
    from aiflow_ext.provider.scheduler.runner import EventSchedulerJobRunner

    return replaced(EventSchedulerJobRunner, "_goes_on", lambda *_: True)


# Of starts.py alone, so they can be hunted without Airflow, too.
PURE = (
    act_twice,
    ignore_is_once,
    wrong_state,
    unasked,
    retry_takes_newer,
    queued_not_stopped,
    restart_dropped,
    each_is_once,
    stop_keeps_pending,
    first_stop_stays,
    stop_takes_next,
    restart_begins_old,
    refused_for_ever,
    added_forgotten,
    newest_dropped,
    no_grace,
)
# SQLite does not tell which runs have changed, so all are read each time.
REMEMBERED = (no_reading, no_delta, always_quiet)
MUTANTS: dict[str, Callable[[], Any]] = {
    mutant.__name__: mutant
    for mutant in (
        no_offset,
        forget_pending,
        no_context,
        last_rule,
        one_event,
        commit_early,
        deaf,
        early_events,
        early_stop,
        edit_loses,
        clear_waits,
        waits_in_slot,
        branch_overruled,
        kept_lost,
        teardown_stopped,
        run_endless,
        no_safety_pass,
        no_lock,
        late_word,
        revives,
        part_is_whole,
        behind_is_lost,
        *REMEMBERED,
        *PURE,
    )
}

if __name__ == "__main__":
    sys.exit(main())
