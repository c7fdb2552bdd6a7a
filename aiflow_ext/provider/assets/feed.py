"""Events become asset events, in the reaction's transaction.

That is what AssetWatchers of scheme aiflow ask for; in event mode no triggerer is needed for it.
"""

from __future__ import annotations

from collections.abc import Sequence

import structlog
from sqlalchemy.orm import Session

from aiflow_ext import _core
from aiflow_ext._event import Event
from aiflow_ext.errors import RetentionError
from aiflow_ext.provider.assets import offsets
from aiflow_ext.provider.assets.trigger import go_on_from, payload
from aiflow_ext.provider.db.consumers import advance, begin_at

log = structlog.get_logger(__name__)

READ = 1000  # events in a transaction
SAVE_AFTER = 1_000  # offsets without a match, then a watcher's row moves all the same


class Watchers:
    """Events become asset events; each watcher has an offset of its own, whoever brought it so far."""

    def __init__(self, event_log: _core.EventLog) -> None:
        self._log = event_log
        self._level: dict[str, int] = {}  # up to which we have looked; only ever ahead of the row
        self._missed: dict[str, int] = {}  # up to where that events were let go has been said

    def behind(self, session: Session, offset: int) -> bool:
        """Whether one is new, or has not come as far as the scheduler."""
        ours = _served(session)
        known = offsets.stored(session, (w.name for w in ours)) if ours else {}
        return any(max(known.get(w.name, -1), self._level.get(w.name, -1)) < offset for w in ours)

    def feed(self, session: Session, offset: int, batch: Sequence[Event]) -> tuple[int, bool]:
        """Store what the watchers wait for.

        :param offset: up to where the scheduler had come before this batch.
        :return: how many asset events were stored, and whether a watcher has more to catch up with.
        """
        ours = _served(session)
        known = offsets.stored(session, (w.name for w in ours)) if ours else {}
        kept, more = 0, False
        for watcher in ours:
            row = self._begin(session, watcher, known.get(watcher.name), offset)
            after = max(row, self._level.get(watcher.name, 0))
            behind = after < offset
            read = self._read(watcher, after) if behind else batch
            events = _matching(watcher, read, after)
            kept += offsets.keep(session, watcher, map(payload, events)) if events else 0
            full = behind and bool(read)  # a page may be short; after the last one there is none
            top = max(after, read[-1].offset if read else 0, 0 if full else offset)
            if top - max(row, events[-1].offset if events else 0) >= SAVE_AFTER:
                advance(session, watcher.name, top)
            self._level[watcher.name] = top
            more |= full
        return kept, more

    def forget(self) -> None:
        """The transaction was undone: begin at the rows again."""
        self._level.clear()

    def _begin(self, session: Session, watcher: offsets.Watcher, row: int | None, offset: int) -> int:
        if row is None:
            row = offset if watcher.trigger.after is None else watcher.trigger.after
            begin_at(session, watcher.name, row)
        return row

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
