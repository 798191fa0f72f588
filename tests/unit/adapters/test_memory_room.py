"""The room below the memory limits of control groups, in trees like those of /proc and /sys."""

from pathlib import Path

import pytest

from sidecard.adapters.memory_room import memory_room

MIB = 1 << 20


def make(root: Path, files: dict[str, str]) -> None:
    """Write files below a root."""
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="ascii")


def group(path: str, limit: int | str, usage: int, cached: int = 0) -> dict[str, str]:
    """Return the files of a group of the unified hierarchy."""
    return {
        f"sys/fs/cgroup{path}/memory.max": f"{limit}\n",
        f"sys/fs/cgroup{path}/memory.current": f"{usage}\n",
        f"sys/fs/cgroup{path}/memory.stat": f"anon 1\ninactive_file {cached}\nactive_file 7\n",
    }


SERVICE = {"proc/self/cgroup": "0::/system.slice/sidecard.service\n"}
HOST = {"proc/meminfo": "MemTotal: 9000 kB\nMemFree: 1000 kB\nMemAvailable: 3000 kB\n"}
OLD = {
    "sys/fs/cgroup/memory/a/memory.limit_in_bytes": f"{100 * MIB}\n",
    "sys/fs/cgroup/memory/a/memory.usage_in_bytes": f"{70 * MIB}\n",
    "sys/fs/cgroup/memory/a/memory.stat": f"inactive_file 1\ntotal_inactive_file {MIB}\n",
}


@pytest.mark.parametrize(
    ("files", "room"),
    [
        ({}, None),
        (SERVICE, None),
        (SERVICE | group("/system.slice/sidecard.service", "max", MIB), None),
        (SERVICE | group("/system.slice/sidecard.service", 100 * MIB, 60 * MIB, 5 * MIB), 45 * MIB),
        (SERVICE | group("/system.slice/sidecard.service", 100 * MIB, 120 * MIB), 0),
        (
            SERVICE
            | group("/system.slice/sidecard.service", 100 * MIB, 60 * MIB)
            | group("/system.slice", 200 * MIB, 190 * MIB),
            10 * MIB,
        ),
        ({"proc/self/cgroup": "0::/\n"} | group("", 64 * MIB, MIB), 63 * MIB),
        ({"proc/self/cgroup": "0::/docker/abc\n"} | group("", 64 * MIB, MIB), 63 * MIB),
        ({"proc/self/cgroup": "5:cpu:/a\n4:hugetlb,memory:/a\n0::/\n"} | OLD, 31 * MIB),
        ({"proc/self/cgroup": "5:cpu:/a\n"} | OLD, None),
        (HOST, 3000 * 1024),
        (HOST | SERVICE | group("/system.slice/sidecard.service", 100 * MIB, 60 * MIB), 3000 * 1024),
    ],
)
def test_room_is_the_least_of_the_host_and_all_groups(tmp_path: Path, files: dict[str, str], room: int | None) -> None:
    """Of the process's own and of those above it; page cache that can be dropped counts as room."""
    make(tmp_path, files)
    assert memory_room(tmp_path / "proc", tmp_path / "sys") == room


def test_this_host_has_room_or_no_limit() -> None:
    """With the real files."""
    room = memory_room()
    assert room is None or room > 0
