"""Which runner is chosen, and what is said about it."""

from __future__ import annotations

import logging
import os

import pytest

import aiflow_ext.provider.scheduler.runner  # noqa: F401  (Airflow configures logging when it is imported: not in a test)
from aiflow_ext.provider import config
from aiflow_ext.provider.version_compat import minor_of, unfit_mysql, untested


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


@pytest.mark.parametrize("version", ["8.0.13", "8.4.6", "9.7.4-2", "8.0.35-google", "10.0"])
def test_event_mode_on_a_mysql(version: str) -> None:
    assert unfit_mysql(version) is None


@pytest.mark.parametrize(
    ("version", "said"),
    [
        (
            "10.11.19-MariaDB",
            "is MariaDB (10.11.19-MariaDB), which Airflow itself does not support:",
        ),
        ("8.0.12", "is MySQL 8.0.12:"),
        ("5.7.44-log", "is MySQL 5.7.44-log:"),
    ],
)
def test_a_database_that_is_not_fit_gets_the_stock_scheduler_and_one_sentence(version: str, said: str) -> None:
    reason = unfit_mysql(version)
    assert reason is not None
    assert reason.startswith(
        f"Airflow's database {said} the stock scheduler runs instead. Event mode needs MySQL 8.0.13"
    )


@pytest.mark.parametrize(
    ("conn", "log"),
    [
        ("mysql+mysqldb://u:p%40@h:3307/d?charset=utf8mb4", "mysql://u:p%40@h:3307/d"),
        ("mysql://u@h/d?unix_socket=/s&ssl_mode=PREFERRED", "mysql://u@h/d?unix_socket=/s"),
        ("mysql+pymysql://u@h/d?ssl_ca=/ca.pem&read_timeout=5", "mysql://u@h/d?ssl_ca=/ca.pem"),
        ("mysql+mysqldb://u@h/d?ssl_mode=VERIFY_CA", "mysql://u@h/d?ssl=verify"),
    ],
)
def test_the_log_is_in_airflows_mysql(conn: str, log: str) -> None:
    assert config.mysql_log(conn) == log


def test_a_way_to_know_the_server_is_not_dropped() -> None:
    with pytest.raises(ValueError, match=r"has ssl_cipher=.*set \[aiflow\] log to mysql://"):
        config.mysql_log("mysql+mysqldb://u@h/d?ssl_cipher=x")
