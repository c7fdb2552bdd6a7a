"""The demo: a real Airflow in event mode, real images, and a table of what happened when.

examples/demo.py           bring Airflow up, learn, print, bring it down; exit 1 if anything is missing
examples/demo.py --keep    the same, but leave Airflow and its UI running
examples/demo.py up|down   only leave Airflow running; end what was left running
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import sys
import time
from collections import defaultdict
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

from deployment import Deployment, free_port, stop_recorded

HERE = Path(__file__).parent
HOME = HERE.parent / "build" / "airflow"
IMAGES, VERSION_EVERY, HELD_OUT_EVERY = 1797, 200, 9
PATIENCE = 300  # seconds in which something that is missing must come
VERSIONS = IMAGES // VERSION_EVERY
REACTION = {"MODEL_GENERATED": "evaluate", "MODEL_VALIDATED": "serve"}
DAG = "online_learning"


class Story:
    """Everything seen so far: events, the reactions to them, verdicts, questions and answers."""

    def __init__(self) -> None:
        self.began = time.monotonic()
        self.events: dict[int, Any] = {}
        self.reactions: dict[int, list[tuple[str, float]]] = defaultdict(list)
        self.versions: dict[int, dict[str, Any]] = {}
        self.answers: dict[int, dict[str, Any]] = {}

    def take(self, event: Any) -> None:
        """Remember one event; print it if it is part of the table."""
        value = json.loads(event.value) if event.value else {}
        self.events[event.offset] = event
        if event.type == "REACTED":
            self._reacted(value)
        elif event.key == "digits":
            self.versions.setdefault(value["version"], {}).update(value, verdict=event.type)
        elif event.key == "prediction":
            asked = self.events[value["request"]]
            self.answers[value["request"]] = value | {"ms": event.create_time - asked.create_time}

    def _reacted(self, value: dict[str, Any]) -> None:
        for offset in value["offsets"]:
            cause = self.events[offset]
            ms = value["began_ms"] - cause.create_time
            self.reactions[offset].append((value["task"], ms))
            self.row(cause, value["task"], ms)

    def row(self, cause: Any, reaction: str, ms: float) -> None:
        found = json.loads(cause.value) if cause.value else {}
        what = f"{cause.type if cause.key == 'digits' else cause.key} {found.get('version', '')}"
        accuracy = f"{found['accuracy']:.3f}" if "accuracy" in found else ""
        seconds = time.monotonic() - self.began
        print(f"{seconds:7.1f}  {cause.offset:6}  {what:20} {accuracy:8} {reaction:18} {ms:8.0f}", flush=True)

    def unanswered(self) -> list[int]:
        return [o for o, e in self.events.items() if e.key == "predict" and o not in self.answers]

    def serving(self) -> bool:
        return any(name == "serve" for found in self.reactions.values() for name, _ in found)

    def missing(self) -> Iterator[str]:
        """What should have happened and did not, or not once."""
        for version in range(1, VERSIONS + 1):
            if "accuracy" not in self.versions.get(version, {}):
                yield f"model version {version} was not scored"
        for offset, e in self.events.items():
            task = REACTION.get(e.type)
            if task and [name for name, _ in self.reactions[offset]] != [task]:
                yield f"event {offset} ({e.type}) should have started {task} once: {self.reactions[offset]}"
        last = max((v for v, found in self.versions.items() if found.get("verdict") == "MODEL_VALIDATED"), default=0)
        if last not in {a["version"] for a in self.answers.values()}:
            yield f"model version {last}, the last validated one, answered no request"
        yield from (f"request {offset} was not answered" for offset in self.unanswered())


def follow(client: Any, story: Story) -> None:
    """Take in every event, and ask for a prediction each second, until nothing is missing, or nothing happens."""
    from aiflow_ext import Event

    events = client.subscribe(after=0)
    progress, missing = time.monotonic(), set(story.missing())
    next_question, image = 0.0, 0
    while missing and time.monotonic() < progress + PATIENCE:
        for e in events.poll(0.2):
            story.take(e)
        before, missing = missing, set(story.missing())
        if not before <= missing:
            progress = time.monotonic()
        only_answers = len(missing) == len(story.unanswered())
        if story.serving() and not only_answers and time.monotonic() >= next_question:
            client.publish(Event("predict", json.dumps({"image": image})))
            next_question, image = time.monotonic() + 1.0, (image + HELD_OUT_EVERY) % IMAGES


def end_stream(airflow: Deployment, client: Any, story: Story, run_id: str) -> None:
    """Publish the end; both endless tasks stop, and the run ends in success."""
    from aiflow_ext import Event

    offset = client.publish(Event("stream.end"))
    story.take(client.list(key="stream.end", after=offset - 1)[0])
    airflow.wait_for_run(DAG, run_id)
    for name, ti in airflow.rest.tasks(DAG, run_id).items():
        if name in ("train", "serve"):
            ended = datetime.fromisoformat(ti["end_date"]).timestamp() * 1000
            story.row(story.events[offset], f"{name} stopped", ended - story.events[offset].create_time)


def learn(airflow: Deployment, story: Story, speed: float) -> None:
    from aiflow_ext import EventClient

    client = EventClient(sender="demo")
    for dag_id in (DAG, "native"):
        airflow.wait_for_dag(dag_id)
        airflow.rest.unpause(dag_id)
    print(
        "\nEach line is an event (after how many seconds it was seen, and its place in the log), the task that it\n"
        "started or stopped, and how many ms lie between the event and the task's first line of code (or its end)."
    )
    print(f"\n{'seconds':>7}  {'offset':>6}  {'event':20} {'accuracy':8} {'task':18} {'ms':>8}")
    story.began = time.monotonic()
    run_id = airflow.rest.trigger(DAG, {"images_per_second": speed})
    native = airflow.rest.trigger("native")
    follow(client, story)
    if not any(story.missing()):
        end_stream(airflow, client, story, run_id)
        airflow.wait_for_run("native", native)


def summary(story: Story) -> None:
    print("\nversion  accuracy  verdict          served")
    for version, found in sorted(story.versions.items()):
        mine = [a for a in story.answers.values() if a["version"] == version]
        print(f"{version:7}  {found.get('accuracy', 0):8.3f}  {found['verdict']:15}  {len(mine)} requests")
    times: dict[str, list[float]] = defaultdict(list)
    for found in story.reactions.values():
        for task, ms in found:
            times[f"event -> first line of {task}"].append(ms)
    times["request -> answer"] = [a["ms"] for a in story.answers.values()]
    print(f"\n{'milliseconds':32} {'n':>4} {'median':>7} {'worst':>7}")
    for what, all_ms in times.items():
        if all_ms:
            print(f"{what:32} {len(all_ms):4} {statistics.median(all_ms):7.0f} {max(all_ms):7.0f}")


def check_answers(story: Story) -> None:
    from sklearn.datasets import load_digits

    labels = load_digits().target
    right = sum(a["digit"] == labels[a["image"]] for a in story.answers.values())
    print(f"\n{right} of {len(story.answers)} answers were right; the native Dag beside it ran to success.")


def bring_up(home: Path, keep: bool) -> Deployment:
    """Airflow in event mode on SQLite, with the Dags of this folder."""
    began = time.monotonic()
    stop_recorded(home)
    print("bringing Airflow up: database, api-servers, dag-processor, event scheduler ...", flush=True)
    airflow = Deployment(home, HERE, event_mode=True, port=free_port(8080) if keep else 0, keep=keep).start()
    os.environ["AIRFLOW_HOME"] = str(home)  # where an EventClient finds the broker
    print(f"up after {time.monotonic() - began:.0f} s, in {home}", flush=True)
    return airflow


def say_where(airflow: Deployment) -> None:
    print(f"""
