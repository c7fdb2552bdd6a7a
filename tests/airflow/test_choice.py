"""Which runner is chosen, and what is said about it."""

from __future__ import annotations

import logging

import pytest

import aiflow_ext.provider.scheduler.runner  # noqa: F401  (Airflow configures logging when it is imported: not in a test)
from aiflow_ext.provider.version_compat import minor_of, untested


def chosen(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, mode: str, version: str
) -> tuple[str, str]:
    """The name of the runner's class, and the log's one line."""
    import airflow

    from aiflow_ext.provider import plugin

    monkeypatch.setenv("AIRFLOW__AIFLOW__EVENT_MODE", mode)
    monkeypatch.setattr(airflow, "__version__", version)
    with caplog.at_level(logging.INFO, logger="aiflow_ext.provider.plugin"):
        name = plugin._runner_class().__name__
    (line,) = caplog.messages
    return name, line


def test_event_mode_on_a_tested_minor(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    name, line = chosen(monkeypatch, caplog, "True", "3.3.9")
    assert name == "EventSchedulerJobRunner"
    assert line == "aiflow: EventSchedulerJobRunner runs: [aiflow] event_mode is on, Airflow 3.3.9"


def test_an_untested_minor_gets_its_own_scheduler_and_one_warning(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    name, line = chosen(monkeypatch, caplog, "True", "3.4.0b2")
    assert name == "SchedulerJobRunner"
    assert line.startswith(
        "aiflow: SchedulerJobRunner (stock) runs: event mode is tested with Airflow 3.3, this is 3.4.0b2"
    )
    assert [record.levelname for record in caplog.records] == ["WARNING"]


def test_event_mode_off(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    name, line = chosen(monkeypatch, caplog, "False", "3.3.2")
    assert (name, line) == ("SchedulerJobRunner", "aiflow: SchedulerJobRunner (stock) runs: [aiflow] event_mode is off")


@pytest.mark.parametrize(("version", "minor"), [("3.3.2", (3, 3)), ("3.4.0b2", (3, 4)), ("4.0", (4, 0))])
def test_minor_of(version: str, minor: tuple[int, int]) -> None:
    assert minor_of(version) == minor
    assert (untested(version) is None) == (minor == (3, 3))
