"""kill -9 of a scheduler in event mode at each point of the two ways between events and asset events, then count."""

from __future__ import annotations

from pathlib import Path

from airflows import WATCHERS, Deploy, Deployment, died

from aiflow_ext import Event, EventLog

DAGS = Path(__file__).parents[1] / "airflow" / "asset_dags"
POINTS = (
    "apply.locked",
    "append.before_commit",  # these two in the broker's process: the first to append is what tells of asset events
    "append.after_commit",
    "apply.acted",
    "apply.saved",
    "apply.committed",
)
CHANGE = "INSERT INTO asset_event (asset_id, extra, timestamp) SELECT id, '{}', now() FROM asset WHERE name = 'made'"
TAKEN = "SELECT count(DISTINCT event_id) FROM dagrun_asset_event"
STORED = (
    "SELECT (e.extra->'payload'->>'offset')::int FROM asset_event e JOIN asset a ON a.id = asset_id "
    "WHERE name = ? ORDER BY e.id"
)


def stored(airflow: Deployment, asset: str) -> list[int]:
    """The offsets of the events that became events of this asset, in the order they did."""
    return [offset for (offset,) in airflow.sql(STORED, asset)]


def told(log: EventLog) -> int:
    """How many events say that the asset `made` changed."""
    return log.count(0, ("airflow", "made", "ASSET_UPDATED", "*"))


def test_killed_at_every_point(deploy: Deploy) -> None:
    """Each event is one event of each asset, each asset event is one event."""
    airflow = deploy("postgresql", DAGS, event_mode=True, config=WATCHERS | {"aiflow.tell": "all"})
    airflow.wait_for_dag("counts")
    watching = "SELECT count(*) FROM aiflow_consumer WHERE substr(name, 1, 6) = 'asset:'"
    airflow.wait_until(lambda: airflow.sql(watching)[0][0] >= 3)
    airflow.wait_until(lambda: airflow.sql("SELECT 1 FROM aiflow_consumer WHERE substr(name, 1, 7) = 'assets:'"))
    airflow.kill("scheduler")
    offsets: list[int] = []
    with EventLog(airflow.log_uri()) as log:
        for n, point in enumerate(POINTS):
            offsets += log.append([Event("n", str(i), namespace="default") for i in range(5)], "test", 5 * n + 1)
            for _ in range(2):
                airflow.sql(CHANGE)
            airflow.env["AIF_CRASH_AT"] = point
            logged = len(airflow.log("scheduler"))
            airflow.begin("scheduler")
            airflow.wait_until(lambda n=logged: died(airflow, n), what=f"killed at {point}")
            airflow.kill("scheduler")  # what it left behind, too
        del airflow.env["AIF_CRASH_AT"]
        airflow.launch("scheduler")
        for asset in ("n_all", "n_too"):
            airflow.wait_until(lambda a=asset: len(stored(airflow, a)) >= len(offsets), what=asset)
        airflow.wait_until(lambda: told(log) >= 2 * len(POINTS), what="told")
        airflow.wait_until(lambda: airflow.sql(TAKEN)[0][0] >= 2 * len(offsets), what="taken by runs")
        airflow.kill("scheduler")
        assert stored(airflow, "n_all") == stored(airflow, "n_too") == offsets
        assert told(log) == 2 * len(POINTS)
