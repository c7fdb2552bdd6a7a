import importlib.metadata
import json
import os
import re
import signal
import socket
import sqlite3
import subprocess
import sys
from contextlib import closing, contextmanager
from datetime import UTC, datetime

import pytest
import yaml

from aiflow_ext import Event, EventClient, EventLog, _core, cli
from aiflow_ext.broker import keys
from aiflow_ext.cli import purge
from aiflow_ext.events.times import shown

ODD = Event("k", 'é"\\\n\x07\x7f\x85\u2028 𝄞 - [', "T", None, "default", "me")


@pytest.fixture
def aiflow(aiflow, broker, monkeypatch):
    monkeypatch.setenv("AIFLOW_BROKER", broker.uri)
    return aiflow


@contextmanager
def command(*argv, **kwargs):
    """The command as a process of its own, that is gone in the end, whatever the test found."""
    process = subprocess.Popen(
        [sys.executable, "-m", "aiflow_ext.cli", *argv],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        **kwargs,
    )
    with process:
        try:
            yield process
        finally:
            process.kill()


def test_send_says_the_offset(aiflow, client):
    fields = ("--type", "T", "--namespace", "n", "--sender", "me", "--context", "c")
    assert aiflow("events", "send", "k", "v", *fields) == (0, "1\n", "")
    assert aiflow("events", "send", "k") == (0, "2\n", "")
    assert [e[:6] for e in client.list(namespace="*")] == [
        ("k", "v", "T", "c", "n", "me"),
        ("k", "", "UNDEFINED", None, "default", ""),
    ]


def test_a_dash_reads_standard_input(broker, client):
    argv = [sys.executable, "-m", "aiflow_ext.cli", "events", "send", "k", "-", "--uri", broker.uri]
    out = subprocess.run(argv, input="a\nb", capture_output=True, text=True)
    assert (out.returncode, out.stdout, out.stderr) == (0, "1\n", "")
    assert client.list()[0].value == "a\nb"


def test_list_as_json_and_yaml_is_the_events(aiflow, client):
    client.publish_many([ODD, Event("x")])
    events = [e._asdict() for e in client.list()]
    assert json.loads(aiflow("events", "list", "-o", "json")[1]) == events
    assert yaml.safe_load(aiflow("events", "list", "-o", "yaml")[1]) == events


def test_lists_of_nothing(aiflow):
    said = "aiflow: no event matches in namespace 'default'; --namespace '*' asks for all\n"
    assert aiflow("events", "list", "-o", "json") == (0, "[]\n", said)
    assert aiflow("events", "list", "-o", "yaml") == (0, "[]\n", said)
    assert aiflow("events", "list")[1].split() == list(cli.COLUMNS)
    assert aiflow("events", "list", "--namespace", "*")[2] == "aiflow: no event matches\n"


def test_list_as_a_table_is_one_line_an_event(aiflow, client):
    client.publish_many([ODD, Event("k" * 100)])
    lines = aiflow("events", "list")[1].splitlines()
    assert [line.split()[0] for line in lines] == ["offset", "1", "2"]
    assert "\\n\\x07\\x7f\\x85\\u2028" in lines[1]
    assert lines[2].split()[4] == "k" * 59 + "…"
    created = " ".join(lines[1].split()[1:3])
    assert created.endswith("Z")  # UTC, and in a form that --since takes
    assert aiflow("events", "count", "--since", created) == (0, "2\n", "")


def test_filters(aiflow, client):
    client.publish_many(Event(k, type=t, sender=s) for k in ("a", "ab") for t in ("T", "U") for s in ("me", "you"))
    client.publish(Event("a", namespace="other"))

    def offsets(*argv):
        return [e["offset"] for e in json.loads(aiflow("events", "list", "-o", "json", *argv)[1])]

    assert offsets("--key", "a", "--type", "U") == [3, 4]
    assert offsets("--key", "a*", "--sender", "you", "--after", "4") == [6, 8]
    assert offsets("--namespace", "*", "--limit", "2", "--after", "7") == [8, 9]
    assert aiflow("events", "count", "--namespace", "*", "--key", "a") == (0, "5\n", "")
    assert aiflow("events", "count", "--after", "6") == (0, "2\n", "")
    assert offsets("--key", "ab", "--key", "none", "--upto", "6") == [5, 6]


def test_filters_by_context(aiflow, client):
    client.publish_many(Event("k", context=c) for c in ("run 1", "run 2", None))
    for context, n in (("run 1", 1), ("run*", 2), ("", 1), ("*", 3)):
        assert aiflow("events", "count", "--context", context) == (0, f"{n}\n", "")


