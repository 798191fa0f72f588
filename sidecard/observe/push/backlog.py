"""What waits while the target of a push is away: on disk, and in memory where the disk does not take it.

New blocks come to memory first, and go on to the disk in a thread, at once where it can be written. While it is full,
read-only, gone or hanging they stay in memory, within a bound, and the disk is tried again every `RETRY_DISK_SECONDS`.
So what is on disk is older than what is in memory.
"""

import contextlib
import errno
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple, TypeVar

import anyio
from anyio import to_thread

from sidecard.observe.push.spool import Spool
from sidecard.observe.push.spool_position import Place
from sidecard.observe.push.spool_records import RECORD_OVERHEAD_BYTES, Block

MEMORY_MAX_BYTES = 8 * 1024 * 1024
"""Of blocks in memory, if ``max_bytes`` is not less: hours of some hundred series."""

RETRY_DISK_SECONDS = 5.0

DISK_SECONDS = 2.0
"""How long the disk may take for one block, after which it counts as hanging."""

_NO_ROOM = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EMFILE, errno.ENFILE, errno.ENOMEM})
"""What is there can be read all the same."""

T = TypeVar("T")


class DiskHangsError(OSError):
    """The disk has not answered in time, or still has not answered what was asked of it before."""

    def __init__(self) -> None:
        super().__init__(0, "the disk does not answer")


class Waiting(NamedTuple):
    """The block that is next."""

    block: Block
    place: Place | None
    """On disk; None where it is in memory."""


