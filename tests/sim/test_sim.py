"""What fits into three minutes of the simulation: seeds that are always the same, on each database.

Each store is a process of its own, since Airflow reads its configuration once.  ``make soak-sim`` goes on for hours.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

RUN = Path(__file__).with_name("run.py")


STORES = [("sqlite", "0-24"), ("postgresql", "0-9")]
if "AIF_TEST_AIRFLOW_MYSQL" in os.environ:  # `make test-mysql`
    STORES.append(("mysql", "0-9"))


@pytest.mark.core
@pytest.mark.parametrize(("store", "seeds"), STORES)
def test_nothing_is_found(store: str, seeds: str) -> None:
    command = [sys.executable, str(RUN), "--store", store, "--seeds", seeds, "--steps", "30", "--jobs", "2"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-3000:]


@pytest.mark.parametrize("command", [("pure.py", "--steps", "50000"), ("mutants.py", "--pure")])
def test_without_airflow(command: tuple[str, ...]) -> None:
    """Nothing is found, and each mutant is."""
    name, *options = command
    done = subprocess.run([sys.executable, str(RUN.with_name(name)), *options], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-3000:]
