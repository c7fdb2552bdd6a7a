"""The boxes of docs/notification.md work, its commands are commands, and what docs/walk.md names is there."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from aiflow_ext import cli

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs/notification.md"
TEXT = PAGE.read_text()
WALK = (ROOT / "docs/walk.md").read_text()
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


PAGES = ["README.md", "csrc/README.md", *(str(page.relative_to(ROOT)) for page in sorted(ROOT.glob("docs/**/*.md")))]


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\((?!http)([^)#]+)", (ROOT / page).read_text()):
        assert ((ROOT / page).parent / target).exists(), target


def test_all_options_are_named_with_their_defaults():
    from aiflow_ext.provider.info import get_provider_info

    table = re.findall(r"^\| `(\w+)` \| (?:`(.*?)` )?\|", (ROOT / "docs/running.md").read_text(), re.M)
    options = get_provider_info()["config"]["aiflow"]["options"]
    assert sorted(table) == sorted((name, option["default"]) for name, option in options.items())


def test_the_walk_names_what_is_there():
    """Each function of a section is in one of the files that the section names."""
    named = 0
    for section in re.split(r"^##+ ", WALK, flags=re.M):
        files = re.findall(r"`((?:aiflow_ext|csrc|tests)/[\w/.]+)`", section)
        text = "".join((ROOT / file).read_text() for file in files if (ROOT / file).is_file())
        assert all((ROOT / file).exists() for file in files), files
        for owner, function in re.findall(r"`(?:(\w+)\.)?(\w+)\(\)`", section):
            method = rf"^class {owner}\b.*?^    def {function}\("
            found = re.search(method if owner else rf"^(def )?{function}\(", text, re.M | re.S)
            assert found, f"{owner} {function}() is in none of {files}"
            named += 1
    assert named > 20


def test_the_walk_is_ten_files_long():
    assert [int(n) for n in re.findall(r"^### (\d+)\. `", WALK, re.M)] == [*range(1, 11)]
