"""How far the rules of each Dag have heard: all equally far, but those for which too much happened at once.

The consumer's row has the least of these offsets, and a row of aiflow_progress each of them where they differ.  They
move in the transaction that acts on the events, so what is acted on, and what is not, is the same after a crash.
"""

from __future__ import annotations

from sqlalchemy import delete, insert, select
from sqlalchemy.orm import Session

from aiflow_ext.provider.db import models
from aiflow_ext.provider.db.consumers import Stand
from aiflow_ext.provider.world.blame import Key

OTHERS = ""  # in the table: the Dags that are not behind


class Progress:
    """Offsets, as of one reaction.

    `ahead` is that of all Dags which are not `behind`; of those whose turn is next the first one.  `amid` are the Dags
    of which some rules have heard the next event, and others have not; `stopped` the runs of theirs that this event has
    stopped, or could not stop: they may go on, until their teardowns have ended.
    """

    def __init__(self) -> None:
        self.ahead = 0
        self.behind: dict[str, int] = {}
        self.amid: set[str] = set()
        self.stopped: dict[str, set[Key]] = {}
        self._stored: dict[str, int] = {}
        self._version = -1  # of the reaction that this is as of; -1: it is to be read

    def of(self, dag_id: str) -> int:
        """Return up to which offset the rules of a Dag have heard."""
        return self.behind.get(dag_id, self.ahead)

    @property
    def least(self) -> int:
        """Up to which all have."""
        return min([self.ahead, *self.behind.values()])

    def read(self, session: Session, stand: Stand) -> None:
        """Read it, unless it is as this scheduler has left it."""
        offset, version = stand.place.offset, stand.version
        if (version, offset) == (self._version, self.least):
            return
        table = models.progress
        self._stored = {row.dag_id: row.offset for row in session.execute(select(table))}
        # A row that is less is of before the consumer was moved by hand, or by a version that does not know the table.
        rows = {dag_id: max(at, offset) for dag_id, at in self._stored.items()}
        self.ahead = rows.pop(OTHERS, offset)
        self.behind = {dag_id: at for dag_id, at in sorted(rows.items()) if at < self.ahead}
        self.amid = {*self.behind}  # who knows
        self.stopped.clear()
        self._version = version

    def begin(self, offset: int) -> None:
        """All are there."""
        self.ahead = offset
        self.behind.clear()
        self.amid.clear()
        self.stopped.clear()

    def move(self, dag_id: str, offset: int, *, amid: bool = False) -> None:
        """The rules of a Dag have heard so much; all other Dags that are behind come before it."""
        self.behind.pop(dag_id, None)
        self.amid.discard(dag_id)
        if offset < self.ahead:
            self.behind[dag_id] = offset
        if amid:
            self.amid.add(dag_id)
        else:
            self.stopped.pop(dag_id, None)

    def next(self) -> tuple[int, set[str]]:
        """Return whose turn it is of those that are behind, and the offset that these have in common."""
        if not self.behind:
            return self.ahead, set()
        offset = next(iter(self.behind.values()))
        return offset, {dag_id for dag_id, at in self.behind.items() if at == offset}

    def save(self, session: Session) -> None:
        """Write what has changed."""
        table, rows = models.progress, {OTHERS: self.ahead, **self.behind} if self.behind else {}
        if changed := [dag_id for dag_id, _ in rows.items() ^ self._stored.items()]:
            session.execute(delete(table).where(table.c.dag_id.in_({*changed})))
            if new := [{"dag_id": dag_id, "offset": rows[dag_id]} for dag_id in sorted({*changed} & rows.keys())]:
                session.execute(insert(table), new)
        self._stored = rows

    def committed(self, version: int) -> None:
        """What was saved is in the database."""
        self._version = version

    def undone(self) -> None:
        """It is to be read again."""
        self._version = -1
