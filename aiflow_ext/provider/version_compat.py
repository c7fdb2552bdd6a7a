"""Which Airflow this package was tested with, on which databases; any other runs its own scheduler."""

from __future__ import annotations

import re

TESTED_MINORS = frozenset({(3, 3)})


MYSQL_SINCE = (8, 0, 13)  # the first with an index over an expression


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


def unfit_mysql(version: str) -> str | None:
    """Return why event mode may not run on this server, or None where it may.

    :param version: what the server's VERSION() returns.
    """
    if "MariaDB" in version:
        server = f"MariaDB ({version}), which Airflow itself does not support"
    elif tuple(int(n) for n in re.findall(r"\d+", version)[:3]) < MYSQL_SINCE:
        server = f"MySQL {version}"
    else:
        return None
    since = ".".join(map(str, MYSQL_SINCE))
    return (
        f"Airflow's database is {server}: the stock scheduler runs instead. "
        f"Event mode needs MySQL {since} or newer, PostgreSQL or SQLite."
    )
