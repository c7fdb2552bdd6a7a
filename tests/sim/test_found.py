"""Histories in which something was wrong once, as `tests/sim/run.py` printed them."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

RUN = Path(__file__).with_name("run.py")


def holds(dags: list[dict[str, Any]], steps: list[Any], store: str = "sqlite") -> None:
    """Play it in a process of its own, without passing over what is known."""
    history = json.dumps({"dags": dags, "steps": steps})
    command = [sys.executable, str(RUN), "--play", "-", "--without-known", "all", "--store", store]
    done = subprocess.run(command, input=history, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-3000:]


def test_what_a_restart_adds_to_a_try_that_has_not_begun_outlives_it() -> None:
    dags = [{"id": "d0", "tasks": [{"id": "t0", "kind": "work", "rules": [{"on": "restart", "when": "event('e0')"}]}]}]
    steps = [
        ("run", 0, None),
        ("event", "e0", "x", None, 1),  # t0 is sent to a worker ...
        ("event", "e0", "x", None, 2),  # ... and is told of these as well
        ("die",),  # what follows resets it: another scheduler adopts nothing
    ]
    holds(dags, steps)


def test_a_clock_that_goes_back_hides_no_event() -> None:
    dags = [{"id": "d0", "tasks": [{"id": "t0", "kind": "work", "rules": [{"on": "start", "when": "event('e0')"}]}]}]
    holds(dags, [("run", 0, None), ("time", -30), ("event", "e0", "x", None, 1)])


def test_what_a_branch_skipped_stays_skipped() -> None:  # R82
    tasks = [
        {"id": "t0", "kind": "branch"},
        {"id": "t1", "kind": "work", "up": ["t0"]},
        {"id": "t3", "kind": "work"},
        {"id": "t4", "kind": "work", "up": ["t0"], "rules": [{"on": "restart", "when": "status('t1', 'failed')"}]},
    ]
    steps = [("and", "run", 8, None), ("clear", 0, 0, False, False), ("begin", 11), ("clear", 0, 0, True, True)]
    holds([{"id": "d0", "tasks": tasks}], steps)


def test_a_stop_reaches_a_queued_run() -> None:  # R83
    rules = [{"on": "stop", "when": "event('e0')"}, {"on": "start", "when": "event('e1')"}]
    dags = [{"id": "d0", "max_active_runs": 1, "tasks": [{"id": "t0", "kind": "work", "rules": rules}]}]
    holds(dags, [("run", 0, None), ("run", 0, None), ("event", "e0", "x", None, 1), ("event", "e1", "x", None, 1)])


def test_a_paused_dag_has_its_runs_later() -> None:  # R85
    rules = [{"on": "start", "when": "event('e0')"}, {"on": "stop", "when": "event('e1')", "state": "success"}]
    work = {"id": "t0", "kind": "work", "rules": [{"on": "start", "when": "event('e2')"}]}
    steps = [
        ("pause", 0, True),
        ("event", "e0", "x", "a", 13),  # more than are made in one transaction
        ("event", "e0", "x", "b", 2),
        ("event", "e1", "x", "b", 1),  # drops those of b
        ("pause", 0, False),
        ("event", "e2", "x", "a", 1),
    ]
    holds([{"id": "d0", "rules": rules, "tasks": [work]}], steps)


def test_a_dag_that_is_back_makes_new_runs_at_once() -> None:  # R85
    rules = [{"on": "start", "when": "event('e0')"}]
    tasks = [{"id": "t0", "kind": "work", "rules": [{"on": "start", "when": "event('e1')"}]}]
    steps = [
        ("pause", 0, True),
        ("event", "e0", "x", None, 9),  # nearly as many as are made in one transaction
        ("and", "pause", 0, False),
        ("event", "e0", "x", None, 2),  # the same reaction meets these, and keeps none
    ]
    holds([{"id": "d0", "rules": rules, "tasks": tasks}], steps)


def test_a_run_hears_from_where_the_log_was_when_it_was_made() -> None:
    rules = [{"on": "start", "when": "event('e2', count=2).repeated()"}]
    steps = [
        ("run", 0, None),
        ("die",),
        ("time", -30),
        ("and", "event", "e2", "x", "c0", 1),  # before the run, by the clock after it
        ("run", 7, "c0"),
        ("event", "e2", "x", None, 1),
    ]
    holds([{"id": "d0", "tasks": [{"id": "t1", "kind": "work", "rules": rules}]}], steps)


def test_a_run_that_nobody_has_looked_at_misses_no_event() -> None:
    dags = [{"id": "d0", "tasks": [{"id": "t0", "kind": "work", "rules": [{"on": "start", "when": "event('e0')"}]}]}]
    steps = [
        ("event", "e1", "x", None, 1),
        ("time", 5),
        ("and", "run", 0, None),
        ("and", "time", -3),
        ("and", "event", "e0", "x", None, 1),  # after the run, by the clock before it
        ("time", 1),
    ]
    holds(dags, steps)


def test_a_queued_run_begins_when_an_event_has_ended_the_one_before() -> None:
    tasks = [{"id": "t0", "kind": "work", "rules": [{"on": "start", "when": "event('e0')"}]}]
    dags = [{"id": "d0", "max_active_runs": 1, "rules": [{"on": "stop", "when": "event('e1')"}], "tasks": tasks}]
    holds(dags, [("run", 0, "a"), ("run", 0, "b"), ("event", "e1", "x", "a", 1)])


def test_rules_that_were_edited_after_the_clock_went_back_are_read() -> None:
    dags = [{"id": "d0", "tasks": [{"id": "t0", "kind": "work", "rules": [{"on": "start", "when": "event('e0')"}]}]}]
    second = {"on": "start", "when": "event('e1')", "name": "second"}
    steps = [
        ("run", 0, None),
        ("time", -30),
        ("time", -30),
        ("edit", 0, ("add_rule", 0, second)),
        ("event", "e1", "x", None, 1),
    ]
    holds(dags, steps)


def test_what_follows_an_empty_operator_waits_for_nothing() -> None:
    tasks = [
        {"id": "t0", "kind": "empty"},
        {"id": "t1", "kind": "empty", "up": ["t0"]},
        {"id": "t2", "kind": "work", "up": ["t1"]},
    ]
    holds([{"id": "d0", "tasks": tasks}], [("run", 0, None)])


def test_the_end_waits_for_all_starts_of_a_deferrable_task() -> None:
    rules = [{"on": "start", "when": "event('e0')", "while_running": "each"}]
    dags = [{"id": "d0", "tasks": [{"id": "t0", "kind": "deferrable", "rules": rules}]}]
    holds(dags, [("run", 0, None), ("event", "e0", "x", None, 12)])  # each waits in a trigger of its own


COUNTS = [
    {"id": "d0", "tasks": [{"id": "t0", "kind": "work", "rules": [{"on": "start", "when": "event('e0', count=2)"}]}]}
]


def test_another_run_of_that_name_hears_nothing_of_the_first() -> None:
    steps = [("run", 0, None), ("event", "e0", "x", None, 1), ("and", "mark_run", 0, "failed")]
    again: list[Any] = [("and", "delete_run", 0, "c1"), ("event", "e0", "x", None, 1)]
    holds(COUNTS, steps + again)


def test_a_run_that_is_queued_again_before_its_end_was_seen_hears_anew() -> None:
    steps = [("run", 0, None), ("event", "e0", "x", None, 1), ("and", "mark_run", 0, "failed")]
    again: list[Any] = [("and", "clear_run", 0), ("event", "e0", "x", None, 1)]
    holds(COUNTS, steps + again)


def test_a_dag_that_is_deleted_and_comes_back_hears_anew() -> None:
    dags = [
        {
            "id": "d0",
            "tasks": [{"id": "t0", "kind": "work"}],
            "rules": [{"on": "start", "when": "event('e0', count=2)"}],
        }
    ]
    again: list[Any] = [("event", "e0", "x", None, 1), ("delete_dag", 0), ("event", "e0", "x", None, 1)]
    holds(dags, again)


def test_a_stop_of_a_task_that_airflow_is_restarting_stays() -> None:
    """A user has cleared it while it ran, and before its process ends come a RESTART and a STOP."""
    rules = [{"on": "start", "when": "event('e0')"}, {"on": "restart", "when": "event('e1')"}]
    rules += [{"on": "stop", "when": "event('e2')", "state": "skipped"}]
    steps = [
        ("run", 0, None),
        ("event", "e0", "x", None, 1),
        ("begin", 0),
        ("clear", 0, 0, False, False),
        ("event", "e1", "x", None, 1),
        ("event", "e2", "x", None, 1),
        ("time", 5),  # its process has ended
    ]
    holds([{"id": "d0", "tasks": [{"id": "t0", "kind": "work", "rules": rules}]}], steps)


def test_another_run_of_that_name_does_not_begin_with_what_started_the_first() -> None:
    dags = [{"id": "d0", "tasks": [{"id": "t0", "kind": "work", "rules": [{"on": "start", "when": "event('e0')"}]}]}]
    steps = [("run", 0, None), ("event", "e0", "x", None, 1), ("all", "success"), ("mark_run", 0, "failed")]
    again: list[Any] = [("delete_run", 0, "c1"), ("clear_run", 0), ("event", "e0", "x", None, 1)]
    holds(dags, steps + again)


def test_a_start_that_waited_for_its_run_is_made_when_the_run_begins() -> None:
    tasks = [
        {"id": "t0", "kind": "work"},
        {"id": "t1", "kind": "work", "rules": [{"on": "start", "when": "event('e1')"}]},
        {"id": "t2", "kind": "teardown", "up": ["t0", "t1"], "setups": ["t0"]},
    ]
    stop = {"on": "stop", "when": "event('e*', 'y', count=2)", "state": "success"}
    steps = [
        ("begin", 0),
        ("event", "e1", "y", None, 1),
        ("end", 0, "failed"),
        ("event", "e2", "y", None, 1),
        ("and", "mark", 2, 9, "success"),  # t2 is cleared, and the run is queued
        ("event", "e1", "x", None, 1),
    ]
    holds([{"id": "d0", "tasks": tasks, "schedule": 300, "rules": [stop]}], steps)


def test_an_executor_that_hears_late_of_a_process_that_deferred_its_task_fails_nothing() -> None:
    tasks = [{"id": "t0", "kind": "deferrable"}]
    steps = [
        ("run", 0, None),
        ("begin", 0),
        ("end", 0, "slow"),
        ("trigger", 0),  # the task goes on, in another process
        ("work", 0, "success"),  # and only now its executor hears that the first one has ended
        ("work", 0, "success"),
    ]
    holds([{"id": "d0", "tasks": tasks}], steps)


def test_an_executor_that_hears_late_of_a_process_that_rescheduled_its_task_fails_nothing() -> None:
    steps = [
        ("run", 0, None),
        ("begin", 0),
        ("end", 0, "slow"),  # it looks again at once, in another process
        ("work", 0, "success"),
        ("work", 0, "success"),
    ]
    holds([{"id": "d0", "tasks": [{"id": "t0", "kind": "sensor"}]}], steps)


def test_a_run_that_a_user_ends_while_it_is_examined_stays_ended() -> None:
    each = {"on": "start", "when": "event('e1')", "while_running": "each"}
    waits = {"on": "start", "when": "event('e5')"}
    tasks = [{"id": "t0", "kind": "work", "rules": [each]}, {"id": "t1", "kind": "work", "rules": [waits]}]
    steps = [
        ("run", 0, None),
        ("event", "e1", "x", None, 1),
        ("begin", 0),
        ("event", "e1", "x", None, 3),
        ("and", "end", 0, "success"),
        ("meanwhile", "mark_run", 0, "failed"),
        ("nothing",),
    ]
    holds([{"id": "d0", "tasks": tasks}], steps)


def test_another_scheduler_knows_what_the_first_one_has_fed_its_rules() -> None:
    """Nothing of Airflow's has changed: only the version of the reaction says that there is something to read."""
    rules = [{"on": "start", "when": "event('e0', count=2)"}]
    dags = [{"id": "d0", "tasks": [{"id": "t0", "kind": "work", "rules": rules}]}]
    one = ("event", "e0", "x", None, 1)
    holds(dags, [("run", 0, None), ("second",), one, ("die",), one], "postgresql")


