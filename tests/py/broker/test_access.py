"""`aiflow broker` with keys, as a process of its own: who may do what, and what strangers can do to it."""

import os
import re
import socket
import subprocess
import sys
import threading
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import pytest
from brokers import BrokerProcess

from aiflow_ext import Event, EventClient, _core
from aiflow_ext.broker import keys
from aiflow_ext.errors import AccessError
from aiflow_ext.events import keyfile

ANY = ("*", "*", "*", "*", "*")
GREETING = b"\xff\0\0\0\0\0\0\0\1\x7f\3\1CURVE".ljust(64, b"\0")
SOON_MS = 60_000


def aiflow(*argv, **kwargs):
    return subprocess.run(
        [sys.executable, "-m", "aiflow_ext.cli", *map(str, argv)], capture_output=True, text=True, timeout=120, **kwargs
    )


class Served(BrokerProcess):
    """`aiflow broker` over tcp on this machine, with the keys in a folder."""

    def __init__(self, tmp_path, *before):
        self.folder = tmp_path / "keys"
        super().__init__("tcp://127.0.0.1:0", f"sqlite:{tmp_path}/log", "--keys", self.folder, before=before)
        for name, publish, read in (("ann", ["a", "a.*"], ["*"]), ("bob", ["b"], ["a", "a.*"])):
            keys.new_key(name, publish, read, self.folder)

    @property
    def address(self):
        return "127.0.0.1", int(self.uri.rpartition(":")[2])

    def counted(self, name):
        """Return a number that it says when it has stopped."""
        return int(re.search(rf"(\d+) {name}\b", self.said[-1])[1])

    def refused(self):
        """Return why it turned connections away, as it said."""
        lines = (
            re.search(r'connection refused address=(?:127\.0\.0\.1|unknown) why="(.*)"', line) for line in self.said
        )
        return [found[1] for found in lines if found]

    def client(self, name):
        return _core.Client(self.uri, tuple(keyfile.load_client_key(self.folder / f"{name}.key")))

    def refresh(self):
        """Until it has seen the access file as it is now."""
        return self.wait_for(r"access has changed: (\d+) keys")


@pytest.fixture
def served(tmp_path):
    with Served(tmp_path) as served:
        yield served


def publish(client, namespace, sequence, producer="p", timeout_ms=SOON_MS):
    return client.publish([Event("k", "v", namespace=namespace)], producer, sequence, timeout_ms)


def count(client, namespace="*"):
    return client.count(0, [(namespace, *ANY[1:])], SOON_MS)[0]


def test_a_key_may_do_what_the_file_says(served):
    with served.client("ann") as ann, served.client("bob") as bob:
        assert publish(ann, "a.x", 1) == [1]
        with pytest.raises(AccessError, match="key ann may not publish to namespace b"):
            publish(ann, "b", 2)
        assert publish(bob, "b", 1, "q") == [2]
        assert count(bob, "a.*") == 1
        with pytest.raises(AccessError, match="key bob may not read namespace b"):
            count(bob, "b")
        with pytest.raises(AccessError, match="may not read all namespaces"):
            bob.count(0, [], SOON_MS)
        assert count(ann) == 2
        assert isinstance(AccessError("x"), PermissionError)


def test_a_client_is_given_a_file(served, monkeypatch):
    path = served.folder / "ann.key"
    with EventClient(served.uri, "a", key_file=path) as client:
        assert client.publish(Event("k")) == 1
    monkeypatch.setenv("AIFLOW_KEY_FILE", str(path))
    with EventClient(served.uri, "a") as client:
        assert client.count() == 1
        assert client.list("k")[0].namespace == "a"
    path.chmod(0o644)
    with pytest.raises(AccessError, match="chmod go-rwx"):
        EventClient(served.uri)
    assert EventClient("ipc:///nowhere").uri  # no key is looked at there


