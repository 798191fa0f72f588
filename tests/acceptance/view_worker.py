"""Processes that read a uid's entries as fast as they can, or change them, while their daemon is killed, frozen and reloaded.

Takes a `Plan` as JSON, says ``ready``, waits for a line, and prints an `Account`. What was acknowledged is on a `Board` that all
processes share: a reader notes it before each read, and no read may return anything older.
"""

import mmap
import os
import random
import time
import zlib
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anyio
import msgspec

from sidecard_client import AsyncClient, CallRejected, CallTimeout, Client
from sidecard_client.protocol.errors import DaemonUnavailable
from sidecard_client.view import attachment, keeper  # noqa: F401 - a process that has changed its uid may not import it later
from sidecard_client.view.reader import ViewReader
from tests.worker_process import follow

KEYS = 24
_WORDS = 4
_READS, _KEYS_AT = 2, 16
"""Of the board: where each reader's number of reads is, and where keys begin."""

_STOP_EVERY = 64
"""Reads between looks at the board's end."""

SHARED, SHARED_KEY = "team", "secret"
_AWAY_SECONDS = 0.001
"""Pause of a reader that finds no daemon: others need the processor to start one."""

_LATE_SECONDS = 0.1

ASYNC_CALLERS = 8


class Board:
    """Words in shared memory: for each uid and key, which versions exist and which are gone."""

    SIZE = 1 << 14
    STARTED, ACKNOWLEDGED, REPLACED, REMOVED = range(_WORDS)
    """The version of the last put that was begun; of the last that was acknowledged; the oldest that may still be read, after puts
    and deletes of the uid's writer; the same after what operators did."""

    def __init__(self, path: str) -> None:
        self._descriptor = os.open(path, os.O_RDWR)
        self.words = memoryview(mmap.mmap(self._descriptor, self.SIZE)).cast("Q")

    @staticmethod
    def at(uid_index: int, key: int) -> int:
        """Return the index of a key's first word."""
        return _KEYS_AT + (uid_index * KEYS + key) * _WORDS

    @property
    def over(self) -> bool:
        """The test has ended."""
        return self.words[0] != 0

    @property
    def from_view(self) -> list[int]:
        """Reads from views so far, by process."""
        return list(self.words[_READS:_KEYS_AT])

    def count(self, reader: int, from_view: int) -> None:
        """Note how often a process has read from views."""
        self.words[_READS + reader] = from_view

    @property
    def frozen(self) -> int:
        """How often the daemon has been frozen, twice, and one more while it is."""
        return self.words[1]

    def remove_acknowledged(self, uids: int) -> list[tuple[int, int]]:
        """Return, for all keys, where the oldest version that may be read is noted, and which it is once all present ones are gone."""
        places = [self.at(uid, key) for uid in range(uids) for key in range(KEYS)]
        return [(at + self.REMOVED, self.words[at + self.ACKNOWLEDGED] + 1) for at in places]

    def note_removed(self, removed: list[tuple[int, int]]) -> None:
        """Note that a removal is acknowledged."""
        for place, oldest in removed:
            self.words[place] = max(self.words[place], oldest)


class Plan(msgspec.Struct):
    """What a process does. ``role`` is one of ``_ROLES``."""

    role: str
    socket: str
    board: str
    uid: int
    uid_index: int
    number: int
    """Of the process: for its board's word, and its choices."""
    pause_seconds: float = 0.002
    """Of a writer, between changes."""


class Account(msgspec.Struct):
    """What a process has seen. ``wrong``: what a law forbids."""

    reads: int = 0
    hits: int = 0
    """Reads with an answer."""
    from_view: int = 0
    from_view_while_frozen: int = 0
    ends: dict[str, int] = {}
    wrong: list[str] = []


def value_of(uid: int, key: int, version: int) -> list[Any]:
    """Return the value of a version: with its own checksum, and of a size that differs."""
    body = "x" * (version * 37 % 900)
    return [uid, key, version, body, _sum(uid, key, version, body)]


