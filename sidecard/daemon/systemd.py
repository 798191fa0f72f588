"""What systemd and its services say to each other: sd_notify(3), sd_listen_fds(3), sd_watchdog_enabled(3). No dependency."""

import contextlib
import os
import re
import socket
from collections.abc import Mapping, MutableMapping

from sidecard.errors import ListenError

LISTEN_FDS_START = 3
"""SD_LISTEN_FDS_START of sd_listen_fds(3)."""

_NUMBER = re.compile(r"[0-9]{1,20}")
"""As a 64-bit integer is written; anything else nobody has said who knows what it means."""


class Notifier:
    """Tells systemd how the service is. Does nothing where systemd does not ask (``NOTIFY_SOCKET``).

    Errors are ignored, as sd_notify(3) advises: a service must not fail because nobody listens.
    """

    def __init__(self, environ: Mapping[str, str], pid: int) -> None:
        address = environ.get("NOTIFY_SOCKET", "")
        # "@" stands for the NUL byte of an abstract address. Other schemes (vsock:) are for virtual machines.
        self._address = f"\0{address[1:]}" if address.startswith("@") else address if address.startswith("/") else None
        self.watchdog_seconds = _watchdog_seconds(environ, pid)
        """How often systemd wants to hear `alive`; None where it does not watch."""

    def ready(self, status: str) -> None:
        """Say that the service accepts connections."""
        self._send(f"READY=1\nSTATUS={status}")

    def status(self, status: str) -> None:
        """Say in one line what the service is doing."""
        self._send(f"STATUS={status}")

    def reloading(self, now: float) -> None:
        """Say that the settings are read again, at ``now`` of the monotonic clock; `ready` says that they are."""
        self._send(f"RELOADING=1\nMONOTONIC_USEC={int(now * 1e6)}")

    def stopping(self, status: str, seconds: float) -> None:
        """Say that the service is on its way out, and may take ``seconds`` for it, also where the unit allows it less."""
        self._send(f"STOPPING=1\nSTATUS={status}\nEXTEND_TIMEOUT_USEC={int(seconds * 1e6)}")

    def alive(self) -> None:
        """Feed the watchdog. To be called from the loop that serves: a helper thread would vouch for a loop that hangs."""
        self._send("WATCHDOG=1")

    def _send(self, text: str) -> None:
        if self._address is None:
            return

        with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
            # A full queue at the other end must not hold up the loop that serves.
            sender.settimeout(0)
            sender.sendto(text.encode(), self._address)


def _watchdog_seconds(environ: Mapping[str, str], pid: int) -> float | None:
    microseconds = environ.get("WATCHDOG_USEC", "")
    # Where WATCHDOG_PID names somebody else, the variables were inherited from a parent that is watched.
    if not _NUMBER.fullmatch(microseconds) or environ.get("WATCHDOG_PID", str(pid)) != str(pid):
        return None

    return int(microseconds) / 1e6 or None


def adopt_socket(environ: MutableMapping[str, str], pid: int) -> socket.socket | None:
    """Take over the listening socket that was passed in, if there is one, and forget the variables that said so.

    Raises `ListenError` where what was passed is not one Unix stream socket.
    """
    said_pid, said_count = environ.get("LISTEN_PID"), environ.get("LISTEN_FDS", "")
    if said_pid != str(pid) or not said_count.isdecimal() or said_count == "0":
        return None

    # Our own children must not take them for theirs.
    for name in ("LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES"):
        environ.pop(name, None)

    if said_count != "1":
        raise ListenError(f"{said_count} sockets were passed in (LISTEN_FDS); pass one, the Unix socket to serve on")

    os.set_inheritable(LISTEN_FDS_START, False)  # noqa: FBT003 - positional only
    try:
        adopted = socket.socket(fileno=LISTEN_FDS_START)
    except OSError as error:
        raise ListenError(f"the descriptor passed in (LISTEN_FDS) is not a socket: {error.strerror}") from error

    if adopted.family != socket.AF_UNIX or adopted.type != socket.SOCK_STREAM:
        raise ListenError("the socket passed in (LISTEN_FDS) is not a Unix stream socket; use ListenStream=/a/path")

    return adopted
