"""aiflow_ext through its Python client."""

from aiflow_ext import Event, EventClient


class Publisher:
    def __init__(self, address):
        self.client = EventClient(address)

    def publish(self, values):
        self.client.publish_many([Event("bench", v) for v in values])


class Subscribers:
    """One connection of its own for one; one connection for all where there are many."""

    def __init__(self, address, n, heard):
        self.client = EventClient(address)
        self.heard = heard
        self.one = self.client.subscribe("bench") if n == 1 else None
        self.listeners = [self.client.listen(self.callback(i), "bench") for i in range(n if n > 1 else 0)]

    def callback(self, i):
        return lambda events: self.heard(i, [event.value for event in events])

    def serve(self, stop):
        if self.one is None:
            stop.wait()
        while not stop.is_set():
            events = self.one.poll(0.5)
            if events:
                self.heard(0, [event.value for event in events])
