"""A log that is replaced under a broker: by an older copy of itself, or by another one."""

import contextlib
import functools
import os
import shutil
import sqlite3
import subprocess

import pytest

from aiflow_ext import Event, EventClient, EventLog, _core
from aiflow_ext.errors import CorruptError, ReplacedError

OLDER = r"by an older copy: offset 5 was reached in the old one, the new one ends at 2; begin again after 0 .* after 2"
OTHER = r"by another one, or an older copy .* saw first: offset 5 was reached in the old one, the new one ends at "


def publish(client, n):
    return [client.publish(Event("k", str(i))) for i in range(n)]


def heard(sub, n):
    return [next(sub).offset for _ in range(n)]


def told(sub, text):
    """What comes next is an error, and nothing after it."""
    with pytest.raises(ReplacedError, match=text):
        next(sub)
    with pytest.raises(StopIteration):
        next(sub)


# --- SQLite: the file is another one ---------------------------------------


def copy(tmp_path):
    with contextlib.closing(sqlite3.connect(tmp_path / "events.db")) as db:
        db.execute("VACUUM INTO ?", (f"{tmp_path}/copy.db",))
    return tmp_path / "copy.db"


def put(tmp_path, file):
    for suffix in ("-wal", "-shm"):
        (tmp_path / f"events.db{suffix}").unlink(missing_ok=True)
    file.rename(tmp_path / "events.db")


def id_of(tmp_path):
    with contextlib.closing(sqlite3.connect(tmp_path / "events.db")) as db:
        return db.execute("SELECT log_id FROM aiflow_log_head").fetchone()[0]


@pytest.mark.parametrize("publishes", [False, True], ids=["quiet", "busy"])
def test_an_older_copy_of_the_file(tmp_path, broker, client, publishes, until):
    publish(client, 2)
    older = copy(tmp_path)
    publish(client, 3)
    was = id_of(tmp_path)
    listener = client.listen(lambda events: None, "*", after=5)
    with client.subscribe("*", after=0) as sub:
        assert heard(sub, 5) == [1, 2, 3, 4, 5]
        put(tmp_path, older)
        if publishes:
            assert publish(client, 1) == [3]
        told(sub, OLDER)
    until(lambda: listener.error is not None)
    assert isinstance(listener.error, ReplacedError)
    assert publish(client, 1) == [3 + publishes]
    with client.subscribe("*", after=0) as sub:
        assert heard(sub, 3) == [1, 2, 3]
    assert id_of(tmp_path) != was  # so that others hear of it, too
    status = client.status()
    assert (status["head"], status["log_id"]) == (3 + publishes, id_of(tmp_path))
    assert status["counters"]["replaced"] == 2
    lines = [text for _, text in broker.trace()]
    assert sum(text.startswith("log replaced why=") for text in lines) == 1


def test_the_id_of_an_older_copy_is_renewed_as_soon_as_that_works(tmp_path, broker, client, until):
    """And the broker is well meanwhile: it serves the log."""
    publish(client, 5)
    with contextlib.closing(sqlite3.connect(copy(tmp_path))) as db:
        db.execute("CREATE TRIGGER no BEFORE UPDATE OF log_id ON aiflow_log_head BEGIN SELECT RAISE(FAIL, 'no'); END")
    was = id_of(tmp_path)
    publish(client, 1)
    with client.subscribe("*", after=0) as sub:
        heard(sub, 6)
        put(tmp_path, tmp_path / "copy.db")
        with pytest.raises(ReplacedError):
            next(sub)
    assert client.status()["store"]["ok"]
    lines = [text for _, text in broker.trace()]
    assert sum("log id not renewed" in text for text in lines) == 1
    with client.subscribe("*", after=0):
        with contextlib.closing(sqlite3.connect(tmp_path / "events.db")) as db:
            db.execute("DROP TRIGGER no")
        until(lambda: id_of(tmp_path) != was)
    assert client.status()["counters"]["replaced"] == 1


@pytest.mark.parametrize("events", [1, 5, 9])
def test_another_file(tmp_path, client, events):
    publish(client, 5)
    with EventLog(f"sqlite:{tmp_path}/other.db") as log:
        log.append([Event("other")] * events, "other", 1)
    with client.subscribe("*", after=0) as sub:
        assert heard(sub, 5) == [1, 2, 3, 4, 5]
        put(tmp_path, tmp_path / "other.db")
        told(sub, f"{OTHER}{events};")
    assert publish(client, 1) == [events + 1]
    assert client.count() == events + 1


