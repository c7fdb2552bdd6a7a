"""What a StatsD and an OpenTelemetry collector get from a real scheduler, and the fields of its log."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from airflows import Deployment
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest

from aiflow_ext import Event, EventClient

DAGS = Path(__file__).parents[1] / "crash" / "dags"
TIMERS = {"aiflow.scheduler.reaction", "aiflow.scheduler.wake_to_reaction", "aiflow.scheduler.event_age"}
COUNTERS = {"aiflow.scheduler.events", "aiflow.scheduler.actions", "aiflow.broker.appended"}
GAUGES = {"aiflow.scheduler.backlog", "aiflow.broker.subscribers", "aiflow.broker.append.p99"}
EXPECTED = TIMERS | COUNTERS | GAUGES


class Collector(BaseHTTPRequestHandler):
    """Takes OTLP over HTTP."""

    found: dict[str, str] = {}  # noqa: RUF012  (the server makes an instance for each request)

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        for of in ExportMetricsServiceRequest.FromString(body).resource_metrics:
            for scope in of.scope_metrics:
                self.found.update({m.name: str(m.WhichOneof("data")) for m in scope.metrics})
        self.send_response(200)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture(scope="module")
def airflow(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployment]:
    home = tmp_path_factory.mktemp("af")
    config = {"logging.json_logs": "True", "aiflow.asset_events": "False"}
    airflow = Deployment(home, DAGS, event_mode=True, config=config)
    airflow.names = ["dag-processor"]
    airflow.start()
    airflow.wait_until(lambda: airflow.sql("SELECT 1 FROM serialized_dag WHERE dag_id = 'born'"))
    yield airflow
    airflow.close()


def work(airflow: Deployment) -> list[int]:
    """Something to count: two events, each makes a run."""
    airflow.wait_until(lambda: airflow.sql("SELECT 1 FROM aiflow_consumer WHERE name = 'scheduler'"))
    with EventClient(f"ipc://{airflow.home}/aiflow/broker.sock") as client:
        return [client.publish(Event("birth")) for _ in range(2)]


@contextmanager
def hearing(kinds: dict[str, str], totals: dict[str, float]) -> Iterator[int]:
    """A port for StatsD.  It is read all the time: what waits there too long is dropped."""

    def hear() -> None:
        while packet := udp.recv(65536).decode():
            name, _, rest = packet.removeprefix("airflow.").partition(":")
            value, kind = rest.split("|")[:2]
            totals[name] = totals.get(name, 0) + float(value)
            kinds[name] = kind

    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp:
        udp.bind(("127.0.0.1", 0))
        thread = threading.Thread(target=hear)
        thread.start()
        try:
            yield udp.getsockname()[1]
        finally:
            udp.sendto(b"", udp.getsockname())
            thread.join()


def test_statsd(airflow: Deployment) -> None:
    """Counters, gauges and timers arrive, and each firing is a line with fields."""
    kinds: dict[str, str] = {}
    totals: dict[str, float] = {}
    with hearing(kinds, totals) as port:
        airflow.env |= {
            "AIRFLOW__METRICS__STATSD_ON": "True",
            "AIRFLOW__METRICS__STATSD_HOST": "127.0.0.1",
            "AIRFLOW__METRICS__STATSD_PORT": str(port),
        }
        airflow.launch("scheduler")
        offsets: list[int] = []

        def counted() -> bool:  # a reaction that no event woke tells no time from the event on
            offsets.extend(work(airflow))
            return set(kinds) >= EXPECTED and totals["aiflow.scheduler.actions"] >= 2

        airflow.wait_until(counted, poll=1)
    assert {kinds[n] for n in TIMERS} == {"ms"}
    assert {kinds[n] for n in COUNTERS} == {"c"}
    assert {kinds[n] for n in GAUGES} == {"g"}
    assert totals["aiflow.scheduler.events"] >= 2
    airflow.wait_until(lambda: airflow.log("scheduler").count("a rule fired") >= len(offsets))
    lines = [json.loads(line) for line in airflow.log("scheduler").splitlines() if "a rule fired" in line]
    assert [(of["dag_id"], of["action"], of["offsets"]) for of in lines] == [("born", "start", [o]) for o in offsets]
    assert {"run_id", "task_id", "rule", "before", "after", "key", "type"} <= lines[0].keys()


def test_opentelemetry(airflow: Deployment) -> None:
    """The same, with histograms for the times."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Collector)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        airflow.env |= {
            "AIRFLOW__METRICS__STATSD_ON": "False",
            "AIRFLOW__METRICS__OTEL_ON": "True",
            "OTEL_EXPORTER_OTLP_METRICS_ENDPOINT": f"http://127.0.0.1:{server.server_port}/v1/metrics",
            "OTEL_METRIC_EXPORT_INTERVAL": "500",
        }
        airflow.restart("scheduler")
        kinds = ((TIMERS, "exponential_histogram"), (COUNTERS, "sum"), (GAUGES, "gauge"))
        named = {f"airflow.{name}": kind for names, kind in kinds for name in names}
        airflow.wait_until(lambda: work(airflow) and not named.keys() - Collector.found.keys(), poll=1)
        assert {name: Collector.found[name] for name in named} == named
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
