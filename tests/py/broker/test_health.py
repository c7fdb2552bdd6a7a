import json
import re
import socket
import subprocess
import sys
import tomllib
import urllib.error
import urllib.request
from pathlib import Path

import pytest

from aiflow_ext import Event, EventClient, _core
from aiflow_ext.broker.health import Health, metrics, problem
from aiflow_ext.errors import StoreError

ROOT = Path(__file__).parents[3]


def get(url):
    try:
        with urllib.request.urlopen(url, timeout=60) as answer:
            return answer.status, answer.headers["Content-Type"], answer.read().decode()
    except urllib.error.HTTPError as e:
        with e:
            return e.code, e.headers["Content-Type"], e.read().decode()


@pytest.fixture
def health(broker):
    with Health(broker, "127.0.0.1:0") as health:
        yield health


def test_status_says_what_it_is_and_counts(broker, client):
    with client.subscribe(after=0) as events:
        client.publish_many(Event("a") for _ in range(10))
        while not events.poll(5):
            pass
    status = json.loads(broker.status())
    assert status["version"] == tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    assert (status["protocol"], status["uri"], status["log"]) == (4, broker.uri, "sqlite")
    assert status["store"] == {"ok": True}
    assert (status["head"], status["counters"]["appended"]) == (10, 10)
    assert status["counters"]["bytes_in"] > 0 < status["counters"]["bytes_out"]
    assert status["latency_us"]["append"]["n"] == status["counters"]["turns"] >= 1
    for hist in status["latency_us"].values():
        assert sum(hist["buckets"]) == hist["n"]
        assert hist["p50"] <= hist["p90"] <= hist["p99"] <= hist["max"]
    assert problem(status) is None


def test_a_refusal_is_counted_and_said_once(broker):
    with EventClient(broker.uri) as client:
        for _ in range(3):
            with pytest.raises(ValueError, match="offset 5 is beyond the newest one, 0"):
                client.count(after=5)
    assert json.loads(broker.status())["refused"]["EINVAL"] == 3
    ((level, line),) = [(level, text) for level, text in broker.trace() if not text.startswith("slow turn")]
    assert level == 30
    assert re.match(r'frame refused peer=[0-9a-f]{8} address=\S+ why="offset 5 is beyond', line)
    assert [text for _, text in broker.trace() if not text.startswith("slow turn")] == []


def test_health_is_200_while_it_is_well(health):
    code, kind, body = get(f"{health.url}/health")
    assert (code, kind) == (200, "application/json")
    told = json.loads(body)
    assert told["ok"] is True
    assert told["problem"] is None
    assert told["log"] == "sqlite"


def test_health_is_503_when_the_log_is_gone(broker, client, health, tmp_path):
    client.publish(Event("a"))
    (tmp_path / "events.db").rename(tmp_path / "away")
    with pytest.raises(StoreError, match=r"events\.db"):
        client.publish(Event("b"), timeout=5)
    code, _, body = get(f"{health.url}/health")
    assert code == 503
    assert "the store has failed" in json.loads(body)["problem"]
    assert "aiflow_broker_store_ok 0" in get(f"{health.url}/metrics")[2]
    (tmp_path / "away").rename(tmp_path / "events.db")
    client.publish(Event("c"))
    assert get(f"{health.url}/health")[0] == 200
    said = [text for _, text in broker.trace()]
    assert any(text.startswith("store failed what=append") for text in said)
    assert any(text.startswith("store works again after_ms=") for text in said)


def test_health_is_503_when_the_broker_is_closed(broker, health):
    broker.stop()
    code, _, body = get(f"{health.url}/health")
    assert code == 503
    assert "closed" in json.loads(body)["problem"]


def test_metrics_are_what_prometheus_reads(broker, client, health):
    client.publish(Event("a"))
    code, kind, body = get(f"{health.url}/metrics")
    assert (code, kind) == (200, "text/plain; version=0.0.4")
    line = re.compile(r'(# TYPE \w+ (gauge|counter|histogram)|\w+(\{\w+="[\w+.e-]+"(,le="[\w+.e-]+")?\})? [\d.e+-]+)$')
    for text in body.splitlines():
        assert line.match(text), text
    assert "aiflow_broker_appended_total 1" in body
    assert 'aiflow_broker_latency_seconds_count{what="append"} 1' in body
    buckets = re.findall(r'_bucket\{what="append",le="[^"]+"\} (\d+)', body)
    assert [int(n) for n in buckets] == sorted(int(n) for n in buckets)


def test_other_paths_and_heads(health):
    assert get(f"{health.url}/")[0] == 404
    request = urllib.request.Request(f"{health.url}/health", method="HEAD")
    with urllib.request.urlopen(request, timeout=60) as answer:
        assert answer.read() == b""


@pytest.mark.parametrize("address", ["0.0.0.0:0", "example.org:80", "127.0.0.1", "127.0.0.1:x", "127.0.0.1:70000", ""])
def test_only_this_machine_is_told(broker, address):
    with pytest.raises(ValueError, match="is no place for health"):
        Health(broker, address)


@pytest.mark.parametrize("address", ["localhost:0", "[::1]:0"])
def test_other_names_of_this_machine(broker, address):
    family = socket.AF_INET6 if "::1" in address else socket.AF_INET
    try:
        socket.create_server(("::1" if "::1" in address else "127.0.0.1", 0), family=family).close()
    except OSError as e:
        pytest.skip(f"a machine without it: {e}")
    with Health(broker, address) as health:
        assert get(f"{health.url}/health")[0] == 200


def test_a_slow_turn_is_no_health():
    with _core.Broker("tcp://127.0.0.1:0", "mem:") as broker:
        status = json.loads(broker.status())
    assert problem({**status, "busy_ms": 10_001}) == "one turn has taken 10001 ms"
    assert "aiflow_broker_up 0" in metrics({**status, "busy_ms": 10_001})


def test_the_command_serves_health_and_logs_what_the_broker_says(tmp_path):
    command = [sys.executable, "-m", "aiflow_ext.cli", "broker", "--bind", f"ipc://{tmp_path}/b", "--log", "mem:"]
    with subprocess.Popen([*command, "--health", "127.0.0.1:0"], stderr=subprocess.PIPE, text=True) as broker:
        assert broker.stderr.readline().startswith("aiflow broker: serving")
        said = broker.stderr.readline()
        assert said.startswith("aiflow broker: health at http://127.0.0.1:")
        assert get(said.split()[-1])[0] == 200
        with EventClient(f"ipc://{tmp_path}/b") as client, pytest.raises(ValueError, match="beyond"):
            client.count(after=5)
        line = next(line for line in broker.stderr if "slow turn" not in line)
        assert re.match(r"\S+ \S+ WARNING aiflow broker: frame refused peer=", line), line
        broker.terminate()
        assert next(line for line in broker.stderr if "slow turn" not in line).startswith("aiflow broker: stopped")
    assert broker.returncode == 0
