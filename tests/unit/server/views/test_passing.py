"""Passing a descriptor on a Unix socket that a transport owns."""

import os
import socket
from collections.abc import Iterator

import pytest

from sidecard.server.views.passing import pass_descriptor


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    """Return the daemon's and the peer's end of a connection."""
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    with ours, theirs:
        yield ours, theirs


def received(theirs: socket.socket) -> tuple[bytes, list[int]]:
    """Return the bytes and the inodes of the descriptors that a peer receives."""
    data, descriptors, _, _ = socket.recv_fds(theirs, 4096, 4)
    inodes = [os.fstat(descriptor).st_ino for descriptor in descriptors]
    for descriptor in descriptors:
        os.close(descriptor)

    return data, inodes


def test_a_frame_arrives_with_its_descriptor(pair: tuple[socket.socket, socket.socket]) -> None:
    """The socket stays open, and non-blocking."""
    ours, theirs = pair
    read, write = os.pipe()
    assert pass_descriptor(ours.fileno(), b"frame", read) == 5
    assert received(theirs) == (b"frame", [os.fstat(read).st_ino])
    assert not ours.getblocking()
    with pytest.raises(BlockingIOError):
        ours.recv(1)

    os.close(read)
    os.close(write)


def test_a_peer_gets_the_next_one_when_it_has_read_everything(pair: tuple[socket.socket, socket.socket]) -> None:
    """So at most one descriptor for each connection is on its way."""
    ours, theirs = pair
    ours.send(b"earlier reply")
    assert pass_descriptor(ours.fileno(), b"frame", 0) == 0
    assert theirs.recv(7) == b"earlier"
    assert pass_descriptor(ours.fileno(), b"frame", 0) == 0
    assert theirs.recv(100) == b" reply"
    assert pass_descriptor(ours.fileno(), b"frame", 0) == 5
    assert pass_descriptor(ours.fileno(), b"frame", 0) == 0
    assert len(received(theirs)[1]) == 1
    assert pass_descriptor(ours.fileno(), b"frame", 0) == 5


def test_a_frame_that_does_not_fit_is_sent_in_part(pair: tuple[socket.socket, socket.socket]) -> None:
    """The descriptor is with the first byte. The caller sends the rest."""
    ours, theirs = pair
    frame = os.urandom(4 << 20)
    sent = pass_descriptor(ours.fileno(), frame, 0)
    assert 0 < sent < len(frame)
    data, inodes = received(theirs)
    assert len(inodes) == 1
    while len(data) < sent:
        data += theirs.recv(1 << 20)

    assert data == frame[:sent]


def test_a_peer_that_has_left_raises(pair: tuple[socket.socket, socket.socket]) -> None:
    """The transport will learn of it as well."""
    ours, theirs = pair
    theirs.close()
    with pytest.raises(ConnectionError):
        pass_descriptor(ours.fileno(), b"frame", 0)
