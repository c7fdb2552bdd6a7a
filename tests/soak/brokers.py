"""The processes of the soak test: producers and subscribers that are killed and begin again where they were.

``brokers.py publish ADDRESSES NAME TOTAL`` publishes events 1 to TOTAL under its own name.  What it knows of its past
is in the log: its sequence.  ``brokers.py subscribe ADDRESSES FILE TOTAL`` appends a line "offset value" for each
event; what it knows of its past is that file.
"""

import random
import sys
import time
from pathlib import Path

from aiflow_ext import Event, EventClient

NAMESPACE = "soak"
MOST = 8  # events in a publish
PAUSE_SEC = 0.02  # at most, after it: all that fast producers have would be said before the first kill
PATIENCE_SEC = 120.0


def publish(addresses: str, name: str, total: int) -> None:
    """The i-th event of a producer has sequence i: after a kill it goes on behind what is durable."""
    chance = random.Random(name)
    with EventClient(addresses, NAMESPACE, name, client_id=name) as client:
        while (done := last(client)) < total:
            n = min(chance.randint(1, MOST), total - done)
            events = [Event(f"k{i % 7}", f"{name}:{i}") for i in range(done + 1, done + n + 1)]
            client.publish_many(events, PATIENCE_SEC)
            time.sleep(chance.uniform(0, PAUSE_SEC))  # pace


def last(client: EventClient) -> int:
    """Which of its events are in the log; no broker may serve for a while."""
    while True:
        try:
            return client.sequence - 1
        except TimeoutError:
            continue


def subscribe(addresses: str, file: str, total: int) -> None:
    """Each event of the namespace, once, in the order of their offsets."""
    path = Path(file)
    path.touch()
    lines = path.read_text().splitlines(keepends=True)
    whole = [line for line in lines if line.endswith("\n")]  # the last one may be cut by a kill
    path.write_text("".join(whole))
    after = int(whole[-1].split()[0]) if whole else 0
    with path.open("a") as out, EventClient(addresses, NAMESPACE) as client:
        left = total - len(whole)
        subscription = client.subscribe(after=after, timeout=PATIENCE_SEC)
        while left > 0:
            events = subscription.poll(1.0)
            out.writelines(f"{event.offset} {event.value}\n" for event in events)
            out.flush()
            left -= len(events)


if __name__ == "__main__":
    {"publish": publish, "subscribe": subscribe}[sys.argv[1]](sys.argv[2], sys.argv[3], int(sys.argv[4]))
