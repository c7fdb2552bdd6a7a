"""Which events a log lets go, and letting them go: a policy, a plan, and its execution in small steps.

    parse("airflow=7d,1000000") -> Policy -> plan(log, ...) -> [Cut] -> apply(log, cuts)

What goes is always the oldest of a namespace.  A consumer that was not there yet gets ``RetentionError`` when it asks.
But a named cursor (``subscribe(resume=)``) keeps what lies beyond it, unless it was abandoned.
"""

import logging
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from datetime import timedelta

from .._core import EventLog
from ..errors import Error, RetentionError
from ..events.address import safe_uri
from ..events.times import duration, shown

CHUNK = 1000  # events a transaction: some ms of the log's lock
PAUSE = 0.02  # seconds between two, for the publishers
EVERY = 60.0  # seconds between two plans
ABANDONED = timedelta(days=7)  # a cursor that was not taken or moved for so long keeps nothing

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Policy:
    """What a namespace keeps; beyond either limit an event goes.

    :param namespace: exact, ``*``, or a prefix ``abc*``, whose events are looked at as one.
    :param age: none older than this; None: no such limit.
    :param count: not more than these, the newest; None: no such limit.
    """

    namespace: str
    age: timedelta | None = None
    count: int | None = None


@dataclass(frozen=True)
class Cut:
    """What a policy lets go.

    :param upto: events of namespace go up to this offset; 0: none.
    :param events: how many they are.
    :param notes: lines about cursors that keep some of it, or do so no longer.
    """

    namespace: str
    upto: int
    events: int
    notes: tuple[str, ...] = ()


def parse(text: str) -> Policy:
    """Return the policy that ``NAMESPACE=AGE``, ``NAMESPACE=COUNT`` or ``NAMESPACE=AGE,COUNT`` says.

    :raises ValueError: it says none.
    """
    namespace, _, limits = text.strip().rpartition("=")
    age: timedelta | None = None
    count: int | None = None
    good = bool(namespace)
    for limit in limits.split(",") if good else ():
        if limit.strip().isdecimal():
            good, count = good and count is None, int(limit)
        else:
            good, age = good and age is None, duration(limit.strip())
    if not good:
        raise ValueError(f"{text!r} is no retention: write NAMESPACE=AGE,COUNT, as 'airflow=7d' or '*=30d,1000000'")
    return Policy(namespace, age, count)


def parse_all(texts: Iterable[str]) -> list[Policy]:
    """Return the policies.

    :raises ValueError: one is none; two are of one namespace; one would keep what a wider one lets go.
    """
    policies = [parse(text) for text in texts]
    for i, one in enumerate(policies):
        for other in policies[:i] + policies[i + 1 :]:
            if one.namespace == other.namespace:
                raise ValueError(f"two retentions of the namespace {one.namespace!r}: write NAMESPACE=AGE,COUNT once")
            if _covers(one.namespace, other.namespace) and one.age and other.age and one.age < other.age:
                raise ValueError(
                    f"{other.namespace!r} would keep events for {other.age}, which {one.namespace!r} lets go after "
                    f"{one.age}: name the namespaces that keep less, instead of {one.namespace!r}"
                )
    return policies


def plan(event_log: EventLog, policies: Iterable[Policy], now_ms: int, limit: int | None = None) -> list[Cut]:
    """Return what would go.

    :param limit: nothing beyond this offset, where a consumer is.
    """
    return [_cut(event_log, policy, now_ms, limit) for policy in policies]


def apply(event_log: EventLog, cuts: Iterable[Cut], chunk: int = CHUNK) -> Iterator[tuple[Cut, int]]:
    """Let go what was planned, at most chunk events in a transaction; after each: the cut, and how many went."""
    for cut in cuts:
        gone = chunk if cut.events else 0
        while gone == chunk:
            gone = event_log.purge(cut.namespace, cut.upto, chunk)
            if gone:
                yield cut, gone


def forget_cursors(event_log: EventLog, before_ms: int, now_ms: int, *, dry_run: bool = False) -> Iterator[str]:
    """Delete the cursors that nobody has taken or moved since before_ms, nor for 7 days; yield a line for each.

    :param dry_run: delete nothing.
    """
    before_ms = min(before_ms, now_ms - int(ABANDONED.total_seconds() * 1000))
    for namespace, name, offset, moved in event_log.cursors():
        if moved < before_ms and (dry_run or event_log.forget(namespace, name, before_ms - 1)):
            yield f"cursor {name!r} of namespace {namespace!r} was at offset {offset}, not moved since {shown(moved)}"


def time_of(event_log: EventLog, offset: int, now_ms: int) -> int:
    """Return when the log got the event at offset, in ms since the epoch."""
    try:
        return event_log.read(offset - 1, 1)[0].create_time
    except RetentionError:  # others around it have gone: the log tells offsets of times all the same
        early, late = 0, now_ms  # at(early) < offset <= at(late + 1)
        while late - early > 1:
            middle = (early + late) // 2
            early, late = (middle, late) if event_log.at(middle) < offset else (early, middle)
        return early


