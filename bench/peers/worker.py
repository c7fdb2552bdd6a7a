"""One process that publishes or subscribes, for any peer: ``worker.py ADAPTER ROLE JSON``.

It prints "ready", waits for a line, does its part and prints what it found as JSON.  An adapter (``ours``,
``nats_peer``, ``redis_peer``, ``notification_peer``) has two classes:

* ``Publisher(address)`` with ``publish(values)``, which returns once the server has acknowledged all of them;
* ``Subscribers(address, n, heard)`` with ``serve(stop)``: n subscriptions to everything that is published from now on;
  ``heard(i, values)`` is called with what the i-th one got.

An event's value begins with the time it was due, in ns of CLOCK_MONOTONIC, which all processes share: a publisher that
falls behind does not hide it.  This file runs on Python 3.7, too: AI Flow's service needs that.
"""

import importlib
import json
import os
import sys
import threading
import time

PADDING = "x" * 80  # an event has 100 bytes
KEPT = 50000  # latencies
IDLE_SEC = 10.0  # without an event a subscriber gives up


def value(due_ns):
    return f"{due_ns:019d} {PADDING}"


def wait_for_go():
    print("ready", flush=True)
    sys.stdin.readline()


def publish(adapter, address, batch, seconds):
    """As fast as it goes, batch events at a time."""
    publisher = adapter.Publisher(address)
    publisher.publish([value(0)] * batch)
    wait_for_go()
    n = 0
    began = time.perf_counter()
    while time.perf_counter() - began < seconds:
        publisher.publish([value(0)] * batch)
        n += batch
    return {"n": n, "seconds": time.perf_counter() - began}


def pace(adapter, address, rate, seconds):
    """At a rate: what is due is published at once, together."""
    publisher = adapter.Publisher(address)
    publisher.publish([value(0)])
    wait_for_go()
    total = int(rate * seconds)
    began = time.monotonic_ns()
    step = 1e9 / rate
    n = 0
    while n < total:
        due = min(total, int((time.monotonic_ns() - began) / step) + 1)
        if due > n:
            publisher.publish([value(began + int(i * step)) for i in range(n, due)])
            n = due
        else:
            time.sleep(max(0.0, (began + n * step - time.monotonic_ns()) / 1e9))
    return {"n": n, "seconds": (time.monotonic_ns() - began) / 1e9}


class Heard:
    """What came to n subscribers, until each has had `expect` events."""

    def __init__(self, n, expect):
        self.counts = [0] * n
        self.ms = []
        self.expect = expect
        self.last = time.monotonic()
        self.stop = threading.Event()
        self.left = n

    def __call__(self, i, values):
        now = time.monotonic_ns()
        for v in values:
            due = int(v[:19])
            if due == 0:  # a warm-up
                continue
            self.counts[i] += 1
            if len(self.ms) < KEPT:
                self.ms.append((now - due) / 1e6)
            if self.counts[i] == self.expect:
                self.left -= 1
        self.last = time.monotonic()
        if self.left == 0:
            self.stop.set()


def subscribe(adapter, address, n, expect):
    """n subscribers; each should get `expect` events."""
    heard = Heard(n, expect)
    subscribers = adapter.Subscribers(address, n, heard)
    wait_for_go()
    heard.last = time.monotonic()
    threading.Thread(target=give_up, args=(heard,), daemon=True).start()
    subscribers.serve(heard.stop)
    return {"came": sum(heard.counts), "ms": heard.ms}


def give_up(heard):
    while not heard.stop.wait(0.5):
        if time.monotonic() - heard.last > IDLE_SEC:
            heard.stop.set()


ROLES = {"publish": publish, "pace": pace, "subscribe": subscribe}


if __name__ == "__main__":
    print(json.dumps(ROLES[sys.argv[2]](importlib.import_module(sys.argv[1]), **json.loads(sys.argv[3]))), flush=True)
    sys.stdout.flush()
    os._exit(0)  # what a client library does at its end is not measured
