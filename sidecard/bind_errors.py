"""Why an address or a path cannot be listened on, and what to change."""

import errno
import os

from sidecard.errors import ListenError

MAX_PATH_BYTES = 107
"""Of a Unix socket: 108 with the final zero (unix(7))."""

FIRST_FREE_PORT = 1024
"""Ports below are for root and CAP_NET_BIND_SERVICE, unless net.ipv4.ip_unprivileged_port_start is lower."""

_LASTING = frozenset(
    {
        errno.EACCES,
        errno.EPERM,
        errno.EAFNOSUPPORT,
        errno.EPROTONOSUPPORT,
        errno.ENAMETOOLONG,
        errno.ENOTDIR,
        errno.EEXIST,
        errno.EISDIR,
        errno.EROFS,
        errno.ELOOP,
        errno.EINVAL,
    }
)
"""A restart does not help. Others may pass: an address whose interface is not up yet, a port that a process still has."""


def path_error(path: str, setting: str, error: OSError) -> ListenError:
    """Describe why the daemon cannot listen at ``path``, which ``setting`` names. ``error`` may be of a file beside it."""
    if len(os.fsencode(path)) > MAX_PATH_BYTES:
        reason = f"the path has {len(os.fsencode(path))} bytes, and the kernel allows {MAX_PATH_BYTES}"
        return ListenError(f"cannot listen on {path}: {reason}. Choose a shorter {setting}", lasting=True)

    other = f"or choose another {setting}"
    place = error.filename if isinstance(error.filename, str) else path
    directory = os.path.dirname(place) or "."  # noqa: PTH120 - text, as given
    advice = {
        errno.EACCES: f"Let the daemon's user (uid {os.geteuid()}) write to {directory}, {other}",
        errno.EPERM: f"Let the daemon's user (uid {os.geteuid()}) be a member of socket.group, {other}",
        errno.EROFS: f"Mount a writable directory there, {other}",
        errno.ENOSPC: f"Free space or inodes there, {other}",
        errno.EDQUOT: f"Free space there, {other}",
        errno.EEXIST: f"A part of the path is no directory: correct it, {other}",
        errno.ENOTDIR: f"A part of the path is no directory: correct it, {other}",
        errno.ELOOP: f"Remove the symbolic link at {place}, {other}",
        errno.EMFILE: "Raise LimitNOFILE= or `ulimit -n`",
        errno.ENFILE: "Raise the host's fs.file-max",
        errno.EADDRINUSE: f"Stop the process that does, {other}",
    }.get(error.errno or 0, f"Choose another {setting}")
    at = "" if place in {path, f"{path}.lock"} else f" ({place})"
    return _error(path, at, advice, error)


def tcp_error(place: str, port: int, error: OSError) -> ListenError:
    """Describe why the daemon cannot listen for HTTP at ``place``, a host and a port."""
    other = "or change http.listen"
    if error.errno in {errno.EACCES, errno.EPERM} and port < FIRST_FREE_PORT:
        advice = f"Use a port above {FIRST_FREE_PORT - 1} in http.listen, or grant CAP_NET_BIND_SERVICE"
    else:
        advice = {
            errno.EAFNOSUPPORT: "Under systemd, TCP needs the drop-in sidecard-network.conf (see its head); otherwise "
            "change http.listen, for example to the path of a Unix socket",
            errno.EADDRINUSE: f"Stop the process that listens there (`ss -ltnp`), {other}",
            errno.EADDRNOTAVAIL: "No interface of this host has that address: change http.listen, or wait until it is up",
            errno.EMFILE: "Raise LimitNOFILE= or `ulimit -n`",
            errno.ENFILE: "Raise the host's fs.file-max",
        }.get(error.errno or 0, "Permit it, or change http.listen")

    return _error(place, " for HTTP", advice, error)


def _error(place: str, more: str, advice: str, error: OSError) -> ListenError:
    reason = (error.strerror or str(error)).rstrip(".")
    reason = reason[:1].lower() + reason[1:]
    return ListenError(f"cannot listen on {place}{more}: {reason}. {advice}", lasting=error.errno in _LASTING)
