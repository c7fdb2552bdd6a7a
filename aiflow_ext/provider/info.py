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
        "queues": ["aiflow_ext.provider.assets.queue.EventLogQueueProvider"],
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
                        "``embedded``: a child process of the scheduler serves events on a socket under AIRFLOW_HOME. "
                        "Otherwise the address of an ``aiflow broker``, as tcp://127.0.0.1:5600.",
                    ),
                    "key_file": _option(
                        "string",
                        "",
                        "For a broker at tcp:// with keys: the file that ``aiflow keys new`` wrote for this Airflow. "
                        "Empty: $AIFLOW_KEY_FILE.",
                    ),
                    "log": _option(
                        "string",
                        "",
                        "URI of the event log: sqlite:PATH, postgresql://user:password@host/database or "
                        "mysql://user:password@host/database (not an SQLAlchemy URL: no +driver). Empty: Airflow's own "
                        "PostgreSQL or MySQL database, or AIRFLOW_HOME/aiflow/events.db where Airflow is on SQLite.",
                        sensitive=True,
                    ),
                    "listen": _option(
                        "string",
                        "",
                        "Where Airflow reaches its PostgreSQL through a pooler that lends sessions for one transaction "
                        "(PgBouncer): the server's own address, postgresql://user:password@host/database, to LISTEN "
                        "there. Empty: where sql_alchemy_conn says. Without LISTEN the scheduler hears of changes from "
                        "the api-server, and of the rest at each full pass.",
                        sensitive=True,
                    ),
                    "retention": _option(
                        "string",
                        "",
                        "What the log lets go: NAMESPACE=AGE,COUNT, several separated by spaces, as "
                        "``airflow=7d metrics*=1d,1000000``. Only what the scheduler has read goes. Empty: nothing.",
                    ),
                    "history_days": _option(
                        "float",
                        "0",
                        "For how many days after the end of its run it is kept what rules did (``aiflow_action``) and "
                        "what started the tasks, which a clear needs; also after how many days (7 at least) a cursor "
                        "that no subscription has moved is deleted, and the place of an asset watcher that is gone. "
                        "0: as long as the run is there, and for ever.",
                    ),
                    "safety_pass_sec": _option(
                        "float",
                        "2.0",
                        "Seconds between two full passes of the stock scheduler, whatever it hears. On PostgreSQL, "
                        "while nothing is heard and no run has anything to do, up to 30.",
                    ),
                    "stop_grace_sec": _option(
                        "float",
                        "2.0",
                        "Seconds a task that is asked to stop has to end by itself; then it gets SIGTERM, and after "
                        "as long again its row is changed, so that Airflow ends it at its next heartbeat.",
                    ),
                    "asset_events": _option(
                        "boolean",
                        "True",
                        "Event mode: each asset event becomes an event, too, with namespace ``airflow``, type "
                        "``ASSET_UPDATED`` and the asset's name as key, for rules and asset watchers, see ``tell``.",
                    ),
                    "tell": _option(
                        "string",
                        "asked",
                        "Event mode: which states of tasks, and asset events, are published as events. ``asked``: what "
                        "a rule or an asset watcher waits for. ``all``: all, for subscribers outside of Airflow.",
                    ),
                    "wake_sources": _option(
                        "string",
                        "broker,database,executor,api",
                        "Which hints wake the scheduler. Without any it still runs a full pass every "
                        "``safety_pass_sec``.",
                    ),
                    "http_streams": _option(
                        "integer",
                        "100",
                        "How many server-sent streams one process of the api-server serves at a time.",
                    ),
                    "github_webhook_secrets": _option(
                        "string",
                        "",
                        "Secrets of GitHub's webhooks, with commas between: any of them will do, so that they can be "
                        "changed one after another. Empty: that route is off.",
                        sensitive=True,
                    ),
                    "mlflow_webhook_secrets": _option(
                        "string", "", "The same for the webhooks of MLflow's model registry.", sensitive=True
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
