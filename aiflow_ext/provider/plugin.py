"""The Airflow plug-in.  Loaded in every process, so it imports nothing heavy and opens nothing."""

from __future__ import annotations

import gc
import logging
import os
import sys
from collections.abc import Callable
from typing import Any

from airflow.plugins_manager import AirflowPlugin

from aiflow_ext.provider.author.task import triggering_events_macro
from aiflow_ext.provider.http import application
from aiflow_ext.provider.http.middleware import WakeMiddleware

log = logging.getLogger(__name__)

LOADED_IN = os.getpid()
RUNNER_MODULE = "airflow.jobs.scheduler_job_runner"
TRIGGERER_MODULE = "airflow.jobs.triggerer_job_runner"


class _Timetables:
    """The list of our timetables, made when Airflow asks for it: the module costs 116 ms."""

    def __get__(self, plugin: object, of: type) -> list[type]:
        from aiflow_ext.provider.author.timetable import EventTimetable

        return [EventTimetable]


class AiflowPlugin(AirflowPlugin):
    """Chooses the scheduler's runner, wakes it from the API server, serves events there; a macro, and a timetable."""

    name = "aiflow"
    timetables = _Timetables()
    macros = [triggering_events_macro]  # noqa: RUF012  (as the base class has it)
    fastapi_root_middlewares = [  # noqa: RUF012
        {"middleware": WakeMiddleware, "args": [], "kwargs": {}, "name": "aiflow wake-up"}
    ]

    fastapi_apps = [{"app": application, "url_prefix": "/aiflow", "name": "aiflow events"}]  # noqa: RUF012

    @classmethod
    def on_load(cls, *args: Any, **kwargs: Any) -> None:
        """Let Airflow's classes make ours, in the processes where they are imported."""
        if RUNNER_MODULE in sys.modules:
            choose_runner()
        if TRIGGERER_MODULE in sys.modules:
            choose_supervisor()


def choose_runner() -> None:
    """Patch ``SchedulerJobRunner.__new__``: at the call it decides, and says, which runner runs.  Twice is once."""
    from airflow.jobs.scheduler_job_runner import SchedulerJobRunner

    _let_choose(SchedulerJobRunner, _runner_class)


def choose_supervisor() -> None:
    """Patch ``TriggerRunnerSupervisor.__new__`` likewise: the triggerer's supervisor keeps our offsets."""
    from airflow.jobs.triggerer_job_runner import TriggerRunnerSupervisor

    _let_choose(TriggerRunnerSupervisor, _supervisor_class)


def _let_choose(stock: type, choose: Callable[[], type]) -> None:
    if "__new__" in vars(stock):
        return

    def __new__(cls: type, *args: Any, **kwargs: Any) -> Any:
        return object.__new__(choose() if cls is stock else cls)

    stock.__new__ = __new__  # type: ignore[method-assign, assignment]


def _supervisor_class() -> type:
    import airflow
    from airflow.jobs.triggerer_job_runner import TriggerRunnerSupervisor

    from aiflow_ext.provider.version_compat import untested

    if reason := untested(airflow.__version__):
        log.warning("aiflow: asset watchers with scheme aiflow do not work in this triggerer: %s", reason)
        return TriggerRunnerSupervisor
    from aiflow_ext.provider.assets.supervisor import EventTriggerSupervisor

    return EventTriggerSupervisor


def _runner_class() -> type:
    import airflow
    from airflow.jobs.scheduler_job_runner import SchedulerJobRunner

    from aiflow_ext.provider.config import event_mode, who_asks
    from aiflow_ext.provider.version_compat import untested

    if os.getpid() != LOADED_IN:
        _end_old_connections()
    if not event_mode():
        log.info("aiflow: SchedulerJobRunner (stock) runs: [aiflow] event_mode is off")
        _release()
        return SchedulerJobRunner
    if reason := untested(airflow.__version__) or _unfit_database():
        log.warning("aiflow: SchedulerJobRunner (stock) runs: %s", reason)
        _release()
        return SchedulerJobRunner
    from aiflow_ext.provider.scheduler.runner import EventSchedulerJobRunner

    log.info("aiflow: EventSchedulerJobRunner runs: %s, Airflow %s", who_asks(), airflow.__version__)
    return EventSchedulerJobRunner


def _unfit_database() -> str | None:
    """Why event mode may not run on Airflow's database; where that is away, the scheduler will say it."""
    from airflow import settings
    from sqlalchemy import text
    from sqlalchemy.exc import SQLAlchemyError

    from aiflow_ext.provider.version_compat import unfit_mysql

    engine = settings.get_engine()
    if engine.dialect.name != "mysql":
        return None
    try:
        with engine.connect() as connection:
            return unfit_mysql(str(connection.scalar(text("SELECT VERSION()"))))
    except SQLAlchemyError:
        return None


def _end_old_connections() -> None:
    """``--daemon`` has closed all descriptors, and left the connections that the command had opened before its fork.

    The garbage collector ends these at some later time, and with them whatever has their numbers by then, such as a
    file that Airflow is just reading ("Bad file descriptor").  Now nothing has.
    """
    from airflow import settings

    settings.get_engine().dispose()
    gc.collect()


def _release() -> None:
    """Tasks that wait under an event scheduler would wait for ever under a stock one."""
    try:
        from aiflow_ext.provider.repair.release import release

        release()
    except Exception as e:  # an Airflow that is not tested: it shall start all the same
        log.warning("aiflow: tasks that wait for rules were not given to the triggerer; clear them: %s", e)
