"""Rules as Dag files write them: made, joined, carried as JSON, compiled, refused.  Sentences of docs/rules.md."""

import json
import subprocess
import sys
from contextlib import suppress
from dataclasses import FrozenInstanceError
from datetime import timedelta
from types import SimpleNamespace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aiflow_ext import rules as r
from aiflow_ext.rules import (
    Rule,
    all_of,
    any_of,
    asset_updated,
    check_dag,
    compile_rules,
    describe,
    event,
    every,
    from_json,
    status,
)


def rules_json(*rules: Rule) -> dict:
    return {"v": 1, "rules": [{"name": f"{rule.action}_{i}", **rule.to_json()} for i, rule in enumerate(rules, 1)]}


def start(when: r.Condition, **options) -> Rule:
    return Rule(None, "start", when, **options)


def errors(tasks: dict[str, list[Rule]], others: set[str] = frozenset(), dag: list[Rule] | None = None) -> list[str]:
    json_of = {task_id: rules_json(*of) for task_id, of in tasks.items()}
    return check_dag("d", json_of, {*tasks, *others}, rules_json(*dag) if dag is not None else None)


# -- what is written ----------------------------------------------------------------------------------------------


def test_r12_an_event_of_a_key_is_of_any_type_sender_and_value_in_namespace_default():
    assert compile_rules(rules_json(start(event("stop"))), "d") == [
        ("start", [("event", "default", "stop", "*", "*", None, False, 1, 0, False)])
    ]


def test_all_options_of_an_event_are_compiled():
    when = event("k", "v", type="T", namespace="n", sender="s", count=3, within=timedelta(seconds=1.5)).repeated()
    assert compile_rules(rules_json(start(when)), "d") == [
        ("start", [("event", "n", "k", "T", "s", "v", True, 3, 1500, False)])
    ]


def test_r37_a_status_is_an_event_of_the_own_run():
    when = status("a", "running")
    assert compile_rules(rules_json(start(when)), "d") == [
        ("start", [("event", "airflow", "d.a", "TASK_STATUS_CHANGED", "*", "running", False, 1, 0, True)])
    ]
    (_, (cond,)) = compile_rules(rules_json(start(when.repeated())), "d")[0]
    assert cond[6] is True


def test_r71_an_updated_asset_is_an_event_of_airflow():
    assert asset_updated("orders") == event("orders", type="ASSET_UPDATED", namespace="airflow")
    assert asset_updated("o*", count=2) == event("o*", type="ASSET_UPDATED", namespace="airflow", count=2)


def test_groups_are_compiled_in_prefix_order():
    when = (event("a") & every(seconds=2) & event("b")) | event("c")
    ((_, conds),) = compile_rules(rules_json(Rule(None, "restart", when)), "d")
    assert [c[0:3:2] if c[0] == "event" else c for c in conds] == [
        ("any", 2),
        ("all", 3),
        ("event", "a"),
        ("every", 2000),
        ("event", "b"),
        ("event", "c"),
    ]


def test_operators_join_flat_and_functions_as_written():
    a, b, c = event("a"), event("b"), event("c")
    assert a & b & c == all_of(a, b, c)
    assert a | b | c == any_of(a, b, c)
    assert a & (b | c) == all_of(a, any_of(b, c))
    assert all_of(all_of(a, b), c) != all_of(a, b, c)


@pytest.mark.parametrize(
    "task",
    ["a", SimpleNamespace(task_id="a"), SimpleNamespace(operator=SimpleNamespace(task_id="a"))],
    ids=["task_id", "operator", "XComArg"],
)
def test_a_task_is_given_in_three_ways(task):
    assert status(task, "running") == status("a", "running")


def test_periods_add_up():
    assert every(timedelta(minutes=1)) == every(seconds=60) == every(minutes=1) == every(seconds=30, minutes=0.5)
    assert every(hours=1, days=1).seconds == 25 * 3600
    assert every(seconds=0.5).to_json() == {"every": {"seconds": 0.5}}


def test_r60_repeated_goes_to_what_is_in_a_group():
    assert (event("a") & status("b", "failed") & every(seconds=1)).repeated() == all_of(
        event("a").repeated(), status("b", "failed").repeated(), every(seconds=1)
    )
    with pytest.raises(TypeError, match=r"every\(\) comes again by itself"):
        every(seconds=1).repeated()


def test_r61_conditions_are_data():
    assert event("a", "x") == event("a", "x") != event("a", "y")
    assert len({event("a"), event("a"), event("b") & event("a"), event("b") & event("a")}) == 2
    with pytest.raises(FrozenInstanceError):
        event("a").key = "b"


