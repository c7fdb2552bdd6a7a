"""The boxes of docs/notification.md are programs that work, and its commands are commands."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from aiflow_ext import cli

PAGE = Path(__file__).parents[2] / "docs/notification.md"
TEXT = PAGE.read_text()
COMMANDS = re.findall(r"^    aiflow (.+)$", TEXT, re.M)


def boxes(language):
    """(line, text) of each."""
    for found in re.finditer(rf"^```{language}\n(.*?)^```$", TEXT, re.M | re.S):
        yield TEXT.count("\n", 0, found.start(1)), found[1]


def test_every_box_runs_from_top_to_bottom(broker, tmp_path, monkeypatch):
    monkeypatch.setenv("AIFLOW_BROKER", broker.uri)
    monkeypatch.setenv("AIFLOW_LOG", f"sqlite:{tmp_path}/events.db")
    command = tmp_path / "aiflow"
    command.write_text(f'#!/bin/sh\nexec {sys.executable} -m aiflow_ext.cli "$@"\n')
    command.chmod(0o755)
    env = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}"}
    python, shell = list(boxes("python")), list(boxes("sh"))
    assert len(python) + len(shell) == TEXT.count("\n```") / 2
    for line, text in sorted([*python, *shell]):
        if (line, text) in shell:
            out = subprocess.run(["sh", "-ec", text], env=env, capture_output=True, text=True)
            assert out.returncode == 0, f"{PAGE.name}, line {line}: {out.stderr}"
        else:
            exec(compile("\n" * line + text, PAGE, "exec"), {"__name__": "box"})


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_is_one(command):
    cli.parser().parse_args(command.replace("'", "").replace("...", "mem:").split())


def test_links_lead_somewhere():
    for target in re.findall(r"\]\((?!http)([^)#]+)", TEXT):
        assert (PAGE.parent / target).exists(), target
