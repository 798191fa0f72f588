"""What a real daemon does about bytes that are no frames, and about what came before them."""

import json
import socket
from collections.abc import Callable

from sidecard_client.protocol import wire
from sidecard_client.protocol.frames import FrameBuffer, frame
from tests.daemons import Daemon


def exchange(path: str, data: bytes) -> bytes:
    """Send bytes and return all that comes back until the daemon closes the connection."""
    received = b""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(10)
        connection.connect(path)
        connection.sendall(data)
        while chunk := connection.recv(65536):
            received += chunk

    return received


def test_frames_before_a_fault_in_one_chunk_are_served(daemon: Callable[..., Daemon]) -> None:
    """Then the fault is named and the connection closed."""
    data = frame(wire.pack(wire.Ping(id=1))) + frame(wire.pack(wire.Ping(id=2))) + b"\xff\xff\xff\xff"
    pong, second, error = map(wire.unpack_reply, FrameBuffer().feed(exchange(daemon().socket, data)))

    assert isinstance(pong, wire.Pong)
    assert second.id == 2
    assert isinstance(error, wire.Error)
    assert error.code == "too_large"


def test_lines_before_a_fault_in_one_chunk_are_served(daemon: Callable[..., Daemon]) -> None:
    """The same for JSON lines: the one too long is refused, those before it are answered."""
    running = daemon("--set", "limits.max_line_bytes=1KiB")
    answered = exchange(running.socket, b'{"op":"ping","id":1}\n' + b"x" * 5000).splitlines()

    assert [json.loads(line)["type"] for line in answered] == ["pong", "error"]
