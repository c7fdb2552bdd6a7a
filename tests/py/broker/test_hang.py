"""A broker whose database hangs."""

import contextlib
import os
import signal

import pytest

from aiflow_ext import Event, EventClient


@pytest.mark.skipif("AIF_TEST_PG" not in os.environ, reason="no PostgreSQL: tests/with_postgres gives one")
def test_it_ends_when_it_is_told_to(broker_process):
    import psycopg2

    name = f"hang-{os.getpid()}"
    server = os.environ["AIF_TEST_PG"]
    broker_process.kill()
    broker_process.log = f"{server}{'&' if '?' in server else '?'}application_name={name}"
    broker_process.start()
    with contextlib.closing(psycopg2.connect(server)) as db, db.cursor() as cursor:
        cursor.execute("SELECT pid FROM pg_stat_activity WHERE application_name = %s", (name,))
        (pid,) = cursor.fetchone()
        with EventClient(broker_process.uri) as client:
            client.publish(Event("k"))
            os.kill(pid, signal.SIGSTOP)
            try:
                broker_process.ends_though_its_log_hangs(client)
            finally:
                os.kill(pid, signal.SIGCONT)
