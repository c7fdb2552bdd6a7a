"""Our tables in Airflow's database.  docs/schema.md says what each is for; versions/ makes them."""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
    Column,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    Text,
    UniqueConstraint,
)
from sqlalchemy.dialects.mysql import LONGTEXT

ID_LEN = 250  # as Airflow's dag_id, run_id and task_id
LONG = Text().with_variant(LONGTEXT(), "mysql")  # whose TEXT ends at 64 KB

metadata = MetaData()

consumer = Table(
    "aiflow_consumer",
    metadata,
    Column("name", String(64), primary_key=True),
    Column("offset", BigInteger, nullable=False),
    Column("log_id", BigInteger, nullable=True),  # of the log that has this offset; NULL: not known yet, or no log's
    # Of the scheduler's row: how many reactions there were.  Whoever has not made the newest one reads what it changed.
    Column("version", BigInteger, nullable=False, server_default="0"),
    Column("gone_ms", BigInteger, nullable=True),  # since when no asset watcher has this row, as far as was looked
)

run = Table(
    "aiflow_run",
    metadata,
    Column("dag_id", String(ID_LEN), primary_key=True),
    Column("run_id", String(ID_LEN), primary_key=True),
    Column("since", BigInteger, nullable=False),  # rules hear events beyond this offset
    Column("version", BigInteger, nullable=False, server_default="0"),  # of the reaction that changed it last
    Column("dag_run_id", BigInteger, nullable=False),  # in Airflow's table; 0: of an earlier version
    Column("context", Text, nullable=True),
    Column("seen", Text, nullable=False),  # JSON: task -> [try id, state] last told to the rules
)

rule_state = Table(
    "aiflow_rule_state",
    metadata,
    Column("dag_id", String(ID_LEN), primary_key=True),
    Column("run_id", String(ID_LEN), primary_key=True),  # "" for the rules of a Dag
    Column("task_id", String(ID_LEN), primary_key=True),
    Column("rules_hash", String(64), nullable=False),
    Column("state", LargeBinary, nullable=False),  # csrc/core/rules/rules.c
    Column("due_ms", BigInteger, nullable=True),
    Column("pending", LONG, nullable=False),  # JSON: starts that wait for the task to end
    Column("started", Text, nullable=True),  # JSON: what started the current try; of a Dag: its first version
    Column("stopping", Text, nullable=True),  # JSON: the stop under way
)

action = Table(
    "aiflow_action",
    metadata,
    Column("id", BigInteger().with_variant(Integer, "sqlite"), primary_key=True, autoincrement=True),
    Column("dag_id", String(ID_LEN), nullable=False),
    Column("run_id", String(ID_LEN), nullable=False),
    Column("task_id", String(ID_LEN), nullable=False),
    Column("rule", String(ID_LEN), nullable=False),
    Column("cause", String(32), nullable=False),  # newest offset, or t<ms> for a period
    Column("action", String(16), nullable=False),
    Column("offsets", Text, nullable=False),  # JSON: of all events that made it fire
    Column("before", String(32), nullable=False),
    Column("after", String(32), nullable=False),
    Column("at_ms", BigInteger, nullable=False),
    # No event acts twice through one rule: the database refuses it.
    UniqueConstraint("dag_id", "run_id", "task_id", "rule", "cause", name="aiflow_action_once"),
    Index("aiflow_action_run", "dag_id", "run_id"),
)
