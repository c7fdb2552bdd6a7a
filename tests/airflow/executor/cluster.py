"""What KubernetesExecutor sees of Kubernetes: an API server for pods, which runs each as a process.

It knows: create, list, watch, read, patch and delete.  A pod's container is its command, run by a function of the test.
A pod that is deleted gets SIGTERM, and SIGKILL after its grace period.
"""

from __future__ import annotations

import json
import re
import subprocess
import threading
from collections.abc import Callable
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

Pod = dict[str, Any]
POD = {"name": "pods", "singularName": "pod", "namespaced": True, "kind": "Pod"}
FIXED = {
    "/version": {"major": "1", "minor": "31", "gitVersion": "v1.31.0"},
    "/api": {"kind": "APIVersions", "versions": ["v1"]},
    "/apis": {"kind": "APIGroupList", "groups": []},
    "/api/v1": {
        "kind": "APIResourceList",
        "groupVersion": "v1",
        "resources": [POD | {"verbs": ["create", "delete", "get", "list", "patch", "watch"]}],
    },
}


class Cluster:
    """Pods, and what happened to them.

    :param run: begins the command of a pod.
    """

    def __init__(self, run: Callable[[list[str]], subprocess.Popen[bytes]]) -> None:
        self.commands: list[list[str]] = []
        self._run = run
        self._changed = threading.Condition()
        self._pods: dict[str, Pod] = {}
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        self._events: list[tuple[str, Pod]] = []
        cluster = self

        class Handler(_Handler):
            pods = cluster

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.uri = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        for process in self._processes.values():
            process.kill()
            process.wait()

    def create(self, pod: Pod) -> Pod:
        """Accept it, and run it."""
        pod["metadata"] |= {"uid": pod["metadata"]["name"], "creationTimestamp": datetime.now(UTC).isoformat()}
        pod["status"] = {"phase": "Pending"}
        self._tell("ADDED", pod)
        threading.Thread(target=self._live, args=[pod], daemon=True).start()
        return pod

    def read(self, name: str) -> Pod | None:
        return self._pods.get(name)

    def patch(self, name: str, changes: Pod) -> Pod | None:
        """Change its labels and annotations."""
        pod = self._pods.get(name)
        if pod is not None:
            for part in ("labels", "annotations"):
                pod["metadata"].setdefault(part, {}).update(changes.get("metadata", {}).get(part, {}))
            self._tell("MODIFIED", pod)
        return pod

    def delete(self, name: str) -> Pod | None:
        """End it."""
        pod = self._pods.get(name)
        if pod is not None:
            pod["metadata"]["deletionTimestamp"] = datetime.now(UTC).isoformat()
            if process := self._processes.get(name):
                process.terminate()
                timer = threading.Timer(30.0, process.kill)
                timer.daemon = True
                timer.start()
            self._tell("DELETED", pod)
        return pod

    def some(self, selector: str) -> tuple[list[Pod], int]:
        """The pods that a selector means, and the version of this list."""
        with self._changed:
            return [pod for pod in self._pods.values() if _matches(pod, selector)], len(self._events)

    def after(self, version: int, selector: str) -> tuple[list[tuple[str, Pod]], int]:
        """What happened after a version, and the version then; waits a second for something to happen."""
        with self._changed:
            self._changed.wait_for(lambda: len(self._events) > version, 1.0)
            return [(kind, pod) for kind, pod in self._events[version:] if _matches(pod, selector)], len(self._events)

    def _live(self, pod: Pod) -> None:
        container = pod["spec"]["containers"][0]
        command = [*container.get("command", []), *container.get("args", [])]
        self.commands.append(command)
        process = self._processes[pod["metadata"]["name"]] = self._run(command)
        self._phase(pod, "Running")
        self._phase(pod, "Failed" if process.wait() else "Succeeded")

    def _phase(self, pod: Pod, phase: str) -> None:
        if pod["metadata"]["name"] in self._pods:
            pod["status"]["phase"] = phase
            self._tell("MODIFIED", pod)

    def _tell(self, kind: str, pod: Pod) -> None:
        name = pod["metadata"]["name"]
        with self._changed:
            pod["metadata"]["resourceVersion"] = str(len(self._events) + 1)
            self._pods[name] = pod
            if kind == "DELETED":
                del self._pods[name]
            self._events.append((kind, json.loads(json.dumps(pod))))
            self._changed.notify_all()


def _matches(pod: Pod, selector: str) -> bool:
    """Whether a pod has the labels: `a=b`, `a!=b` or `a`, with commas."""
    labels = pod["metadata"].get("labels", {})
    for name, sign, value in re.findall(r"([\w./-]+)(!?==?)?([\w.-]*)(?:,|$)", selector):
        if (labels.get(name) == value if sign else name in labels) == sign.startswith("!"):
            return False
    return True


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    pods: Cluster

    def do_GET(self) -> None:
        url = urlsplit(self.path)
        asked = {key: values[0] for key, values in parse_qs(url.query).items()}
        selector = asked.get("labelSelector", "")
        if url.path in FIXED:
            self._answer(FIXED[url.path])
        elif name := self._name(url.path):
            self._answer(self.pods.read(name))
        elif asked.get("watch", "").lower() == "true":
            self._watch(selector, int(asked.get("resourceVersion", "0")))
        else:
            found, version = self.pods.some(selector)
            self._answer({"kind": "PodList", "metadata": {"resourceVersion": str(version)}, "items": found})

    def do_POST(self) -> None:
        self._answer(self.pods.create(self._body()))

    def do_PATCH(self) -> None:
        self._answer(self.pods.patch(self._name(self.path), self._body()))

    def do_DELETE(self) -> None:
        self._body()
        self._answer(self.pods.delete(self._name(urlsplit(self.path).path)))

    def _name(self, path: str) -> str:
        return path.partition("/pods/")[2]

    def _body(self) -> Any:
        return json.loads(self.rfile.read(int(self.headers.get("Content-Length", "0"))) or b"{}")

    def _answer(self, content: Any) -> None:
        body = json.dumps(content if content is not None else {"kind": "Status", "code": 404}).encode()
        self.send_response(200 if content is not None else 404)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def _watch(self, selector: str, version: int) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        try:
            while True:
                events, version = self.pods.after(version, selector)
                for kind, pod in events:
                    line = json.dumps({"type": kind, "object": pod}).encode() + b"\n"
                    self.wfile.write(b"%x\r\n%b\r\n" % (len(line), line))
        except OSError:  # who watches has gone
            self.close_connection = True

    def log_message(self, *args: object) -> None:
        """Not to stderr."""
