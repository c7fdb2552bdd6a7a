"""What a wake source would cost on MySQL: triggers that bump a row or insert one, or a short look (docs/adr/0016).

Run it by tests/with_airflow_mysql.  Triggers need a user that has SUPER, unless the server has
log_bin_trust_function_creators: give the URI of one with --uri.  8 connections change rows of their own, one a
transaction, as api-servers change task instances; a look is made beside them, or by itself.
"""

from __future__ import annotations

import argparse
import os
import statistics
import threading
import time
from typing import Any
from urllib.parse import unquote, urlsplit

import MySQLdb

WRITERS, SECONDS, ROWS = 8, 4.0, 20_000
LOOK = (
    "SELECT (SELECT MAX(id) FROM dag_run), (SELECT MAX(id) FROM asset_event),"
    " (SELECT COUNT(*) FROM asset_dag_run_queue),"
    " (SELECT COUNT(*) FROM task_instance WHERE trigger_id IS NOT NULL)"
)
TABLES = (
    "CREATE TABLE task_instance (id INT PRIMARY KEY, state VARCHAR(20), trigger_id INT, KEY (state), KEY (trigger_id))",
    "CREATE TABLE dag_run (id INT PRIMARY KEY AUTO_INCREMENT)",
    "CREATE TABLE asset_event (id INT PRIMARY KEY AUTO_INCREMENT)",
    "CREATE TABLE asset_dag_run_queue (id INT PRIMARY KEY)",
    "CREATE TABLE counter (id INT PRIMARY KEY, n BIGINT)",
    "CREATE TABLE hint (id BIGINT PRIMARY KEY AUTO_INCREMENT, what VARCHAR(20))",
    "INSERT INTO counter VALUES (1, 0)",
)
TRIGGERS = {
    "nothing": None,
    "a trigger that inserts": "INSERT INTO hint (what) VALUES (NEW.state)",
    "a trigger that bumps one row": "UPDATE counter SET n = n + 1 WHERE id = 1",
}


def connect(uri: str, database: str | None = None) -> Any:
    u = urlsplit(uri)
    name = {} if database is None else {"database": database}
    account = {"user": unquote(u.username or "root"), "password": unquote(u.password or "")}
    return MySQLdb.connect(host=u.hostname, port=u.port or 3306, autocommit=True, **account, **name)


def run(connection: Any, statement: str, *values: object) -> Any:
    cursor = connection.cursor()
    cursor.execute(statement, values)
    return cursor.fetchall()


def writes(uri: str, database: str) -> float:
    """Transactions a second of all writers."""
    done = [0] * WRITERS

    def write(n: int) -> None:
        connection, until = connect(uri, database), time.monotonic() + SECONDS
        run(connection, "SET SESSION TRANSACTION ISOLATION LEVEL READ COMMITTED")
        while time.monotonic() < until:
            state = ("running", "success")[done[n] % 2]
            run(connection, "UPDATE task_instance SET state = %s WHERE id = %s", state, n * 1000 + done[n] % 1000)
            done[n] += 1
        connection.close()

    threads = [threading.Thread(target=write, args=(n,)) for n in range(WRITERS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return sum(done) / SECONDS


def look(connection: Any, times: int) -> list[float]:
    """How long looks take, in microseconds."""
    took = []
    for _ in range(times):
        began = time.perf_counter()
        run(connection, LOOK)
        took.append((time.perf_counter() - began) * 1e6)
        time.sleep(0.002)
    return took


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--uri", default=os.environ.get("AIF_TEST_AIRFLOW_MYSQL"))
    uri, database = parser.parse_args().uri, "aif_bench_wake"
    connection = connect(uri)
    run(connection, f"DROP DATABASE IF EXISTS {database}")
    run(connection, f"CREATE DATABASE {database}")
    connection = connect(uri, database)
    try:
        for table in TABLES:
            run(connection, table)
        rows = [(n, "success", None) for n in range(ROWS)]
        connection.cursor().executemany("INSERT INTO task_instance VALUES (%s, %s, %s)", rows)
        print(run(connection, "SELECT CONCAT('MySQL ', VERSION(), ', flush ', @@innodb_flush_log_at_trx_commit)")[0][0])
        for what, body in TRIGGERS.items():
            if body is not None:
                try:
                    run(connection, f"CREATE TRIGGER t AFTER UPDATE ON task_instance FOR EACH ROW {body}")
                except MySQLdb.OperationalError as e:
                    print(f"{what}: refused: {e}")
                    continue
            print(f"{what}: {writes(uri, database):,.0f} writes/s of {WRITERS} connections")
            run(connection, "DROP TRIGGER IF EXISTS t")
        for parked in (0, 100, 10_000):
            run(connection, "UPDATE task_instance SET state = 'deferred', trigger_id = id WHERE id < %s", parked)
            before = time.process_time()
            took = look(connection, 500)
            cpu = (time.process_time() - before) / 500 * 1e6
            print(
                f"a look, {parked} tasks of a triggerer: median {statistics.median(took):.0f} us,"
                f" p99 {sorted(took)[-5]:.0f} us, CPU here {cpu:.0f} us"
            )
    finally:
        run(connection, f"DROP DATABASE {database}")


if __name__ == "__main__":
    main()
