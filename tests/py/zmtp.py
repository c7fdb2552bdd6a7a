"""A peer that speaks ZMTP 3 (RFC 23) with the NULL mechanism, byte by byte: it may do what libzmq never would."""

import socket
import struct

MORE, LONG, COMMAND = 1, 2, 4
GREETING = b"\xff" + bytes(8) + b"\x7f\3\0" + b"NULL".ljust(20, b"\0") + bytes(32)


class Peer:
    def __init__(self, uri, routing_id=b""):
        scheme, _, where = uri.partition("://")
        if scheme == "ipc":
            self.socket = socket.socket(socket.AF_UNIX)
            self.socket.settimeout(120)
            self.socket.connect(where)
        else:
            host, _, port = where.rpartition(":")
            self.socket = socket.create_connection((host, int(port)), timeout=120)
        self.socket.sendall(GREETING)
        self.read(len(GREETING))
        self.part(b"\5READY" + ready(b"Socket-Type", b"DEALER") + ready(b"Identity", routing_id), COMMAND)
        self.receive()  # the broker's READY

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        self.socket.close()

    def part(self, body, flags=0):
        """Send one part of a message; the last one when flags has no MORE."""
        size = struct.pack(">Q", len(body)) if flags & LONG or len(body) > 255 else bytes([len(body)])
        self.socket.sendall(bytes([flags | (LONG if len(size) > 1 else 0)]) + size + body)

    def read(self, n):
        got = b""
        while len(got) < n:
            piece = self.socket.recv(n - len(got))
            if not piece:
                raise EOFError
            got += piece
        return got

    def receive(self):
        """Return the next part; EOFError when the connection was closed."""
        flags = self.read(1)[0]
        n = struct.unpack(">Q", self.read(8))[0] if flags & LONG else self.read(1)[0]
        return self.read(n)

    def frame(self, kind, number, body=b""):
        """Send a frame of docs/protocol.md."""
        self.part(b"\xaf\4" + bytes([kind, 0]) + struct.pack("<Q", number) + body)

    def answer(self):
        """Return the next frame's kind, number and body; heartbeats are not answered."""
        while (part := self.receive())[:1] != b"\xaf":
            pass
        return part[2], *struct.unpack("<Q", part[4:12]), part[12:]


def ready(name, value):
    return bytes([len(name)]) + name + struct.pack(">I", len(value)) + value


def text(value):
    return struct.pack("<I", len(value)) + value
