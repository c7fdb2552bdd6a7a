"""The log on a MariaDB server of our own, which may be configured, stopped and killed."""

import getpass
import os
import shutil
import signal
import socket
import subprocess
import threading
import time

import pytest

from aiflow_ext import Event, EventClient, EventLog, _core
from aiflow_ext.errors import CorruptError, ReplacedError, StoreError

PATH = f"{os.environ['PATH']}:/usr/sbin:/usr/libexec"
TOOLS = {tool: shutil.which(tool, path=PATH) for tool in ("mariadb-install-db", "mariadbd", "mariadb", "openssl")}
pytestmark = pytest.mark.skipif(
    not all(TOOLS.values()), reason="no MariaDB server: apt-get install mariadb-server-core mariadb-client openssl"
)
EARTH = Event("\N{EARTH GLOBE EUROPE-AFRICA} ", "a ", sender="me ")
# what a server may be set to, and a log on it must not mind
ODD = (
    "--character-set-server=latin1",
    "--skip-character-set-client-handshake",
    "--autocommit=0",
    "--log-bin",
    "--sync-binlog=1",
)


class Server:
    def __init__(self, folder):
        self.folder = folder
        with socket.socket() as s:
            s.bind(("127.0.0.1", 0))
            self.port = s.getsockname()[1]
        self.uri = f"mysql://root@127.0.0.1:{self.port}/log"
        self.options = ["--no-defaults", f"--user={getpass.getuser()}", f"--datadir={folder}/data"]
        self.addresses = [f"--socket={folder}/socket", "--bind-address=127.0.0.1", f"--port={self.port}"]
        self.certificate = [f"--ssl-cert={folder}/server.pem", f"--ssl-key={folder}/server.key"]
        self.process = None
        certify(folder, "server", "other")
        subprocess.run(
            [TOOLS["mariadb-install-db"], *self.options, "--skip-test-db", "--auth-root-authentication-method=normal"],
            check=True,
            capture_output=True,
        )

    def start(self):
        with (self.folder / "log").open("a") as log:
            self.process = subprocess.Popen(
                [TOOLS["mariadbd"], *self.options, *ODD, *self.addresses, *self.certificate], stderr=log
            )
        deadline = time.monotonic() + 180
        while self.process.poll() is None and time.monotonic() < deadline:
            if self.sql("SELECT 1", check=False).returncode == 0:
                return
        pytest.fail((self.folder / "log").read_text())

    def end(self, how=signal.SIGTERM):
        self.process.send_signal(how)
        self.process.wait(180)

    def sql(self, text, check=True):
        command = [TOOLS["mariadb"], "--no-defaults", "--user=root", f"--socket={self.folder}/socket"]
        return subprocess.run([*command, "-N", "-e", text], check=check, capture_output=True, text=True)


def certify(folder, *names):
    """Self-signed, for 127.0.0.1."""
    what = ["req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2"]
    who = ["-subj", "/CN=127.0.0.1", "-addext", "subjectAltName=IP:127.0.0.1"]
    for name in names:
        files = ["-keyout", folder / f"{name}.key", "-out", folder / f"{name}.pem"]
        subprocess.run([TOOLS["openssl"], *what, *who, *files], check=True, capture_output=True)


@pytest.fixture(scope="module")
def running(tmp_path_factory):
    server = Server(tmp_path_factory.mktemp("mysql"))
    server.start()
    yield server
    server.end()


@pytest.fixture
def server(running):
    running.sql("DROP DATABASE IF EXISTS log; CREATE DATABASE log")
    return running


def append(log, first, n):
    return log.append([EARTH] * n, "p", first)


def test_whatever_its_settings_what_is_read_is_what_was_appended(server):
    with EventLog(server.uri) as log:
        assert append(log, 1, 2) == [1, 2]
        assert [e[:6] for e in log.read(0)] == [EARTH._replace(namespace="default")[:6]] * 2
    with EventLog(server.uri.replace("mysql", "mariadb") + f"?unix_socket={server.folder}/socket") as log:
        assert append(log, 1, 3) == [1, 2, 3]


def test_a_server_that_is_stopped_comes_back(server):
    with EventLog(server.uri) as log:
        append(log, 1, 3)
        server.end()
        for _ in range(2):
            with pytest.raises(StoreError):
                append(log, 4, 1)
        with pytest.raises(StoreError, match=r"connecting: Can't connect to server on '127\.0\.0\.1'"):
            log.read(0)
        server.start()
        assert append(log, 3, 2) == [3, 4]


