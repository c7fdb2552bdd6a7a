"""What a peer over tcp without keys can do to a broker when it speaks ZMTP as it likes."""

import json
import re
import sqlite3
import struct
from contextlib import ExitStack, closing

import pytest
from brokers import BrokerProcess
from zmtp import MORE, Peer, text

PUBLISH, SUBSCRIBE, PING, STATUS = 1, 5, 9, 14
PONG, SUBSCRIBED, STATUSED = 0x89, 0x85, 0x8E
UNSEEDED = 0x6B8B4567  # the first number of a rand() that nobody seeded


class Served(BrokerProcess):
    def __init__(self, folder):
        super().__init__("tcp://127.0.0.1:0", f"sqlite:{folder}/log")

    def resident(self):
        """Return its memory, in MiB."""
        with open(f"/proc/{self.process.pid}/status") as status:
            return int(re.search(r"VmRSS:\s+(\d+)", status.read())[1]) >> 10


@pytest.fixture
def served(tmp_path):
    with Served(tmp_path) as served:
        yield served


def event(sequence):
    """Return the bytes of one of a MiB."""
    strings = (b"ns", b"key", bytes([65]) * (1 << 20), b"type", b"", b"", b"p")
    return struct.pack("<QqQ", 0, 0, sequence) + b"".join(map(text, strings))


def subscribe(peer, number):
    peer.frame(SUBSCRIBE, number, struct.pack("<QQIB", 2**64 - 1, 0, 1 << 20, 0) + text(b"*") * 5)
    assert peer.answer()[:2] == (SUBSCRIBED, number)


def status(peer):
    peer.frame(STATUS, 1)
    kind, _, body = peer.answer()
    assert kind == STATUSED
    return json.loads(body[4:])


def ping(peer):
    peer.frame(PING, 7)
    assert peer.answer() == (PONG, 7, b"")


def sends(send, *what):
    """Return whether it could: not when the connection was closed."""
    try:
        send(*what)
    except ConnectionError:
        return False
    return True


def test_nobody_guesses_the_routing_id_that_is_given_next(served):
    with ExitStack() as stack:
        first = stack.enter_context(Peer(served.uri))
        subscribe(first, 2)
        for i in range(40):
            stack.enter_context(Peer(served.uri, b"\0" + struct.pack(">I", UNSEEDED + i)))
        for _ in range(40):
            ping(stack.enter_context(Peer(served.uri)))
        ping(first)


def test_who_leaves_without_a_word_is_not_said_to_speak_another_protocol(served):
    with Peer(served.uri):
        pass
    # Who left before it was asked for its address has none.
    served.wait_for(r'connection refused address=(127\.0\.0\.1|unknown) why="it sent no frame: .*or left at once"')


def test_a_peer_s_name_is_not_its_routing_id(served):
    with Peer(served.uri, b"\0abcd") as peer, Peer(served.uri) as other:
        subscribe(peer, 2)
        subscribe(other, 3)
        names = {one["stream"]: one["peer"] for one in status(other)["behind"]}
        assert all(re.fullmatch("[0-9a-f]{8}", name) for name in names.values())
        assert names[2] != names[3]
        assert {one["stream"]: one["peer"] for one in status(peer)["behind"]} == names


def test_a_message_without_an_end_costs_its_sender_the_connection(served):
    part = bytes(4 << 20)
    with Peer(served.uri) as honest:
        subscribe(honest, 2)
        before = served.resident()
        for turn in range(2):
            with Peer(served.uri) as peer:
                if turn == 1:  # it began well
                    ping(peer)
                while sends(peer.part, part, MORE):
                    assert served.resident() - before < 100  # MiB
                    ping(honest)
        assert status(honest)["counters"]["endless"] == 2
    served.wait_for(r'connection closed address=127\.0\.0\.1 why="its message of many parts does not end" \(once')


def test_many_small_parts_are_counted_as_well(served):
    parts = bytes([MORE, 0]) * 500_000
    with Peer(served.uri) as honest, Peer(served.uri) as peer:
        before = served.resident()
        while sends(peer.socket.sendall, parts):
            assert served.resident() - before < 1000  # MiB: libzmq takes 64 bytes for two
            ping(honest)
        assert status(honest)["counters"]["endless"] == 1


def test_whole_frames_that_wait_for_the_store_cost_nobody_the_connection(served, tmp_path):
    frames = 40
    with (
        Peer(served.uri) as peer,
        Peer(served.uri) as other,
        closing(sqlite3.connect(tmp_path / "log", isolation_level=None)) as database,
    ):
        ping(peer)
        database.execute("BEGIN IMMEDIATE")
        before = served.resident()
        for number in range(frames):
            peer.frame(PUBLISH, number, b"".join(event(4 * number + i) for i in range(1, 5)))
        while served.resident() - before < 3 * frames:  # MiB
            pass
        database.execute("ROLLBACK")
        assert {peer.answer()[1] for _ in range(frames)} == set(range(frames))
        ping(peer)
        assert status(other)["counters"]["endless"] == 0