def test_a_subscription_ends_with_its_key(served):
    with (
        EventClient(served.uri, "a", key_file=served.folder / "ann.key") as ann,
        EventClient(served.uri, "a", key_file=served.folder / "bob.key") as bob,
        ann.subscribe(after=0) as hers,
        bob.subscribe(after=0) as his,
    ):
        with pytest.raises(AccessError, match=r"may not read namespace \*"):
            bob.subscribe(namespace="*")
        ann.publish(Event("k"))
        assert [next(hers).key, next(his).key] == ["k", "k"]
        text = (served.folder / "access.toml").read_text()
        keys.revoke_key("ann", served.folder)
        assert served.refresh()[1] == "1"
        with pytest.raises(AccessError, match="revoked"):
            next(hers)
        (served.folder / "access.toml").write_text(text)
        assert served.refresh()[1] == "2"
        ann.publish(Event("later"))
        assert next(his).key == "later"  # it never noticed


def test_what_is_denied_is_said_once(tmp_path):
    with Served(tmp_path) as served, served.client("ann") as ann:
        for i in range(5):
            with pytest.raises(AccessError, match="may not publish"):
                publish(ann, "b", i + 1)
    assert served.counted("denied") == 5
    assert sum("frame refused" in line for line in served.said) == 1


def test_what_is_made_and_revoked_counts_without_a_restart(served):
    with served.client("ann") as ann:
        assert publish(ann, "a", 1) == [1]
        assert aiflow("keys", "new", "eve", "--publish", "*", "--keys", served.folder).returncode == 0
        assert served.refresh()[1] == "3"
        with served.client("eve") as eve:
            assert publish(eve, "anything", 1, "q") == [2]
        assert aiflow("keys", "revoke", "ann", "--keys", served.folder).returncode == 0
        assert served.refresh()[1] == "2"
        with pytest.raises(AccessError, match="does not know this key"):  # on the connection that she has
            publish(ann, "a", 2)
    with served.client("bob") as bob:
        assert count(bob, "a") == 1


def test_a_broken_file_changes_nothing_and_none_lets_nobody_in(served):
    path = served.folder / "access.toml"
    text = path.read_text()
    with served.client("ann") as ann:
        path.write_text(text.replace("[keys.ann]", "[keys.ann"))
        served.wait_for(r"access file is broken.*stays in force.*access\.toml")
        assert publish(ann, "a", 1) == [1]
        path.write_text(text.replace('"a.*"', '""'))
        served.wait_for(r"access file is broken.*namespace is empty")
        assert publish(ann, "a", 2) == [2]
        path.chmod(0o666)
        served.wait_for(r"access file is broken.*chmod go-w")
        path.unlink()
        assert served.refresh()[1] == "0"
        with pytest.raises(AccessError, match="does not know this key"):
            publish(ann, "a", 3)
        path.write_text(text)
        assert served.refresh()[1] == "2"
        assert publish(ann, "a", 3) == [3]


def without_keys(tmp_path):
    """An environment whose AIRFLOW_HOME is empty."""
    ours = {name: value for name, value in os.environ.items() if not name.startswith("AIFLOW_")}
    return ours | {"AIRFLOW_HOME": str(tmp_path)}


def test_beyond_this_machine_is_refused_without_keys(tmp_path):
    argv = ["broker", "--bind", "tcp://0.0.0.0:0", "--log", "mem:"]
    env = without_keys(tmp_path)
    done = aiflow(*argv, env=env)
    assert done.returncode == 1
    assert "aiflow keys new" in done.stderr
    done = aiflow(*argv, env=env | {"AIFLOW_KEYS": str(tmp_path / "none")})  # named, so they must be there
    assert done.returncode == 2
    assert "none" in done.stderr
    keys.new_key("ann", ["a"], [], tmp_path / "aiflow" / "keys")
    done = aiflow(*argv, "--insecure", env=env)
    assert done.returncode == 2
    assert "leave one of the two out" in done.stderr


def test_insecure_is_said_at_each_start(tmp_path):
    log = ["--log", "mem:", "--insecure"]
    command = ["unshare", "-rn", sys.executable, "-m", "aiflow_ext.cli", "broker", "--bind", "tcp://0.0.0.0:0", *log]
    if subprocess.run(["unshare", "-rn", "true"], capture_output=True).returncode:
        pytest.skip("no network namespaces here: nothing may listen to other machines without keys")
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=without_keys(tmp_path))
    assert "INSECURE" in process.stderr.readline()
    process.terminate()
    process.communicate(timeout=60)


