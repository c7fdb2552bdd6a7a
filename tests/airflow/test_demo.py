"""The demo runs, end to end, and would say so if something were missing."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

from airflows import ROOT
from demo import VERSIONS, Story
from rest import Rest

from aiflow_ext import Event


def generated(version: int, offset: int) -> Event:
    value = {"version": version, "images": 200 * version, "path": ""}
    return Event("digits", json.dumps(value), "MODEL_GENERATED", offset=offset, create_time=1000)


def reacted(task: str, *offsets: int) -> Event:
    value = {"task": task, "began_ms": 1250.0, "offsets": offsets}
    return Event("demo", json.dumps(value), "REACTED", offset=100 + offsets[0])


def test_an_event_without_a_reaction_is_missing(capsys) -> None:
    story = Story()
    story.take(generated(1, 7))
    assert "event 7 (MODEL_GENERATED) should have started evaluate once: []" in list(story.missing())
    story.take(reacted("evaluate", 7))
    assert not [m for m in story.missing() if m.startswith("event")]
    assert re.search(r"7 +MODEL_GENERATED 1 +evaluate +250\n", capsys.readouterr().out)
    story.take(reacted("evaluate", 7))
    assert [m for m in story.missing() if m.startswith("event 7")]  # twice is as wrong as never


def test_a_question_without_an_answer_is_missing() -> None:
    story = Story()
    story.take(Event("predict", json.dumps({"image": 9}), offset=3, create_time=5))
    assert "request 3 was not answered" in list(story.missing())
    answer = {"request": 3, "image": 9, "digit": 9, "version": 1}
    story.take(Event("prediction", json.dumps(answer), offset=4, create_time=9))
    assert "request 3 was not answered" not in list(story.missing())
    assert story.answers[3]["ms"] == 4


def run_demo(home: Path, *args: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, ROOT / "examples" / "demo.py", "--home", home, *args]
    return subprocess.run(command, capture_output=True, text=True, timeout=1800)


def test_demo_then_down(tmp_path: Path) -> None:
    home = tmp_path / "home"
    done = run_demo(home, "--keep", "--speed", "60")
    try:
        assert done.returncode == 0, done.stdout + done.stderr
        assert "Every event had its reaction, once." in done.stdout
        assert len(re.findall(r"MODEL_GENERATED \d +evaluate", done.stdout)) == VERSIONS
        assert len(re.findall(r"stream.end +(train|serve) stopped", done.stdout)) == 2
        login = re.search(r"Airflow runs: (\S+)   user (\S+)   password (\S+)", done.stdout)
        assert login
        states = [run["state"] for run in Rest(*login.groups()).runs("online_learning")]
        assert states == ["success"]
    finally:
        ended = run_demo(home, "down")
    assert ended.stdout == "ended: tasks-server, api-server, dag-processor, scheduler\n"
    assert run_demo(home, "down").stdout == "nothing was running\n"
