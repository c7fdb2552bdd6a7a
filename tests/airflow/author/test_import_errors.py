"""What the author of a wrong rule reads in Airflow's list of import errors: the line, the names and what to write."""

from __future__ import annotations

from pathlib import Path

import pytest
from airflow.dag_processing.dagbag import DagBag

HEAD = """
from airflow.sdk import DAG, task
from airflow.providers.standard.operators.empty import EmptyOperator
from aiflow_ext import all_of, event, every, restart_on, start_on, status, stop_on

@task
def train(n=0): ...

@task
def serve(): ...

def helper(dag):
    restart_on(dag, event("x"))  # HELPER

with DAG("wrong", schedule=None) as dag:
    t, s = train(), serve()
"""

WRONG = {
    "function": ('start_on(serve, event("x"))', ["serve is a function", "start_on(serve(), ...)"]),
    "group": ('start_on(s, all_of(t, event("x")))', ["task 'train' is not a condition", "status('train', 'success')"]),
    "condition": ("start_on(s, t)", ["task 'train' is not a condition", "status('train', 'success')"]),
    "empty": ('start_on(s, event(""))', ["key is empty", 'key="*"']),
    "python": (
        'start_on(s, event("a") and event("b"))',
        ["event('a') is neither true nor false", "`event('a') & event(...)`"],
    ),
    "mapped": ('stop_on(train.override(task_id="m").expand(n=[1]), event("x"))', ["task 'm' is mapped"]),
    "state": ('stop_on(t, status(s, "succes"))', ["did you mean 'success'"]),
    "named": ('start_on(target=s, when=event("x"), while_runing="each")', ["'while_runing'", "while_running"]),
    "twice": ('start_on(s, event("x"), name="n"), stop_on(s, event("y"), name="n")', ["'n'", "task 'serve'"]),
    "unknown": ('start_on(s, status("trian", "success"))', ["no task 'trian'", "status('train', 'success')"]),
    "own": ('start_on(s, status(s, "success"))', ["the task's own status", "retries="]),
    "cycle": ('start_on(s, status(t, "success")); start_on(t, status(s, "success"))', ["serve, train", 'event("go")']),
    "dag": ('start_on(dag, status(t, "success"))', ["Dag 'wrong'", 'event("wrong.train", "success"']),
    "helper": ("helper(dag)", ["Dag 'wrong'", "stop_on(dag, ...) and start_on(dag, ...)"]),
}


@pytest.mark.parametrize("name", WRONG)
def test_an_import_error_has_the_authors_line_and_what_to_write(tmp_path: Path, name: str) -> None:
    line, said = WRONG[name]
    path = tmp_path / "wrong_rule.py"
    path.write_text(f"{HEAD}    {line}\n")
    lines = path.read_text().splitlines()
    number = len(lines) if name != "helper" else 1 + next(i for i, text in enumerate(lines) if "HELPER" in text)
    bag = DagBag(dag_folder=str(path))
    assert not bag.dags
    (text,) = bag.import_errors.values()
    print(f"=====\n{text}")
    assert f"wrong_rule.py:{number}: " in text
    for part in said:
        assert part in text
    assert "object at 0x" not in text
    assert "<" not in text.replace("<module>", "")
