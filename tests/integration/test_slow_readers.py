"""Readers of streams that do not read: bounded, without delay for others, and served completely once they read."""

import socket
from collections.abc import Callable

import msgspec

from sidecard_client import Client
from sidecard_client.protocol import wire
from sidecard_client.protocol.frames import FrameBuffer, frame
from tests.daemons import Daemon, ask, poll

PIECES = [bytes([number]) * 100_000 for number in range(100)]


def test_a_paused_reader_gets_the_whole_stream_later(daemon: Callable[..., Daemon]) -> None:
    """Meanwhile the daemon buffers no more than its windows allow, and serves others."""
    running = daemon()

    def stats() -> dict[str, object]:
        return ask(running.socket, {"op": "stats"})

    with Client(running.socket) as client, socket.socket(socket.AF_UNIX) as slow:
        assert client.put("large", PIECES)
        slow.connect(running.socket)
        slow.sendall(frame(wire.pack(wire.Begin("large", id=1, stream=True))))
        poll(lambda: stats()["streams"] == 1, "the reader was never behind")
        assert client.call(str, 5) == "5"
        sent = stats()["chunks_sent"]
        assert isinstance(sent, int)
        assert sent < len(PIECES) // 2
        assert list(client.stream(list, key="large")) == PIECES
        assert stats()["streams"] == 1

        frames, replies = FrameBuffer(), list[wire.AnyReply]()
        slow.settimeout(20)
        while not replies or not isinstance(replies[-1], wire.End):
            replies += [wire.unpack_reply(payload) for payload in frames.feed(slow.recv(1 << 20))]

        assert [reply.chunk for reply in replies if isinstance(reply, wire.Chunk)] == PIECES
        assert (stats()["streams"], stats()["stream_bytes"]) == (0, 0)


def test_a_reader_that_never_reads_is_closed_and_its_memory_freed(daemon: Callable[..., Daemon]) -> None:
    """After ``limits.stall_seconds``."""
    running = daemon(SIDECARD_LIMITS_STALL_SECONDS="0.5")
    with Client(running.socket) as client, socket.socket(socket.AF_UNIX) as stuck:
        assert client.put("large", PIECES)
        stuck.connect(running.socket)
        stuck.sendall(frame(wire.pack(wire.Begin("large", id=1, stream=True))))
        poll(lambda: ask(running.socket, {"op": "stats"})["streams"] == 1, "the reader was never behind")
        poll(lambda: ask(running.socket, {"op": "stats"})["streams"] == 0, "the reader was never closed")
        assert ask(running.socket, {"op": "stats"})["stream_bytes"] == 0
        assert client.get("large") == PIECES


def test_a_slow_follower_does_not_slow_the_holder(daemon: Callable[..., Daemon]) -> None:
    """Nor other readers: the answer is complete and stored before the slow one has half of it."""
    running = daemon()
    with Client(running.socket) as client, socket.socket(socket.AF_UNIX) as slow:
        slow.connect(running.socket)
        stream = client.stream(list, PIECES, key="k")
        got = [next(stream)]
        slow.sendall(frame(wire.pack(wire.Begin("k", id=1, stream=True))))
        poll(lambda: ask(running.socket, {"op": "stats"})["waiters"] == 1, "the follower never waited")
        got += stream
        assert got == PIECES
        assert ask(running.socket, {"op": "stats"})["streams"] == 1
        assert client.get("k") == PIECES

        frames, pieces = FrameBuffer(), list[bytes]()
        slow.settimeout(20)
        ended = False
        while not ended:
            for payload in frames.feed(slow.recv(1 << 20)):
                reply = msgspec.msgpack.decode(payload)
                ended = reply["type"] == "end"
                if reply["type"] == "chunk":
                    pieces.append(reply["chunk"])

        assert pieces == PIECES
