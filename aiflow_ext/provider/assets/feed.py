"""Events become asset events, in the reaction's transaction.

That is what AssetWatchers of scheme aiflow ask for; in event mode no triggerer is needed for it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import structlog
from sqlalchemy.orm import Session

from aiflow_ext import _core
from aiflow_ext._event import Event
from aiflow_ext.errors import RetentionError
from aiflow_ext.provider.assets import offsets
from aiflow_ext.provider.assets.trigger import go_on_from, payload
from aiflow_ext.provider.db.consumers import Place, advance, begin_at, note_log

log = structlog.get_logger(__name__)

READ = 1000  # events in a transaction
SAVE_AFTER = 1_000  # offsets without a match, then a watcher's row moves all the same


class Watchers:
    """Events become asset events; each watcher has an offset of its own, whoever brought it so far."""

    def __init__(self, event_log: _core.EventLog) -> None:
        self._log = event_log
        self._level: dict[str, int] = {}  # up to which we have looked; only ever ahead of the row
        self._elsewhere: set[str] = set()  # of which that has been said
        self._missed: dict[str, int] = {}  # up to where that events were let go has been said

    def behind(self, session: Session, place: Place) -> bool:
        """Whether one is new, or has not come as far as the scheduler."""
        ours = _served(session)
        known = offsets.stored(session, (w.name for w in ours)) if ours else {}
        new = Place(-1, None)
        rows = {w.name: known.get(w.name, new) for w in ours}
        here = {name: row.offset for name, row in rows.items() if row.is_in(place.log_id)}
        return any(max(row, self._level.get(name, -1)) < place.offset for name, row in here.items())

    def exist(self, session: Session) -> bool:
        """Whether there is one."""
        return bool(_served(session))

    def asked(self, session: Session) -> Callable[[Event], bool]:
        """Return what says whether a watcher waits for an event."""
        match = _core.Match()
        for watcher in _served(session):
            for pattern in watcher.trigger.patterns:
                match.add(pattern, 0)
        return lambda event: bool(match.find(event))

    def feed(self, session: Session, place: Place, batch: Sequence[Event]) -> tuple[int, bool]:
        """Store what the watchers wait for.

        :param place: up to where the scheduler had come before this batch.
        :return: how many asset events were stored, and whether a watcher has more to catch up with.
        """
        ours = _served(session)
        known = offsets.stored(session, (w.name for w in ours)) if ours else {}
        for memory in (self._level, self._missed):  # of watchers that are there
            for name in memory.keys() - {watcher.name for watcher in ours}:
                del memory[name]
        kept, more, offset = 0, False, place.offset
        for watcher in ours:
            at = self._begin(session, watcher, known.get(watcher.name), place)
            if not at.is_in(place.log_id):
                self._say_elsewhere(watcher)
                continue
            row = at.offset
            after = max(row, self._level.get(watcher.name, 0))
            behind = after < offset
            read = self._read(watcher, after) if behind else batch
            events = _matching(watcher, read, after)
            kept += offsets.keep(session, watcher, map(payload, events), place.log_id) if events else 0
            full = behind and bool(read)  # a page may be short; after the last one there is none
            top = max(after, read[-1].offset if read else 0, 0 if full else offset)
            if top - max(row, events[-1].offset if events else 0) >= SAVE_AFTER:
                advance(session, watcher.name, Place(top, place.log_id))
            self._level[watcher.name] = top
            more |= full
        return kept, more

    def forget(self) -> None:
        """The transaction was undone: begin at the rows again."""
        self._level.clear()

    def _begin(self, session: Session, watcher: offsets.Watcher, row: Place | None, place: Place) -> Place:
        if row is None:
            row = place if watcher.trigger.after is None else place._replace(offset=watcher.trigger.after)
            begin_at(session, watcher.name, row)
        elif row.log_id is None and place.log_id is not None:
            note_log(session, watcher.name, place.log_id)
        return row

    def _say_elsewhere(self, watcher: offsets.Watcher) -> None:
        """Say once that one waits: its offset is of another log, in which it is another event."""
        if watcher.name not in self._elsewhere:
            self._elsewhere.add(watcher.name)
            offsets.say_elsewhere(watcher)

    def _read(self, watcher: offsets.Watcher, after: int) -> list[Event]:
        """What the log has for one that is behind the others."""
        patterns = watcher.trigger.patterns
        try:
            return self._log.read(after, READ, patterns, kept=after < self._missed.get(watcher.name, 0))
        except RetentionError as e:
            log.error("aiflow: events were let go", asset=watcher.asset.name, offset=after, error=str(e))
            self._missed[watcher.name] = go_on_from(e)
            return self._log.read(after, READ, patterns, kept=True)


def _matching(watcher: offsets.Watcher, events: Sequence[Event], after: int) -> list[Event]:
    match = _core.Match()
    for pattern in watcher.trigger.patterns:
        match.add(pattern, 0)
    return [event for event in events if event.offset > after and match.find(event)]


def _served(session: Session) -> list[offsets.Watcher]:
    """Those whose events are in our own log; a trigger with a broker of its own stays the triggerer's."""
    return [watcher for watcher in offsets.watchers(session) if watcher.trigger.broker is None]
