"""The backlog of a push: blocks that wait while the target is unavailable, on disk, or in memory while the disk takes nothing.

New blocks are added in memory, and a thread moves them to the disk, immediately if it is writable. While the disk is full,
read-only, missing or hanging they stay in memory, within a bound, and the disk is tried again every `RETRY_DISK_SECONDS`.
So blocks on disk are older than blocks in memory.
"""

import asyncio
import contextlib
import errno
from collections import deque
from collections.abc import Callable, Hashable
from pathlib import Path
from typing import NamedTuple, TypeVar

import anyio

from sidecard.observe.push.spool import Spool
from sidecard.observe.push.spool_position import BlockPosition
from sidecard.observe.push.spool_records import RECORD_OVERHEAD_BYTES, Block
from sidecard.persistence.worker import WorkerThread
from sidecard.persistence.write_behind import WriteBehindQueue

MEMORY_MAX_BYTES = 8 * 1024 * 1024
"""Blocks in memory, unless ``max_bytes`` is less: hours of some hundred series."""

RETRY_DISK_SECONDS = 5.0

DISK_SECONDS = 2.0
"""How long the disk may take for one block before it counts as hanging."""

_NO_ROOM = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EMFILE, errno.ENFILE, errno.ENOMEM})
"""Errors after which the blocks on disk can still be read."""

T = TypeVar("T")


class DiskHangsError(OSError):
    """The disk has not answered in time, now or for an earlier block."""

    def __init__(self) -> None:
        super().__init__(0, "the disk does not answer")


class QueuedBlock(NamedTuple):
    """The oldest block."""

    block: Block
    position: BlockPosition | None
    """On disk; None in memory."""


