"""README's twenty lines as a real Dag: a stream loses nothing between its tries."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from airflows import ROOT, Deployment

from aiflow_ext import Event, EventClient

FAILS = """
def learn(image):
    if image.value == "0.3" and not Path({told!r}).exists():
        Path({told!r}).touch()
        raise ValueError("in the middle of the stream")
    return image.value
"""


def example(told: Path) -> str:
    """Return README's Dag, whose `learn` fails once, and whose tasks are tried again after a moment."""
    text = re.search(r"^## Twenty lines\n\n```python\n(.*?)^```$", (ROOT / "README.md").read_text(), re.M | re.S)
    assert text
    dag = text[1]
    for old, new in (
        (r"^def learn\(image\):.*$", FAILS.format(told=str(told))),
        (
            r"@dag\(schedule=None\)",
            "@dag(schedule=None, default_args={'retries': 1, 'retry_delay': timedelta(seconds=3)})",
        ),
    ):
        dag, n = re.subn(old, lambda _, new=new: new, dag, flags=re.M)
        assert n == 1
    return f"from datetime import timedelta\nfrom pathlib import Path\n{dag}"


def test_events_between_two_tries_are_not_lost(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each image makes a model at least once, whatever was published while there was no try."""
    dags, told = tmp_path / "dags", tmp_path / "told"
    dags.mkdir()
    (dags / "online.py").write_text(example(told))
    with Deployment(tmp_path / "af", dags, event_mode=True) as airflow:
        monkeypatch.setenv("AIRFLOW_HOME", str(airflow.home))
        airflow.wait_for_dag("online")
        airflow.rest.unpause("online")
        run_id = airflow.rest.trigger("online")
        with EventClient() as client:
            airflow.wait_until(lambda: "train" in {c.name for c in client.cursors()}, what="train listens")
            client.publish_many(Event("images", f"0.{i}") for i in range(1, 5))  # bad models: none is served
            airflow.wait_until(told.exists, what="train fails")
            state = lambda: airflow.states("online", run_id)["train"]  # noqa: E731
            airflow.wait_until(lambda: state() != "running", what="the first try is over")
            client.publish_many(Event("images", f"0.{i}") for i in range(5, 8))
            models = lambda: [e.value for e in client.list("model", type="MODEL_GENERATED")]  # noqa: E731
            airflow.wait_until(lambda: "0.7" in models(), what="the second try has caught up")
            assert sorted(set(models())) == [f"0.{i}" for i in range(1, 8)]
            client.publish(Event("stream.end"))
            airflow.wait_until(lambda: state() == "success", what="train is stopped")
            assert airflow.rest.tasks("online", run_id)["train"]["try_number"] == 2
            (train,) = (c for c in client.cursors() if c.name == "train")
            assert train.offset >= client.latest("images")