def _sum(uid: Any, key: Any, version: Any, body: Any) -> int:
    return zlib.crc32(f"{uid} {key} {version} {body}".encode())


class Reads:
    """The reads of a process, and their judgement."""

    def __init__(self, plan: Plan) -> None:
        self.board = Board(plan.board)
        self.account = Account()
        self._uid, self._uid_index, self._number = plan.uid, plan.uid_index, plan.number
        self._uncertain = f"{plan.board}.{plan.uid_index}"
        self.ends = Counter[str]()
        self._count_view_hits()
        setattr(keeper, "RETRY_SECONDS", 0.5)  # noqa: B010 - a daemon that was frozen meanwhile costs no half minute
        self._delay_detaching()

    def _count_view_hits(self) -> None:
        read, account, board = ViewReader.read, self.account, self.board

        def counted(*arguments: Any) -> Any:
            frozen = board.frozen
            hit = read(*arguments)
            if hit is not None:
                account.from_view += 1
                account.from_view_while_frozen += frozen & 1 and frozen == board.frozen

            return hit

        setattr(ViewReader, "read", counted)  # noqa: B010 - in this process alone, of other types

    def _delay_detaching(self) -> None:
        """Let the thread that detaches views be late, as on a busy host: each read must notice by itself that the daemon has ended."""
        detach = keeper.ViewKeeper._detach

        def late(*arguments: Any) -> None:
            time.sleep(_LATE_SECONDS)
            detach(*arguments)

        setattr(keeper.ViewKeeper, "_detach", late)  # noqa: B010 - as above

    def is_over(self) -> bool:
        """Note how much was read from views; return whether that is all."""
        self.board.count(self._number, self.account.from_view)
        return self.board.over

    def oldest(self, key: int) -> int:
        """Return the oldest version that a read of a key may return, if it begins now."""
        at, words = Board.at(self._uid_index, key), self.board.words
        return max(words[at + Board.REPLACED], words[at + Board.REMOVED])

    def judge(self, key: int, oldest: int, value: Any) -> None:
        """Judge what was read."""
        self.account.reads += 1
        if value is None:
            return

        self.account.hits += 1
        uid, named, version, body, checksum = value
        if checksum != _sum(uid, named, version, body):
            self._wrong("torn", value)
        elif (uid, named) != (self._uid, key):
            self._wrong("another's", value)
        elif version > self.board.words[Board.at(self._uid_index, key) + Board.STARTED]:
            self._wrong("of the future", value)
        elif version < oldest and not self._is_uncertain(key, version):
            self._wrong(f"older than {oldest}", value)

    def _is_uncertain(self, key: int, version: int) -> bool:
        """Return whether the outcome of a version's put is unknown: it may have been executed much later."""
        return b"%d %d\n" % (key, version) in Path(self._uncertain).read_bytes().splitlines(keepends=True)

    def _wrong(self, how: str, value: Any) -> None:
        if len(self.account.wrong) < 5:
            self.account.wrong.append(f"{how}: {value[:3]}")


def _unused() -> None:
    raise AssertionError("a function was called of a call that must not call it")


def read_blocking(plan: Plan) -> Account:
    """Read with the blocking client: entries and calls in turn."""
    reads, chance = Reads(plan), random.Random(plan.number)
    names = [str(key) for key in range(KEYS)]
    with Client(plan.socket) as client:

        def call(name: str) -> Any:
            return client.outcome(_unused, key=name, mode="only_if_cached", on_unavailable="raise").value

        ways: tuple[Callable[[str], Any], ...] = (client.get, call)
        while not reads.is_over():
            for number in range(_STOP_EVERY):
                key = int(KEYS * chance.random())
                oldest = reads.oldest(key)
                try:
                    value = ways[number & 1](names[key])
                except (CallRejected, CallTimeout, DaemonUnavailable) as error:
                    reads.ends[type(error).__name__] += 1
                    value = None
                    if isinstance(error, DaemonUnavailable):
                        time.sleep(_AWAY_SECONDS)

                reads.judge(key, oldest, value)

    reads.account.ends = dict(reads.ends)
    return reads.account


