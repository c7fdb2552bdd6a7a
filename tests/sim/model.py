"""What rules mean, said plainly from the sentences of docs/rules.md: every event is kept, and all are looked at anew.

In:  the rules of a task (or a Dag) as data, events and times.  Out: which rules fire, and what they report.
Slow and obvious on purpose; it knows neither the C core nor how the scheduler calls it.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass, field
from typing import Any

Json = dict[str, Any]


@dataclass
class Leaf:
    """An event, a status or a period of a rule."""

    data: Json
    latched: bool = False
    ticked: bool = False
    due: int = 0


@dataclass
class RuleModel:
    """One rule; `fired` is the offset at which it fired last."""

    data: Json
    leaves: list[Leaf] = field(default_factory=list)
    fired: int = 0


@dataclass(frozen=True)
class Firing:
    """One rule fired."""

    rule: str
    action: str
    offsets: tuple[int, ...]
    data: Json = field(compare=False, hash=False, repr=False)


class RulesModel:
    """All rules of one task of one run, or of one Dag.

    :param rules: as they are stored, in their order.
    :param since: they hear what comes after this offset.
    :param now: ms, from which periods count.
    """

    def __init__(self, dag_id: str, rules: list[Json], since: int, now: int) -> None:
        self.dag_id = dag_id
        self.last = since
        self.heard: list[tuple[Any, bool]] = []
        self.rules = [RuleModel(rule, _leaves(rule["when"])) for rule in rules]
        for rule in self.rules:
            rule.fired = 0
            for leaf in rule.leaves:
                if "every" in leaf.data:
                    leaf.due = now + self._period(leaf)

    def copy(self) -> RulesModel:
        """A model that goes on by itself."""
        return copy.deepcopy(self)

    def feed(self, event: Any, own_run: bool) -> list[Firing]:
        """An event comes (R4 to R7)."""
        if event.offset <= self.last:
            return []
        self.last = event.offset
        self.heard.append((event, own_run))
        out = []
        for rule in self.rules:
            touched = False
            for leaf in rule.leaves:
                if "every" in leaf.data:
                    continue
                mine = self._hears(leaf, event, own_run) and _value(leaf, event)
                touched |= mine
                if mine and self._newly_met(leaf, rule.fired):
                    leaf.latched = True
                if self._wants(leaf) is not None and self._holder(leaf) == 0:
                    leaf.latched = False
            if touched:
                self._fire(rule, out)
        return out

    def tick(self, now: int) -> list[Firing]:
        """Time passes (R32 to R34)."""
        out: list[Firing] = []
        for rule in self.rules:
            due = False
            for leaf in rule.leaves:
                if "every" not in leaf.data:
                    continue
                while leaf.due <= now:
                    leaf.due += self._period(leaf)
                    leaf.ticked = due = True
            if due:
                self._fire(rule, out)
        return out

    @property
    def due(self) -> int | None:
        """When a period is due next, in ms."""
        return min((leaf.due for rule in self.rules for leaf in rule.leaves if "every" in leaf.data), default=None)

    def _fire(self, rule: RuleModel, out: list[Firing]) -> None:
        offsets: set[int] = set()
        leaves = iter(rule.leaves)
        if not self._met(rule, rule.data["when"], leaves, offsets):
            return
        out.append(Firing(rule.data["name"], rule.data["action"], tuple(sorted(offsets)), rule.data))
        rule.fired = self.last
        for leaf in rule.leaves:
            leaf.ticked = False

    def _met(self, rule: RuleModel, when: Json, leaves: Any, offsets: set[int]) -> bool:
        for word in ("all", "any"):
            if word in when:
                mine: set[int] = set()
                met = [self._met(rule, part, leaves, mine) for part in when[word]]
                is_met = all(met) if word == "all" else any(met)
                if is_met:
                    offsets |= mine
                return is_met
        leaf = next(leaves)
        if "every" in when:
            return bool(leaf.ticked)
        is_met = leaf.latched if _field(leaf, "repeated", False) else self._newly_met(leaf, rule.fired)
        if is_met:
            self._report(leaf, offsets)
        return bool(is_met)

    def _report(self, leaf: Leaf, offsets: set[int]) -> None:
        count = _field(leaf, "count", 1)
        if self._wants(leaf) is not None and count == 1:
            offsets.add(self._holder(leaf))
        else:
            offsets.update(e.offset for e in self._newest(leaf, count))

    def _newly_met(self, leaf: Leaf, fired: int) -> bool:
        """ONCE (R18, R19), count (R23 to R28)."""
        count = _field(leaf, "count", 1)
        newest = self._newest(leaf, count)
        if len(newest) < count or newest[-1].offset <= fired:
            return False
        if self._wants(leaf) is not None and self._holder(leaf) <= fired:
            return False
        within = _field(leaf, "within", None)
        if within:
            times = [e.create_time for e in newest]
            return max(times) - min(times) <= round(within * 1000)
        return True

    def _newest(self, leaf: Leaf, count: int) -> list[Any]:
        found = [e for e, own in reversed(self.heard) if self._hears(leaf, e, own) and _value(leaf, e)]
        return found[:count]

    def _holder(self, leaf: Leaf) -> int:
        """The newest event that gave the value to a source which has it still (R14 to R16); 0 for none."""
        last: dict[Any, Any] = {}
        for e, own in self.heard:
            if self._hears(leaf, e, own):
                last[e.namespace, e.type, e.sender, e.key] = e
        holding = {source for source, e in last.items() if _value(leaf, e)}
        return max(
            (e.offset for source, e in last.items() if source in holding),
            default=0,
        )

    def _hears(self, leaf: Leaf, event: Any, own_run: bool) -> bool:
        data = leaf.data
        if "status" in data:
            key = f"{self.dag_id}.{data['status']['task']}"
            return own_run and (event.namespace, event.type, event.key) == ("airflow", "TASK_STATUS_CHANGED", key)
        of = data["event"]
        return (
            _means(of.get("namespace", "default"), event.namespace)
            and _means(of["key"], event.key)
            and _means(of.get("type", "*"), event.type)
            and _means(of.get("sender", "*"), event.sender)
        )

    def _wants(self, leaf: Leaf) -> str | None:
        return leaf.data["status"]["is"] if "status" in leaf.data else leaf.data["event"].get("value")

    @staticmethod
    def _period(leaf: Leaf) -> int:
        return round(leaf.data["every"]["seconds"] * 1000)


def _leaves(when: Json) -> list[Leaf]:
    for word in ("all", "any"):
        if word in when:
            return [leaf for part in when[word] for leaf in _leaves(part)]
    return [Leaf(when)]


def _field(leaf: Leaf, name: str, default: Any) -> Any:
    return next(iter(leaf.data.values())).get(name, default)


def _value(leaf: Leaf, event: Any) -> bool:
    data = leaf.data
    wanted = data["status"]["is"] if "status" in data else data["event"].get("value")
    return wanted is None or wanted == event.value


def _means(pattern: str, text: str) -> bool:
    if pattern.endswith("*"):
        return text.startswith(pattern[:-1])
    return pattern == text
