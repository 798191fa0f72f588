"""Why a daemon does not answer as expected: none, one that hangs, one of another version, another program."""

import contextlib
import json
import socket
import struct
from pathlib import Path

from sidecard_client import DaemonUnavailable, __version__

PROBE_SECONDS = 1.0
"""How long the process behind the socket may take for a plain ping."""

_CREDENTIALS = struct.Struct("3i")
"""``struct ucred`` of unix(7): pid, uid, gid."""

_STATES = {
    "T": ("it is stopped (SIGSTOP)", "Resume it with `kill -CONT {pid}`, or restart it."),
    "t": ("a debugger has stopped it", "Let the debugger continue, or restart the daemon."),
    "D": ("it waits for a disk or for memory", "Examine the disk of its state directory, then restart it."),
}
"""States of proc_pid_stat(5) with their meaning and advice."""

_HANGS = ("it hangs, or the host is overloaded", "Read its log, then restart it.")


class DaemonHangsError(DaemonUnavailable):
    """A process accepts connections and does not answer."""


class VersionMismatchError(DaemonUnavailable):
    """Daemon and command do not understand each other."""


def unresponsive(path: str, seconds: float, process: str = "/proc") -> DaemonHangsError:
    """Describe the process behind a socket that did not answer within ``seconds``."""
    pid = _listener_pid(path)
    if pid is None:
        reason = f"the daemon accepts no connection within {seconds:g} s: it hangs, and others wait too"
        return DaemonHangsError(path, reason, _HANGS[1])

    if not pid:
        reason = f"a process of another container accepted the connection and did not answer within {seconds:g} s"
        return DaemonHangsError(path, reason, f"Restart that container. {_HANGS[1]}")

    name, state = _name_and_state(Path(process) / str(pid))
    reason = (
        f"process {pid}{f' ({name})' if name else ''} accepted the connection and did not answer within {seconds:g} s"
    )
    if name == "systemd":
        # The socket's credentials are those of the process that listened first.
        return DaemonHangsError(
            path,
            f"the service behind this socket of systemd did not answer within {seconds:g} s",
            "See `systemctl status sidecard` (or `systemctl --user`), then restart it.",
        )

    meaning, advice = _STATES.get(state, _HANGS)
    return DaemonHangsError(path, f"{reason}; {meaning}", advice.format(pid=pid))


def mismatched(path: str, problem: str) -> VersionMismatchError:
    """Describe a process that answered with ``problem``."""
    version = _version_of(path)
    if version is None:
        return VersionMismatchError(
            path, f"what answers there is no sidecard daemon ({problem})", "Name the daemon's socket with --socket."
        )

    reason = f"version {version} runs there, this command is version {__version__}, and they differ ({problem})"
    advice = "Install the same version for both; an upgraded daemon runs the new version after a restart."
    if version == __version__:
        reason = f"the daemon of the same version answers something else ({problem})"
        advice = "Restart the daemon: it may run code from before an upgrade."

    return VersionMismatchError(path, reason, advice)


def _listener_pid(path: str) -> int | None:
    """Return the pid of the process that listens at ``path``; 0 if it is in another pid namespace, None if unknown."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(PROBE_SECONDS)
        try:
            probe.connect(path)
            credentials = probe.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
        except OSError:
            return None

    pid: int = _CREDENTIALS.unpack(credentials)[0]
    return pid


def _name_and_state(process: Path) -> tuple[str, str]:
    """Return the name and the state of a process, empty if they cannot be read."""
    try:
        text = (process / "stat").read_text(errors="replace")
    except OSError:
        return "", ""

    # The name, in parentheses, may contain anything.
    name, _, rest = text.partition("(")[2].rpartition(")")
    return name, rest[1:2]


def _version_of(path: str) -> str | None:
    """Return the version of the daemon at ``path``, asked in JSON, which all versions understand; None if none answers."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe, contextlib.suppress(OSError, ValueError):
        probe.settimeout(PROBE_SECONDS)
        probe.connect(path)
        probe.sendall(b'{"op":"ping","id":1}\n')
        received = b""
        while not received.endswith(b"\n") and (data := probe.recv(4096)):
            received += data

        pong = json.loads(received)
        if isinstance(pong, dict) and pong.get("type") == "pong":
            return str(pong.get("version", "unknown"))

    return None