def test_an_empty_file_is_no_log(tmp_path, client):
    publish(client, 2)
    (tmp_path / "empty").touch()
    copy(tmp_path)
    with client.subscribe("*", after=0) as sub:
        put(tmp_path, tmp_path / "empty")
        with pytest.raises(CorruptError, match="its tables were dropped"):
            publish(client, 1)
        put(tmp_path, tmp_path / "copy.db")
        assert publish(client, 1) == [3]
        assert heard(sub, 3) == [1, 2, 3]  # it is the same log


def test_tables_that_are_dropped_and_made_by_another_process(tmp_path, client):
    publish(client, 5)
    with client.subscribe("*", after=0) as sub:
        assert heard(sub, 5) == [1, 2, 3, 4, 5]
        with contextlib.closing(sqlite3.connect(tmp_path / "events.db")) as db:
            for table in ("event", "log_purged", "log_head"):
                db.execute(f"DROP TABLE aiflow_{table}")
        with pytest.raises(CorruptError, match="no such table: aiflow_log_head"):
            publish(client, 1)
        with EventLog(f"sqlite:{tmp_path}/events.db"):
            told(sub, f"{OTHER}0;")
    assert publish(client, 1) == [1]


# --- a subscription comes back, and finds another log ------------------------


def test_a_subscription_is_not_resumed_in_another_log(tmp_path):
    bind = f"ipc://{tmp_path}/b"
    with _core.Broker(bind, "mem:") as old:
        old.start()
        with EventClient(bind) as client:
            publish(client, 5)
            sub, first = client.subscribe("*", after=0), client.subscribe("nothing", after=0)
            assert heard(sub, 5) == [1, 2, 3, 4, 5]
    with sub, first, _core.Broker(bind, "mem:") as new:
        new.start()
        with EventClient(bind) as client:
            publish(client, 9)  # its offset 5 is there again, and is another event
            told(sub, f"{OTHER}9;")


def test_an_older_copy_that_was_given_another_id_while_no_broker_ran(tmp_path, broker_process):
    with EventClient(broker_process.uri) as client:
        publish(client, 2)
        older = copy(tmp_path)
        publish(client, 3)
        with client.subscribe("*", after=0) as sub:
            assert heard(sub, 5) == [1, 2, 3, 4, 5]
            broker_process.kill()
            put(tmp_path, older)
            with contextlib.closing(sqlite3.connect(tmp_path / "events.db")) as db:
                db.execute("UPDATE aiflow_log_head SET log_id = log_id + 1")  # docs/schema.md
                db.commit()
            broker_process.start()
            publish(client, 9)
            told(sub, f"{OTHER}11;|by an older copy: offset 5 .* ends at 2")  # or what it had asked before


# --- PostgreSQL -------------------------------------------------------------


@pytest.fixture
def postgresql():
    """A schema with a log of its own; a function that runs SQL there."""
    psycopg2 = pytest.importorskip("psycopg2")
    server = os.environ.get("AIF_TEST_PG") or pytest.skip("no PostgreSQL: tests/with_postgres gives one")
    schema = f"aiflow_replaced_{os.getpid()}"
    uri = f"{server}{'&' if '?' in server else '?'}options=-csearch_path%3D{schema}"
    with contextlib.closing(psycopg2.connect(uri)) as db:
        db.autocommit = True
        with db.cursor() as cursor:
            cursor.execute(f"CREATE SCHEMA {schema}")
            yield uri, schema, cursor.execute
            cursor.execute(f"DROP SCHEMA {schema} CASCADE")


BACK_TO_2 = """BEGIN; UPDATE aiflow_log_head SET "offset" = 2; DELETE FROM aiflow_event WHERE "offset" > 2; COMMIT"""


