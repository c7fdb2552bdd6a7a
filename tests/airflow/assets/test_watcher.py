"""The trigger alone, on a real broker, as the triggerer's runner drives it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

ALONE = """if True:
    import asyncio, json, os, sys, warnings
    from airflow.providers.common.messaging.triggers.msg_queue import MessageQueueTrigger
    from aiflow_ext import Event, EventClient, _core
    from aiflow_ext.provider.assets import trigger as watcher
    uri = sys.argv[1]

    def say(found):
        told = {k: v for k, v in found.payload.items() if k in ("key", "offset", "begin", "seen")}
        print(json.dumps(told | {"of_log": found.payload.get("log_id") == client.status()["log_id"]}))

    async def first(trigger):
        run = trigger.run()
        say(await anext(run))
        await run.aclose()

    async def main():
        trigger = MessageQueueTrigger(scheme="aiflow", key=["x", "z*"], after=0, broker=uri)
        print(json.dumps(trigger.serialize()[1] | {"broker": None}))
        client.publish_many([Event("y"), Event("zz")])  # offsets 1 and 2
        await first(trigger)
        await first(watcher.EventLogTrigger(broker=uri, start=watcher.LATEST))
        watcher.PROGRESS_SEC = 0.1
        await first(watcher.EventLogTrigger("z*", broker=uri, start=1))  # of a row without the log's id: it says that
        of = {"broker": uri, "log_id": client.status()["log_id"]}
        await first(watcher.EventLogTrigger("none", start=1, **of))  # nothing for it, and it says how far it is
        await first(watcher.EventLogTrigger("z*", start=1, **of))
        watcher.LIFE = 2
        client.publish_many([Event("w")] * 5)
        lives = watcher.EventLogTrigger("w", start=2, **of)
        assert 2 <= len([1 async for _ in lives.run()]) <= 5  # then the supervisor begins another

        watcher.RETRY_SEC = 0
        for wrong in ("tcp://no-port", "http://no-broker"):  # said, and neither hurried nor given up
            assert [m async for m in watcher.EventLogTrigger("w", broker=wrong, start=2).run()] == []
        of["log_id"] += 1
        assert [m async for m in watcher.EventLogTrigger("w", start=2, **of).run()] == []
        os.environ["AIRFLOW__AIFLOW__KEY_FILE"] = "/nowhere/a.key"
        assert [m async for m in watcher.EventLogTrigger("w", broker="tcp://127.0.0.1:1", start=2).run()] == []

    with _core.Broker(uri, "mem:") as broker:
        broker.start()
        with EventClient(uri) as client:
            asyncio.run(main())
"""


def test_the_trigger_alone(tmp_path: Path) -> None:
    """Its filters, its marks, and that it ends clean."""
    program = [sys.executable, "-X", "dev", "-W", "ignore", "-c", ALONE, f"ipc://{tmp_path}/b.sock"]
    env = os.environ | {"AIRFLOW_HOME": str(tmp_path), "AIRFLOW__CORE__LOAD_EXAMPLES": "False"}
    done = subprocess.run(program, env=env, capture_output=True, text=True, timeout=1800, check=False)
    assert done.returncode == 0, done.stderr
    told = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    assert told == [
        {"key": ["x", "z*"], "after": 0, "broker": None},
        {"key": "zz", "offset": 2, "of_log": False},  # it is a task that waits
        {"begin": 2, "of_log": True},
        {"seen": 1, "of_log": True},
        {"seen": 2, "of_log": True},
        {"key": "zz", "offset": 2, "of_log": True},
    ]
    assert "Error" not in done.stderr
