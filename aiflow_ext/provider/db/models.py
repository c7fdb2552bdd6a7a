"""Our tables in Airflow's database.  docs/schema.md says what each is for; versions/ makes them."""

from __future__ import annotations

from airflow.models.base import ID_LEN, StringID
from sqlalchemy import BigInteger, Column, Index, Integer, LargeBinary, MetaData, String, Table, Text, UniqueConstraint
from sqlalchemy.dialects.mysql import LONGBLOB, LONGTEXT, VARCHAR

# On MySQL StringID() has the collation of Airflow's ids, so that ours can be joined with them, and 'a' is not 'A'.
ID = StringID()
# What anybody may write.  The collation of ids has no character of four bytes there.
NAME = String(ID_LEN).with_variant(VARCHAR(ID_LEN, charset="utf8mb4", collation="utf8mb4_bin"), "mysql")
LONG = Text().with_variant(LONGTEXT(charset="utf8mb4", collation="utf8mb4_bin"), "mysql")  # whose TEXT ends at 64 KB
BYTES = LargeBinary().with_variant(LONGBLOB(), "mysql")  # whose BLOB does so, too

metadata = MetaData()

consumer = Table(
    "aiflow_consumer",
    metadata,
    Column("name", StringID(length=64), primary_key=True),
    Column("offset", BigInteger, nullable=False),
    Column("log_id", BigInteger, nullable=True),  # of the log that has this offset; NULL: not known yet, or no log's
    # Of the scheduler's row: how many reactions there were.  Whoever has not made the newest one reads what it changed.
    Column("version", BigInteger, nullable=False, server_default="0"),
    Column("gone_ms", BigInteger, nullable=True),  # since when no asset watcher has this row, as far as was looked
)

progress = Table(
    "aiflow_progress",
    metadata,
    Column("dag_id", ID, primary_key=True),  # a Dag that is behind the others; "": all others
    Column("offset", BigInteger, nullable=False),  # up to here their rules have heard
)

run = Table(
    "aiflow_run",
    metadata,
    Column("dag_id", ID, primary_key=True),
    Column("run_id", ID, primary_key=True),
    Column("since", BigInteger, nullable=False),  # rules hear events beyond this offset
    Column("version", BigInteger, nullable=False, server_default="0"),  # of the reaction that changed it last
    Column("dag_run_id", BigInteger, nullable=False),  # in Airflow's table; 0: of an earlier version
    Column("context", LONG, nullable=True),
    Column("seen", LONG, nullable=False),  # JSON: task -> [try id, state] last told to the rules
)

rule_state = Table(
    "aiflow_rule_state",
    metadata,
    Column("dag_id", ID, primary_key=True),
    Column("run_id", ID, primary_key=True),  # "" for the rules of a Dag
    Column("task_id", ID, primary_key=True),
    Column("rules_hash", StringID(length=64), nullable=False),
    Column("state", BYTES, nullable=False),  # csrc/core/rules/rules.c
    Column("due_ms", BigInteger, nullable=True),
    Column("pending", LONG, nullable=False),  # JSON: starts that wait for the task to end
    Column("started", LONG, nullable=True),  # JSON: what started the current try; of a Dag: its first version
    Column("stopping", LONG, nullable=True),  # JSON: the stop under way
)

action = Table(
    "aiflow_action",
    metadata,
    Column("id", BigInteger().with_variant(Integer, "sqlite"), primary_key=True, autoincrement=True),
    Column("dag_id", ID, nullable=False),
    Column("run_id", ID, nullable=False),
    Column("task_id", ID, nullable=False),
    Column("rule", NAME, nullable=False),
    Column("cause", StringID(length=32), nullable=False),  # newest offset, or t<ms> for a period
    Column("action", StringID(length=16), nullable=False),
    Column("offsets", LONG, nullable=False),  # JSON: of all events that made it fire
    Column("before", StringID(length=32), nullable=False),
    Column("after", StringID(length=32), nullable=False),
    Column("at_ms", BigInteger, nullable=False),
    # No event acts twice through one rule: the database refuses it.  On MySQL, whose keys end at 3,072 bytes, it is an
    # index of that name over the digest of these columns (versions/0008).
    UniqueConstraint("dag_id", "run_id", "task_id", "rule", "cause", name="aiflow_action_once"),
    Index("aiflow_action_run", "dag_id", "run_id"),
)
