"""Importing costs nothing; the public names are where they should be."""

import ast
import importlib.metadata
import os
import pickle
import subprocess
import sys
from pathlib import Path

import pytest

import aiflow_ext
from aiflow_ext import Event, EventLog, _core, errors
from aiflow_ext.events import address


def run(program, **env):
    out = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, env={**os.environ, **env}
    )
    return out.stdout.strip()


def test_importing_loads_and_opens_nothing():
    program = """if True:
        import os, sys
        before = set(sys.modules), os.listdir("/proc/self/fd"), os.listdir("/proc/self/task")
        os.environ.clear()
        import aiflow_ext
        assert before[1:] == (os.listdir("/proc/self/fd"), os.listdir("/proc/self/task"))
        print(sorted(m for m in set(sys.modules) - before[0] if m.startswith(("aiflow", "airflow"))))
    """
    assert run(program) == "['aiflow_ext']"


def test_events_need_no_airflow():
    program = """if True:
        import sys
        from aiflow_ext import Event, EventClient, EventLog
        print(sorted(m for m in sys.modules if m.split(".")[0] in ("airflow", "sqlalchemy", "pydantic")))
    """
    assert run(program) == "[]"


def empty_library(path):
    env = {k: v for k, v in os.environ.items() if k != "LD_PRELOAD"}  # a sanitizer is not for the compiler
    subprocess.run(["cc", "-shared", "-x", "c", os.devnull, "-o", path], check=True, env=env)


@pytest.mark.parametrize(("make", "why"), [(Path.touch, "file too short"), (empty_library, "undefined symbol")])
def test_only_a_log_in_mysql_needs_its_library(make, why, tmp_path):
    make(tmp_path / "libmariadb.so.3")  # the loader looks here first, and no further
    program = """if True:
        from aiflow_ext import EventLog
        EventLog("mem:").close()
        for uri in ("mysql://me:secret@127.0.0.1:1/db", "mariadb://me:secret@127.0.0.1:1/db"):
            try:
                EventLog(uri)
            except ValueError as error:
                print(error)
    """
    said = run(program, LD_LIBRARY_PATH=str(tmp_path)).splitlines()
    assert len(said) == 2
    for line in said:
        assert line.startswith(
            "MySQL needs the library libmariadb; "
            "on Debian: apt-get install libmariadb3, then start this process again ("
        )
        assert why in line
        assert "secret" not in line


def test_a_log_in_mysql_has_its_library():
    with pytest.raises(errors.StoreError, match="connecting: Can't connect"):
        EventLog("mysql://root@127.0.0.1:1/db")


def test_the_lazy_names_are_the_typed_ones():
    tree = ast.parse(Path(aiflow_ext.__file__).read_text())
    (typed,) = (node for node in tree.body if isinstance(node, ast.If))
    imports = {alias.name: node.module for node in typed.body for alias in node.names}
    assert imports == aiflow_ext._HOME
    assert set(imports) <= set(dir(aiflow_ext))


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="module 'aiflow_ext' has no attribute 'evnt'"):
        _ = aiflow_ext.evnt


def test_event_is_the_function_whatever_is_imported_first():
    program = "import aiflow_ext._core, aiflow_ext.events; from aiflow_ext import event; print(callable(event))"
    assert run(program) == "True"


def test_events_and_errors_are_pickled():
    event = Event("k", "v", offset=7)
    assert pickle.loads(pickle.dumps(event)) == event
    error = pickle.loads(pickle.dumps(errors.StoreError("gone", "57P01")))
    assert (str(error), error.sqlstate) == ("gone", "57P01")


def test_errors_have_one_base():
    named = [v for v in vars(errors).values() if isinstance(v, type)]
    assert len(named) == 11
    assert all(issubclass(v, errors.Error) for v in named)


def test_limits_are_told():
    assert (_core.KEY_MAX, _core.VALUE_MAX, _core.BATCH_MAX, _core.PATTERNS_MAX) == (1024, 2**20, 10_000, 64)


@pytest.mark.parametrize(
    ("env", "uri"),
    [
        ({"AIFLOW_BROKER": "tcp://127.0.0.1:7"}, "tcp://127.0.0.1:7"),
        ({"AIFLOW_BROKER": " ipc:///x ", "AIRFLOW__AIFLOW__BROKER": "ipc:///y"}, "ipc:///x"),
        ({"AIRFLOW__AIFLOW__BROKER": "ipc:///y", "AIRFLOW_HOME": "/z"}, "ipc:///y"),
        ({"AIRFLOW__AIFLOW__BROKER": "embedded", "AIRFLOW_HOME": "/z"}, "ipc:///z/aiflow/broker.sock"),
        ({"AIRFLOW_HOME": "~/a", "HOME": "/h"}, "ipc:///h/a/aiflow/broker.sock"),
        ({"AIRFLOW_HOME": "$BASE/a", "BASE": "/b"}, "ipc:///b/a/aiflow/broker.sock"),
        ({"AIRFLOW_HOME": "", "HOME": "/h"}, "ipc:///h/airflow/aiflow/broker.sock"),
    ],
)
def test_where_the_broker_is(monkeypatch, env, uri):
    for name in ("AIFLOW_BROKER", "AIRFLOW__AIFLOW__BROKER", "AIRFLOW_HOME", "AIRFLOW_CONFIG"):
        monkeypatch.delenv(name, raising=False)
    for name, value in env.items():
        monkeypatch.setenv(name, value)
    assert address.broker_uri() == uri


