"""For every test: Ctrl-C works, also where make itself was started in the background of a shell.  AIF_TEST_ALL=1, which
.ci/run sets, makes a failure of what is skipped."""

import os
import signal

import pytest

# Such a shell has it ignored, and children inherit that: `aiflow events listen` would never hear of it.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


def never_skipped(report):
    if report.skipped and not hasattr(report, "wasxfail") and os.environ.get("AIF_TEST_ALL"):
        report.outcome = "failed"
        report.longrepr = f"skipped, although AIF_TEST_ALL is set: {report.longrepr[2]}"
    return report


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport():
    return never_skipped((yield))


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report():
    return never_skipped((yield))