@pytest.mark.parametrize("raised", [False, True])
def test_a_signal_is_handled_while_a_call_waits_for_a_lock(server, alarm, raised):
    command = [TOOLS["mariadb"], "--no-defaults", "--user=root", f"--socket={server.folder}/socket", "-N", "-n", "log"]
    with (
        EventLog(server.uri) as log,
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other,
    ):
        other.stdin.write("START TRANSACTION; SELECT 'held' FROM aiflow_log_head FOR UPDATE;\n")
        other.stdin.flush()
        assert other.stdout.readline() == "held\n"

        def release():
            if raised:
                raise KeyboardInterrupt
            other.stdin.close()

        def interrupted():  # it may come before the append
            alarm(release)
            append(log, 1, 3)

        if raised:
            with pytest.raises(KeyboardInterrupt):
                interrupted()
            other.stdin.close()
            assert log.head() == 0
        else:
            alarm(release)
        assert append(log, 1, 2) == [1, 2]


def test_a_signal_is_handled_while_another_process_makes_the_log(server, alarm):
    command = [TOOLS["mariadb"], "--no-defaults", "--user=root", f"--socket={server.folder}/socket", "-N", "-n", "log"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        other.stdin.write("SELECT GET_LOCK(CONCAT('aiflow_', SHA1(DATABASE())), 60);\n")
        other.stdin.flush()
        assert other.stdout.readline() == "1\n"
        alarm(other.stdin.close)
        with EventLog(server.uri) as log:
            assert append(log, 1, 1) == [1]


def test_what_was_answered_is_there_after_kill_9(server):
    with EventLog(server.uri) as log:
        for i in range(50):
            append(log, 1 + 2 * i, 2)
        server.end(signal.SIGKILL)
        with pytest.raises(StoreError):
            append(log, 101, 1)
        server.start()
        assert [e.offset for e in log.read(0)] == list(range(1, 101))
        assert append(log, 101, 1) == [101]


@pytest.mark.parametrize(
    ("setting", "value", "why"),
    [
        ("innodb_flush_log_at_trx_commit", 2, "innodb_flush_log_at_trx_commit is 2: a crash may take what was"),
        ("sync_binlog", 0, "has a binary log, and its sync_binlog is 0: a crash may take what was"),
    ],
)
def test_a_server_that_may_forget_is_refused_unless_that_is_meant(server, setting, value, why):
    server.sql(f"SET GLOBAL {setting} = {value}")
    try:
        with pytest.raises(ValueError, match=why):
            EventLog(server.uri)
        with EventLog(server.uri + "?durable=no") as log:
            assert append(log, 1, 1) == [1]
    finally:
        server.sql(f"SET GLOBAL {setting} = 1")
    EventLog(server.uri).close()


def test_a_server_that_comes_back_with_other_settings_is_waited_for(server):
    """It is no mistake of who appends then."""
    with EventLog(server.uri) as log:
        assert append(log, 1, 1) == [1]
        server.end()
        server.start()
        server.sql("SET GLOBAL sync_binlog = 0")
        try:
            with pytest.raises(StoreError):
                append(log, 2, 1)
            with pytest.raises(StoreError, match="its sync_binlog is 0: a crash may take"):
                append(log, 2, 1)
        finally:
            server.sql("SET GLOBAL sync_binlog = 1")
        assert append(log, 2, 1) == [2]


def test_a_binary_log_of_statements_is_refused_when_the_log_is_opened(server):
    """The server would refuse each append, in words that name no setting of ours."""
    server.sql("SET GLOBAL binlog_format = STATEMENT")
    try:
        for durable in ("", "?durable=no"):
            with pytest.raises(ValueError, match=r"its binlog_format is STATEMENT, .*: set it to ROW"):
                EventLog(server.uri + durable)
        server.sql("SET GLOBAL binlog_format = ROW")
        with EventLog(server.uri) as log:
            assert append(log, 1, 1) == [1]
    finally:
        server.sql("SET GLOBAL binlog_format = MIXED")
    with EventLog(server.uri) as log:
        assert append(log, 1, 2) == [1, 2]


def test_a_value_passes_by_a_small_packet_or_is_refused_at_once(server):
    most = Event("k", "x" * (1 << 20))
    try:
        server.sql("SET GLOBAL max_allowed_packet = 1048576")
        with pytest.raises(ValueError, match="max_allowed_packet is 1048576 bytes: a log needs 2097152 or more"):
            EventLog(server.uri)
        server.sql("SET GLOBAL max_allowed_packet = 2097152")
        with EventLog(server.uri) as log:
            assert log.append([most] * 25, "p", 1) == list(range(1, 26))
            assert sum(len(e.value) for e in log.read(0)) == 8 << 20
    finally:
        server.sql("SET GLOBAL max_allowed_packet = 16777216")


def test_tls(server):
    server.sql("CREATE OR REPLACE USER tls@'%' REQUIRE SSL; GRANT ALL ON log.* TO tls@'%'")
    uri = server.uri.replace("root", "tls")
    with pytest.raises(StoreError, match="Access denied for user 'tls'"):
        EventLog(uri)
    for good in ("ssl=required", f"ssl_ca={server.folder}/server.pem"):
        with EventLog(f"{uri}?{good}") as log:
            assert append(log, 1, 1) == [1]
    for bad in ("ssl=verify", f"ssl_ca={server.folder}/other.pem"):
        with pytest.raises(StoreError, match=r"(?i)certificate"):
            EventLog(f"{uri}?{bad}")


def test_who_may_only_use_the_tables_can(server):
    EventLog(server.uri).close()
    server.sql(
        "CREATE OR REPLACE USER few@'%' IDENTIFIED BY 'p@ss';GRANT SELECT, INSERT, UPDATE, DELETE ON log.* TO few@'%'"
    )
    with EventLog(server.uri.replace("root", "few:p%40ss")) as log:
        assert append(log, 1, 1) == [1]
    with pytest.raises(StoreError, match="Access denied for user 'few'") as caught:
        EventLog(server.uri.replace("root", "few:p%40s"))
    assert caught.value.sqlstate == "28000"


@pytest.fixture
def brokers(server, tmp_path):
    """Two over one log."""
    brokers = [_core.Broker(f"ipc://{tmp_path}/{i}", server.uri) for i in "ab"]
    for broker in brokers:
        broker.start()
    yield brokers
    for broker in brokers:
        broker.stop()


def published(uri, n):
    """Publish n events, each again until it is in the log."""
    with EventClient(uri) as client:
        for i in range(n):
            while True:
                try:
                    client.publish(Event(uri[-1], str(i)), timeout=120, identity=(uri[-1], i + 1))
                    break
                except StoreError:
                    pass


def pushed(uri, n):
    """The first n that a subscriber is pushed."""
    events = []
    with EventClient(uri) as client, client.subscribe(after=0) as subscription:
        while len(events) < n:
            events += subscription.poll(30)
    return events


def test_brokers_share_a_log_on_a_server_that_is_killed_and_comes_back(server, brokers):
    a, b = (broker.uri for broker in brokers)
    publishers = [threading.Thread(target=published, args=(uri, 100)) for uri in (a, b)]
    for thread in publishers:
        thread.start()
    pushed(a, 20)
    server.end(signal.SIGKILL)
    server.start()
    seen = [pushed(uri, 200) for uri in (a, b)]
    for thread in publishers:
        thread.join()
    assert [e.offset for e in seen[0]] == list(range(1, 201))
    assert seen[0] == seen[1]
    for key in "ab":  # each once, and in order
        assert [int(e.value) for e in seen[0] if e.key == key] == list(range(100))


def test_dropped_tables_are_not_made_again_under_a_broker(server, brokers):
    uri = brokers[0].uri
    with EventClient(uri) as client, client.subscribe(after=0) as subscription:
        for i in range(5):
            client.publish(Event("k", str(i)))
        assert [next(subscription).offset for _ in range(5)] == [1, 2, 3, 4, 5]
        server.sql("USE log; DROP TABLE aiflow_event, aiflow_log_purged, aiflow_log_head, aiflow_cursor")
        for _ in range(2):
            with pytest.raises(CorruptError):
                client.publish(Event("k"))
        assert server.sql("SHOW TABLES FROM log").stdout == ""
        for broker in brokers:
            broker.stop()
        with _core.Broker(uri, server.uri) as broker:
            broker.start()
            with pytest.raises(ReplacedError, match=r"saw first: offset 5 .* ends at 0"):
                next(subscription)
            assert client.publish(Event("k")) == 1


def test_a_broker_ends_though_its_server_hangs(server, broker_process):
    broker_process.kill()
    broker_process.log = server.uri
    broker_process.start()
    with EventClient(broker_process.uri) as client:
        client.publish(Event("k"))
        server.process.send_signal(signal.SIGSTOP)
        try:
            os.waitid(os.P_PID, server.process.pid, os.WSTOPPED)
            broker_process.ends_though_its_log_hangs(client)
        finally:
            server.process.send_signal(signal.SIGCONT)
