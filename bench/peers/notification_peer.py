"""AI Flow's notification-service 0.3.1 through its own client (Python 3.7)."""

from notification_service.base_notification import BaseEvent, EventWatcher
from notification_service.client import NotificationClient


class Publisher:
    def __init__(self, address):
        self.client = NotificationClient(address)

    def publish(self, values):
        for v in values:  # it has no batches
            self.client.send_event(BaseEvent(key="bench", value=v))


class Watcher(EventWatcher):
    def __init__(self, i, heard):
        self.i = i
        self.heard = heard

    def process(self, notifications):
        self.heard(self.i, [event.value for event in notifications])


class Subscribers:
    def __init__(self, address, n, heard):
        self.clients = [NotificationClient(address) for _ in range(n)]
        for i, client in enumerate(self.clients):
            client.start_listen_event(key="bench", watcher=Watcher(i, heard))

    def serve(self, stop):
        stop.wait()
