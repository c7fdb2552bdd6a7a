"""What goes into one publish."""

from collections.abc import Iterable, Iterator

from .. import _core
from .._event import Event

CHUNK_BYTES = 7 << 20  # the core cuts frames at 8 MiB; a call that is one frame can be made again and wait on
EVENT_BYTES = 160  # what an event takes in a frame beside its texts, rounded up


def chunks(events: Iterable[Event], filled_in: int) -> Iterator[list[Event]]:
    """Cut events into what one publish takes; each grows by filled_in bytes."""
    chunk: list[Event] = []
    size = 0
    for event in events:
        n = _most_bytes(event) + filled_in
        if chunk and (len(chunk) == _core.BATCH_MAX or size + n > CHUNK_BYTES):
            yield chunk
            chunk, size = [], 0
        chunk.append(event)
        size += n
    if chunk:
        yield chunk


def _most_bytes(event: Event) -> int:
    """Return what event takes in a frame at most: a character is up to 4 bytes of UTF-8."""
    if not isinstance(event, Event):
        raise TypeError(f'expected an Event, not {type(event).__name__}: Event("key", "value")')
    try:
        value = len(event.value) * (1 if event.value.isascii() else 4)
        names = len(event.key) + len(event.type) + len(event.context or "")
        names += len(event.namespace or "") + len(event.sender or "")
    except (AttributeError, TypeError):  # the core says what is not text
        return EVENT_BYTES
    return EVENT_BYTES + value + 4 * names