Airflow runs: {airflow.url}   user {airflow.rest.user}   password {airflow.rest.password}
Start a run, and send it an event:
  export AIRFLOW_HOME={airflow.home}
  {Path(sys.executable).parent}/airflow dags trigger {DAG}
  {Path(sys.executable).parent}/aiflow events send stream.end
  {Path(sys.executable).parent}/aiflow events listen
End it: make down""")


def demo(home: Path, keep: bool, speed: float) -> int:
    stop_recorded(home)
    shutil.rmtree(home, ignore_errors=True)
    airflow = bring_up(home, keep)
    story = Story()
    try:
        learn(airflow, story, speed)
        missing = list(story.missing())
        summary(story)
        if missing:
            print("\n".join(["\nDEMO FAILED", *missing, airflow.tails()]), file=sys.stderr)
            return 1
        check_answers(story)
        print("Every event had its reaction, once.")
        return 0
    finally:
        if keep:
            say_where(airflow)
        else:
            airflow.close()


def up(home: Path) -> int:
    airflow = bring_up(home, keep=True)
    for dag_id in (DAG, "native"):
        airflow.wait_for_dag(dag_id)
        airflow.rest.unpause(dag_id)
    say_where(airflow)
    return 0


def down(home: Path) -> int:
    names = stop_recorded(home)
    print("ended: " + ", ".join(names) if names else "nothing was running")
    return 0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", nargs="?", choices=["demo", "up", "down"], default="demo")
    parser.add_argument("--keep", action="store_true", help="leave Airflow running")
    parser.add_argument("--speed", type=float, default=40.0, help="images per second")
    parser.add_argument("--home", type=Path, default=HOME, help="AIRFLOW_HOME; the demo empties it first")
    args = parser.parse_args()
    if args.what == "demo":
        return demo(args.home, args.keep, args.speed)
    return up(args.home) if args.what == "up" else down(args.home)


if __name__ == "__main__":
    sys.exit(main())