AIRFLOW_CFG = """
[aiflowers]
broker = tcp://127.0.0.1:1

# [aiflow]
[aiflow]
# broker = tcp://127.0.0.1:2
broker = tcp://127.0.0.1:3, tcp://127.0.0.1:4
key_file = $BASE/100%/airflow.key

[api]
broker = tcp://127.0.0.1:5
"""


def test_airflow_cfg_says_it_too(monkeypatch, tmp_path):
    for name in ("AIFLOW_BROKER", "AIRFLOW__AIFLOW__BROKER", "AIRFLOW__AIFLOW__KEY_FILE", "AIRFLOW_CONFIG"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AIRFLOW_HOME", str(tmp_path))
    monkeypatch.setenv("BASE", "/base")
    (tmp_path / "airflow.cfg").write_text(AIRFLOW_CFG)
    assert address.broker_uri() == "tcp://127.0.0.1:3, tcp://127.0.0.1:4"
    assert address.setting("key_file") == "/base/100%/airflow.key"
    assert address.setting("retention") == ""

    monkeypatch.setenv("AIRFLOW__AIFLOW__BROKER", "embedded")  # the variable goes before the file
    assert address.broker_uri() == f"ipc://{tmp_path}/aiflow/broker.sock"
    monkeypatch.delenv("AIRFLOW__AIFLOW__BROKER")
    (tmp_path / "other.cfg").write_text("[aiflow]\nbroker = ipc:///other")
    monkeypatch.setenv("AIRFLOW_CONFIG", "$AIRFLOW_HOME/other.cfg")
    assert address.broker_uri() == "ipc:///other"
    (tmp_path / "other.cfg").write_text("[core]\n\n[aiflow]\nbroker\n")
    with pytest.raises(ValueError, match=r"other\.cfg"):
        address.broker_uri()


def test_a_path_too_long_for_a_socket():
    assert address.check_uri("ipc://" + "x" * 107)
    with pytest.raises(ValueError, match="has 108 bytes, and a socket's may have 107: set AIFLOW_BROKER to a shorter"):
        address.check_uri("ipc://" + "x" * 108)


def test_several_addresses():
    uri = "tcp://a:1,ipc:///b,c, tcp://d:2"
    assert address.check_uri(uri) == uri
    assert address.split_uri(uri) == ["tcp://a:1", "ipc:///b,c", "tcp://d:2"]


@pytest.mark.parametrize("uri", ["", "ipc://", "tcp:", "http://host", "/a/path", "tcp://a:1,ipc://", ",tcp://a:1"])
def test_not_an_address(uri):
    with pytest.raises(ValueError, match="a broker is at ipc://PATH or tcp://HOST:PORT, not"):
        aiflow_ext.EventClient(uri)


@pytest.mark.parametrize(
    ("uri", "shown"),
    [
        ("sqlite:/a/b.db", "sqlite:/a/b.db"),
        ("postgresql://me:secret@host:1/db?sslpassword=secret", "postgresql://host:1/db"),
        ("postgresql://host/db?password=secret", "postgresql://host/db"),
        ("mysql://me:secret@host:1/db?ssl_key=secret", "mysql://host:1/db"),
        ("mysql://me:se/cret@host/db", "mysql://host/db"),
        ("mysql://me:se#cret@host/db", "mysql://host/db"),
        ("mysql://me:se@cret@host/db", "mysql://host/db"),
        ("mysql://me:se?cret@host/db", "mysql://..."),
        ("mysql://host/db?password=se@cret", "mysql://..."),
        ("mysql:me:secret@host", "mysql:..."),
        ("sqlite:/a@b/c?d.db", "sqlite:/a@b/c?d.db"),
        ("tcp://127.0.0.1:1", "tcp://127.0.0.1:1"),
        ("tcp://me:secret@a:1,tcp://b:2?secret", "tcp://a:1, tcp://b:2"),
    ],
)
def test_shown_without_secrets(uri, shown):
    assert address.safe_uri(uri) == shown


def test_the_installed_version_is_a_version():
    assert importlib.metadata.version("aiflow-ext")[0].isdigit()


def test_sub_interpreters_have_their_own():
    program = """if True:
        import sys
        from aiflow_ext import Event, EventLog, _core
        here = EventLog("mem:")
        here.append([Event("a")], "p", 1)
        name = "_xxsubinterpreters" if sys.version_info < (3, 13) else "_interpreters"
        interpreters = __import__(name)
        for _ in range(3):
            there = interpreters.create()
            code = (
                "from aiflow_ext import Event, EventLog\\n"
                "log = EventLog('mem:')\\n"
                "assert log.append([Event('b')], 'p', 1) == [1]\\n"
                "assert type(log.read(0)[0]) is Event\\n"
                "try: log.append([Event('')], 'p', 2)\\n"
                "except ValueError: pass\\n"
            )
            interpreters.run_string(there, code)
            interpreters.destroy(there)
        print(here.read(0)[0].key)
    """
    assert run(program, PYTHONWARNINGS="ignore") == "a"