@contextmanager
def busy(served):
    """Another client, who goes on working: each of its events is answered, in order."""
    begun, done = threading.Event(), threading.Event()  # begun: its handshake is over, and it is no stranger any more
    wrong = []

    def work():
        try:
            with served.client("ann") as ann:
                n = last = 0
                while not done.is_set() or n < 10:
                    n += 1
                    (offset,) = publish(ann, "a", n, "busy")
                    assert offset > last
                    last = offset
                    begun.set()
                assert ann.head(SOON_MS) >= n
                served.worked = n
        except BaseException as e:
            wrong.append(e)
            begun.set()

    thread = threading.Thread(target=work)
    thread.start()
    try:
        begun.wait()
        yield
    finally:
        done.set()
        thread.join()
    assert not wrong, wrong


def is_closed(peer):
    """It closes the connection; what it says before does not matter."""
    peer.settimeout(SOON_MS / 1000)
    try:
        while peer.recv(4096):
            pass
    except ConnectionError:
        pass
    return True


def garbage(peer):
    peer.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n" * 100)


def noise_after_a_greeting(peer):
    peer.sendall(GREETING + bytes(range(256)) * 16)


def greeting_only(peer):
    peer.sendall(GREETING)


def half_a_greeting(peer):
    peer.sendall(GREETING[:20])


def silence(peer):
    pass


def null_greeting(peer):
    peer.sendall(GREETING.replace(b"CURVE", b"NULL\0") + b"\4\x26\5READY")


def a_huge_command(peer):
    peer.sendall(GREETING + b"\6" + (1 << 62).to_bytes(8, "big") + b"x" * 1000)


def a_hello_of_zeros(peer):
    peer.sendall(GREETING + b"\4\xc8\5HELLO\1\0" + bytes(192))


STRANGERS = [
    garbage,
    noise_after_a_greeting,
    greeting_only,
    half_a_greeting,
    silence,
    null_greeting,
    a_huge_command,
    a_hello_of_zeros,
]


def test_strangers_are_closed_and_counted_and_hurt_nobody(tmp_path):
    with Served(tmp_path) as served, busy(served), ExitStack() as stack:
        peers = []
        for stranger in STRANGERS * 5:
            peer = stack.enter_context(socket.create_connection(served.address))
            with suppress(ConnectionError):  # it was closed while it still talked
                stranger(peer)
            peers.append(peer)
        assert all(map(is_closed, peers))
    assert served.counted("strangers") == len(peers)
    assert served.counted("denied") == 0
    whys = ("it uses keys where", "it has another key", "it does not speak", "it did not finish", "it sent no frame")
    for why in whys:  # said once for each address; who is gone too soon has none
        assert 1 <= sum(why in said for said in served.refused()) <= 2, why


def test_one_byte_at_a_time_gets_two_seconds(tmp_path):
    with Served(tmp_path) as served, busy(served), socket.create_connection(served.address) as peer:
        peer.settimeout(0.25)
        sent = 0
        try:
            for byte in GREETING * 10:
                peer.send(bytes([byte]))
                sent += 1
                try:
                    assert peer.recv(4096)  # this is the pace
                except TimeoutError:
                    continue
        except (ConnectionError, AssertionError):
            pass
        assert sent < len(GREETING)
    assert served.counted("strangers") == 1


def test_a_reset_in_the_middle_hurts_nobody(tmp_path):
    with Served(tmp_path) as served, busy(served):
        for _ in range(50):
            peer = socket.create_connection(served.address)
            peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
            peer.send(GREETING[:30])
            peer.close()
    assert served.counted("strangers") >= 1


class Recorder:
    """Passes a connection on to the broker and keeps what the client said; changes it, when told to."""

    def __init__(self, address):
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.uri = f"tcp://127.0.0.1:{self.listener.getsockname()[1]}"
        self.address = address
        self.heard = []
        self.changes = threading.Event()
        self.thread = threading.Thread(target=self._run)
        self.thread.start()

    def _run(self):
        client, _ = self.listener.accept()
        self.listener.close()
        with client, socket.create_connection(self.address) as broker:
            back = threading.Thread(target=self._pass, args=(broker, client, []))
            back.start()
            self._pass(client, broker, self.heard)
            back.join()

    def _pass(self, one, other, heard):
        try:
            while got := one.recv(65536):
                heard.append(got)
                if heard is self.heard and self.changes.is_set():
                    got = got[:-1] + bytes([got[-1] ^ 1])
                other.sendall(got)
        except OSError:
            pass
        for end in (one, other):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)


