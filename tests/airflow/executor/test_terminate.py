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

TRY = "0192f2c3-1b2a-7c3d-8e4f-5a6b7c8d9e0f"
# Its child, whose pid it prints, is below us.
PARENT = "import subprocess, sys; p = subprocess.Popen([sys.executable, '-c', sys.argv[1]]); print(p.wait())"
# As Airflow's task runner, it says in its title which try it is.
CHILD = f"""if True:
    import os, signal
    from setproctitle import setproctitle
    setproctitle("airflow worker -- {TRY}")
    print(os.getpid(), flush=True)
    signal.pause()"""


@pytest.fixture
def parent() -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        [sys.executable, "-c", PARENT, CHILD], stdout=subprocess.PIPE, text=True, start_new_session=True
    )
    yield process
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
    process.communicate()


def test_only_a_process_of_this_host_below_ours_is_signalled(parent: subprocess.Popen[str]) -> None:
    assert parent.stdout is not None
    pid = int(parent.stdout.readline())
    here = get_hostname()
    assert not terminate(Process(pid, "another host", TRY))  # which has the same pid
    assert not terminate(Process(pid, "", TRY))  # whose host is not known
    assert not terminate(Process(os.getppid(), here, TRY))  # this host's, but none of ours
    assert not terminate(Process(pid, here, TRY.replace("0", "1")))  # another task, which has the pid of one that ended
    assert terminate(Process(pid, here, TRY))
    assert parent.stdout.readline() == f"{-signal.SIGTERM.value}\n"  # only now
    parent.wait()
    assert not terminate(Process(pid, here, TRY))  # it has ended