def test_filters_by_time(aiflow, client):
    client.publish(Event("k"))
    when = datetime.fromtimestamp(client.list()[0].create_time / 1000, UTC).isoformat()
    for argv, n in (
        (("--since", "1h"), 1),
        (("--since", "-1h"), 1),
        (("--until", "-1h"), 0),
        (("--since", when), 1),
        (("--until", when), 0),
        (("--since", "2020-01-01", "--until", "2020-01-02"), 0),
    ):
        assert aiflow("events", "count", *argv) == (0, f"{n}\n", "")
    assert aiflow("events", "latest", "--since", "2020-01-01") == (0, "1\n", "")


def test_latest(aiflow, client):
    assert aiflow("events", "latest") == (0, "0\n", "")
    client.publish_many([Event("a"), Event("b"), Event("a"), Event("a", namespace="other")])
    assert aiflow("events", "latest", "--key", "a") == (0, "3\n", "")
    assert aiflow("events", "latest", "--namespace", "*") == (0, "4\n", "")


def test_count_by_sender(aiflow, client):
    client.publish_many([Event("k", sender=s) for s in ("me", "you", "me", "")])
    assert aiflow("events", "count", "--by-sender")[1].split() == ["sender", "events", "1", "me", "2", "you", "1"]
    rows = json.loads(aiflow("events", "count", "--by-sender", "-o", "json")[1])
    assert rows == [{"sender": "", "events": 1}, {"sender": "me", "events": 2}, {"sender": "you", "events": 1}]
    assert yaml.safe_load(aiflow("events", "count", "--by-sender", "-o", "yaml")[1]) == rows


def test_purge_says_and_does(aiflow, client, tmp_path):
    client.publish_many([Event("k", namespace=n) for n in ("a", "a", "b", "a")])
    purge = (
        "events",
        "purge",
        "--namespace",
        "a",
        "--keep",
        "1",
        "--log",
        f"sqlite:{tmp_path}/events.db",
        "-o",
        "json",
    )
    code, out, err = aiflow(*purge, "--dry-run")
    (row,) = json.loads(out)
    time = shown(client.list(namespace="*")[1].create_time)
    assert row == {"namespace": "a", "events": 2, "upto": 2, "time": time}
    assert (code, err) == (0, "aiflow: nothing is gone yet; without --dry-run this goes\n")
    assert client.count(namespace="*") == 4
    assert json.loads(aiflow(*purge)[1]) == [row]
    assert [e.offset for e in client.list(namespace="*")] == [3, 4]
    assert json.loads(aiflow(*purge)[1]) == [{"namespace": "a", "events": 0, "upto": 0, "time": ""}]
    assert aiflow("events", "list", "--after", "1", "--namespace", "a")[2].startswith("aiflow: ")


def test_cursors_are_listed_and_deleted(aiflow, client):
    assert json.loads(aiflow("cursors", "list", "-o", "json")[1]) == []
    client.publish_many([Event("a"), Event("a"), Event("b")])
    client.subscribe("a", resume="c", after=1).close()
    client.subscribe("a", resume="d", namespace="x*").close()
    first, second = json.loads(aiflow("cursors", "list", "-o", "json")[1])
    moved = first.pop("moved")
    assert first == {"namespace": "default", "name": "c", "offset": 1, "behind": 2}
    assert moved[:4] == second["moved"][:4] > "2025"
    assert (second["name"], second["behind"]) == ("d", 0)
    assert len(json.loads(aiflow("cursors", "list", "--namespace", "x*", "-o", "json")[1])) == 1
    assert aiflow("cursors", "delete", "c")[0] == 0
    code, _, err = aiflow("cursors", "delete", "c")
    assert (code, err) == (2, "aiflow: there is no cursor 'c' of namespace 'default': aiflow cursors list\n")
    assert aiflow("cursors", "delete", "d", "--namespace", "x*")[0] == 0


def test_purge_keeps_what_a_cursor_has_not_seen(aiflow, client, tmp_path):
    client.publish_many([Event("a", str(i)) for i in range(4)])
    client.subscribe("a", resume="c", after=1).close()
    code, out, err = aiflow(
        "events", "purge", "--namespace", "*", "--keep", "1", "--log", f"sqlite:{tmp_path}/events.db", "-o", "json"
    )
    assert (code, json.loads(out)[0]["upto"]) == (0, 1)
    assert err == "aiflow: cursor 'c' of namespace 'default' keeps events of '*' that would go\n"


