"""The protocols between systemd and its services: sd_notify(3), sd_listen_fds(3), sd_watchdog_enabled(3). No dependency."""

import contextlib
import os
import re
import socket
from collections.abc import Mapping, MutableMapping

from sidecard.errors import ListenError

LISTEN_FDS_START = 3
"""SD_LISTEN_FDS_START of sd_listen_fds(3)."""

_NUMBER = re.compile(r"[0-9]{1,20}")
"""The text of a 64-bit integer; any other value is invalid."""


class Notifier:
    """Sends the state of the service to systemd. Does nothing without ``NOTIFY_SOCKET``.

    Errors are ignored, as sd_notify(3) advises: a service must not fail because its messages are not received.
    """

    def __init__(self, environ: Mapping[str, str], pid: int) -> None:
        address = environ.get("NOTIFY_SOCKET", "")
        # "@" is the NUL byte of an abstract address. Other schemes (vsock:) are for virtual machines.
        self._address = f"\0{address[1:]}" if address.startswith("@") else address if address.startswith("/") else None
        self.watchdog_seconds = _watchdog_seconds(environ, pid)
        """Maximum time between two calls of `alive`; None without a watchdog."""

    def ready(self, status: str) -> None:
        """Report that the service accepts connections."""
        self._send(f"READY=1\nSTATUS={status}")

    def reloading(self, now: float) -> None:
        """Report that a reload has begun, at ``now`` of the monotonic clock; `ready` reports its end."""
        self._send(f"RELOADING=1\nMONOTONIC_USEC={int(now * 1e6)}")

    def stopping(self, status: str, seconds: float) -> None:
        """Report that the service stops and may take ``seconds``, even if the unit allows less."""
        self._send(f"STOPPING=1\nSTATUS={status}\nEXTEND_TIMEOUT_USEC={int(seconds * 1e6)}")

    def alive(self) -> None:
        """Reset the watchdog. Call it from the serving loop: a thread would hide that the loop hangs."""
        self._send("WATCHDOG=1")

    def _send(self, text: str) -> None:
        if self._address is None:
            return

        with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
            # A full queue of the receiver must not block the serving loop.
            sender.settimeout(0)
            sender.sendto(text.encode(), self._address)


def _watchdog_seconds(environ: Mapping[str, str], pid: int) -> float | None:
    microseconds = environ.get("WATCHDOG_USEC", "")
    # With another WATCHDOG_PID, the variables were inherited from a parent that has a watchdog.
    if not _NUMBER.fullmatch(microseconds) or environ.get("WATCHDOG_PID", str(pid)) != str(pid):
        return None

    return int(microseconds) / 1e6 or None


def adopt_socket(environ: MutableMapping[str, str], pid: int) -> socket.socket | None:
    """Return the listening socket that systemd passed, if any, and remove the variables that announced it.

    Raises `ListenError` if anything but one Unix stream socket was passed.
    """
    listen_pid, count = environ.get("LISTEN_PID"), environ.get("LISTEN_FDS", "")
    if listen_pid != str(pid) or not count.isdecimal() or count == "0":
        return None

    # Child processes must not use them.
    for name in ("LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES"):
        environ.pop(name, None)

    if count != "1":
        raise ListenError(f"{count} sockets were passed in (LISTEN_FDS); pass one, the Unix socket to serve on")

    os.set_inheritable(LISTEN_FDS_START, False)  # noqa: FBT003 - positional only
    try:
        adopted = socket.socket(fileno=LISTEN_FDS_START)
    except OSError as error:
        raise ListenError(f"the descriptor passed in (LISTEN_FDS) is not a socket: {error.strerror}") from error

    if adopted.family != socket.AF_UNIX or adopted.type != socket.SOCK_STREAM:
        raise ListenError("the socket passed in (LISTEN_FDS) is not a Unix stream socket; use ListenStream=/a/path")

    return adopted