names = st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1, max_size=20)
leaves = st.one_of(
    st.builds(
        event,
        names,
        st.none() | names,
        type=names,
        namespace=names,
        sender=names | st.just(""),
        count=st.integers(2, 1000),
        within=st.none() | st.floats(0.001, 1e9),
    ),
    st.builds(status, names, st.sampled_from(r.STATES)),
)
conditions = st.recursive(
    leaves | leaves.map(lambda c: c.repeated()) | st.builds(every, seconds=st.floats(0.001, 1e9)),
    lambda children: st.lists(children, min_size=1, max_size=4).flatmap(
        lambda c: st.sampled_from([all_of(*c), any_of(*c)])
    ),
    max_leaves=8,
)


@settings(max_examples=50)
@given(conditions)
def test_r61_json_gives_back_the_same(when):
    assert from_json(json.loads(json.dumps(when.to_json()))) == when


@settings(max_examples=50)
@given(conditions, st.sampled_from(["once", "each", "ignore"]), st.booleans())
def test_r61_a_rules_json_gives_back_the_same(when, while_running, downstream):
    rule = Rule("x", "restart", when, while_running, downstream)
    assert Rule.from_json(json.loads(json.dumps(rule.to_json()))) == rule


def test_defaults_are_left_out_of_json():
    assert event("a").to_json() == {"event": {"key": "a"}}
    assert (status("a", "running").repeated() | event("b", "v", count=2, within=5)).to_json() == {
        "any": [
            {"status": {"task": "a", "is": "running", "repeated": True}},
            {"event": {"key": "b", "value": "v", "count": 2, "within": 5}},
        ]
    }


def test_r62_and_is_refused():
    with pytest.raises(TypeError, match=r"join two with & and \|"):
        event("a") and event("b")


def test_describe_is_one_line():
    rules = rules_json(
        start(event("a", "x", count=2) & status("b", "running").repeated(), while_running="each"),
        Rule(None, "stop", every(minutes=1) | event("s"), state="skipped"),
    )
    assert describe(rules) == (
        "start_1: start on all_of(event('a', 'x', count=2), status('b', 'running').repeated()) "
        "(while_running='each'); stop_2: stop on any_of(every(seconds=60), event('s')) (state='skipped')"
    )


# -- what is refused where it is written --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: event(""), 'key is empty; write the key of the events you mean, or key="\\*"'),
        (lambda: event("a", type=""), "type is empty"),
        (lambda: event("k" * 1025), "key has 1025 bytes, must have at most 1024"),
        (lambda: event("é" * 512 + "k"), "key has 1025 bytes"),
        (lambda: event("k" * 1025 + "*"), "key has 1026 bytes, must have at most 1025"),
        (lambda: event("a", type="t" * 256), "type has 256 bytes, must have at most 255"),
        (lambda: event("a", "v" * ((1 << 20) + 1)), "value has 1048577 bytes"),
        (lambda: event("a\0"), "NUL"),
        (lambda: event("a\udc80"), "cannot be written as UTF-8"),
        (lambda: event(5), "key is 5, must be a str"),
        (lambda: event("a", 5), "value is 5, must be a str, e.g. value='5'"),
        (lambda: event("a", sender=None), "sender is None, must be a str"),
        (lambda: event("a", count=0), "count is 0, must be 1 to 1000"),
        (lambda: event("a", count=1001), "count is 1001"),
        (lambda: event("a", count=1.5), "count is 1.5, must be a whole number"),
        (lambda: from_json({"event": {"key": "a", "repeated": 1}}), "repeated is 1, must be True or False"),
        (
            lambda: from_json({"status": {"task": "a", "is": "running", "repeated": "yes"}}),
            "repeated is 'yes', must be True or False",
        ),
        (lambda: event("a", count=2, within=0), "within is 0 seconds, must be positive"),
        (lambda: event("a", count=2, within=timedelta(seconds=-1)), "within is -1 seconds, must be positive"),
        (lambda: event("a", count=2, within="5s"), "within is '5s', must be a number of seconds"),
        (lambda: every(), "every is 0 seconds, must be positive"),
        (lambda: every(seconds=-60), "every is -60 seconds, must be positive"),
        (lambda: every(seconds=float("inf")), "longer than 100 years"),
        (lambda: every(days=100 * 366 + 1), "at most 100 years"),
        (lambda: every(60), r"every\(seconds=60\)"),
        (lambda: all_of(), r"all_of\(\) needs at least one"),
        (lambda: any_of("a"), r"write event\('a'\)"),
        (lambda: event("a") & SimpleNamespace(task_id="t"), r"write status\('t', 'success'\)"),
        (lambda: event("a") | 5, "5 is not a condition"),
        (lambda: status("", "running"), "the task is empty"),
        (lambda: status(5, "running"), "5 is no task"),
        (lambda: status(test_describe_is_one_line, "running"), r"status\(test_describe_is_one_line\(\), ...\)"),
    ],
)
def test_r63_a_wrong_condition_is_an_error_that_says_what_to_write(make, message):
    with pytest.raises((TypeError, ValueError), match=message):
        make()


