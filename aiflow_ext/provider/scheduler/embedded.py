"""The embedded broker: ``aiflow broker`` in a process of its own, a child of the scheduler.

So that nothing that a peer does to it ends the scheduler: libzmq ends its process where an assertion fails.  The child
is a fresh Python that knows nothing of Airflow.  Between the two are two pipes:

stdin   holds the child.  Nothing is ever written; at its end the child ends, also when the scheduler was killed with
        -9.  Linux could send a signal instead (PR_SET_PDEATHSIG), but it would come when the *thread* ends that started
        the child, and not at all when the scheduler was killed before the child had asked for it.
stdout  brings lines: what the broker has to say, its status every 5 s, and what a library says before it aborts.
"""

from __future__ import annotations

import json
import logging
import math
import os
import select
import subprocess
import sys
import time
from collections.abc import Callable
from typing import IO, Any

log = logging.getLogger(__name__)
broker_log = logging.getLogger("aiflow_ext.broker")  # as `aiflow broker` has it

PAUSE_SEC = 1.0  # before the second start in a row that came to nothing; doubled for each further one
PAUSE_MOST_SEC = 10.0
STEADY_SEC = 10.0  # one that lived for so long is started again at once
SILENT_SEC = 60.0  # it tells its status, or that it waits, every 5 s: a silent one hangs, and is killed
END_SEC = 5.0  # for its last turn, when the scheduler ends; then it is killed
READ_MAX = 65536  # bytes, and of a line
LEVELS = {"10", "20", "30", "40", "50"}  # logging's


class Embedded:
    """A broker that is started, started again and heard by `tend`, in one thread.

    One that finds its address served by another scheduler's waits, and takes over when that one ends.

    :param uri: what it serves.
    :param log_uri: the log; it may have a password, so it goes by the environment.
    :param told: gets each status.
    """

    def __init__(self, uri: str, log_uri: str, told: Callable[[dict[str, Any]], None]) -> None:
        self.up = False  # it has said something: it serves, or waits, or has failed
        self._command = [sys.executable, "-P", "-m", "aiflow_ext.cli", "broker", "--supervised", "--bind", uri]
        self._env = {"AIFLOW_LOG": log_uri, "PYTHONIOENCODING": "utf-8:backslashreplace"}
        self._told = told
        self._process: subprocess.Popen[bytes] | None = None
        self._text = b""
        self._began = self._heard = self._pause = self._next = 0.0
        # A worker that the scheduler forks may outlive it; with our ends of the pipes it would keep the broker alive.
        os.register_at_fork(after_in_child=self._let_go)

    def tend(self) -> None:
        """Pass on what it has said; start it where it does not run and it is time to."""
        if self._process is not None and not self._read(self._process):
            self._ended(self._process)
        if self._process is None and time.monotonic() >= self._next:
            self._start()

    def pipes(self) -> list[int]:
        """Return the descriptors that are readable when there is something for `tend`."""
        return [] if self._process is None else [_output(self._process).fileno()]

    def close(self) -> None:
        """End it, and wait until it has."""
        process, self._process = self._process, None
        if process is None:
            return
        _input(process).close()
        poller = select.poll()
        poller.register(_output(process), select.POLLIN)
        deadline = time.monotonic() + END_SEC
        while self._read(process) and (left := deadline - time.monotonic()) > 0:
            poller.poll(math.ceil(left * 1000))
        self._reap(process)

    def _let_go(self) -> None:
        if self._process is not None:
            _input(self._process).close()
            _output(self._process).close()

    def _start(self) -> None:
        self._began = self._heard = time.monotonic()
        self.up, self._text = False, b""
        try:
            self._process = subprocess.Popen(
                self._command,
                bufsize=0,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                env=os.environ | self._env,
                process_group=0,  # Ctrl-C is for the scheduler, which ends it last
            )
        except OSError as e:
            self._again(f"could not be started ({e})")
            return
        os.set_blocking(_output(self._process).fileno(), False)

    def _read(self, process: subprocess.Popen[bytes]) -> bool:
        """Pass on what is there; false: the pipe has ended, and so has the process, or it is of no use."""
        try:
            found = os.read(_output(process).fileno(), READ_MAX)
        except BlockingIOError:
            if self.up and time.monotonic() - self._heard > SILENT_SEC:
                log.error("aiflow: the broker's process says nothing any more, it is killed")
                return False
            return True
        self._heard = time.monotonic()
        *lines, self._text = (self._text + found).split(b"\n")
        if self._text and (not found or len(self._text) > READ_MAX):
            lines, self._text = [*lines, self._text], b""
        for line in lines:
            self._pass_on(line.decode(errors="replace"))
        return bool(found)

    def _pass_on(self, line: str) -> None:
        self.up = True
        word, _, rest = line.partition(" ")
        if word in LEVELS:
            broker_log.log(int(word), "aiflow broker: %s", rest)
        elif word == "status" and (status := _parsed(rest)) is not None:
            try:
                self._told(status)
            except Exception:  # what a broker says never ends the scheduler
                log.exception("aiflow: the broker's status is of another kind: %s", rest[:500])
        elif line and line != "waits":
            broker_log.error("aiflow broker: %s", line)

    def _reap(self, process: subprocess.Popen[bytes]) -> str:
        """Return how it ended."""
        process.kill()
        code = process.wait()
        _input(process).close()
        _output(process).close()
        return f"exit code {code}" if code >= 0 else f"killed by signal {-code}"

    def _ended(self, process: subprocess.Popen[bytes]) -> None:
        self._process = None
        self._again(f"ended ({self._reap(process)})")

    def _again(self, what: str) -> None:
        self.up = True  # another scheduler's may serve
        now = time.monotonic()
        pause = 0.0 if now - self._began >= STEADY_SEC else self._pause
        when = f"in {pause:.0f} s" if pause else "at once"
        log.error("aiflow: the broker's process %s, it is started again %s", what, when)
        self._next = now + pause
        self._pause = min(max(PAUSE_SEC, 2 * pause), PAUSE_MOST_SEC)


def _parsed(text: str) -> dict[str, Any] | None:
    """Return a status; None: it is none, or the words of a dying library are in the middle of it."""
    try:
        status = json.loads(text)
    except ValueError:
        return None
    return status if isinstance(status, dict) else None


def _input(process: subprocess.Popen[bytes]) -> IO[bytes]:
    assert process.stdin is not None
    return process.stdin


def _output(process: subprocess.Popen[bytes]) -> IO[bytes]:
    assert process.stdout is not None
    return process.stdout
