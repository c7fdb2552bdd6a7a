"""What Airflow reads about this package: entry point ``apache_airflow_provider``."""

from __future__ import annotations

from typing import Any


def get_provider_info() -> dict[str, Any]:
    """Return the provider description Airflow asks for."""
    return {
        "package-name": "aiflow-ext",
        "name": "AIFlow events",
        "description": "Event-driven scheduling: tasks started, stopped and restarted by events.",
        "cli": ["aiflow_ext.provider.commands.get_cli_commands"],
        "db-managers": ["aiflow_ext.provider.db.manager.AiflowDBManager"],
        "config": {
            "aiflow": {
                "description": "Event mode of the scheduler, and the event log.",
                "options": {
                    "event_mode": _option(
                        "boolean", "False", "Run the event scheduler when ``airflow scheduler`` starts."
                    ),
                    "broker": _option(
                        "string",
                        "embedded",
                        "``embedded``: the scheduler process serves events on a socket under AIRFLOW_HOME. "
                        "Otherwise the address of an ``aiflow broker``, as tcp://127.0.0.1:5600.",
                    ),
                    "log": _option(
                        "string",
                        "",
                        "URI of the event log: sqlite:PATH or postgresql://... Empty: Airflow's own PostgreSQL "
                        "database, or AIRFLOW_HOME/aiflow/events.db where Airflow is not on PostgreSQL.",
                        sensitive=True,
                    ),
                    "safety_pass_sec": _option(
                        "float", "2.0", "Seconds between two full passes of the stock scheduler, whatever was heard."
                    ),
                    "stop_grace_sec": _option(
                        "float",
                        "2.0",
                        "Seconds a task that is asked to stop has to end by itself; then it gets SIGTERM, and after "
                        "as long again its row is changed, so that Airflow ends it at its next heartbeat.",
                    ),
                    "wake_sources": _option(
                        "string",
                        "broker,database,executor,api",
                        "Which hints wake the scheduler. Without any it still runs a full pass every "
                        "``safety_pass_sec``.",
                    ),
                },
            }
        },
    }


def _option(kind: str, default: str, description: str, *, sensitive: bool = False) -> dict[str, Any]:
    option: dict[str, Any] = {
        "description": description,
        "version_added": "0.1.0",
        "type": kind,
        "example": None,
        "default": default,
    }
    return option | ({"sensitive": True} if sensitive else {})
