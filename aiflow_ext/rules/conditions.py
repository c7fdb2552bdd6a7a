"""When a rule fires: what ``event()``, ``status()``, ``every()``, ``all_of()`` and ``any_of()`` return.

A condition is a frozen dataclass that checks itself, so a wrong one cannot be made: the message says what to write
instead.  ``to_json`` and ``from_json`` are exact inverses.  docs/rules.md says what each condition means.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import MISSING, dataclass, fields, replace
from datetime import timedelta
from difflib import get_close_matches
from reprlib import repr as short
from typing import Any, ClassVar, NoReturn

from .written import by_the_author, name_of

Json = dict[str, Any]

KEY_MAX = 1024  # bytes; these five are those of csrc/core/event/event.h and rules/rules.h
NAME_MAX = 255
VALUE_MAX = 1 << 20
COUNT_MAX = 1000
DEPTH_MAX = 16
SECONDS_MAX = 100 * 366 * 86400  # a hundred years

STATES = (
    "scheduled",
    "queued",
    "running",
    "success",
    "failed",
    "skipped",
    "upstream_failed",
    "up_for_retry",
    "up_for_reschedule",
    "deferred",
    "restarting",
    "awaiting_input",
    "removed",
)
"""Airflow's states of a task instance, ``airflow.utils.state.TaskInstanceState``.