@pytest.mark.parametrize("option", ["--dry-run", "-ojson"])
def test_a_purge_makes_no_log_of_another_file(aiflow, tmp_path, option):
    empty, other = tmp_path / "empty.db", tmp_path / "other.db"
    empty.touch()
    with closing(sqlite3.connect(other)) as db:
        db.execute("CREATE TABLE dag (id INTEGER)")
    for path in (empty, other):
        before = path.read_bytes()
        code, out, err = aiflow("events", "purge", "--namespace", "*", "--keep", "0", "--log", f"sqlite:{path}", option)
        assert (code, out, err) == (2, "", f"aiflow: there is no log at sqlite:{path}\n")
        assert path.read_bytes() == before


def test_a_long_purge_says_how_far_it_is(aiflow, client, tmp_path, monkeypatch):
    monkeypatch.setattr(purge, "SAY_EVERY", 0.0)
    client.publish_many([Event("k")] * 2500)
    argv = ("events", "purge", "--namespace", "default", "--older-than", "0s", "--log", f"sqlite:{tmp_path}/events.db")
    code, out, err = aiflow(*argv)
    assert (code, out.split()[4:7]) == (0, ["default", "2500", "2500"])
    assert err.splitlines() == [f"aiflow: {n} of 2500 events are gone" for n in (1000, 2000, 2500)]


def test_the_status_of_brokers(aiflow, broker, tmp_path):
    code, out, err = aiflow("broker", "status", "-o", "json")
    (said,) = json.loads(out)
    assert (code, err, said["uri"], said["problem"], said["store"]["ok"]) == (0, "", broker.uri, None, True)
    nobody = f"ipc://{tmp_path}/nobody"
    code, out, err = aiflow("broker", "status", "--uri", f"{broker.uri},{nobody}", "-o", "yaml")
    one, other = yaml.safe_load(out)
    assert (code, one["uri"], one["problem"], other["uri"]) == (1, broker.uri, None, nobody)
    assert (other["problem"][:14], err) == ("no answer from", "aiflow: 1 of 2 brokers are not well\n")
    assert aiflow("broker", "status", "--uri", nobody)[1].splitlines()[1] == f"problem  {other['problem']}"  # all of it
    lines = aiflow("broker", "status")[1].splitlines()
    assert [line.split()[0] for line in lines[:2]] == ["uri", "problem"]
    assert re.fullmatch(r"store.ok +True", next(line for line in lines if line.startswith("store.ok")))
    assert re.fullmatch(r"latency_us.turn +\d+ times, p50 <= \d+, p99 <= \d+", next(x for x in lines if "turn " in x))


def test_a_key_file(aiflow, tmp_path):
    key, _ = keys.new_key("ann", ["a"], ["*"], tmp_path / "keys")
    with _core.Broker("tcp://127.0.0.1:0", "mem:", keys.load_broker_key(tmp_path / "keys")) as broker:
        broker.set_access([grant.row() for grant in keys.load_access(tmp_path / "keys")])
        broker.start()
        there = ("--uri", broker.uri, "--key-file", str(key))
        assert aiflow("events", "send", "k", "--namespace", "a", *there) == (0, "1\n", "")
        assert aiflow("events", "count", "--namespace", "a", *there) == (0, "1\n", "")
        code, _, err = aiflow("events", "send", "k", *there)
        assert (code, err.count("\n")) == (1, 1)
        assert aiflow("broker", "status", *there)[0] == 0
        other, _ = keys.new_key("bob", ["a"], ["*"], tmp_path / "others")
        said = aiflow("events", "count", "--uri", broker.uri, "--key-file", str(other), "--timeout", "0.1")[2]
        assert said.endswith(f"; if {other} is the key file of another broker, its log says `connection refused`\n")
        code, out, err = aiflow("broker", "status", "--uri", broker.uri, "--timeout", "1", "-o", "json")
        assert (code, err) == (1, "aiflow: 1 of 1 brokers are not well\n")
        assert json.loads(out)[0]["problem"]


def test_a_broker_retains(tmp_path):
    uri, log = f"ipc://{tmp_path}/b", f"sqlite:{tmp_path}/log.db"
    with EventLog(log) as events:
        events.append([Event("k", namespace="a")] * 5, "p", 1)
    with command("broker", "--bind", uri, "--log", log, "--retain", "a=2", "--retain", "*=7d") as process:
        assert process.stderr.readline() == f"aiflow broker: serving {uri}, log {log}\n"
        line = next(line for line in process.stderr if "slow turn" not in line)
        assert line.endswith("aiflow broker: retention: 3 events of a are gone, up to offset 3\n")
        with EventClient(uri) as client:
            assert [e.offset for e in client.list(namespace="*")] == [4, 5]
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=60)
    assert process.returncode == 0


