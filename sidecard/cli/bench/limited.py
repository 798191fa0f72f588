"""A daemon that gets half a processor, as in a container with ``cpus: 0.5``, and more clients than it can serve."""

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from statistics import median
from typing import Final

from sidecard.cli.bench.hosts import WORKER, Hosts, perform_together
from sidecard.cli.bench.load import Order
from sidecard.cli.bench.rows import Effort, Row, ratio_of

CLIENTS = 16
PERIOD_SECONDS = 0.1
"""Period of the limit: a process that has used its half of a period waits for the next one."""

_MICROSECONDS: Final = 1_000_000
_CGROUPS: Final = Path("/sys/fs/cgroup")


def half_a_core(hosts: Hosts, effort: Effort) -> list[Row]:
    """Compare hits per second from a view with those over the socket, with both daemons limited alike."""
    per_second: dict[str, list[float]] = {"sidecard": [], "socket": []}
    workers = {side: hosts.workers(CLIENTS, WORKER, side) for side in per_second}
    hits, before = 0, hosts.view_hits()
    with limited(hosts.daemon.pid) as means, limited(hosts.daemon_without_views.pid):
        for _ in range(effort.rounds):
            for side, rates in per_second.items():
                results = perform_together(workers[side], Order("rate", side, seconds=effort.rate_seconds))
                rates.append(sum(result.count / result.seconds for result in results))
                hits += sum(result.count for result in results) * (side == "sidecard")

    figures = {"view_per_second": median(per_second["sidecard"]), "socket_per_second": median(per_second["socket"])}
    return [
        Row(
            f"hits per second, {CLIENTS} processes, daemon on half a core: from a view, against the socket",
            3.0,
            ratio_of(per_second["sidecard"], per_second["socket"]),
            at_least=True,
            figures=figures,
            remark=means,
            fault=hosts.fault_of_views(before, hits),
        )
    ]


@contextmanager
def limited(pid: int) -> Iterator[str]:
    """Limit a process to half a processor; yield how: by a control group, or by stops if there can be none."""
    group = _group_of(pid)
    if group is not None:
        try:
            yield "limited by a control group"
        finally:
            _remove(group)

        return

    done = threading.Event()
    stopper = threading.Thread(target=_stop_by_turns, args=(pid, done))
    stopper.start()
    try:
        yield "stopped for half of the time"
    finally:
        done.set()
        stopper.join()


def _group_of(pid: int) -> Path | None:
    """Move a process to a control group of its own, of version 2 or 1; return None if that is not allowed."""
    period = int(PERIOD_SECONDS * _MICROSECONDS)
    limits = {
        _CGROUPS: {"cpu.max": f"{period // 2} {period}"},
        _CGROUPS / "cpu": {"cpu.cfs_period_us": str(period), "cpu.cfs_quota_us": str(period // 2)},
    }
    for root, files in limits.items():
        group = root / f"sidecard-bench-{pid}"
        try:
            group.mkdir()
        except OSError:
            continue

        try:
            for name, text in files.items():
                if not (group / name).exists():  # of a version without it, a plain directory, or without the controller
                    raise FileNotFoundError(name)

                (group / name).write_text(text)

            (group / "cgroup.procs").write_text(str(pid))
        except OSError:
            _remove(group)
        else:
            return group

    return None


def _remove(group: Path) -> None:
    with suppress(OSError):
        for pid in (group / "cgroup.procs").read_text().split():
            (group.parent / "cgroup.procs").write_text(pid)

    with suppress(OSError):
        group.rmdir()


def _stop_by_turns(pid: int, done: threading.Event) -> None:
    with suppress(ProcessLookupError):
        try:
            while not done.wait(PERIOD_SECONDS / 2):
                os.kill(pid, signal.SIGSTOP)
                done.wait(PERIOD_SECONDS / 2)
                os.kill(pid, signal.SIGCONT)
        finally:
            os.kill(pid, signal.SIGCONT)
