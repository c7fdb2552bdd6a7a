"""A broker that asks for keys, and each part of an Airflow that has them from airflow.cfg alone."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from aiflow_ext import _core
from aiflow_ext.broker import keys

BEGIN = """
import asyncio, json, sys
from types import SimpleNamespace
from airflow.sdk.definitions._internal.contextmanager import _CURRENT_CONTEXT
from aiflow_ext import Event, EventClient, event
from aiflow_ext.provider.author.task import STOP_NAMESPACE, STOP_TYPE, stop_requested

_CURRENT_CONTEXT.append({"ti": SimpleNamespace(id="a try")})
other = EventClient(sys.argv[1], key_file=sys.argv[2])
stop = Event("a try", "stop", STOP_TYPE, namespace=STOP_NAMESPACE)
"""
PARTS = {
    "a client in a task": """
with EventClient() as client:
    assert client.publish(Event("k")) == 1
""",
    "a task": """
assert not stop_requested()
other.publish(stop)
while not stop_requested():
    pass
""",
    "a task that was asked before": """
other.publish(stop)
assert stop_requested()
""",
    "a parked task": """
from aiflow_ext.provider.author.waiting import EventTrigger
from aiflow_ext.rules import Rule

async def main():
    rules = {"v": 1, "rules": [Rule("r", "start", event("k")).to_json()]}
    fires = asyncio.ensure_future(anext(EventTrigger(json.dumps(rules), "dag", "task").run()))
    while not fires.done():
        await asyncio.to_thread(other.publish, Event("k"))
        await asyncio.wait({fires}, timeout=0.1)
    assert "k" in json.loads(fires.result().payload)[0]

asyncio.run(main())
""",
    "an asset watcher": """
from aiflow_ext.provider.assets.trigger import EventLogTrigger

other.publish(Event("k"))
found = asyncio.run(anext(EventLogTrigger("k", after=0).run()))
assert found.payload["key"] == "k"
""",
    "wake-ups by the api-server": """
from aiflow_ext.provider.http import middleware

assert middleware._client("hints").head() == 0
""",
    "HTTP on the api-server": """
from aiflow_ext.provider.http.link import link

async def main():
    return await link().ask(lambda client: client.head())

assert asyncio.run(main()) == 0
""",
}


@pytest.mark.parametrize("part", PARTS)
def test_it_has_the_key(part: str, tmp_path: Path) -> None:
    key, _ = keys.new_key("airflow", ["*"], ["*"], tmp_path / "keys")
    with _core.Broker("tcp://127.0.0.1:0", "mem:", keys.load_broker_key(tmp_path / "keys")) as broker:
        broker.set_access([grant.row() for grant in keys.load_access(tmp_path / "keys")])
        broker.start()
        section = f"[aiflow]\nevent_mode = True\nbroker = {broker.uri}\nkey_file = {key}\n"
        (tmp_path / "airflow.cfg").write_text(f"[core]\nload_examples = False\n{section}")
        env = {name: text for name, text in os.environ.items() if not name.startswith(("AIRFLOW", "AIFLOW"))}
        program = [sys.executable, "-c", BEGIN + PARTS[part], broker.uri, str(key)]
        env |= {"AIRFLOW_HOME": str(tmp_path)}
        done = subprocess.run(program, env=env, capture_output=True, text=True, timeout=1800, check=False)
    assert done.returncode == 0, done.stderr