class Backlog:
    """A queue of blocks, the oldest first; the oldest are dropped where there is no room. No method raises.

    ``directory`` is the spool's, None to have all in memory. ``max_bytes`` bounds what is on disk, and what is in memory too.
    ``dropped`` gets numbers of samples; ``say`` is a log's; ``clock`` is monotonic.
    """

    def __init__(
        self,
        directory: Path | None,
        *,
        max_bytes: int,
        clock: Callable[[], float],
        dropped: Callable[[int], None],
        say: Callable[..., None],
    ) -> None:
        self._directory = directory
        self._max_bytes = max_bytes
        self._clock = clock
        self._dropped = dropped
        self._say = say
        self._memory: deque[Block] = deque()
        self._memory_bytes = 0
        self._lent: Block | None = None
        """The block in memory that was shown last: it is kept there until it was taken or given back."""
        self._moved: deque[Block] = deque()
        """What has come from memory to the disk. Threads tell it, as they do what follows."""
        self._to_move: tuple[Block, ...] = ()
        """What was in memory when the disk was last asked for anything."""
        self._lost: deque[int] = deque()
        """How many samples the disk has dropped, at a time."""
        self._damaged: deque[Path] = deque()
        """Files that were set aside."""
        self._spool: Spool | None = None
        self._disk = anyio.Lock()
        self._hangs = False
        """Whether a thread has not come back from the disk."""
        self._retry_at = float("-inf")
        self._failing = False

    @property
    def size_bytes(self) -> int:
        """What waits, on disk and in memory."""
        return self._memory_bytes + (0 if self._spool is None else self._spool.size_bytes)

    @property
    def empty(self) -> bool:
        """Whether nothing waits."""
        return not self._memory and (self._spool is None or self._spool.empty)

    async def open(self) -> None:
        """Find what an earlier process left on disk. Blocks may be added without."""
        await self._move_to_disk()

    async def add(self, *blocks: Block) -> None:
        """Add the newest blocks. They are in the queue, in order, as soon as this is called."""
        for block in blocks:
            self._memory.append(block)
            self._memory_bytes += _bytes(block)

        await self._move_to_disk()
        while self._memory_bytes > min(self._max_bytes, MEMORY_MAX_BYTES):
            self._drop_oldest()

    async def oldest(self) -> Waiting | None:
        """Show the block that is next; None where nothing waits. It stays until it is taken."""
        self._lent = None
        await self._move_to_disk()
        if self._spool is not None:
            try:
                found = await self._on_disk(self._spool.oldest)
            except OSError as error:
                self._fail(error)
            else:
                if found is not None:
                    return Waiting(found[1], found[0])

        if not self._memory:
            return None

        self._lent = self._memory[0]
        return Waiting(self._lent, None)

    async def take(self, waiting: Waiting) -> None:
        """Remove the block that was shown. To do it twice, or after it had to go, changes nothing."""
        if waiting.place is None:
            if self._lent is waiting.block and self._memory and self._memory[0] is waiting.block:
                self._memory.popleft()
                self._memory_bytes -= _bytes(waiting.block)

            self._lent = None
            return

        spool, place = self._spool, waiting.place
        if spool is not None:
            try:
                await self._on_disk(lambda: spool.take(place))
            except OSError as error:
                self._fail(error)

    def give_back(self) -> None:
        """Say that the block that was shown is not to be taken for now."""
        self._lent = None

    async def close(self) -> None:
        """Write what is in memory, if the disk takes it, and let go of the directory; count what is lost."""
        self._lent = None
        self._retry_at = float("-inf")
        await self._move_to_disk()
        while self._memory:
            self._drop_oldest()

        await self._let_go()

    async def _move_to_disk(self) -> None:
        self._settle()
        # A block in memory that is being sent is older than those after it, and must not come to be newer than they.
        if self._directory is None or self._lent is not None or self._clock() < self._retry_at:
            return

        if self._spool is not None and not self._memory:
            return

        try:
            await self._on_disk(self._append)
        except OSError as error:
            self._fail(error)
            if self._spool is not None and error.errno not in _NO_ROOM and not isinstance(error, DiskHangsError):
                await self._let_go()
        else:
            if self._failing:
                self._failing = False
                self._say("info", "metrics spooled to disk again", directory=str(self._directory))

    def _append(self) -> None:
        """In a thread: open the spool if need be, and append."""
        if self._spool is None and self._directory is not None:
            self._spool = Spool(
                self._directory, max_bytes=self._max_bytes, dropped=self._lost.append, damaged=self._damaged.append
            )

        if self._spool is not None:
            for block in self._to_move:
                self._spool.append(block)
                self._moved.append(block)

    def _settle(self) -> None:
        """Learn what threads have done, be it that nobody waited for them any more; remove what has come to the disk."""
        while self._moved:
            block = self._moved.popleft()
            if self._memory and self._memory[0] is block:
                self._memory.popleft()
                self._memory_bytes -= _bytes(block)

        while self._lost:
            self._dropped(self._lost.popleft())

        while self._damaged:
            self._say("warning", "spool file damaged", kept_as=str(self._damaged.popleft()))

    def _drop_oldest(self) -> None:
        # What is being sent may arrive.
        index = 1 if len(self._memory) > 1 and self._memory[0] is self._lent else 0
        block = self._memory[index]
        del self._memory[index]
        self._memory_bytes -= _bytes(block)
        self._dropped(block.samples)

    def _fail(self, error: OSError) -> None:
        self._retry_at = self._clock() + RETRY_DISK_SECONDS
        if not self._failing:
            self._failing = True
            reason = "another process uses it" if isinstance(error, BlockingIOError) else error.strerror or str(error)
            self._say("warning", "metrics not spooled to disk", directory=str(self._directory), reason=reason)

    async def _let_go(self) -> None:
        spool = self._spool
        if spool is None:
            return

        # Where the disk hangs a thread still uses its files: closed, their numbers would soon be those of others.
        with contextlib.suppress(OSError):
            await self._on_disk(spool.close)
            self._spool = None

    async def _on_disk(self, job: Callable[[], T]) -> T:
        """Do a job that waits for the disk, in a thread and not while another does. Raises `OSError`.

        Whoever is cancelled meanwhile waits for it, so that it is known what has become of it.
        """
        start = [None]

        def work() -> T:
            if not _taken(start):
                raise DiskHangsError

            try:
                return job()
            finally:
                self._hangs = False

        with anyio.move_on_after(DISK_SECONDS, shield=True):
            async with self._disk:
                if self._hangs:
                    raise DiskHangsError

                self._hangs = True
                # Not before it is our turn: whoever was before us may have moved them.
                self._to_move = tuple(self._memory)
                try:
                    return await to_thread.run_sync(work, abandon_on_cancel=True)
                except RuntimeError as error:  # the host allows no further thread
                    raise OSError(0, str(error)) from error
                finally:
                    if _taken(start):
                        self._hangs = False  # it was never begun, and will not be

                    self._settle()

        raise DiskHangsError


def _taken(start: list[None]) -> bool:
    """Whether this is the first of those who want it: a job is begun by its thread, or given up by whoever waits."""
    try:
        start.pop()
    except IndexError:
        return False

    return True


def _bytes(block: Block) -> int:
    return len(block.body) + RECORD_OVERHEAD_BYTES
