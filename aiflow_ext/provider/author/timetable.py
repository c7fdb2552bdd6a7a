"""What Airflow shows as the schedule of a Dag whose runs are made by rules, and by nothing else.

Importing this module costs 116 ms, because of what `airflow.timetables` imports; so only who needs it imports it.
"""

from __future__ import annotations

from typing import Any, Self

from airflow.timetables.simple import NullTimetable

SUMMARY_MAX = 200  # characters
DESCRIPTION_MAX = 1000  # of Airflow's column: with more, PostgreSQL refuses the Dag and the Dag processor ends


class EventTimetable(NullTimetable):
    """Schedules nothing, as ``schedule=None``, and says which rules make runs.

    :param rules: the rules, in words.
    """

    def __init__(self, rules: str) -> None:
        self.rules = rules
        self.description = _cut(f"In event mode a run is made by: {rules}", DESCRIPTION_MAX)

    @property
    def summary(self) -> str:
        """What the column *Schedule* shows."""
        return _cut(self.rules, SUMMARY_MAX)

    def serialize(self) -> dict[str, Any]:
        """Return what deserialize() takes."""
        return {"rules": self.rules}

    @classmethod
    def deserialize(cls, data: dict[str, Any]) -> Self:
        """Return the timetable that was serialized."""
        return cls(data["rules"])


def _cut(text: str, most: int) -> str:
    return text if len(text) <= most else text[: most - 1] + "…"
