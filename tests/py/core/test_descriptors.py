"""File descriptors: how many a client takes, and what happens when there are no more."""

import os
import socket
import subprocess
import sys

import pytest

from aiflow_ext import Event, EventClient, _core
from aiflow_ext.errors import AccessError

COUNT = """if True:
    import os, sys
    from aiflow_ext import Event, EventClient
    client = EventClient(sys.argv[1])
    {made}
    client.publish(Event("other"), timeout=60)
    print(len(os.listdir("/proc/self/fd")) - 1, len(os.listdir("/proc/self/task")))
    os._exit(0)
"""


def count(broker, made):
    program = COUNT.replace("{made}", made)
    out = subprocess.run([sys.executable, "-c", program, broker.uri], capture_output=True, text=True)
    return tuple(map(int, out.stdout.split())), out.stderr


def test_sixteen_listeners_share_a_connection_and_a_context(broker):
    """3 of the program's own, 5 of the context, 4 of each connection, 2 to wait on one, and one to end the thread."""
    (descriptors, threads), errors = count(broker, "all = [client.listen(len, str(i)) for i in range(16)]")
    assert (descriptors <= 20, threads <= 4, errors) == (True, True, ""), (descriptors, threads)


def test_sixteen_subscriptions_share_a_context(broker):
    (descriptors, threads), errors = count(broker, "all = [client.subscribe(str(i)) for i in range(16)]")
    assert (descriptors <= 3 + 5 + 4 + 16 * 6, threads <= 3, errors) == (True, True, ""), (descriptors, threads)


def test_the_last_handle_gives_the_context_back(broker, until):
    def threads():
        return len(os.listdir("/proc/self/task"))

    until(lambda: len({threads() for _ in range(5000)}) == 1)  # no thread of another test is just ending
    before = threads()
    with EventClient(broker.uri) as one, EventClient(broker.uri) as other:
        one.publish(Event("a"))
        other.publish(Event("a"))
        assert threads() == before + 2
        one.close()
        other.publish(Event("a"))
        assert threads() == before + 2
    until(lambda: threads() == before)  # the kernel lists a thread a moment longer than it runs


NEAR = """if True:
    import os, resource, sys
    from aiflow_ext import _core
    from aiflow_ext.errors import DescriptorError
    uri, what = sys.argv[1:]
    used = len(os.listdir("/proc/self/fd")) - 1
    for free in range(48):
        pid = os.fork()
        if pid == 0:
            resource.setrlimit(resource.RLIMIT_NOFILE, (used + free, used + free))
            try:
                os._exit(0 if {
                    "Client": lambda: _core.Client(uri).head(60_000) == 0,
                    "Subscription": lambda: _core.Subscription(uri).add([("*", "*", "*", "*")], None, 60_000) == 1,
                    "Broker": lambda: _core.Broker(uri + "2", "mem:").start() is None,
                }[what]() else 2)
            except DescriptorError as e:
                os._exit(3 if "are free" in str(e) and "`ulimit -n`" in str(e) else 4)
            except BaseException:
                os._exit(5)
        print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
"""


@pytest.mark.parametrize("what", ["Client", "Subscription", "Broker"])
def test_near_its_limit_a_process_is_told_and_lives(broker, what):
    out = subprocess.run([sys.executable, "-c", NEAR, broker.uri, what], capture_output=True, text=True)
    codes = [int(line) for line in out.stdout.split()]
    told = codes.count(3)
    assert (codes, out.stderr) == ([3] * told + [0] * (48 - told), "")
    assert 10 < told < 48


def handshake():
    """Return what a DEALER says first: its greeting, its mechanism, what it is."""
    ready = b"\x05READY\x0bSocket-Type\x00\x00\x00\x06DEALER"
    return b"\xff" + bytes(8) + b"\x7f\x03\x00NULL" + bytes(16 + 1 + 31) + bytes([4, len(ready)]) + ready


def test_more_connections_than_descriptors_wait_outside(tmp_path, until):
    """500 descriptors, 272 connections over ipc: who comes then finds no broker until some have gone."""
    path = f"{tmp_path}/b"
    command = [sys.executable, "-m", "aiflow_ext.cli", "broker", "--bind", f"ipc://{path}", "--log", "mem:"]
    with subprocess.Popen(["prlimit", "--nofile=500:500", *command], stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr.readline().startswith("aiflow broker: serving")
        peers, refused = [], []

        def knock():
            peer = socket.socket(socket.AF_UNIX)
            peer.setblocking(False)
            try:
                peer.connect(path)
                peer.send(handshake())
                peers.append(peer)
            except OSError as e:
                peer.close()
                refused.append(type(e))
            return process.poll() is not None or FileNotFoundError in refused

        until(knock)
        assert 272 <= len(peers) < 500
        assert process.poll() is None
        for peer in peers:
            peer.close()
        with EventClient(f"ipc://{path}") as client:
            assert client.publish(Event("a"), timeout=60) == 1
        process.terminate()
        said = process.stderr.read()
    assert "connections are at their bound most=272" in said
    assert "connections are taken again" in said
    assert os.listdir(tmp_path) == ["b.lock"]


def test_brokers_of_one_process_let_in_whom_each_of_them_knows():
    """libzmq asks one server of each context about keys, so a broker has a context of its own."""
    ann = _core.curve_keypair()
    brokers = []
    for who in (ann, _core.curve_keypair()):
        public, secret = _core.curve_keypair()
        broker = _core.Broker("tcp://127.0.0.1:0", "mem:", secret)
        broker.set_access([(who[0], "name", ["*"], ["*"])])
        broker.start()
        brokers.append((broker, _core.Client(broker.uri, (public, *ann))))
    assert brokers[0][1].head(60_000) == 0
    with pytest.raises(AccessError):
        brokers[1][1].head(60_000)
    for broker, client in brokers:
        client.close()
        broker.close()