@pytest.mark.parametrize("output", ["table", "json", "yaml"])
def test_listen_streams_and_ctrl_c_ends_it_quietly(broker, client, output):
    client.publish(Event("old"))
    with command("events", "listen", "--uri", broker.uri, "--after", "0", "-o", output) as process:
        assert process.stderr.readline() == f"listening to {broker.uri}\n"
        client.publish(ODD)
        if output == "table":
            assert process.stdout.readline().split() == list(cli.COLUMNS)
        n = 1 if output != "yaml" else 8
        text = ["".join(process.stdout.readline() for _ in range(n)) for _ in range(2)]
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
    assert (process.returncode, out, err) == (130, "", "")
    if output == "json":
        assert [json.loads(t)["value"] for t in text] == ["", ODD.value]
    elif output == "yaml":
        assert [yaml.safe_load(t)[0]["value"] for t in text] == ["", ODD.value]
    else:
        assert [t.split()[0] for t in text] == ["1", "2"]


def test_listen_takes_the_same_filters(broker, client):
    client.publish_many(Event(k, context=c) for k in "abc" for c in ("run 1", None))
    filters = ("--key", "a", "--key", "c", "--context", "run*", "--since", "-1h")
    with command("events", "listen", "--uri", broker.uri, *filters, "-o", "json") as process:
        assert [json.loads(process.stdout.readline())["offset"] for _ in range(2)] == [1, 5]


def test_listen_goes_on_under_a_name(broker, client, until):
    client.publish_many([Event("a"), Event("b")])
    for n, key in enumerate("bc", 1):
        argv = ("events", "listen", "--uri", broker.uri, "--after", "1", "--resume", "me", "-o", "json")
        with command(*argv) as process:
            assert json.loads(process.stdout.readline())["key"] == key
            until(lambda n=n: [c.offset for c in client.cursors()] == [n + 1])
            process.send_signal(signal.SIGINT)
            process.communicate(timeout=60)
        assert process.returncode == 130
        client.publish(Event("c"))


def test_a_closed_pipe_ends_a_listener_quietly(broker, client):
    client.publish(Event("k"))
    with command("events", "listen", "--uri", broker.uri, "--after", "0", "-o", "json") as process:
        process.stdout.readline()
        process.stdout.close()
        client.publish(Event("k"))
        assert process.stderr.read() == f"listening to {broker.uri}\n"
    assert process.returncode == 0


def test_who_waits_for_a_broker_says_so(tmp_path):
    uri = f"ipc://{tmp_path}/late"
    with command("events", "send", "k", "--uri", uri, "--timeout", "600") as process:
        said = process.stderr.readline()
        assert re.match(rf"aiflow: no answer from {uri} yet, waiting 5\d\d s more at most \(there is no socket ", said)
        assert "start `airflow scheduler --event-mode` or `aiflow broker`, or set AIFLOW_BROKER" in said
        with _core.Broker(uri, "mem:") as late:
            late.start()
            assert process.communicate(timeout=60) == ("1\n", "")


def test_a_closed_pipe_ends_it_quietly(broker, client):
    client.publish_many([Event("k", "v" * 100)] * 5000)
    with command("events", "list", "--uri", broker.uri, "-o", "yaml") as process:
        assert process.stdout.readline() == '- key: "k"\n'
        process.stdout.close()
        assert process.stderr.read() == ""
    assert process.returncode == 0