def test_a_task_that_a_user_marks_before_it_begins_wakes_the_scheduler() -> None:
    dags = [{"id": "d0", "tasks": [{"id": "t1", "kind": "work", "depends_on_past": True}], "schedule": 300}]
    holds(dags, [("run", 0, None), ("mark", 0, 0, "success")], "postgresql")


def test_what_an_edit_takes_away_is_no_lost_hint() -> None:
    work = {"id": "t1", "kind": "work", "rules": [{"on": "start", "when": "event('e0')"}]}
    dags = [{"id": "d0", "tasks": [{"id": "t0", "kind": "work"}, work]}]
    holds(dags, [("run", 0, None), ("edit", 0, ("drop_task", 1, 0))], "postgresql")


def test_an_edit_is_read_after_the_clock_has_gone_back_twice() -> None:
    work = {"id": "t1", "kind": "work", "rules": [{"on": "start", "when": "event('e2')"}]}
    steps = [
        ("time", -30),
        ("time", -30),
        ("event", "e0", "y", None, 1),
        ("edit", 0, ("drop_rule", 1, 1)),
        ("event", "e2", "y", None, 1),
    ]
    holds([{"id": "d0", "tasks": [work], "schedule": 3600}], steps)


def test_a_run_whose_end_nobody_told_has_no_periods() -> None:
    rules = [{"on": "start", "when": "every(seconds=60)"}, {"on": "stop", "when": "event('e1')"}]
    steps = [("run", 0, None), ("and", "event", "e1", "x", None, 2), ("and", "second"), ("lose",)]
    holds([{"id": "d0", "tasks": [{"id": "t0", "kind": "work", "rules": rules}]}], steps, "postgresql")


def test_a_run_does_not_hear_the_event_that_made_it() -> None:
    """It was read anew before its row was written, where many runs were new at once, amid that event."""
    work = {"id": "t0", "kind": "work", "rules": [{"on": "start", "when": "event('e1')"}]}
    dags = [{"id": "d0", "tasks": [work], "rules": [{"on": "start", "when": "event('e1').repeated()"}]}]
    holds(dags, [("and", "event", "e1", "x", None, 4), ("event", "e1", "y", None, 1)], "postgresql")


def test_a_rule_that_is_edited_amid_an_event_does_not_hear_it_again() -> None:
    rule = {"on": "start", "when": "event('e1')", "while_running": "each"}
    dags = [{"id": "d0", "max_active_runs": 16, "tasks": [{"id": "t0", "kind": "work", "rules": [rule]}]}]
    edit = ("and", "meanwhile", "edit", 0, ("rename_rule", 0, 0))  # after the first transaction, which is for some runs
    holds(dags, [*[("run", 0, None)] * 10, edit, ("event", "e1", "x", None, 1), ("all", "success")])
