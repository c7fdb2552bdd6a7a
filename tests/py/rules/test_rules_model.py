"""_core.Rules against a model that keeps every event and looks at all of them each time."""

from itertools import pairwise

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from aiflow_ext import Event, _core
from aiflow_ext.rules import Rule, all_of, any_of, compile_rules, event, every, status

KEYS = ["a", "b", "ab"]
VALUES = ["x", "y"]


class Model:
    """The rules of one task, said plainly."""

    def __init__(self, spec, since, now):
        self.spec, self.last, self.events = spec, since, []
        self.fired = [0] * len(spec)
        self.latched, self.ticked = set(), set()
        self.due = {(r, i): now + c[1] for r, _, i, c in self.conds() if c[0] == "every"}

    def conds(self):
        return [(r, conds, i, c) for r, (_, conds) in enumerate(self.spec) for i, c in enumerate(conds)]

    def feed(self, ev, own_run):
        if ev.offset <= self.last:
            return []
        self.last = ev.offset
        self.events.append((ev, own_run))
        touched = set()
        for r, _, i, c in self.conds():
            if c[0] != "event":
                continue
            if (ev, own_run) in self.heard(c) and c[5] in (None, ev.value):
                touched.add(r)
                if self.newly_met(r, c):
                    self.latched.add((r, i))
            if c[5] is not None and not self.holders(c):
                self.latched.discard((r, i))
        return self.settle(touched)

    def tick(self, now):
        due = [at for at, when in self.due.items() if when <= now]
        for at in due:
            period = self.spec[at[0]][1][at[1]][1]
            self.due[at] += ((now - self.due[at]) // period + 1) * period
        self.ticked.update(due)
        return self.settle({r for r, _ in due})

    def heard(self, c):
        def means(pattern, text):
            return text.startswith(pattern[:-1]) if pattern.endswith("*") else text == pattern

        def all_mean(ev):
            return all(map(means, c[1:5], (ev.namespace, ev.key, ev.type, ev.sender)))

        return [(ev, own) for ev, own in self.events if all_mean(ev) and (own or not c[9])]

    def matching(self, c):
        return [ev for ev, _ in self.heard(c) if c[5] in (None, ev.value)][-c[7] :]

    def holders(self, c):
        last = {(ev.namespace, ev.type, ev.sender, ev.key): ev for ev, _ in self.heard(c)}
        return [ev.offset for ev in last.values() if ev.value == c[5]]

    def newly_met(self, r, c):
        found, times = self.matching(c), [ev.create_time for ev in self.matching(c)]
        return (
            len(found) == c[7]
            and found[0].offset > self.fired[r]
            and (c[5] is None or max(self.holders(c), default=0) > self.fired[r])
            and (c[8] == 0 or max(times) - min(times) <= c[8])
        )

    def tree(self, r, i):
        """Whether the sub-tree at i is met, with which offsets, and where the next one begins."""
        c = self.spec[r][1][i]
        if c[0] == "every":
            return (r, i) in self.ticked, set(), i + 1
        if c[0] == "event":
            met = (r, i) in self.latched if c[6] else self.newly_met(r, c)
            newest = {max(self.holders(c), default=0)} if c[5] is not None and c[7] == 1 else None
            return met, newest or {ev.offset for ev in self.matching(c)}, i + 1
        parts, i = [], i + 1
        for _ in range(c[1]):
            met, offsets, i = self.tree(r, i)
            parts.append((met, offsets))
        met = all(m for m, _ in parts) if c[0] == "all" else any(m for m, _ in parts)
        return met, set().union(*(o for m, o in parts if m)), i

    def settle(self, rules):
        fired = []
        for r in sorted(rules):
            met, offsets, _ = self.tree(r, 0)
            if met:
                fired.append((r, self.spec[r][0], sorted(offsets)))
                self.fired[r] = self.last
                self.ticked = {at for at in self.ticked if at[0] != r}
        return fired


texts = st.sampled_from([*KEYS, "a*", "*"])
leaves = st.one_of(
    st.builds(
        event,
        texts,
        st.none() | st.sampled_from(VALUES),
        sender=st.sampled_from(["*", "", "s"]),
        count=st.integers(1, 3),
    ),
    st.builds(event, texts, count=st.integers(2, 3), within=st.sampled_from([0.005, 0.02])),
    st.builds(status, st.sampled_from(KEYS), st.sampled_from(["running", "success"])),
)
conditions = st.recursive(
    leaves | leaves.map(lambda c: c.repeated()) | st.builds(every, seconds=st.sampled_from([0.007, 0.02])),
    lambda c: st.lists(c, min_size=1, max_size=3).flatmap(lambda cs: st.sampled_from([all_of(*cs), any_of(*cs)])),
    max_leaves=5,
)
rules = st.builds(Rule, st.none(), st.sampled_from(["start", "restart", "stop", "none"]), conditions)


class RulesMachine(RuleBasedStateMachine):
    @initialize(of_task=st.lists(rules, min_size=1, max_size=3), since=st.integers(0, 2))
    def begin(self, of_task, since):
        spec = compile_rules({"v": 1, "rules": [r.to_json() for r in of_task]}, "d")
        self.now = 1000
        self.core, self.model = _core.Rules(spec), Model(spec, since, self.now)
        self.state = self.core.start(since, self.now)

    def publish(self, step, late, own_run, **fields):
        self.now += 3
        ev = Event(offset=self.model.last + step, create_time=self.now - late, **fields)
        self.state, fired = self.core.feed(self.state, ev, own_run)
        assert fired == self.model.feed(ev, own_run)
        assert all(a < b for _, _, offsets in fired for a, b in pairwise([0, *offsets]))

    @rule(
        step=st.integers(0, 3),  # 0: a replay
        late=st.integers(0, 9),
        key=st.sampled_from(KEYS),
        value=st.sampled_from(VALUES),
        sender=st.sampled_from(["", "s"]),
        own_run=st.booleans(),
    )
    def an_event(self, step, late, key, value, sender, own_run):
        self.publish(step, late, own_run, key=key, value=value, sender=sender, namespace="default")

    @rule(task=st.sampled_from(KEYS), state=st.sampled_from(["running", "success"]), own_run=st.booleans())
    def a_status(self, task, state, own_run):
        fields = {"key": f"d.{task}", "value": state, "type": "TASK_STATUS_CHANGED", "namespace": "airflow"}
        self.publish(1, 0, own_run, sender="run", **fields)

    @rule(ms=st.integers(0, 50))
    def time_passes(self, ms):
        self.now += ms
        self.state, fired = self.core.tick(self.state, self.now)
        assert fired == self.model.tick(self.now)

    @precondition(lambda self: hasattr(self, "core"))
    @rule()
    def the_next_due_time(self):
        assert self.core.due(self.state) == min(self.model.due.values(), default=None)


RulesMachine.TestCase.settings = settings(max_examples=60, stateful_step_count=30)
test_rules_are_as_the_model_says = RulesMachine.TestCase
