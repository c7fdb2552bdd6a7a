"""Whom a stop sends SIGTERM: a process of this host that is below ours, and no other one."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator

import pytest
from airflow.utils.net import get_hostname

from aiflow_ext.provider.act.workers import Process, terminate

# Its child, whose pid it prints, is below us.
PARENT = "import subprocess, sys; p = subprocess.Popen(['sleep', '36000']); print(p.pid, flush=True); print(p.wait())"


@pytest.fixture
def parent() -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        [sys.executable, "-c", PARENT], stdout=subprocess.PIPE, text=True, start_new_session=True
    )
    yield process
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
    process.communicate()


def test_only_a_process_of_this_host_below_ours_is_signalled(parent: subprocess.Popen[str]) -> None:
    assert parent.stdout is not None
    pid = int(parent.stdout.readline())
    here = get_hostname()
    assert not terminate(Process(pid, "another host", "its try"))  # which has the same pid
    assert not terminate(Process(pid, "", "its try"))  # whose host is not known
    assert not terminate(Process(os.getppid(), here, "its try"))  # this host's, but none of ours
    assert terminate(Process(pid, here, "its try"))
    assert parent.stdout.readline() == f"{-signal.SIGTERM.value}\n"  # only now
    parent.wait()
    assert not terminate(Process(pid, here, "its try"))  # it has ended
