"""``airflow event-scheduler``, and ``--event-mode`` on ``airflow scheduler``."""

from __future__ import annotations

from argparse import Namespace
from typing import Any, cast

from airflow.cli.cli_config import ActionCommand, Arg, CLICommand, GroupCommand

from aiflow_ext.provider.config import ask_for_event_mode

ARG_EVENT_MODE = Arg(
    ("--event-mode",),
    action="store_true",
    help="Run the event scheduler of aiflow-ext, as event_mode = True in section aiflow does",
)


def get_cli_commands() -> list[CLICommand]:
    """Add our flag to ``scheduler`` and return our own command.

    Airflow calls this while it builds its parser; a failure here is logged by Airflow and leaves its commands alone.
    """
    from airflow.cli import cli_parser

    commands = cli_parser.airflow_commands
    index = {command.name: i for i, command in enumerate(commands)}
    stock = cast("ActionCommand", commands[index["scheduler"]])
    commands[index["scheduler"]] = stock._replace(func=_scheduler, args=(*stock.args, ARG_EVENT_MODE))
    triggerer = cast("ActionCommand", commands[index["triggerer"]])
    commands[index["triggerer"]] = triggerer._replace(func=_triggerer)
    _change_worker(commands)
    return [
        stock._replace(
            name="event-scheduler",
            help="Start a scheduler that reacts to events (airflow scheduler --event-mode)",
            func=_event_scheduler,
        )
    ]


def _change_worker(known: list[CLICommand]) -> None:
    """Let ``airflow celery worker`` do ours, where its provider is.

    :param known: commands that Airflow has already; it asks providers in no certain order.
    """
    try:
        from airflow.providers.celery.cli.definition import CELERY_CLI_COMMANDS
    except ImportError:
        return
    all_commands: list[list[Any]] = [CELERY_CLI_COMMANDS, known]
    for commands in all_commands:
        for i, group in enumerate(commands):
            if group.name == "celery" and isinstance(group, GroupCommand):
                changed = [c._replace(func=_worker) if c.name == "worker" else c for c in group.subcommands]
                commands[i] = group._replace(subcommands=changed)


def _scheduler(args: Namespace) -> None:
    from airflow.cli.commands.scheduler_command import scheduler

    from aiflow_ext.provider.plugin import choose_runner

    if args.event_mode:
        ask_for_event_mode()
    choose_runner()
    scheduler(args)


def _event_scheduler(args: Namespace) -> None:
    args.event_mode = True
    _scheduler(args)


def _triggerer(args: Namespace) -> None:
    from airflow.cli.commands.triggerer_command import triggerer

    from aiflow_ext.provider.plugin import choose_supervisor

    choose_supervisor()  # where [core] lazy_load_plugins is off, the plug-in was loaded before that class
    triggerer(args)


def _worker(args: Namespace) -> None:
    from airflow.providers.celery.cli.celery_command import worker

    from aiflow_ext.provider.act.workers import obey
    from aiflow_ext.provider.config import event_mode
    from aiflow_ext.provider.scheduler.preload import preload

    obey()
    if event_mode():
        preload()  # before its processes fork
    worker(args)
