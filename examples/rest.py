"""Airflow's REST API, as far as the tests, the demo and the bench need it.

In:  the address of an api-server, a user, a password.
Out: runs and task instances as the plain dictionaries the server sends.
"""

from __future__ import annotations

import json
import os
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, TypeVar

FINISHED = ("success", "failed")
PATIENCE = float(os.environ.get("AIFLOW_PATIENCE_SEC", "240"))  # that something may take on a slow machine
T = TypeVar("T")

# Never through a proxy: the server is on this machine.
_direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))


class RestError(Exception):
    """The server's answer was an error; `status` is its HTTP code."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.status = status


def send(method: str, url: str, body: object = None, headers: dict[str, str] | None = None) -> Any:
    """One request; the decoded JSON of its answer."""
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data, {"Content-Type": "application/json", **(headers or {})}, method=method)
    try:
        with _direct.open(request, timeout=120) as answer:
            return json.loads(answer.read() or b"null")
    except urllib.error.HTTPError as e:
        text = f"{method} {url}: {e.code} {e.read().decode(errors='replace')[:500]}"
        raise RestError(e.code, text) from None


def wait_until(
    predicate: Callable[[], T],
    timeout: float = PATIENCE,
    what: str = "",
    *,
    poll: float = 0.1,
    blame: Callable[[], str] | None = None,
) -> T:
    """The first true value of `predicate`; else TimeoutError, with what `blame` has to say."""
    end = time.monotonic() + timeout
    while True:
        value = predicate()
        if value:
            return value
        if time.monotonic() >= end:
            text = f"not within {timeout:g} s: {what or predicate}; last seen: {value!r}"
            raise TimeoutError(text + ("\n" + blame() if blame else ""))
        time.sleep(poll)


class Rest:
    """A user of the public API.  Asks for a token at the first call, and again when it has expired."""

    def __init__(self, url: str, user: str, password: str) -> None:
        self.url = url
        self.user = user
        self.password = password
        self._token = ""

    def login(self) -> None:
        body = {"username": self.user, "password": self.password}
        self._token = send("POST", f"{self.url}/auth/token", body)["access_token"]

    def call(self, method: str, path: str, body: object = None) -> Any:
        if not self._token:
            self.login()
        try:
            return self._send(method, path, body)
        except RestError as e:
            if e.status != 401:
                raise
        self.login()
        return self._send(method, path, body)

    def _send(self, method: str, path: str, body: object) -> Any:
        return send(method, f"{self.url}/api/v2/{path}", body, {"Authorization": f"Bearer {self._token}"})

    def get(self, path: str, **query: object) -> Any:
        text = "?" + urllib.parse.urlencode(query) if query else ""
        return self.call("GET", path + text)

    def import_errors(self) -> list[dict[str, Any]]:
        errors: list[dict[str, Any]] = self.get("importErrors")["import_errors"]
        return errors

    def unpause(self, dag_id: str) -> None:
        self.call("PATCH", f"dags/{dag_id}?update_mask=is_paused", {"is_paused": False})

    def pause(self, dag_id: str) -> None:
        self.call("PATCH", f"dags/{dag_id}?update_mask=is_paused", {"is_paused": True})

    def trigger(self, dag_id: str, conf: dict[str, Any] | None = None, run_id: str | None = None) -> str:
        """Create a run now; its run id."""
        body: dict[str, Any] = {"logical_date": datetime.now(UTC).isoformat(), "conf": conf or {}}
        if run_id is not None:
            body["dag_run_id"] = run_id
        answer: str = self.call("POST", f"dags/{dag_id}/dagRuns", body)["dag_run_id"]
        return answer

    def run(self, dag_id: str, run_id: str) -> dict[str, Any]:
        run: dict[str, Any] = self.get(f"dags/{dag_id}/dagRuns/{urllib.parse.quote(run_id)}")
        return run

    def run_state(self, dag_id: str, run_id: str) -> str:
        return str(self.run(dag_id, run_id)["state"])

    def runs(self, dag_id: str) -> list[dict[str, Any]]:
        runs: list[dict[str, Any]] = self.get(f"dags/{dag_id}/dagRuns", limit=100)["dag_runs"]
        return runs

    def tasks(self, dag_id: str, run_id: str) -> dict[str, dict[str, Any]]:
        """The task instances of a run, by task id (mapped ones by `task_id[index]`)."""
        path = f"dags/{dag_id}/dagRuns/{urllib.parse.quote(run_id)}/taskInstances"
        found = self.get(path, limit=1000)["task_instances"]
        return {_name(ti): ti for ti in found}

    def tries(self, dag_id: str, run_id: str, task_id: str) -> list[dict[str, Any]]:
        """Every try of a task instance, the current one last."""
        path = f"dags/{dag_id}/dagRuns/{urllib.parse.quote(run_id)}/taskInstances/{task_id}/tries"
        tries: list[dict[str, Any]] = self.get(path)["task_instances"]
        return sorted(tries, key=lambda ti: ti["try_number"])


def _name(ti: dict[str, Any]) -> str:
    index = ti["map_index"]
    return ti["task_id"] if index < 0 else f"{ti['task_id']}[{index}]"
