"""Which Airflow this package was tested with; any other runs its own scheduler."""

from __future__ import annotations

TESTED_MINORS = frozenset({(3, 3)})


def minor_of(version: str) -> tuple[int, int]:
    """Return the (major, minor) of an Airflow version such as "3.3.2" or "3.4.0b2"."""
    major, minor, *_ = version.split(".")
    return int(major), int(minor)


def untested(version: str) -> str | None:
    """Return why event mode may not run on this Airflow, or None where it may.

    :param version: Airflow's own version string.
    """
    if minor_of(version) in TESTED_MINORS:
        return None
    known = ", ".join(f"{a}.{b}" for a, b in sorted(TESTED_MINORS))
    return (
        f"event mode is tested with Airflow {known}, this is {version}: the stock scheduler runs instead. "
        "Upgrade aiflow-ext, or pin apache-airflow to a tested minor."
    )