def test_r63_limits_are_met_exactly():
    assert event("k" * 1024).key == "k" * 1024
    assert event("k" * 1024 + "*").count == 1
    assert event("a", "v" * (1 << 20), count=1000, within=0.001).within == 0.001
    assert every(days=100 * 366).seconds == 100 * 366 * 86400


def test_r63_nested_too_deep():
    when = event("a")
    for _ in range(16):
        when = all_of(when)
    with pytest.raises(ValueError, match="nested more than 16 deep"):
        all_of(when)
    deep = {"event": {"key": "a"}}
    for _ in range(100_000):
        deep = {"all": [deep]}
    with pytest.raises(ValueError, match="nested more than 16 deep"):
        from_json(deep)


def test_r64_within_needs_a_count():
    with pytest.raises(ValueError, match=r"say how many must come within that time, e\.g\. count=3"):
        event("a", within=5)


@pytest.mark.parametrize(
    ("state", "near"),
    [("FINISHED", "success"), ("RUNNING", "running"), ("killed", "failed"), ("sucess", "success"), ("Done", "success")],
)
def test_r65_a_state_that_is_none_names_the_nearest(state, near):
    with pytest.raises(
        ValueError, match=f"no such state \\(did you mean '{near}'\\?\\); the states are scheduled, queued,"
    ):
        status("a", state)
    with pytest.raises(ValueError, match="no such state; the states are"):
        status("a", "xyzzy")
    with pytest.raises(TypeError, match="a state is a str"):
        status("a", None)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"while_running": "always"}, "while_running is 'always', must be one of 'once', 'each', 'ignore'"),
        ({"downstream": 1}, "downstream is 1, must be True or False"),
        ({"state": "running"}, "state is 'running', must be one of 'success', 'skipped', 'failed'"),
        ({"name": "a b"}, "name is 'a b', must be 1 to 100 letters"),
        ({"name": ""}, "name is ''"),
        ({"name": 5}, "name is 5"),
        ({"when": "digits"}, r"start_on: 'digits' is not a condition; write event\('digits'\)"),
        ({"action": "begin"}, "action is 'begin', must be one of 'start', 'restart', 'stop', 'none'"),
        ({"when": all_of(*[event("a")] * 256)}, "a rule of 257 conditions, must be at most 256"),
    ],
)
def test_a_wrong_rule_is_refused(options, message):
    with pytest.raises((TypeError, ValueError), match=message):
        Rule(**{"name": None, "action": "start", "when": event("a"), **options})


@pytest.mark.parametrize(
    ("when", "message"),
    [
        (5, "a condition is a dict with one of event, status, every, all, any, not 5"),
        ({}, "a condition is a dict"),
        ({"event": {"key": "a"}, "every": {}}, "a condition is a dict"),
        ({"when": {}}, "no such condition: 'when'"),
        ({"event": {"key": "a", "valeu": "x"}}, "no such field: valeu; there are key, value, type"),
        ({"event": {}}, "no key in {}"),
        ({"status": {"task": "a"}}, "no is in {'task': 'a'}"),
        ({"event": "a"}, "fields are a dict, not 'a'"),
        ({"all": {"event": {"key": "a"}}}, "all: a list of conditions"),
        ({"all": []}, "needs at least one"),
        ({"every": {"seconds": "5"}}, "every is '5', must be a number"),
    ],
)
def test_json_that_is_no_condition_is_refused(when, message):
    with pytest.raises((TypeError, ValueError), match=message):
        from_json(when)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.sampled_from(["", "a", "running"]),
    lambda v: (
        st.lists(v, max_size=3)
        | st.dictionaries(st.sampled_from(["event", "status", "every", "all", "any", "key", "is"]), v, max_size=2)
    ),
    max_leaves=6,
)


@settings(max_examples=50)
@given(json_values)
def test_any_json_is_read_or_refused(value):
    with suppress(TypeError, ValueError):
        from_json(value)
    assert isinstance(check_dag("d", {"a": value}, {"a"}), list)


