"""What happened in Airflow becomes events: states of tasks that rules know, and asset events.

They are published, and read back in the next round, with offsets, like any event (ADR 0005).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

import structlog
from sqlalchemy.orm import Session

from aiflow_ext import _core
from aiflow_ext._event import Event
from aiflow_ext.errors import Error
from aiflow_ext.provider.assets.news import AssetNews
from aiflow_ext.provider.metrics import Work
from aiflow_ext.provider.react import status
from aiflow_ext.provider.world.blame import Blame
from aiflow_ext.provider.world.runs import Run
from aiflow_ext.provider.world.world import World

log = structlog.get_logger(__name__)

PUBLISH_MS = 500  # longest wait for the broker inside a pass
QUIET_SEC = 1.0  # that a broker which did not answer is left alone


class Teller:
    """Publishes, through the reactor's client.

    :param news: None where asset events are not wanted as events.
    :param broker_up: whether a broker may answer; one that is being started cannot.
    """

    def __init__(self, client: _core.Client, news: AssetNews | None, broker_up: Callable[[], bool]) -> None:
        self._client = client
        self._news = news
        self._broker_up = broker_up
        self._quiet_until = 0.0

    def forget(self) -> None:
        """The transaction was undone: what it knew may not be so."""
        if self._news is not None:
            self._news.forget()

    def waiting(self, session: Session, world: World) -> bool:
        """Whether there may be something to tell.  Reads only."""
        if time.monotonic() < self._quiet_until or not self._broker_up():
            return False
        if world.untold:
            return True
        return self._news is not None and self._news.waiting(session)

    def tell(self, session: Session, world: World, work: Work) -> bool:
        """Publish it all; return whether there was anything.  Without a broker it waits, and the reaction goes on."""
        told = False
        if not self._broker_up():
            return told
        try:
            for key in sorted(world.untold):
                world.touch(key)
                with Blame(key):
                    told |= self._tell_run(session, world.runs[key])
            if self._news is not None:
                work.told += (asset_events := self._news.tell(session, self._publish))
                told |= bool(asset_events)
        except (Error, TimeoutError) as e:
            self._quiet_until = time.monotonic() + QUIET_SEC
            log.warning("aiflow: states and assets could not be published yet", again_in_sec=QUIET_SEC, error=str(e))
        return told

    def _tell_run(self, session: Session, run: Run) -> bool:
        seen = dict(run.seen)
        try:
            news = list(status.changes(session, run))
            for change in news:
                self._publish([change.event], change.producer, change.sequence)
        except (Error, TimeoutError):
            run.seen = seen
            raise
        return bool(news)

    def _publish(self, events: Sequence[Event], producer: str, sequence: int) -> None:
        if time.monotonic() < self._quiet_until:
            raise TimeoutError("the broker did not answer")
        self._client.publish(events, producer, sequence, PUBLISH_MS)
