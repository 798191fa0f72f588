"""Where the socket is: design by convention, so that daemon and clients of one host meet without being told.

The first that applies:

1. what the caller says,
2. ``$SIDECARD_SOCKET``,
3. ``$RUNTIME_DIRECTORY/sidecard.sock`` (systemd sets it; of several directories, the first),
4. ``/run/sidecard/sidecard.sock``: for a client if it exists, for a daemon if it is root's,
5. ``$XDG_RUNTIME_DIR/sidecard.sock``,
6. ``/tmp/sidecard-UID/sidecard.sock``.

A client of root takes 4 as root's daemon does, so that both name the same place before either exists.
"""

import os
from collections.abc import Callable, Mapping

SOCKET_NAME = "sidecard.sock"
SYSTEM_SOCKET = f"/run/sidecard/{SOCKET_NAME}"

MAX_PATH_BYTES = 107
"""``sun_path`` holds 108 bytes with its closing NUL (unix(7))."""

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
    return _choose(explicit, environ, uid, system=uid == 0 or exists(SYSTEM_SOCKET))


def listening_socket(
    explicit: StrPath | None = None, environ: Mapping[str, str] = os.environ, *, uid: int | None = None
) -> str:
    """Return the path that a daemon binds. Raises `ValueError` where it is longer than a socket's may be."""
    uid = os.getuid() if uid is None else uid
    return _choose(explicit, environ, uid, system=uid == 0)


def private_directory(uid: int) -> str:
    """Return the directory of the last resort; whoever creates it must check that it is the uid's own."""
    return f"/tmp/sidecard-{uid}"  # noqa: S108 - its ownership is checked by the daemon that binds in it


def _choose(explicit: StrPath | None, environ: Mapping[str, str], uid: int, *, system: bool) -> str:
    if explicit is not None:
        path = os.fspath(explicit)
    elif said := environ.get("SIDECARD_SOCKET"):
        path = said
    elif runtime := environ.get("RUNTIME_DIRECTORY"):
        path = f"{runtime.split(':', 1)[0]}/{SOCKET_NAME}"
    elif system:
        path = SYSTEM_SOCKET
    elif session := environ.get("XDG_RUNTIME_DIR"):
        path = f"{session}/{SOCKET_NAME}"
    else:
        path = f"{private_directory(uid)}/{SOCKET_NAME}"

    if len(os.fsencode(path)) > MAX_PATH_BYTES:
        raise ValueError(f"The socket's path {path!r} is longer than {MAX_PATH_BYTES} bytes: choose a shorter one.")

    return path
