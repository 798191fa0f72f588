"""Where the socket is: design by convention, so that daemon and clients of one host meet without being told.

A daemon takes the first that applies:

1. what the caller says,
2. ``$SIDECARD_SOCKET``,
3. ``$RUNTIME_DIRECTORY/sidecard.sock`` (systemd sets it; of several directories, the first),
4. ``/run/sidecard/sidecard.sock``, if it is root's,
5. ``$XDG_RUNTIME_DIR/sidecard.sock``,
6. ``/tmp/sidecard-UID/sidecard.sock``.

A client takes 1 or 2 where given, else the first of what is left that exists, 4 included, whoever it is:
an app that systemd gave a ``$RUNTIME_DIRECTORY`` of its own still finds the host's daemon.
Where none exists it takes what a daemon of the same uid and environment would, so that both name one place from the start.
6 counts only where 5 is not set: a directory in ``/tmp`` that anybody may have made is no second choice.
"""

import os
import socket
import struct
from collections.abc import Callable, Mapping

SOCKET_NAME = "sidecard.sock"
SYSTEM_SOCKET = f"/run/sidecard/{SOCKET_NAME}"

MAX_PATH_BYTES = 107
"""``sun_path`` holds 108 bytes with its closing NUL (unix(7))."""

_CREDENTIALS = struct.Struct("3i")
"""``struct ucred`` of unix(7): pid, uid, gid."""

StrPath = str | os.PathLike[str]


def find_socket(
    explicit: StrPath | None = None,
    environ: Mapping[str, str] = os.environ,
    *,
    uid: int | None = None,
    exists: Callable[[str], bool] = os.path.exists,
) -> str:
    """Return the path that a client connects to. Raises `ValueError` where it is longer than a socket's may be."""
    uid = os.getuid() if uid is None else uid
    return _checked(
        _firm(explicit, environ) or next(filter(exists, _candidates(environ, uid)), None) or _own(environ, uid)
    )


def listening_socket(
    explicit: StrPath | None = None, environ: Mapping[str, str] = os.environ, *, uid: int | None = None
) -> str:
    """Return the path that a daemon binds. Raises `ValueError` where it is longer than a socket's may be."""
    uid = os.getuid() if uid is None else uid
    return _checked(_firm(explicit, environ) or _own(environ, uid))


def private_directory(uid: int) -> str:
    """Return the directory of the last resort; whoever creates it must check that it is the uid's own."""
    return f"/tmp/sidecard-{uid}"  # noqa: S108 - its ownership is checked by the daemon that binds in it


def impostor(connected: socket.socket, path: str) -> str | None:
    """Say why the daemon at the other end must not be trusted; None where it may be.

    Anybody can make the directory of the last resort first, since it is in ``/tmp``, and would be sent this user's prompts.
    So there the daemon must be this user's or root's; every other place was chosen by somebody who may.
    """
    uid = os.getuid()
    if not path.startswith(f"{private_directory(uid)}/"):
        return None

    credentials = connected.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    _, server_uid, _ = _CREDENTIALS.unpack(credentials)
    if server_uid in {0, uid}:
        return None

    return f"{path} is served by uid {server_uid}, who is not this user: remove that directory, or name another socket"


def _firm(explicit: StrPath | None, environ: Mapping[str, str]) -> str | None:
    """Return what somebody said, which is not second-guessed."""
    return environ.get("SIDECARD_SOCKET") or None if explicit is None else os.fspath(explicit)


def _candidates(environ: Mapping[str, str], uid: int) -> list[str]:
    """Return the conventional places, in order."""
    runtime = environ.get("RUNTIME_DIRECTORY", "").split(":", 1)[0]
    places = [f"{runtime}/{SOCKET_NAME}"] if runtime else []
    places.append(SYSTEM_SOCKET)
    if uid != 0:
        places.append(f"{environ.get('XDG_RUNTIME_DIR') or private_directory(uid)}/{SOCKET_NAME}")

    return places


def _own(environ: Mapping[str, str], uid: int) -> str:
    """Return the first place that a daemon of this uid may bind: the system's is root's, or whose systemd says so."""
    first, *others = _candidates(environ, uid)
    if uid == 0 or first != SYSTEM_SOCKET or environ.get("RUNTIME_DIRECTORY"):
        return first

    return others[0]


def _checked(path: str) -> str:
    if len(os.fsencode(path)) > MAX_PATH_BYTES:
        raise ValueError(f"The socket's path {path!r} is longer than {MAX_PATH_BYTES} bytes: choose a shorter one.")

    return path