def test_what_was_recorded_is_worth_nothing(tmp_path):
    with Served(tmp_path) as served:
        recorder = Recorder(served.address)
        key = tuple(keyfile.load_client_key(served.folder / "ann.key"))
        with _core.Client(recorder.uri, key) as ann:
            assert publish(ann, "a", 1, "the producer's name") == [1]
        recorder.thread.join()
        recording = b"".join(recorder.heard)
        assert len(recording) > 500
        for plain in (b"the producer's name", key[2].encode(), b"PUBLISH"):
            assert plain not in recording
        with busy(served), socket.create_connection(served.address) as peer:
            peer.sendall(recording)
            assert is_closed(peer)
        with served.client("ann") as ann:
            assert count(ann) == ann.head(SOON_MS) == 1 + served.worked
    assert served.counted("strangers") == 1


def test_what_is_changed_on_the_way_does_not_arrive(tmp_path):
    with Served(tmp_path) as served:
        recorder = Recorder(served.address)
        key = tuple(keyfile.load_client_key(served.folder / "ann.key"))
        with _core.Client(recorder.uri, key) as ann:
            assert publish(ann, "a", 1) == [1]
            recorder.changes.set()
            with busy(served), pytest.raises(TimeoutError):
                publish(ann, "a", 2, timeout_ms=1000)
            recorder.thread.join()  # the broker has closed it: the client is still there
        with served.client("ann") as ann:
            assert count(ann, "a") == 1 + served.worked


@pytest.mark.parametrize(
    ("who", "times", "error", "timeout_ms", "why"),
    [
        ("nobody", 30, AccessError, SOON_MS, "it uses keys where we do not"),  # often gone before it is seen why
        ("unknown", 3, AccessError, SOON_MS, "its key is not known"),
        ("another broker's", 3, TimeoutError, 1000, "it has another key for this broker"),
    ],
)
def test_who_has_no_key_here_gets_nothing(tmp_path, who, times, error, timeout_ms, why):
    with Served(tmp_path) as served:
        key = keyfile.load_client_key(served.folder / "ann.key")
        curve = {
            "nobody": None,
            "unknown": (key.server, *_core.curve_keypair()),
            "another broker's": (_core.curve_keypair()[0], key.public, key.secret),
        }[who]
        with busy(served), _core.Client(served.uri, curve) as client:
            for i in range(times):
                with pytest.raises(error):
                    publish(client, "a", i + 1, timeout_ms=timeout_ms)
    assert served.counted("strangers") >= 1
    assert any(why in said for said in served.refused())
    assert len(served.refused()) <= 4


def test_a_flood_of_connections_hurts_nobody(tmp_path):
    with Served(tmp_path) as served, busy(served), ExitStack() as stack:
        peers = [stack.enter_context(socket.create_connection(served.address)) for _ in range(400)]
        with served.client("bob") as bob:  # somebody new
            assert publish(bob, "b", 1, "q")
        assert all(map(is_closed, peers))
    assert served.counted("strangers") >= 400  # and whoever of ours had to knock twice
    left = {why for why in served.refused() if why.startswith("it sent no frame")}  # one of ours, who waited in vain
    assert set(served.refused()) - left == {"it did not finish its handshake"}


def knock(address):
    peer = socket.socket()
    peer.setblocking(False)
    peer.connect_ex(address)
    return peer


def test_more_connections_than_descriptors_wait_outside(tmp_path):
    """500 descriptors, 272 connections: the rest is kept out by the kernel, and the store has what it needs."""
    with Served(tmp_path, "prlimit", "--nofile=500:500") as served, busy(served):
        with ExitStack() as stack:
            peers = [stack.enter_context(knock(served.address)) for _ in range(600)]
            fds = Path(f"/proc/{served.process.pid}/fd")
            assert all(map(is_closed, peers[:50]))
            assert len(list(fds.iterdir())) < 500
        with served.client("bob") as bob:
            assert publish(bob, "b", 1, "q")
    assert any("connections are at their bound most=272" in line for line in served.said)