@pytest.mark.parametrize("publishes", [False, True], ids=["quiet", "busy"])
def test_a_dump_that_is_restored(tmp_path, postgresql, publishes):
    pg_dump, psql = (shutil.which(tool) or pytest.skip(f"no {tool}") for tool in ("pg_dump", "psql"))
    uri, schema, _ = postgresql
    server = os.environ["AIF_TEST_PG"]
    # Debian's pg_dump and psql are a script in Perl, which hangs where a sanitizer is loaded before everything else.
    run = functools.partial(subprocess.run, check=True, capture_output=True, env={**os.environ, "LD_PRELOAD": ""})
    with _core.Broker(f"ipc://{tmp_path}/b", uri) as broker:
        broker.start()
        with EventClient(broker.uri) as client:
            publish(client, 2)
            dump = run([pg_dump, "--clean", f"--schema={schema}", server]).stdout
            publish(client, 3)
            with client.subscribe("*", after=0) as sub:
                assert heard(sub, 5) == [1, 2, 3, 4, 5]
                run([psql, "-q", "-1", "-v", "ON_ERROR_STOP=1", "-d", server], input=dump)
                if publishes:
                    assert publish(client, 1) == [3]
                told(sub, OLDER)
            assert publish(client, 1) == [3 + publishes]
            assert [e.offset for e in client.list("*")] == list(range(1, 4 + publishes))


def test_tables_that_are_truncated(tmp_path, postgresql):
    uri, _, sql = postgresql
    with _core.Broker(f"ipc://{tmp_path}/b", uri) as broker:
        broker.start()
        with EventClient(broker.uri) as client:
            publish(client, 5)
            with client.subscribe("*", after=0) as sub:
                assert heard(sub, 5) == [1, 2, 3, 4, 5]
                sql('BEGIN; TRUNCATE aiflow_event; UPDATE aiflow_log_head SET "offset" = 0; COMMIT')
                told(sub, "by an older copy: offset 5 .* ends at 0")
            assert publish(client, 1) == [1]


def test_another_broker_that_looks_when_the_head_is_beyond_again(tmp_path, postgresql, broker_process):
    uri, _, sql = postgresql
    broker_process.kill()
    broker_process.log = uri
    broker_process.start()
    with _core.Broker(f"ipc://{tmp_path}/c", uri) as broker:
        broker.start()
        with EventClient(broker.uri) as client, EventClient(broker_process.uri) as slow:
            publish(client, 5)
            with slow.subscribe("*", after=0) as sub:
                assert heard(sub, 5) == [1, 2, 3, 4, 5]
                broker_process.halt()
                sql(BACK_TO_2)
                assert publish(client, 9) == list(range(3, 12))  # the first tells this broker, which renews the id
                broker_process.go_on()
                told(sub, f"{OTHER}11;|by an older copy: offset 5 .* ends at 2")  # or what it had asked before


# --- a program keeps an offset ---------------------------------------------


def test_an_offset_is_not_gone_on_from_in_another_log(tmp_path):
    bind = f"ipc://{tmp_path}/b"
    with _core.Broker(bind, "mem:") as old:
        old.start()
        with EventClient(bind) as client:
            publish(client, 5)
            listener = client.listen(lambda events: None, after=5)
            with client.subscribe(after=0) as sub:
                assert heard(sub, 5) == [1, 2, 3, 4, 5]
                kept = {"after": sub.cursor, "log_id": sub.log_id}
            assert {"after": sub.cursor, "log_id": sub.log_id} == kept  # also when it is closed
            assert listener.log_id == kept["log_id"]
            with client.subscribe(**kept) as sub:
                publish(client, 1)
                assert heard(sub, 1) == [6]
    with _core.Broker(bind, "mem:") as new:
        new.start()
        with EventClient(bind) as client:
            publish(client, 9)
            with client.subscribe(after=5) as sub:  # without the id it cannot be known
                assert heard(sub, 1) == [6]
            for again in (client.subscribe, lambda **place: client.listen(print, **place)):
                with pytest.raises(ReplacedError, match=f"{OTHER}9;"):
                    again(**kept)
            with client.subscribe(**kept | {"after": 0}) as sub:  # misses nothing
                assert heard(sub, 9) == list(range(1, 10))
                assert sub.log_id != kept["log_id"]
            for wrong in ({"log_id": 1}, {"log_id": 1, "after": 1, "resume": "x"}):
                with pytest.raises(ValueError, match="log_id says of which log"):
                    client.subscribe(**wrong)


def test_the_id_of_a_log_and_where_it_ends(tmp_path):
    ids = set()
    for name in ("one", "two"):
        with EventLog(f"sqlite:{tmp_path}/{name}") as log:
            log.append([Event("k")] * 2, "p", 1)
            head, log_id = log.head_and_id()
            assert head == 2
            with EventLog(f"sqlite:{tmp_path}/{name}") as same:
                assert same.head_and_id() == (2, log_id)
            ids.add(log_id)
    assert len(ids) == 2
