"""An app worker whose upstream goes on only as far as the test lets it, so that a fault hits the moment it is meant for.

Takes a `Plan` as JSON, says ``ready``, waits for a line, makes its calls, and prints a list of `End` as JSON.
"""

import os
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import anyio
import msgspec

from sidecard_client import AsyncClient, Client
from tests.worker_process import Ledger, follow, in_threads

GRAIN_SECONDS = 0.005
"""Between two looks at a gate."""


class Plan(msgspec.Struct):
    """What the callers of one process do."""

    kind: str
    """``sync`` (threads), or ``asyncio`` or ``trio`` (tasks)."""
    shape: str
    """``plain`` or ``stream``."""
    socket: str
    directory: str
    """Where the gates and the ledger are."""
    callers: int = 1
    pieces: int = 3
    key: str = "key"
    wait_seconds: float = 60.0
    user: int = -1
    """The uid that the process takes after its imports; -1 keeps its own."""
    forks: bool = False
    """Whether the process forks while it holds the lease; the child makes the same call, with the same client."""
    patience_seconds: float = 10.0
    """For the daemon's answers, on a machine that is busy."""


class End(msgspec.Struct):
    """What one caller got: ``value``, or the name of an exception."""

    pid: int
    end: str
    pieces: list[str]
    source: str = ""
    took_seconds: float = 0.0


class Upstream:
    """The call that costs something: a list of pieces, each with the process that made it."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._directory = Path(plan.directory)
        self.fork: Callable[[], None] | None = None
        self._ledger = Ledger(str(self._directory / "ledger"))

    def note(self, word: str) -> None:
        """Add a line to the ledger, whole or not at all."""
        self._ledger.write(word, os.getpid())

    def _closed(self, gate: str) -> bool:
        return not (self._directory / f"gate.{gate}").exists() and not (self._directory / "gate.all").exists()

    def _steps(self) -> Iterator[str]:
        """Yield the gates, each to be passed before what follows it."""
        self.note("start")
        if self.fork is not None:
            self.fork()

        for number in range(self._plan.pieces):
            yield str(number)
            self.note(f"piece.{number}")

        yield "end"
        self.note("done")

    def stream(self) -> Iterator[str]:
        """Be a streamed call."""
        for gate in self._steps():
            while self._closed(gate):
                time.sleep(GRAIN_SECONDS)

            if gate != "end":
                yield f"{os.getpid()}:{gate}"

    async def astream(self) -> AsyncIterator[str]:
        """Be a streamed call."""
        for gate in self._steps():
            while self._closed(gate):  # noqa: ASYNC110 - the test opens it, in another process
                await anyio.sleep(GRAIN_SECONDS)

            if gate != "end":
                yield f"{os.getpid()}:{gate}"

    def plain(self) -> list[str]:
        """Be a call."""
        return list(self.stream())

    async def aplain(self) -> list[str]:
        """Be a call."""
        return [piece async for piece in self.astream()]


class Caller:
    """One caller: what it has got so far, and how it ended."""

    def __init__(self, plan: Plan, upstream: Upstream) -> None:
        self._upstream = upstream
        self._shape = plan.shape
        self._policy: dict[str, Any] = {"key": plan.key, "wait": plan.wait_seconds}
        self.got = End(os.getpid(), "", [])
        self._began_at = time.monotonic()

    def call(self, client: Client) -> None:
        """Call, or read, by blocking."""
        if self._shape == "plain":
            outcome = client.outcome(self._upstream.plain, **self._policy)
            self.got.pieces, self.got.source = outcome.value, outcome.source
            return

        with client.stream(self._upstream.stream, **self._policy) as stream:
            for piece in stream:
                self.see(piece)

        self.got.source = stream.source or ""

    async def acall(self, client: AsyncClient) -> None:
        """Call, or read, without blocking."""
        if self._shape == "plain":
            outcome = await client.outcome(self._upstream.aplain, **self._policy)
            self.got.pieces, self.got.source = outcome.value, outcome.source
            return

        async with client.stream(self._upstream.astream, **self._policy) as stream:
            async for piece in stream:
                self.see(piece)

        self.got.source = stream.source or ""

    def see(self, piece: str) -> None:
        """Take a piece, and let the test know."""
        self.got.pieces.append(piece)
        self._upstream.note(f"seen.{len(self.got.pieces)}")

    def ended(self, error: BaseException | None) -> None:
        """Book the end."""
        self.got.end = "value" if error is None else type(error).__name__
        self.got.took_seconds = time.monotonic() - self._began_at


def fork(caller: Caller, client: Client, upstream: Upstream) -> None:
    """Let a child make the call, and note how that ends."""
    upstream.fork = None
    if os.fork():
        upstream.note("forked")
        return

    end = "nothing"
    try:
        caller.call(client)
        end = "value" if len(caller.got.pieces) == 3 else f"{len(caller.got.pieces)}.pieces"
    finally:
        upstream.note(f"child.{end}")
        os._exit(0)


def call_in_threads(plan: Plan) -> list[End]:
    """Make the calls with one `Client`; a single one in the main thread, which is interrupted as scripts are."""
    upstream = Upstream(plan)
    callers = [Caller(plan, upstream) for _ in range(plan.callers)]
    with Client(plan.socket, daemon_timeout=plan.patience_seconds) as client:

        def run(caller: Caller) -> None:
            try:
                caller.call(client)
            except (Exception, KeyboardInterrupt) as error:  # noqa: BLE001 - whatever it is, the test must see it
                caller.ended(error)
            else:
                caller.ended(None)

        if plan.forks:
            upstream.fork = lambda: fork(Caller(plan, upstream), client, upstream)

        if len(callers) == 1:
            run(callers[0])
        else:
            in_threads(len(callers), lambda number: run(callers[number]))

    return [caller.got for caller in callers]


async def call_in_tasks(plan: Plan) -> list[End]:
    """Make the calls with one `AsyncClient`."""
    upstream = Upstream(plan)
    callers = [Caller(plan, upstream) for _ in range(plan.callers)]

    async def run(client: AsyncClient, caller: Caller) -> None:
        try:
            await caller.acall(client)
        except Exception as error:  # noqa: BLE001 - whatever it is, the test must see it
            caller.ended(error)
        else:
            caller.ended(None)

    async with (
        AsyncClient(plan.socket, daemon_timeout=plan.patience_seconds) as client,
        anyio.create_task_group() as tasks,
    ):
        for caller in callers:
            tasks.start_soon(run, client, caller)

    return [caller.got for caller in callers]


def work(plan: Plan) -> list[End]:
    """Follow the plan."""
    make: Callable[[], list[End]] = (
        (lambda: call_in_threads(plan))
        if plan.kind == "sync"
        else lambda: anyio.run(call_in_tasks, plan, backend=plan.kind)
    )
    ends: list[End] = []
    try:
        ends = make()
    except* KeyboardInterrupt:  # trio's comes in a group
        ends = [End(os.getpid(), "KeyboardInterrupt", [])]

    return ends


def become(plan: Plan) -> None:
    """Become the plan's user."""
    if plan.user >= 0:
        if plan.kind != "sync":
            anyio.run(anyio.sleep, 0, backend=plan.kind)  # which imports what the user might not be allowed to read

        os.setgroups([])
        os.setgid(plan.user)
        os.setuid(plan.user)


if __name__ == "__main__":
    follow(Plan, work, before=become)
