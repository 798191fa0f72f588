"""Notifications to systemd, and sockets passed by it."""

import os
import socket
from pathlib import Path

import pytest

from sidecard.daemon.systemd import Notifier, adopt_socket
from sidecard.errors import ListenError

PID = 4242


@pytest.mark.parametrize("abstract", [False, True])
def test_states_arrive_as_datagrams(abstract: bool, socket_directory: Path) -> None:
    """At a path or an abstract address."""
    address = f"@sidecard-test-{os.getpid()}" if abstract else str(socket_directory / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind(address.replace("@", "\0"))
        systemd.settimeout(5)
        notifier = Notifier({"NOTIFY_SOCKET": address}, PID)
        notifier.ready("serving")
        notifier.alive()
        notifier.reloading(12.5)
        notifier.stopping("draining", 24.0)

        assert [systemd.recv(100) for _ in range(4)] == [
            b"READY=1\nSTATUS=serving",
            b"WATCHDOG=1",
            b"RELOADING=1\nMONOTONIC_USEC=12500000",
            b"STOPPING=1\nSTATUS=draining\nEXTEND_TIMEOUT_USEC=24000000",
        ]


@pytest.mark.parametrize("environ", [{}, {"NOTIFY_SOCKET": "/nowhere/at/all"}, {"NOTIFY_SOCKET": "vsock:2:1"}])
def test_a_missing_receiver_is_ignored(environ: dict[str, str]) -> None:
    """A service must not fail because its messages are not received."""
    Notifier(environ, PID).ready("serving")


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        ({"WATCHDOG_USEC": "30000000"}, 30.0),
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": str(PID)}, 30.0),
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": "1"}, None),
        ({"WATCHDOG_USEC": "soon"}, None),
        ({"WATCHDOG_USEC": "0"}, None),
        ({}, None),
    ],
)
def test_an_inherited_watchdog_is_ignored(environ: dict[str, str], expected: float | None) -> None:
    """A child of a watched service inherits its variables."""
    assert Notifier(environ, PID).watchdog_seconds == expected


@pytest.mark.parametrize(
    "environ",
    [{}, {"LISTEN_FDS": "1"}, {"LISTEN_FDS": "1", "LISTEN_PID": "1"}, {"LISTEN_FDS": "0", "LISTEN_PID": str(PID)}],
)
def test_sockets_passed_to_another_process_are_ignored(environ: dict[str, str]) -> None:
    """Their variables stay."""
    before = dict(environ)
    assert adopt_socket(environ, PID) is None
    assert environ == before


def test_more_than_one_socket_is_an_error() -> None:
    """The daemon serves on one."""
    environ = {"LISTEN_FDS": "2", "LISTEN_PID": str(PID), "LISTEN_FDNAMES": "a:b"}
    with pytest.raises(ListenError, match="2 sockets were passed in"):
        adopt_socket(environ, PID)

    assert environ == {}