def read_async(plan: Plan) -> Account:
    """Read with several tasks of one asynchronous client."""
    reads = Reads(plan)
    names = [str(key) for key in range(KEYS)]

    async def caller(client: AsyncClient, seed: int) -> None:
        async def call(name: str) -> Any:
            outcome = await client.outcome(_unused, key=name, mode="only_if_cached", on_unavailable="raise")
            return outcome.value

        ways: tuple[Callable[[str], Any], ...] = (client.get, call)
        chance = random.Random(seed)
        while not reads.is_over():
            for number in range(_STOP_EVERY):
                key = int(KEYS * chance.random())
                oldest = reads.oldest(key)
                try:
                    value = await ways[number & 1](names[key])
                except (CallRejected, CallTimeout, DaemonUnavailable) as error:
                    reads.ends[type(error).__name__] += 1
                    value = None
                    if isinstance(error, DaemonUnavailable):
                        await anyio.sleep(_AWAY_SECONDS)

                reads.judge(key, oldest, value)

    async def main() -> None:
        async with AsyncClient(plan.socket) as client, anyio.create_task_group() as tasks:
            for number in range(ASYNC_CALLERS):
                tasks.start_soon(caller, client, plan.number * ASYNC_CALLERS + number)

    anyio.run(main)
    reads.account.ends = dict(reads.ends)
    return reads.account


def write(plan: Plan) -> Account:
    """Put and delete; note what is acknowledged, and which outcomes are unknown."""
    board, chance, account, ends = Board(plan.board), random.Random(plan.number), Account(), Counter[str]()
    words = board.words
    uncertain = os.open(f"{plan.board}.{plan.uid_index}", os.O_WRONLY | os.O_APPEND)
    with Client(plan.socket, on_unavailable="raise") as client:
        while not board.over:
            key = chance.randrange(KEYS)
            at = Board.at(plan.uid_index, key)
            version = words[at + Board.STARTED]
            try:
                if chance.random() < 0.2:
                    client.delete(str(key))
                    words[at + Board.REPLACED] = version + 1
                    ends["deleted"] += 1
                else:
                    version += 1
                    words[at + Board.STARTED] = version
                    assert client.put(str(key), value_of(plan.uid, key, version), ttl=120)
                    words[at + Board.REPLACED] = words[at + Board.ACKNOWLEDGED] = version
                    ends["put"] += 1
            except DaemonUnavailable as error:
                os.write(uncertain, b"%d %d\n" % (key, version))
                ends[type(error).__name__] += 1

            time.sleep(plan.pause_seconds)

    account.ends = dict(ends)
    return account


def read_shared(plan: Plan) -> Account:
    """Read a shared namespace until its view is read, then until access has been withdrawn and long enough afterwards."""
    reads = Reads(plan)
    with Client(plan.socket) as client:
        while not reads.is_over():
            for _ in range(_STOP_EVERY):
                withdrawn = reads.board.words[1]
                value = client.get(SHARED_KEY, namespace=SHARED)
                reads.account.reads += withdrawn
                if value is not None and withdrawn:
                    reads.account.wrong.append(f"read though access had been withdrawn: {value}")

    return reads.account


_ROLES = {"writer": write, "blocking": read_blocking, "async": read_async, "member": read_shared}

if __name__ == "__main__":

    def become(plan: Plan) -> None:
        """Take the uid of the plan, once all is imported that this process needs."""
        anyio.run(anyio.sleep, 0)
        if plan.uid != os.getuid():
            os.setgid(plan.uid)
            os.setuid(plan.uid)

    follow(Plan, lambda plan: _ROLES[plan.role](plan), become)
