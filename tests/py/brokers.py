"""`aiflow broker` as a process of its own."""

import os
import re
import signal
import subprocess
import sys
from threading import Timer

import pytest

from aiflow_ext import Event

SOON_S = 120


class BrokerProcess:
    """Started, killed, started again at the same address over the same log; `said` has its lines.

    As a context manager it is started, and ended by SIGTERM.
    """

    def __init__(self, uri, log, *options, before=()):
        self.uri = uri
        self.log = log
        self.options = options
        self.before = before
        self.said = []

    def __enter__(self):
        self.start()
        return self

    def __exit__(self, *exc):
        self.process.terminate()
        self.said += self.process.stderr
        self.process.stderr.close()
        assert self.process.wait(60) == 0, self.said

    def start(self):
        command = [*self.before, sys.executable, "-m", "aiflow_ext.cli", "broker"]
        command += ["--bind", self.uri, "--log", self.log, *self.options]
        self.process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        self.uri = self.wait_for(r"serving (\S+), log")[1]

    def wait_for(self, pattern):
        """Return the match of the first line from now on that has it. Where none comes, the process is killed."""
        late = Timer(SOON_S, self.process.kill)
        late.start()
        try:
            for line in self.process.stderr:
                self.said.append(line)
                if found := re.search(pattern, line):
                    return found
        finally:
            late.cancel()
        raise AssertionError(f"it never said {pattern}: {self.said}")

    def halt(self):
        """Stop it until `go_on`; return when every thread has stopped, not when the signal is on its way."""
        self.process.send_signal(signal.SIGSTOP)
        os.waitid(os.P_PID, self.process.pid, os.WSTOPPED)

    def go_on(self):
        self.process.send_signal(signal.SIGCONT)

    def kill(self):
        self.process.kill()
        self.process.wait()
        self.process.stderr.close()

    def ends_though_its_log_hangs(self, client):
        """While nothing of its database answers: nobody is, and it ends 5 s after it is told to."""
        with pytest.raises(TimeoutError):
            client.publish(Event("k"), timeout=1)
        self.process.terminate()
        assert self.process.wait(120) == 1
        assert "the log does not answer" in self.process.stderr.read()
