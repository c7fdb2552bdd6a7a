"""Which runner is chosen, and what is said about it."""

from __future__ import annotations

import logging
import os

import pytest

import aiflow_ext.provider.scheduler.runner  # noqa: F401  (Airflow configures logging when it is imported: not in a test)
from aiflow_ext.provider import config
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
    (line,) = (
        m for m in caplog.messages if "SchedulerJobRunner" in m
    )  # another: there is no database to release tasks in
    return name, line


def test_event_mode_on_a_tested_minor(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    name, line = chosen(monkeypatch, caplog, "True", "3.3.9")
    assert name == "EventSchedulerJobRunner"
    assert line == "aiflow: EventSchedulerJobRunner runs: [aiflow] event_mode is on, Airflow 3.3.9"


def test_the_option_is_named_where_it_was_given(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv(config.EVENT_MODE_ENV, "False")
    monkeypatch.setattr(config, "_by_option", False)  # both are as before when this has ended
    config.ask_for_event_mode()
    _, line = chosen(monkeypatch, caplog, os.environ[config.EVENT_MODE_ENV], "3.3.9")
    assert line == "aiflow: EventSchedulerJobRunner runs: --event-mode was given, Airflow 3.3.9"


def test_an_untested_minor_gets_its_own_scheduler_and_one_warning(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    name, line = chosen(monkeypatch, caplog, "True", "3.4.0b2")
    assert name == "SchedulerJobRunner"
    assert line.startswith(
        "aiflow: SchedulerJobRunner (stock) runs: event mode is tested with Airflow 3.3, this is 3.4.0b2"
    )
    assert caplog.records[0].levelname == "WARNING"


def test_event_mode_off(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    name, line = chosen(monkeypatch, caplog, "False", "3.3.2")
    assert (name, line) == ("SchedulerJobRunner", "aiflow: SchedulerJobRunner (stock) runs: [aiflow] event_mode is off")


@pytest.mark.parametrize(("version", "minor"), [("3.3.2", (3, 3)), ("3.4.0b2", (3, 4)), ("4.0", (4, 0))])
def test_minor_of(version: str, minor: tuple[int, int]) -> None:
    assert minor_of(version) == minor
    assert (untested(version) is None) == (minor == (3, 3))