class Backlog:
    """A queue of blocks, the oldest first; the oldest are dropped if there is no room. No method raises.

    ``directory`` is the spool's; None keeps all in memory. ``max_bytes`` bounds the blocks on disk, and those in memory.
    ``clock`` is monotonic. ``on_dropped`` receives numbers of samples. ``log(level, event, **fields)`` writes a log line.
    """

    def __init__(
        self,
        directory: Path | None,
        *,
        max_bytes: int,
        clock: Callable[[], float],
        on_dropped: Callable[[int], None],
        log: Callable[..., None],
    ) -> None:
        self._directory = directory
        self._max_bytes = max_bytes
        self._clock = clock
        self._on_dropped = on_dropped
        self._log = log
        self._memory = WriteBehindQueue[Block](_size, max_bytes=min(max_bytes, MEMORY_MAX_BYTES))
        """Its batch is the block that `oldest` returned, until it was taken or given back."""
        self._to_move: tuple[tuple[Hashable, Block], ...] = ()
        """Blocks in memory when the current disk job started."""
        self._moved: deque[Hashable] = deque()
        """Blocks that were moved to the disk. The worker's thread appends, here and below."""
        self._lost: deque[int] = deque()
        """Numbers of samples that the disk dropped."""
        self._damaged: deque[Path] = deque()
        """Files that were set aside."""
        self._spool: Spool | None = None
        self._worker: WorkerThread | None = None
        self._disk = anyio.Lock()
        self._retry_at = float("-inf")
        self._failing = False
        self.problem = ""
        """Why blocks are not spooled to disk, as a sentence; empty if they are."""

    @property
    def size_bytes(self) -> int:
        """The size of all blocks, on disk and in memory."""
        return self._memory.bytes + (0 if self._spool is None else self._spool.size_bytes)

    @property
    def empty(self) -> bool:
        """Whether there is no block."""
        return not len(self._memory) and (self._spool is None or self._spool.empty)

    async def open(self) -> None:
        """Find what an earlier process left on disk. Blocks may be added before."""
        await self._move_to_disk()

    async def add(self, *blocks: Block) -> None:
        """Add the newest blocks. They are in the queue, in order, as soon as this is called."""
        for block in blocks:
            self._memory.append(block)

        await self._move_to_disk()
        while self._memory.bytes > self._memory.max_bytes and (dropped := self._memory.drop_oldest()):
            self._on_dropped(dropped.samples)

    async def oldest(self) -> QueuedBlock | None:
        """Return the oldest block; None if there is none. It stays until it is taken."""
        self._memory.give_back()
        await self._move_to_disk()
        if self._spool is not None:
            try:
                found = await self._on_disk(self._spool.oldest)
            except OSError as error:
                self._failed(error)
            else:
                if found is not None:
                    return QueuedBlock(found[1], found[0])

        batch = self._memory.take(1)
        return QueuedBlock(batch[0], None) if batch else None

    async def take(self, queued: QueuedBlock) -> None:
        """Remove the block that `oldest` returned. Taking it twice, or after it was dropped, changes nothing."""
        spool, position = self._spool, queued.position
        if position is None:
            if any(block is queued.block for block in self._memory.taken):
                self._memory.done()
        elif spool is not None:
            try:
                await self._on_disk(lambda: spool.take(position))
            except OSError as error:
                self._failed(error)

    def give_back(self) -> None:
        """Keep the block that `oldest` returned: it is not sent for now."""
        self._memory.give_back()

    async def close(self) -> None:
        """Write blocks in memory, if the disk takes them, and release the directory; count what is lost."""
        self._memory.give_back()
        self._retry_at = float("-inf")
        await self._move_to_disk()
        while (dropped := self._memory.drop_oldest()) is not None:
            self._on_dropped(dropped.samples)

        await self._close_spool()
        if self._worker is not None:
            self._worker.stop()

    async def _move_to_disk(self) -> None:
        self._settle()
        # A block in memory that is being sent is older than those after it: they must not be on disk before it.
        if self._directory is None or self._memory.taken or self._clock() < self._retry_at:
            return

        if self._spool is not None and not len(self._memory):
            return

        try:
            await self._on_disk(self._append)
        except OSError as error:
            self._failed(error)
            if self._spool is not None and error.errno not in _NO_ROOM and not isinstance(error, DiskHangsError):
                await self._close_spool()
        else:
            if self._failing:
                self._failing = False
                self.problem = ""
                self._log("info", "metrics spooled to disk again", directory=str(self._directory))

    def _append(self) -> None:
        """In the worker's thread: open the spool if need be, and append."""
        if self._spool is None and self._directory is not None:
            self._spool = Spool(
                self._directory,
                max_bytes=self._max_bytes,
                on_dropped=self._lost.append,
                on_damaged=self._damaged.append,
            )

        if self._spool is not None:
            for name, block in self._to_move:
                self._spool.append(block)
                self._moved.append(name)

    def _settle(self) -> None:
        """Take over what the worker has done, also in jobs that no caller waited for any more."""
        while self._moved:
            self._memory.discard(self._moved.popleft())

        while self._lost:
            self._on_dropped(self._lost.popleft())

        while self._damaged:
            self._log("warning", "spool file damaged", kept_as=str(self._damaged.popleft()))

    def _failed(self, error: OSError) -> None:
        self._retry_at = self._clock() + RETRY_DISK_SECONDS
        reason = "another process uses it" if isinstance(error, BlockingIOError) else error.strerror or str(error)
        self.problem = (
            f"Metrics that wait to be pushed are kept in memory only: cannot use {self._directory} ({reason})."
        )
        if not self._failing:
            self._failing = True
            self._log("warning", "metrics not spooled to disk", directory=str(self._directory), reason=reason)

    async def _close_spool(self) -> None:
        spool = self._spool
        if spool is not None:
            # If the disk hangs, the worker still uses the spool's files: closed, their descriptors would soon be reused.
            with contextlib.suppress(OSError):
                await self._on_disk(spool.close)
                self._spool = None

    async def _on_disk(self, job: Callable[[], T]) -> T:
        """Do a job that waits for the disk, one at a time. Raises `OSError`.

        A caller that is canceled meanwhile waits for the job's end, so that its result is known.
        """
        with anyio.move_on_after(DISK_SECONDS, shield=True):
            async with self._disk:
                if self._worker is None:
                    try:
                        self._worker = WorkerThread("sidecard-spool", asyncio.get_running_loop())
                    except RuntimeError as error:  # the host allows no further thread
                        raise OSError(0, str(error)) from error

                if self._worker.busy:
                    raise DiskHangsError

                # Only now: an earlier job may have moved some blocks, and one of them may be on its way to the target.
                self._to_move = () if self._memory.taken else tuple(self._memory.waiting)
                try:
                    return await self._worker.run(job)
                finally:
                    self._settle()

        raise DiskHangsError


def _size(block: Block) -> int:
    return len(block.body) + RECORD_OVERHEAD_BYTES
