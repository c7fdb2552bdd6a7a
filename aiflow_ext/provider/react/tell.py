"""What happened in Airflow becomes events: states of tasks that rules know, and asset events.

They are published, and read back in the next round, with offsets, like any event (ADR 0005).  Unless ``[aiflow] tell``
says all, only those are that somebody asks for.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice

import structlog
from sqlalchemy.orm import Session

from aiflow_ext import _core
from aiflow_ext._event import Event
from aiflow_ext.errors import ConflictError, Error
from aiflow_ext.provider.assets.feed import Watchers
from aiflow_ext.provider.assets.news import AssetNews
from aiflow_ext.provider.metrics import Work
from aiflow_ext.provider.react import status
from aiflow_ext.provider.world.blame import Blame, Key
from aiflow_ext.provider.world.task import Pattern
from aiflow_ext.provider.world.world import World

log = structlog.get_logger(__name__)

PUBLISH_MS = 500  # longest wait for the broker inside a pass
QUIET_SEC = 1.0  # that a broker which did not answer is left alone
AT_ONCE = 500  # states in one request
NOTED_SEC = 1.0  # states that nobody asks for are saved as seen after so long: many at once
RUNS = 500  # of which states are told in a transaction

Identity = tuple[str, int]


class Teller:
    """Publishes, through the reactor's client.

    :param news: None where asset events are not wanted as events.
    :param broker_up: whether a broker may answer; one that is being started cannot.
    :param watchers: who asks beside the rules; None: everything is told.
    """

    def __init__(
        self,
        client: _core.Client,
        news: AssetNews | None,
        broker_up: Callable[[], bool],
        watchers: Watchers | None,
    ) -> None:
        self._client = client
        self._news = news
        self._broker_up = broker_up
        self._watchers = watchers
        self._quiet_until = 0.0
        self._unnoted_since: float | None = None  # there are states that nobody asks for
        self._patterns: frozenset[Pattern] = frozenset()  # of all rules
        self._asks: dict[str, bool] = {}  # whether one of them may ask for states of a Dag's tasks

    def forget(self) -> None:
        """The transaction was undone: what it knew may not be so."""
        if self._news is not None:
            self._news.forget()

    def waiting(self, session: Session, world: World, *, all_of: bool) -> bool:
        """Whether there may be something to tell, or to note.  Reads only.

        :param all_of: whether anybody asks or not.
        """
        now = time.monotonic()
        if now < self._quiet_until or not self._broker_up():
            return False
        if not world.untold:
            self._unnoted_since = None
        elif all_of or self._may_be_asked(session, world) or now >= self._note_at(now):
            return True
        return self._news is not None and self._news.waiting(session)

    def due_ms(self, world: World, now_ms: int) -> int | None:
        """Return when states that nobody asks for are to be noted."""
        now = time.monotonic()
        if not world.untold or not self._broker_up():
            return None
        return now_ms + round(1000 * max(0.0, self._note_at(now) - now, self._quiet_until - now))

    def _note_at(self, now: float) -> float:
        if self._unnoted_since is None:
            self._unnoted_since = now
        return self._unnoted_since + NOTED_SEC

    def _may_be_asked(self, session: Session, world: World) -> bool:
        """Whether somebody may ask for one of the states that are not told."""
        if self._watchers is None:
            return True
        if (patterns := world.registry.patterns()) is not self._patterns:
            self._patterns, self._asks = patterns, {}
        for dag_id in {dag_id for dag_id, _ in world.untold} - self._asks.keys():
            self._asks[dag_id] = any(status.may_ask(pattern, dag_id) for pattern in patterns)
        return any(self._asks[dag_id] for dag_id, _ in world.untold) or self._watchers.exist(session)

    def tell(self, session: Session, world: World, work: Work, *, all_of: bool) -> bool:
        """Publish it; return whether there was anything, or is more.  Without a broker it waits, the reaction goes on.

        :param all_of: whether anybody asks or not.
        """
        told = False
        if not self._broker_up():
            return told
        asked = (
            (lambda event: True) if all_of or self._watchers is None else self._asked(session, world, self._watchers)
        )
        seen = {key: dict(world.runs[key].seen) for key in sorted(world.untold)[:RUNS]}
        try:
            changes = (change for change in self._changes(session, world, seen) if asked(change.event))
            while some := list(islice(changes, AT_ONCE)):
                self._publish_many([change.event for change in some], [change.identity for change in some])
                told = True
            told |= len(world.untold) > RUNS
            self._unnoted_since = None
            if self._news is not None:
                work.told += (asset_events := self._news.tell(session, self._publish, asked))
                told |= bool(asset_events)
        except (Error, TimeoutError) as e:
            for key, before in seen.items():
                world.runs[key].seen = before
            self._quiet_until = time.monotonic() + QUIET_SEC
            log.warning("aiflow: states and assets could not be published yet", again_in_sec=QUIET_SEC, error=str(e))
        return told

    def _asked(self, session: Session, world: World, watchers: Watchers) -> Callable[[Event], bool]:
        watched = watchers.asked(session)
        return lambda event: world.is_asked(event) or watched(event)

    def _changes(self, session: Session, world: World, keys: Iterable[Key]) -> Iterator[status.Status]:
        for key in keys:
            world.touch(key)
            with Blame(key):
                yield from list(status.changes(session, world.runs[key]))

    def _publish_many(self, events: Sequence[Event], identities: Sequence[Identity]) -> None:
        """One request; where one of them is refused, each by itself: the others shall be told."""
        try:
            self._publish(events, tuple(identities), 0)
        except (ConflictError, ValueError) as e:
            if len(events) == 1:
                log.error("aiflow: a state is no event", key=events[0].key[:100], value=events[0].value, error=str(e))
                return
            for event, identity in zip(events, identities, strict=True):
                self._publish_many([event], [identity])

    def _publish(self, events: Sequence[Event], producer: str | tuple[Identity, ...], sequence: int) -> None:
        if time.monotonic() < self._quiet_until:
            raise TimeoutError("the broker did not answer")
        self._client.publish(events, producer, sequence, PUBLISH_MS)
