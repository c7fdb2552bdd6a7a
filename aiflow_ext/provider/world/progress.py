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

    `ahead`: up to where all Dags have heard that are not `behind`.  `behind`: how far each other Dag has heard.
    `stopped`: of a Dag with a rule that has not yet stopped all runs that it shall, those that it has stopped, or could
    not stop; they may go on, until their teardowns have ended.
    """

    def __init__(self) -> None:
        self.ahead = 0
        self.behind: dict[str, int] = {}
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
        before, table = self.behind, models.progress
        self._stored = {row.dag_id: row.offset for row in session.execute(select(table))}
        # A row that is less is of before the consumer was moved by hand, or by a version that does not know the table.
        rows = {dag_id: max(at, offset) for dag_id, at in self._stored.items()}
        self.ahead = rows.pop(OTHERS, offset)
        self.behind = {dag_id: at for dag_id, at in rows.items() if at < self.ahead}
        same = {dag_id for dag_id, at in self.behind.items() if at == before.get(dag_id)}
        self.stopped = {dag_id: runs for dag_id, runs in self.stopped.items() if dag_id in same}
        self._version = version

    def begin(self, offset: int) -> None:
        """All are there."""
        self.ahead = offset
        self.behind.clear()
        self.stopped.clear()

    def move(self, dag_id: str, offset: int, *, unfinished: bool) -> None:
        """The rules of a Dag that is behind have heard so much.

        :param unfinished: a rule has more runs to stop because of the next event.
        """
        if offset < self.ahead:
            self.behind[dag_id] = offset
        else:
            self.behind.pop(dag_id, None)
        if not unfinished:
            self.stopped.pop(dag_id, None)

    def turn(self) -> tuple[int, set[str]] | None:
        """Return the offset that some Dags have in common which are behind, and these; None: no Dag is.

        Whose turn it is, the number of the reaction says, so it is the same for several schedulers.
        """
        if not self.behind:
            return None
        offsets = sorted({*self.behind.values()})
        offset = offsets[self._version % len(offsets)]
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
        """It is to be read again, and nothing was stopped."""
        self._version = -1
        self.stopped.clear()