# -- what is refused with the whole Dag in view -------------------------------------------------------------------


def test_good_rules_have_no_errors():
    assert (
        errors({"b": [start(status("a", "running")), Rule(None, "stop", event("x"))]}, {"a"}, [start(event("y"))]) == []
    )


def test_r66_a_task_that_is_not_there():
    assert errors({"b": [start(status("trian", "running"))]}, {"train"}) == [
        "task 'b', rule 'start_1': status('trian', 'running'): there is no task 'trian' in this Dag; "
        "did you mean 'train'? Then write status('train', 'running')"
    ]
    assert "did you mean 'group.x'" in errors({"b": [start(status("x", "running"))]}, {"group.x"})[0]
    assert "the tasks are b, train" in errors({"b": [start(event("k") & status("zzz", "failed"))]}, {"train"})[0]


@pytest.mark.parametrize("action", ["start", "restart"])
def test_r67_a_task_does_not_start_on_its_own_status(action):
    (error,) = errors({"a": [Rule(None, action, event("k") | status("a", "failed"))]})
    assert "the task's own status, so each start would make the next" in error
    assert "use retries=" in error
    assert errors({"a": [Rule(None, "stop", status("a", "running"))]}) == []


def test_r68_tasks_that_only_wait_for_each_other():
    ring = {
        "a": [start(status("c", "success"))],
        "b": [start(status("a", "running"))],
        "c": [start(status("b", "failed"))],
    }
    (error,) = errors(ring)
    assert error.startswith("tasks a, b, c can only start after each other")
    assert "b has start_1: start on status('a', 'running')" in error
    assert 'start_on(a, event("go"))' in error
    assert errors({**ring, "a": [*ring["a"], start(event("go"))]}) == []
    assert errors({**ring, "a": [start(any_of(status("c", "success"), every(hours=1)))]}) == []
    assert len(errors({**ring, "a": [start(all_of(status("c", "success"), every(hours=1)))]})) == 1
    assert errors({**ring, "a": [Rule(None, "stop", status("c", "success"))]}) == []  # a starts with its run


def test_r68_a_state_that_needs_no_start_breaks_the_ring():
    assert errors({"a": [start(status("b", "skipped"))], "b": [start(status("a", "success"))]}) == []
    assert len(errors({"a": [start(status("b", "success"))], "b": [start(status("a", "success"))]})) == 1


def test_r69_what_a_dag_cannot_have():
    found = errors(
        {}, {"a"}, [start(every(minutes=1)), Rule(None, "restart", event("x")), start(event("y"), downstream=True)]
    )
    assert [e.split(": ", 1)[1] for e in found] == [
        "every(seconds=60) is for a task; give the Dag schedule=timedelta(seconds=60) instead",
        "a run is not restarted; write stop_on(dag, ...) and start_on(dag, ...)",
        "downstream= is for a task; a started run runs all its tasks",
    ]
    (error,) = errors({}, {"a"}, [Rule(None, "stop", status("a", "failed"))])
    assert """event("d.a", "failed", namespace="airflow", type="TASK_STATUS_CHANGED")""" in error


def test_r70_names_versions_and_numbers():
    twice = {"v": 1, "rules": [Rule("x", "start", event("a")).to_json()] * 2}
    assert check_dag("d", {"a": twice}, {"a"}) == ["task 'a': there are 2 rules named 'x'; give each its own name="]
    many = rules_json(*[start(event("a"))] * 65)
    assert "a task with 65 rules, must be at most 64" in check_dag("d", {"a": many}, {"a"})[0]
    assert check_dag("d", {"a": rules_json(*[start(event("a"))] * 64)}, {"a"}) == []
    assert "rules of version 2, this aiflow-ext reads 1" in check_dag("d", {"a": {**many, "v": 2}}, {"a"})[0]
    assert """rules are {"v": 1, "rules": [...]}, not []""" in check_dag("d", {"a": []}, {"a"})[0]


def test_importing_rules_imports_neither_airflow_nor_the_core():
    code = "import sys, aiflow_ext.rules; print([m for m in sys.modules if m.startswith('airflow') or '_core' in m])"
    out = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout
    assert out == "[]\n"


def test_r63_ids_that_are_too_long_for_a_key():
    name = "ü" * 250
    fits = {"a", name}
    assert check_dag(name, {"a": rules_json(start(event("a")))}, fits) == []
    long = "語" * 250
    (error,) = check_dag(long, {"a": rules_json(start(event("a")))}, {"a", name})
    assert "1251 bytes" in error
    assert "a shorter id" in error
