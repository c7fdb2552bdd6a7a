"""A broker's health over HTTP, for those who watch: ``/health`` and, for Prometheus, ``/metrics``.

Only on this machine: it tells addresses and offsets, and asks nobody who he is.
"""

from __future__ import annotations

import ipaddress
import json
import socket
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Protocol

BUSY_MS = 10_000  # one turn that takes longer is no health
PREFIX = "aiflow_broker"


class _Broker(Protocol):
    def status(self) -> str: ...
    def error(self) -> str | None: ...


def problem(status: dict[str, Any]) -> str | None:
    """Return what is wrong with a broker, None when it is well.

    :param status: as of `Broker.status` or `EventClient.status`.
    """
    if not status["store"]["ok"]:
        return f"the store has failed for {status['store']['for_ms']} ms: {status['store']['error']}"
    if status["busy_ms"] > BUSY_MS:
        return f"one turn has taken {status['busy_ms']} ms"
    return None


def metrics(status: dict[str, Any]) -> str:
    """Return the status as Prometheus reads it (text format 0.0.4)."""
    return "\n".join([*_gauges(status), *_counters(status), *_latencies(status)]) + "\n"


def _gauges(status: dict[str, Any]) -> Iterator[str]:
    gauges = {
        "up": int(problem(status) is None),
        "store_ok": int(status["store"]["ok"]),
        "uptime_seconds": status["uptime_ms"] / 1000,
        "busy_seconds": status["busy_ms"] / 1000,
        "head": status["head"],
        "purged": status["purged"],
        "subscribers": status["subscribers"],
        "lag_max": max((s["lag"] for s in status["behind"]), default=0),
    }
    for name, value in gauges.items():
        yield f"# TYPE {PREFIX}_{name} gauge"
        yield f"{PREFIX}_{name} {value}"


def _counters(status: dict[str, Any]) -> Iterator[str]:
    for name, value in status["counters"].items():
        yield f"# TYPE {PREFIX}_{name}_total counter"
        yield f"{PREFIX}_{name}_total {value}"
    yield f"# TYPE {PREFIX}_refused_total counter"
    for code, value in status["refused"].items():
        yield f'{PREFIX}_refused_total{{code="{code}"}} {value}'


def _latencies(status: dict[str, Any]) -> Iterator[str]:
    yield f"# TYPE {PREFIX}_latency_seconds histogram"
    for what, hist in status["latency_us"].items():
        below = 0
        for i, n in enumerate(hist["buckets"]):
            below += n
            yield f'{PREFIX}_latency_seconds_bucket{{what="{what}",le="{2**i / 1e6:g}"}} {below}'
        yield f'{PREFIX}_latency_seconds_bucket{{what="{what}",le="+Inf"}} {hist["n"]}'
        yield f'{PREFIX}_latency_seconds_sum{{what="{what}"}} {hist["sum"] / 1e6:g}'
        yield f'{PREFIX}_latency_seconds_count{{what="{what}"}} {hist["n"]}'


class _Request(BaseHTTPRequestHandler):
    server: Health
    timeout = 5  # of a peer that says nothing

    def do_GET(self) -> None:
        code, kind, body = self.server.answer(self.path)
        self.send_response(code)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    do_HEAD = do_GET

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
        """Say nothing: who watches asks every second."""


class Health(ThreadingHTTPServer):
    """An HTTP server in a thread: 200 while the broker is well, 503 while it is not.

    :param broker: whose status it tells.
    :param address: "HOST:PORT" on this machine; port 0 picks one.
    """

    daemon_threads = True

    def __init__(self, broker: _Broker, address: str) -> None:
        host, port = _split(address)
        self.address_family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self._broker = broker
        try:
            super().__init__((host, port), _Request)
        except OSError as e:
            raise OSError(f"cannot serve health at {address}: {e.strerror}; name another port, or 0 for any") from None
        self._thread = threading.Thread(target=self.serve_forever, args=(0.1,), name="aiflow-health", daemon=True)
        self._thread.start()

    def __exit__(self, *exc: object) -> None:
        self.shutdown()
        self._thread.join()
        self.server_close()

    @property
    def url(self) -> str:
        """Where it is served, the port filled in."""
        host, port = self.server_address[:2]
        return f"http://[{host!s}]:{port}" if ":" in str(host) else f"http://{host!s}:{port}"

    def answer(self, path: str) -> tuple[int, str, bytes]:
        """Return code, type and body for a path."""
        if path not in ("/health", "/metrics"):
            return 404, "text/plain", b"there are /health and /metrics\n"
        try:
            status = json.loads(self._broker.status())
            wrong = self._broker.error() or problem(status)
        except Exception as e:
            return 503, "application/json", json.dumps({"ok": False, "problem": str(e)}).encode()
        if path == "/metrics":
            return 200, "text/plain; version=0.0.4", metrics(status).encode()
        told = {"ok": wrong is None, "problem": wrong, **status}
        return (200 if wrong is None else 503), "application/json", json.dumps(told).encode()


def _split(address: str) -> tuple[str, int]:
    host, _, port = address.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    host = "127.0.0.1" if host == "localhost" else host
    try:
        local = ipaddress.ip_address(host).is_loopback
    except ValueError:
        local = False
    if not local or not port.isdecimal() or int(port) > 65535:
        port = port if port.isdecimal() else "PORT"
        raise ValueError(
            f"{address} is no place for health: write 127.0.0.1:{port}; health is for this machine, it asks for no key"
        )
    return host, int(port)