class Chore(threading.Thread):
    """What a process does again and again beside its work.

    What fails is logged once, and tried again a minute later.

    :param name: of the thread, and how the log calls it.
    :param every: seconds between two times.
    """

    def __init__(self, name: str, every: float) -> None:
        super().__init__(name=f"aiflow {name}", daemon=True)
        self._called = name
        self._every = every
        self._end = threading.Event()
        self._said = ""

    def run(self) -> None:
        while not self._end.is_set():
            wait = self._every
            try:
                self.work()
                self._said = ""
            except Exception as e:
                self._say(e)
                wait = min(wait, EVERY)
            self._end.wait(wait)

    def work(self) -> None:
        """Do it once, with a `pause` between its transactions."""
        raise NotImplementedError

    def pause(self) -> bool:
        """Let others go on for a moment; return whether it is to end now."""
        return self._end.wait(PAUSE)

    def stop(self) -> None:
        """End it, after the transaction it is in."""
        self._end.set()
        if self.ident is not None:  # it was started
            self.join()

    def _say(self, e: Exception) -> None:
        text = f"{type(e).__name__}: {e}"
        if text != self._said:
            log.error("%s failed, trying again: %s", self._called, text, exc_info=not isinstance(e, Error))
        self._said = text


class Keeper(Chore):
    """Holds a log to its policies, from the process that serves it.  Any number of them may do so to one log.

    :param limit: asked for the offset of a consumer of the log that nothing may be taken from.
    """

    def __init__(self, uri: str, policies: Iterable[Policy], limit: Callable[[EventLog], int] | None = None) -> None:
        super().__init__(f"retention of {safe_uri(uri)}", EVERY)
        self._uri = uri
        self._policies = tuple(policies)
        self._limit = limit
        self._noted: frozenset[str] = frozenset()  # by the last plan

    def work(self) -> None:
        with EventLog(self._uri) as event_log:
            limit = None if self._limit is None else self._limit(event_log)
            cuts = plan(event_log, self._policies, time.time_ns() // 1_000_000, limit)
            self._note(note for cut in cuts for note in cut.notes)
            for cut in cuts:
                gone = 0
                for _, n in apply(event_log, (cut,)):
                    gone += n
                    if self.pause():
                        break
                if gone:
                    log.info("retention: %d events of %s are gone, up to offset %d", gone, cut.namespace, cut.upto)
                if self._end.is_set():
                    return

    def _note(self, notes: Iterable[str]) -> None:
        notes = frozenset(notes)
        for note in sorted(notes - self._noted):
            log.warning("retention: %s", note)
        self._noted = notes


def _cut(event_log: EventLog, policy: Policy, now_ms: int, limit: int | None) -> Cut:
    upto = 0
    if policy.age is not None:
        upto = event_log.at(max(0, now_ms - int(policy.age.total_seconds() * 1000)))
    if policy.count is not None:
        upto = max(upto, event_log.keep(policy.namespace, policy.count))
    upto = upto if limit is None else min(upto, limit)
    upto, notes = _keep(event_log, policy.namespace, now_ms, upto)
    if upto == 0:
        return Cut(policy.namespace, 0, 0, notes)
    theirs = (policy.namespace, "*", "*", "*", "*")
    after = {namespace: gone for namespace, gone, _ in event_log.purged()}.get(
        policy.namespace, 0
    )  # not looked at twice
    upto = event_log.last(after, theirs, upto)
    return Cut(policy.namespace, upto, event_log.count(after, theirs, upto) if upto else 0, notes)


def _keep(event_log: EventLog, namespace: str, now_ms: int, upto: int) -> tuple[int, tuple[str, ...]]:
    """Return up to where events may go for the cursors' sake, and what is to be said about that."""
    notes = []
    least = upto
    for theirs, name, offset, moved in event_log.cursors() if upto else ():
        if offset >= upto or not _overlap(theirs, namespace):
            continue
        if now_ms - moved > ABANDONED.total_seconds() * 1000:
            notes.append(
                f"cursor {name!r} of namespace {theirs!r} was not moved for {ABANDONED.days} days, and keeps no events "
                f"of {namespace!r} any more: aiflow cursors delete"
            )
        else:
            notes.append(f"cursor {name!r} of namespace {theirs!r} keeps events of {namespace!r} that would go")
            least = min(least, offset)
    return least, tuple(notes)


def _overlap(one: str, other: str) -> bool:
    return one == other or _covers(one, other) or _covers(other, one)


def _covers(wide: str, narrow: str) -> bool:
    return wide != narrow and wide.endswith("*") and narrow.startswith(wide[:-1])
