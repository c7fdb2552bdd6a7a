"""AI Flow's event and watcher: ``notification_service.base_notification``."""

import abc
from dataclasses import dataclass

ANY_CONDITION = "*"
DEFAULT_NAMESPACE = "default"
UNDEFINED_EVENT_TYPE = "UNDEFINED"


@dataclass(eq=False)
class BaseEvent:
    """An event, as AI Flow's users know it.

    :param version: its offset in the log; None before it is in it.
    :param create_time: when the log got it, in ms since the epoch; None before.
    """

    key: str
    value: str
    event_type: str = UNDEFINED_EVENT_TYPE
    version: int | None = None
    create_time: int | None = None
    context: str | None = None
    namespace: str | None = None
    sender: str | None = None

    def __str__(self) -> str:
        return (
            f"key:{self.key}, value:{self.value}, type:{self.event_type}, version:{self.version}, "
            f"create_time:{self.create_time}, context: {self.context}, namespace: {self.namespace}, "
            f"sender: {self.sender}"
        )

    def __eq__(self, other: object) -> bool:  # one of a subclass may equal its base's, unlike a dataclass's own
        return isinstance(other, BaseEvent) and all(
            getattr(self, name) == getattr(other, name) for name in BaseEvent.__dataclass_fields__
        )

    __hash__ = None  # type: ignore[assignment]  # it may be changed


@dataclass
class SenderEventCount:
    """How many events one sender sent."""

    sender: str
    event_count: int

    def __str__(self) -> str:
        return f"sender:{self.sender}, event_count:{self.event_count}"


class EventWatcher(metaclass=abc.ABCMeta):
    """What is done with events: subclass it."""

    @abc.abstractmethod
    def process(self, events: list[BaseEvent]) -> None:
        """Take events, in the order of their versions; called by one thread for each watcher."""


class EventWatcherHandle(metaclass=abc.ABCMeta):
    """One listener, as ``start_listen_event(s)`` returns it."""

    @abc.abstractmethod
    def stop(self) -> None:
        """End it, after what was sent before has been given to the watcher."""
