"""Find how much memory this process may still take, by its control groups (cgroups(7), both versions) and the host."""

from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Final, NamedTuple


class _Version(NamedTuple):
    """The names of one version's files."""

    mounts: tuple[str, ...]
    limit: str
    usage: str
    reclaimable: str
    """The line of ``memory.stat`` with the page cache that the kernel drops first."""


_UNIFIED: Final = _Version(("fs/cgroup", "fs/cgroup/unified"), "memory.max", "memory.current", "inactive_file")
_LEGACY: Final = _Version(
    ("fs/cgroup/memory",), "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"
)


def memory_room(proc: Path = Path("/proc"), sys: Path = Path("/sys")) -> int | None:
    """Return how many bytes this process may still take; None if no limit is known.

    Beyond that, the kernel kills a process instead of refusing the memory.
    """
    return min((*_available(proc), *_rooms(proc, sys)), default=None)


def _available(proc: Path) -> Iterator[int]:
    """Yield the memory that the host has available, unless it is hidden (``ProcSubset=pid``)."""
    try:
        lines = (proc / "meminfo").read_text(encoding="ascii").splitlines()
    except OSError:
        return

    yield from (int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:"))


def _rooms(proc: Path, sys: Path) -> Iterator[int]:
    """Yield the room of each group with a limit, from this process's own up."""
    for version, path in _groups(proc):
        for mount in version.mounts:
            # In a container, the path may be the host's while the mount shows only the container's group, as its root: read both.
            for place in (path, *PurePosixPath(path).parents):
                room = _room(sys / mount / str(place).lstrip("/"), version)
                if room is not None:
                    yield room


def _groups(proc: Path) -> Iterator[tuple[_Version, str]]:
    try:
        lines = (proc / "self/cgroup").read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError):
        return

    for line in lines:
        number, controllers, path = line.split(":", 2)
        if number == "0":
            yield _UNIFIED, path
        elif "memory" in controllers.split(","):
            yield _LEGACY, path


def _room(group: Path, version: _Version) -> int | None:
    try:
        limit = int((group / version.limit).read_text(encoding="ascii"))
        usage = int((group / version.usage).read_text(encoding="ascii"))
        stat = (group / "memory.stat").read_text(encoding="ascii")
    except (OSError, ValueError):
        # No such file, or "max".
        return None

    reclaimable = [int(line.split()[1]) for line in stat.splitlines() if line.startswith(f"{version.reclaimable} ")]
    return max(0, limit - usage + sum(reclaimable))