@pytest.mark.parametrize(
    ("argv", "code", "text"),
    [
        (("events", "send", ""), 1, "aiflow: .*key"),
        (("events", "list", "--key", ""), 1, "aiflow: .*key"),
        (("events", "count", "--uri", "ftp://x"), 1, "aiflow: a broker is at ipc://PATH or tcp://HOST:PORT, not"),
        (("events", "count", "--uri", "ipc:///nobody", "--timeout", "0.01"), 1, "aiflow: no answer from ipc:///nobody"),
        (("broker", "--bind", "tcp://0.0.0.0:1", "--log", "mem:"), 1, "aiflow: .*0.0.0.0"),
        (("broker", "--bind", "tcp://127.0.0.1:0"), 2, "aiflow: which log. --log sqlite:PATH"),
        (
            ("broker", "--bind", "tcp://127.0.0.1:0", "--log", "/tmp/x.db"),
            1,
            "aiflow: '/tmp/x.db' is a path: write sqlite:/tmp/x.db",
        ),
        (
            ("broker", "--bind", "tcp://127.0.0.1:0", "--log", "mem:", "--keys", "/none"),
            2,
            "aiflow: --keys names /none",
        ),
        (("events", "count", "--uri", "tcp://no.invalid:1", "--timeout", "0.01"), 1, ".*'no.invalid' is not known: "),
        (("events", "count", "--uri", "tcp://a:1", "--key-file", "/none"), 1, "aiflow: the key file /none cannot be "),
        (("keys", "new", "ann"), 2, "aiflow: what may ann do. Write `aiflow keys new ann --publish"),
        (("broker", "--log", "mem:", "--retain", "a=1"), 2, "aiflow: --retain: a mem: log is the broker's alone"),
        (("broker", "--log", "mem:", "--retain", "a"), 2, "aiflow: --retain: 'a' is no retention: write NAMESPACE="),
        (("events", "purge", "--namespace", "a", "--log", "mem:"), 2, "aiflow: which events. --older-than 30d"),
        (("events", "purge", "--namespace", "a", "--keep", "1", "--log", "sqlite:none"), 2, "aiflow: there is no log"),
        (("events", "list", "--since", "3026-01-01"), 1, "aiflow: .*future"),
    ],
)
def test_errors_are_one_line(aiflow, argv, code, text, monkeypatch):
    monkeypatch.delenv("AIFLOW_LOG", raising=False)
    got, out, err = aiflow(*argv)
    assert (got, out, err.count("\n")) == (code, "", 1)
    assert re.match(text, err)


@pytest.mark.parametrize(
    "argv",
    [
        (),
        ("events",),
        ("evnts",),
        ("events", "send"),
        ("events", "list", "-o", "xml"),
        ("events", "list", "--since", "yesterday"),
        ("events", "purge", "--keep", "1"),
        ("events", "purge", "--namespace", "a", "--keep", "-1"),
        ("events", "purge", "--namespace", "a", "--older-than", "1 y"),
        ("broker", "stats"),
    ],
)
def test_wrong_usage_is_exit_code_2(aiflow, argv):
    code, out, err = aiflow(*argv)
    assert (code, out) == (2, "")
    assert err.startswith("usage: aiflow")


def test_a_command_in_the_wrong_place_is_told_the_right_one(aiflow):
    assert "did you mean `aiflow keys new` or `aiflow keys list` or" in aiflow("broker", "keys", "new")[2]
    assert "did you mean `aiflow events send`?" in aiflow("send", "k")[2]


def test_health_on_a_port_in_use_says_which(aiflow):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        at = f"127.0.0.1:{taken.getsockname()[1]}"
        code, _, err = aiflow("broker", "--bind", "tcp://127.0.0.1:0", "--log", "mem:", "--health", at)
    assert (code, err.splitlines()[-1]) == (
        1,
        f"aiflow: cannot serve health at {at}: Address already in use; name another port, or 0 for any",
    )


@pytest.mark.parametrize("c", cli.COMMANDS, ids=lambda c: c.name)
def test_help_has_an_example(aiflow, c):
    code, out, _ = aiflow(*c.name.split(), "--help")
    assert code == 0
    assert re.search(rf"example: aiflow {c.name}\s", out)


@pytest.mark.parametrize(("group", "text"), cli.GROUPS.items())
def test_a_group_names_its_commands(group, text):
    assert sorted(text.split(", ")) == sorted(c.name.split()[1] for c in cli.COMMANDS if c.name.startswith(f"{group} "))


def test_version(aiflow):
    assert aiflow("version")[1].strip() == importlib.metadata.version("aiflow-ext")


@pytest.mark.parametrize("end", [signal.SIGTERM, signal.SIGINT])
def test_the_broker_serves_until_it_is_told_to_end(tmp_path, end):
    env = {**os.environ, "AIFLOW_LOG": f"sqlite:{tmp_path}/log.db"}
    uri = f"ipc://{tmp_path}/new/folder/b"
    with command("broker", "--bind", uri, env=env) as process:
        assert process.stderr.readline() == f"aiflow broker: serving {uri}, log sqlite:{tmp_path}/log.db\n"
        with EventClient(uri) as client:
            client.publish(Event("a"))
        process.send_signal(end)
        out, err = process.communicate(timeout=60)
    assert (process.returncode, out) == (0, "")
    assert re.search("^aiflow broker: stopped; 1 appended, ", err, re.MULTILINE)
    assert (tmp_path / "new/folder").stat().st_mode & 0o777 == 0o700


def test_a_second_broker_at_the_address_says_so(broker, tmp_path):
    with command("broker", "--bind", broker.uri, "--log", "mem:") as process:
        out, err = process.communicate(timeout=60)
    assert (process.returncode, out, err.count("\n")) == (1, "", 1)
    assert broker.uri.removeprefix("ipc://") in err