Only ever append: the place of a state is part of its event's identity.
"""

_OTHER_WORDS = {
    "finished": "success",
    "succeeded": "success",
    "completed": "success",
    "done": "success",
    "started": "running",
    "killed": "failed",
    "error": "failed",
    "waiting": "deferred",
    "retry": "up_for_retry",
}


@dataclass(frozen=True, slots=True)
class Condition:
    """What must have happened; join two with ``&`` and ``|``."""

    @by_the_author
    def __and__(self, other: Condition) -> AllOf:
        """Return the condition that is met when both are."""
        return AllOf((*_parts(self, AllOf), *_parts(check_condition(other, "&"), AllOf)))

    @by_the_author
    def __or__(self, other: Condition) -> AnyOf:
        """Return the condition that is met when one of them is."""
        return AnyOf((*_parts(self, AnyOf), *_parts(check_condition(other, "|"), AnyOf)))

    @by_the_author
    def __bool__(self) -> NoReturn:
        """Refuse ``a and b``, which would be b alone.

        :raises TypeError: always.
        """
        raise TypeError(
            f"{self} is neither true nor false: join two with & and |, as `{self} & event(...)`, "
            "not with `and` and `or`"
        )

    def repeated(self) -> Condition:
        """Return the same condition, which once met stays met, also after the rule fired.

        With a value or a status: as long as that is the last one.  A group passes it on to what is in it.

        :raises TypeError: on every(), which comes again by itself.
        """
        raise NotImplementedError

    def to_json(self) -> Json:
        """Return it as a dict of plain values, defaults left out."""
        raise NotImplementedError


@dataclass(frozen=True, slots=True)
class EventCondition(Condition):
    """See event().

    :raises ValueError: a field is empty, too long or out of range.
    :raises TypeError: a field is not of its type.
    """

    key: str
    value: str | None = None
    type: str = "*"
    namespace: str = "default"
    sender: str = "*"
    count: int = 1
    within: float | None = None
    is_repeated: bool = False

    def __post_init__(self) -> None:
        _check_pattern("key", self.key, KEY_MAX)
        _check_pattern("type", self.type, NAME_MAX)
        _check_pattern("namespace", self.namespace, NAME_MAX)
        if self.sender != "":  # an event without a sender
            _check_pattern("sender", self.sender, NAME_MAX)
        if self.value is not None:
            _check_text("value", self.value, VALUE_MAX)
        _check_count(self.count)
        _check_repeated(self.is_repeated)
        if self.within is not None:
            _check_seconds("within", self.within)
            if self.count == 1:
                raise ValueError(
                    f"event({self.key!r}, within={self.within!r}): one event is always close to itself; "
                    "say how many must come within that time, e.g. count=3"
                )

    def repeated(self) -> EventCondition:
        return replace(self, is_repeated=True)

    def to_json(self) -> Json:
        return {"event": {_JSON_NAME.get(name, name): value for name, value in _set_fields(self)}}

    def __str__(self) -> str:
        args = [repr(self.key), *([repr(self.value)] if self.value is not None else [])]
        args += [f"{n}={v!r}" for n, v in _set_fields(self) if n not in {"key", "value", "is_repeated"}]
        return f"event({', '.join(args)})" + ".repeated()" * self.is_repeated


@dataclass(frozen=True, slots=True)
class StatusCondition(Condition):
    """See status().

    :raises ValueError: no such state, or an empty task id.
    :raises TypeError: a field is not of its type.
    """

    task: str
    state: str
    is_repeated: bool = False

    def __post_init__(self) -> None:
        _check_text("task", self.task, KEY_MAX)
        if not self.task:
            raise ValueError('status(): the task is empty; write the task or its task_id, e.g. status("train", ...)')
        if not isinstance(self.state, str):
            raise TypeError(f"status({self.task!r}, {self.state!r}): a state is a str, e.g. 'running'")
        if self.state not in STATES:
            raise ValueError(
                f"status({self.task!r}, {self.state!r}): no such state{_close_state(self.state)}; "
                f"the states are {', '.join(STATES)}"
            )
        _check_repeated(self.is_repeated)

    def repeated(self) -> StatusCondition:
        return replace(self, is_repeated=True)

    def to_json(self) -> Json:
        return {"status": {_JSON_NAME.get(name, name): value for name, value in _set_fields(self)}}

    def __str__(self) -> str:
        return f"status({self.task!r}, {self.state!r})" + ".repeated()" * self.is_repeated


@dataclass(frozen=True, slots=True)
class PeriodCondition(Condition):
    """See every().

    :param seconds: the period, 0.001 to 100 years.
    :raises ValueError: it is not positive, or too long.
    :raises TypeError: it is not a number.
    """

    seconds: float

    def __post_init__(self) -> None:
        _check_seconds("every", self.seconds)

    @by_the_author
    def repeated(self) -> NoReturn:
        raise TypeError("every() comes again by itself: leave .repeated() away")

    def to_json(self) -> Json:
        return {"every": {"seconds": self.seconds}}

    def __str__(self) -> str:
        return f"every(seconds={self.seconds!r})"


@dataclass(frozen=True, slots=True)
class _Group(Condition):
    conditions: tuple[Condition, ...]
    word: ClassVar[str]

    def __post_init__(self) -> None:
        object.__setattr__(self, "conditions", tuple(check_condition(c, f"{self.word}_of") for c in self.conditions))
        if not self.conditions:
            raise ValueError(f"{self.word}_of() needs at least one condition")
        if depth(self) > DEPTH_MAX:
            raise ValueError(f"groups of conditions are nested more than {DEPTH_MAX} deep; write it flatter")

    def repeated(self) -> Condition:
        return type(self)(tuple(c if isinstance(c, PeriodCondition) else c.repeated() for c in self.conditions))

    def to_json(self) -> Json:
        return {self.word: [c.to_json() for c in self.conditions]}

    def __str__(self) -> str:
        return f"{self.word}_of({', '.join(map(str, self.conditions))})"


@dataclass(frozen=True, slots=True)
class AllOf(_Group):
    """Met when all its conditions are.

    :raises ValueError: there is none in it, or groups are nested too deep.
    """

    word: ClassVar[str] = "all"


@dataclass(frozen=True, slots=True)
class AnyOf(_Group):
    """Met when one of its conditions is.

    :raises ValueError: there is none in it, or groups are nested too deep.
    """

    word: ClassVar[str] = "any"


# -- what users write ---------------------------------------------------------------------------------------------


@by_the_author
def event(
    key: str,
    value: str | None = None,
    *,
    type: str = "*",  # noqa: A002  (the field's name)
    namespace: str = "default",
    sender: str = "*",
    count: int = 1,
    within: float | timedelta | None = None,
) -> EventCondition:
    """Return a condition on events; ``*`` is any, ``abc*`` what begins with abc.

    :param key: what the event is about.
    :param value: this must be the last value of the key; None: any value will do.
    :param type: any type unless given, so ``event("stop")`` means every event with this key.
    :param namespace: of the event; ``default`` is where ``EventClient`` publishes.
    :param sender: any unless given; "" means an event without a sender.
    :param count: so many events since the rule fired last, 1 to 1,000.
    :param within: the newest `count` must lie so close together, in seconds of event time.
    :raises ValueError: a field is empty, too long or out of range.
    :raises TypeError: a field is not of its type.
    """
    seconds = _plain(within.total_seconds()) if isinstance(within, timedelta) else within
    return EventCondition(key, value, type, namespace, sender, count, seconds)


@by_the_author
def asset_updated(name: str, *, count: int = 1) -> EventCondition:
    """Return a condition on Airflow's asset events, from anywhere: tasks' outlets, the UI, the REST API.

    Not on those that came as an event: ``event()`` has them.

    :param name: the asset's name; ``*`` is any, ``abc*`` what begins with abc.
    :param count: so many since the rule fired last, 1 to 1,000.
    """
    return event(name, type="ASSET_UPDATED", namespace="airflow", count=count)


@by_the_author
def status(task: Any, is_: str) -> StatusCondition:
    """Return a condition on the state of another task of the same Dag run.

    :param task: an operator, what a ``@task`` function returned, or a task_id.
    :param is_: one of Airflow's states of a task, e.g. ``"running"``.
    :raises ValueError: there is no such state.
    :raises TypeError: `task` is not a task.
    """
    return StatusCondition(_task_id(task), getattr(is_, "value", is_))


@by_the_author
def every(
    period: timedelta | None = None, *, seconds: float = 0, minutes: float = 0, hours: float = 0, days: float = 0
) -> PeriodCondition:
    """Return a condition that is met once in each period, counted from when the scheduler first saw the run.

    :param period: its length; or give `seconds`, `minutes`, `hours`, `days`, which are added up.
    :raises ValueError: it is not positive, or more than 100 years.
    :raises TypeError: `period` is not a timedelta.
    """
    if period is not None and not isinstance(period, timedelta):
        raise TypeError(f"every({period!r}): say the unit, e.g. every(seconds={period!r}), or give a timedelta")
    try:
        total = timedelta(days=days, hours=hours, minutes=minutes, seconds=seconds) + (period or timedelta())
    except OverflowError:
        raise ValueError("every(): the period is longer than 100 years") from None
    return PeriodCondition(_plain(total.total_seconds()))


@by_the_author
def all_of(*conditions: Condition) -> AllOf:
    """Return the condition that is met when all of `conditions` are.

    :raises ValueError: there is none.
    :raises TypeError: one of them is not a condition.
    """
    return AllOf(conditions)


@by_the_author
def any_of(*conditions: Condition) -> AnyOf:
    """Return the condition that is met when one of `conditions` is.

    :raises ValueError: there is none.
    :raises TypeError: one of them is not a condition.
    """
    return AnyOf(conditions)


# -- JSON ---------------------------------------------------------------------------------------------------------

_JSON_NAME = {"is_repeated": "repeated", "state": "is"}
_FIELD_NAME = {json: name for name, json in _JSON_NAME.items()}


def from_json(when: Any) -> Condition:
    """Return the condition that `when` was made from by ``to_json``.

    :raises ValueError: it was not, or its condition is wrong.
    :raises TypeError: a field is not of its type.
    """
    return _read(when, 0)


def _read(when: Any, level: int) -> Condition:
    if not isinstance(when, Mapping) or len(when) != 1:
        raise ValueError(f"a condition is a dict with one of {', '.join(_READ)}, not {short(when)}")
    ((kind, what),) = when.items()
    if kind not in _READ:
        raise ValueError(f"no such condition: {kind!r}; there are {', '.join(_READ)}")
    if level > DEPTH_MAX:
        raise ValueError(f"groups of conditions are nested more than {DEPTH_MAX} deep; write it flatter")
    return _READ[kind](what, level)


def _read_leaf(cls: type[EventCondition | StatusCondition | PeriodCondition]) -> Callable[[Any, int], Condition]:
    names = {_JSON_NAME.get(f.name, f.name): f.default is MISSING for f in fields(cls)}

    def read(what: Any, level: int) -> Condition:
        if not isinstance(what, Mapping):
            raise ValueError(f"a condition's fields are a dict, not {short(what)}")
        if unknown := sorted(str(name) for name in what if name not in names):
            raise ValueError(f"no such field: {', '.join(unknown)}; there are {', '.join(names)}")
        if missing := [name for name, needed in names.items() if needed and name not in what]:
            raise ValueError(f"no {' and no '.join(missing)} in {short(what)}")
        return cls(**{_FIELD_NAME.get(str(name), str(name)): value for name, value in what.items()})

    return read


def _read_group(cls: type[_Group]) -> Callable[[Any, int], Condition]:
    def read(what: Any, level: int) -> Condition:
        if not isinstance(what, list):
            raise ValueError(f"{cls.word}: a list of conditions, not {short(what)}")
        return cls(tuple(_read(child, level + 1) for child in what))

    return read


_READ: dict[str, Callable[[Any, int], Condition]] = {
    "event": _read_leaf(EventCondition),
    "status": _read_leaf(StatusCondition),
    "every": _read_leaf(PeriodCondition),
    "all": _read_group(AllOf),
    "any": _read_group(AnyOf),
}


# -- checks -------------------------------------------------------------------------------------------------------


def depth(condition: Condition) -> int:
    """Return how deep groups are nested in it; 0: it is none."""
    return 1 + max(map(depth, condition.conditions)) if isinstance(condition, _Group) else 0


def walk(when: Condition) -> Iterator[Condition]:
    """Yield the tree in prefix order, groups before what is in them."""
    yield when
    if isinstance(when, AllOf | AnyOf):
        for child in when.conditions:
            yield from walk(child)


def check_condition(value: Any, where: str) -> Condition:
    """Return value; where: who was given it.

    :raises TypeError: it is no condition.
    """
    if isinstance(value, Condition):
        return value
    if isinstance(value, str):
        raise TypeError(f"{where}: {value!r} is not a condition; write event({value!r}) or status({value!r}, ...)")
    task_id = getattr(getattr(value, "operator", value), "task_id", None)
    if isinstance(task_id, str):
        raise TypeError(f"{where}: task {task_id!r} is not a condition; write status({task_id!r}, 'success')")
    raise TypeError(f"{where}: {name_of(value)} is not a condition; write event(...), status(...) or every(...)")


def _parts(condition: Condition, group: type[_Group]) -> tuple[Condition, ...]:
    return condition.conditions if isinstance(condition, group) else (condition,)


def _task_id(task: Any) -> str:
    if isinstance(task, str):
        return task
    for candidate in (task, getattr(task, "operator", None)):
        task_id = getattr(candidate, "task_id", None)
        if isinstance(task_id, str):
            return task_id
    if callable(task):
        name = name_of(task)
        raise TypeError(f"status(): {name} is a function; call it, and give what it returns: status({name}(), ...)")
    raise TypeError(
        f"status(): {name_of(task)} is no task; give an operator, what a @task function returned, or a task_id"
    )


def _set_fields(condition: EventCondition | StatusCondition) -> list[tuple[str, Any]]:
    every_field = [(f, getattr(condition, f.name)) for f in fields(condition)]
    return [(f.name, value) for f, value in every_field if value != f.default]


def _check_text(what: str, text: Any, most: int) -> None:
    if not isinstance(text, str):
        raise TypeError(f"{what} is {text!r}, must be a str, e.g. {what}={str(text)!r}")
    try:
        size = len(text.encode())
    except UnicodeEncodeError as e:
        raise ValueError(f"{what} {text!r} cannot be written as UTF-8: {e.reason}") from None
    if size > most:
        raise ValueError(f"{what} has {size} bytes, must have at most {most}")
    if "\0" in text:
        raise ValueError(f"{what} {text!r} has a NUL character in it; leave it out")


def _check_pattern(what: str, pattern: Any, most: int) -> None:
    _check_text(what, pattern, most + (isinstance(pattern, str) and pattern.endswith("*")))
    if not pattern:
        raise ValueError(f'{what} is empty; write the {what} of the events you mean, or {what}="*" for any')


def _check_count(count: Any) -> None:
    if not isinstance(count, int) or isinstance(count, bool):
        raise TypeError(f"count is {count!r}, must be a whole number")
    if not 1 <= count <= COUNT_MAX:
        raise ValueError(f"count is {count}, must be 1 to {COUNT_MAX}")


def _check_repeated(repeated: Any) -> None:
    if not isinstance(repeated, bool):
        raise TypeError(f"repeated is {repeated!r}, must be True or False")


def _check_seconds(what: str, seconds: Any) -> None:
    if not isinstance(seconds, int | float) or isinstance(seconds, bool):
        raise TypeError(f"{what} is {seconds!r}, must be a number of seconds or a timedelta")
    if not seconds <= SECONDS_MAX:  # NaN too
        raise ValueError(f"{what} is {seconds} seconds, must be at most 100 years")
    if seconds < 0.001:
        raise ValueError(f"{what} is {seconds} seconds, must be positive, e.g. 60")


def _close_state(state: str) -> str:
    word = state.lower()
    near = get_close_matches(_OTHER_WORDS.get(word, word), STATES, n=1)
    return f" (did you mean {near[0]!r}?)" if near else ""


def _plain(seconds: float) -> float:
    """Return 60 for 60.0: it is what people wrote, and reads better in JSON."""
    return int(seconds) if seconds.is_integer() else seconds
