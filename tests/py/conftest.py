"""Real brokers for the tests: in this process, or one of their own that can be killed."""

import os
import select
import signal
import subprocess
import sys
import time

import pytest
from brokers import BrokerProcess
from hypothesis import HealthCheck, settings

from aiflow_ext import EventClient, EventLog, _core, cli

# The same examples each time, however slow the machine is: what fails fails again.
settings.register_profile("steady", deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("steady")

# A shell's background jobs ignore Ctrl-C, and so would every process that the tests start.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture
def until():
    """Wait for what other threads do in a moment, as the kernel does when they end."""

    def wait(so):
        deadline = time.monotonic() + 60
        while not so():
            assert time.monotonic() < deadline, "it did not come to that"
            select.select([], [], [], 0.01)  # what we wait for may need this processor

    return wait


@pytest.fixture
def mem_log():
    with EventLog("mem:") as log:
        yield log


@pytest.fixture
def broker(tmp_path):
    with _core.Broker(f"ipc://{tmp_path}/broker", f"sqlite:{tmp_path}/events.db") as broker:
        broker.start()
        yield broker


@pytest.fixture
def client(broker):
    with EventClient(broker.uri) as client:
        yield client


@pytest.fixture
def broker_process(tmp_path):
    process = BrokerProcess(f"ipc://{tmp_path}/b", f"sqlite:{tmp_path}/events.db")
    process.start()
    yield process
    process.kill()


@pytest.fixture
def aiflow(capsys):
    """Run a command in this process; return exit code, output and errors."""

    def run(*argv):
        try:
            code = cli.main(argv)
        except SystemExit as e:
            code = e.code
        out = capsys.readouterr()
        return code, out.out, out.err

    return run


@pytest.fixture
def interrupted():
    """Run a program, and Ctrl-C once it has said that it is ready."""

    def run(program):
        with subprocess.Popen(
            [sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        ) as process:
            assert process.stdout.readline() == "ready\n"
            process.send_signal(signal.SIGINT)
            assert process.communicate(timeout=60)[1].endswith("KeyboardInterrupt\n")

    return run


@pytest.fixture
def alarm():
    """Have a function called by a signal's handler, while this thread waits for something else."""
    before = signal.getsignal(signal.SIGALRM)

    def ring(function):
        signal.signal(signal.SIGALRM, lambda *_: function())
        signal.setitimer(signal.ITIMER_REAL, 0.2)

    yield ring
    signal.setitimer(signal.ITIMER_REAL, 0)
    signal.signal(signal.SIGALRM, before)


@pytest.fixture
def in_child():
    """Run a function in a forked child; return its exit code, 0 when it returned True."""

    def run(function):
        pid = os.fork()
        if pid == 0:
            code = 1
            try:
                code = 0 if function() is True else 2
            finally:
                os._exit(code)
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])

    return run
