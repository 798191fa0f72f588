"""The socket's path. The daemon and the clients of a host find each other by convention.

A daemon binds the first path that applies:

1. the explicit path,
2. ``$SIDECARD_SOCKET``,
3. ``$RUNTIME_DIRECTORY/sidecard.sock`` (set by systemd; of several directories, the first),
4. ``/run/sidecard/sidecard.sock``, if it runs as root,
5. ``$XDG_RUNTIME_DIR/sidecard.sock``,
6. ``/tmp/sidecard-UID/sidecard.sock``.

A client connects to 1 or 2 if set, else to the first of 3 to 6 that exists. It tries 4 whatever its uid, so that an app
with its own ``$RUNTIME_DIRECTORY`` finds the host's daemon. If none exists, it takes the path that a daemon of the same uid
and environment would bind. 6 applies only if ``$XDG_RUNTIME_DIR`` is not set: anybody can create a directory in ``/tmp``.
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
    """Return the path that a client connects to. Raises `ValueError` if it is too long for a socket."""
    uid = os.getuid() if uid is None else uid
    return _checked(
        _given(explicit, environ) or next(filter(exists, _candidates(environ, uid)), None) or _default(environ, uid)
    )


def path_for_message(given: str | None) -> str:
    """Return the path that a client connects to, ``given`` or found, for a message; or the problem with it."""
    try:
        return given or find_socket()
    except ValueError as error:
        return str(error)


def listening_socket(
    explicit: StrPath | None = None, environ: Mapping[str, str] = os.environ, *, uid: int | None = None
) -> str:
    """Return the path that a daemon binds. Raises `ValueError` if it is too long for a socket."""
    uid = os.getuid() if uid is None else uid
    return _checked(_given(explicit, environ) or _default(environ, uid))


def private_directory(uid: int) -> str:
    """Return the directory of path 6, in ``/tmp``. A daemon that binds in it must check that the uid owns it."""
    return f"/tmp/sidecard-{uid}"  # noqa: S108 - the daemon checks its owner


def impostor(connected: socket.socket, path: str) -> str | None:
    """Return why the daemon at the other end of ``connected`` must not be trusted, or None.

    Another user may have created this user's directory in ``/tmp`` to receive the prompts. So a daemon there must run as
    this user or root. Every other path was chosen by an authorized user.
    """
    uid = os.getuid()
    if not path.startswith(f"{private_directory(uid)}/"):
        return None

    credentials = connected.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    _, server_uid, _ = _CREDENTIALS.unpack(credentials)
    if server_uid in {0, uid}:
        return None

    return (
        f"{path} is served by uid {server_uid}, which is not this user: remove that directory, or name another socket"
    )


def _given(explicit: StrPath | None, environ: Mapping[str, str]) -> str | None:
    """Return the path given explicitly, without checking that it exists."""
    return environ.get("SIDECARD_SOCKET") or None if explicit is None else os.fspath(explicit)


def _candidates(environ: Mapping[str, str], uid: int) -> list[str]:
    """Return the conventional paths, in order."""
    runtime = environ.get("RUNTIME_DIRECTORY", "").split(":", 1)[0]
    places = [f"{runtime}/{SOCKET_NAME}"] if runtime else []
    places.append(SYSTEM_SOCKET)
    if uid != 0:
        places.append(f"{environ.get('XDG_RUNTIME_DIR') or private_directory(uid)}/{SOCKET_NAME}")

    return places


def _default(environ: Mapping[str, str], uid: int) -> str:
    """Return the first path that a daemon of this uid may bind.

    The system-wide path is for root, or for a service whose ``$RUNTIME_DIRECTORY`` it is.
    """
    first, *others = _candidates(environ, uid)
    if uid == 0 or first != SYSTEM_SOCKET or environ.get("RUNTIME_DIRECTORY"):
        return first

    return others[0]


def _checked(path: str) -> str:
    if len(os.fsencode(path)) > MAX_PATH_BYTES:
        raise ValueError(f"The socket's path {path!r} is longer than {MAX_PATH_BYTES} bytes: choose a shorter one.")

    return path
