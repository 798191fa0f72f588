"""Push: metrics of hosts that no server scrapes, collected at intervals and sent to a time series database.

Blocks that cannot be sent wait in the backlog, and are sent later with the timestamps of their collection. While the target
answers and nothing waits, the disk is not touched: a daemon that is killed then loses the blocks that were on their way.

New blocks take the direct way while the target answers, and the backlog is sent in between, one block after another.
VictoriaMetrics accepts samples in any order, so new blocks go first: a day's backlog does not delay them. Prometheus rejects
samples older than what it has, so there all blocks go through the backlog until it is empty: new ones arrive late by the time
that draining takes, and none is lost.

If the order does not matter, a block that the target answers with 5xx is moved behind the others, so that it stops none.
Otherwise such a block stops the others until the bound drops it; Prometheus rejects a wrong block with 400, which drops it
immediately. How old a sample may be is Prometheus' own setting (``out_of_order_time_window``).

A block arrives twice if the target stored it and its answer was lost. It is an exact duplicate: Prometheus keeps one,
VictoriaMetrics does so with ``-dedup.minScrapeInterval=1ms``.
"""

from collections import deque
from collections.abc import Callable, Iterable
from pathlib import Path

import anyio
from anyio import lowlevel, to_thread

from sidecard.config.schema import PushSettings
from sidecard.observe.push.backlog import Backlog
from sidecard.observe.push.formats import Encoder, format_of
from sidecard.observe.push.spool_records import Block
from sidecard.observe.push.target import Postponed, Refused, SendResult, Sent, Target
from sidecard_client.protocol.backoff import Backoff
from sidecard_client.protocol.wire import Family

MIN_PAUSE_SECONDS, MAX_PAUSE_SECONDS = 1.0, 60.0
"""Between two tries of an unavailable target, shortened by jitter to between half and all. Precedent: vmagent."""

CLOSE_SECONDS = 1.0
"""How long sending the last blocks may take. The rest is written to disk, if there is one."""

DIRECT_MAX_BYTES = 2 * 1024 * 1024
"""New blocks behind one that is being sent: more than that go to the backlog."""

COLLECT_SECONDS = 0.002
"""How long metrics are collected in a row, before others get their turn."""

DROPPED = "push_samples"
"""The counter of lost samples."""


class Push:
    """Sends what ``collect`` returns, every interval. It may make families one by one, and a large one in pieces.

    ``directory`` is the spool's; without one the backlog is kept in memory, and lost with the daemon.
    ``clock`` is monotonic and ``wall`` the wall's, both in seconds; ``jitter`` is uniform in [0, 1).
    ``log(level, event, **fields)`` writes a log line; ``count(what, number)`` counts what is dropped.

    Raises `ValueError` if the URL's path names no format, and `OSError` where ``ca_file`` cannot be used.
    """

    def __init__(
        self,
        settings: PushSettings,
        collect: Callable[[], Iterable[Family]],
        *,
        directory: Path | None,
        clock: Callable[[], float],
        wall: Callable[[], float],
        log: Callable[..., None],
        count: Callable[[str, int], None],
        jitter: Callable[[], float],
    ) -> None:
        self._interval_seconds = settings.interval_seconds
        self._collect = collect
        self._clock = clock
        self._wall = wall
        self._log = log
        self._count = count
        self._jitter = jitter
        self._format = format_of(settings.url)
        self._encoder = Encoder(self._format, job=settings.job, instance=settings.instance)
        self._target = Target(settings, self._format.headers, wall=wall)
        self._backlog = Backlog(
            directory, max_bytes=settings.spool_max_bytes, clock=clock, on_dropped=self._drop, log=log
        )
        self._direct: deque[Block] = deque()
        """New blocks for the target; the first one is on its way, or will be next."""
        self._backoff = Backoff(MIN_PAUSE_SECONDS, MAX_PAUSE_SECONDS, jitter=jitter, jitter_share=0.5)
        self._refusing = ""
        """Why the target refused the last block; empty if it did not."""
        self._postponed = ""
        """Why it did not take the last block."""
        self._last_milliseconds = 0
        self._wake = anyio.Event()
        """There is something new to send, or nothing more is to be sent."""
        self._ending = False

    @property
    def spool_bytes(self) -> int:
        """The size of the backlog, on disk and in memory."""
        return self._backlog.size_bytes

    @property
    def problem(self) -> str:
        """What is wrong, as a sentence; empty if nothing is."""
        if self._unavailable:
            return f"Metrics are not pushed to {self._target.shown_url}: {self._postponed.rstrip('.')}."

        if self._refusing:
            return f"{self._target.shown_url} refuses pushed metrics: {self._refusing.rstrip('.')}."

        return self._backlog.problem

    async def run(self) -> None:
        """Collect and send until canceled; await `close` after that."""
        await self._backlog.open()
        async with anyio.create_task_group() as tasks:
            sending = anyio.CancelScope(shield=True)
            tasks.start_soon(self._send_all, sending)
            try:
                await self._collect_all()
            finally:
                # A request that is cut off may have arrived, and its block would then be there twice.
                self._ending = True
                self._wake.set()
                sending.deadline = anyio.current_time() + CLOSE_SECONDS

    async def close(self) -> None:
        """Collect once more, and send or write what there is, within some two seconds. Does not raise."""
        with anyio.CancelScope(shield=True):
            new = await self._collected()
            self._backlog.give_back()
            if self._use_backlog:
                await self._backlog.add(*self._direct, *new)
                self._direct.clear()
            else:
                self._direct.extend(new)

            with anyio.move_on_after(CLOSE_SECONDS):
                while not self._unavailable and self._direct:
                    await self._send_direct()

                while not self._unavailable and not self._backlog.empty:
                    await self._send_backlog()

            await self._backlog.add(*self._direct)
            self._direct.clear()
            await self._backlog.close()
            with anyio.move_on_after(CLOSE_SECONDS):
                await self._target.close()

    @property
    def _unavailable(self) -> bool:
        """Whether the target did not take the last block."""
        return self._backoff.failures > 0

    @property
    def _use_backlog(self) -> bool:
        """Whether new blocks must go behind the backlog."""
        return self._unavailable or (self._format.ordered and not self._backlog.empty)

    # Collecting ------------------------------------------------------------------------------------------------------

    async def _collect_all(self) -> None:
        # A random start: hosts that start together must not send together forever.
        collect_at = self._clock() + self._jitter() * self._interval_seconds
        while True:
            await anyio.sleep(max(0.0, collect_at - self._clock()))
            with anyio.CancelScope(shield=True):
                # A collection is not lost because the daemon stops at this moment.
                await self._queue(await self._collected())

            # Collections missed while the host slept are skipped; the pace stays. The log explains the gap in a graph.
            missed = int(max(0.0, self._clock() - collect_at) // self._interval_seconds)
            if missed:
                self._log("info", "metrics collected late", missed=missed)

            collect_at += (missed + 1) * self._interval_seconds

    async def _collected(self) -> list[Block]:
        now_milliseconds = int(self._wall() * 1000)
        back_milliseconds = self._last_milliseconds - now_milliseconds
        if 0 <= back_milliseconds < self._interval_seconds * 1000:
            # The clock was set back a little: Prometheus would reject the whole collection.
            now_milliseconds = self._last_milliseconds + 1

        self._last_milliseconds = now_milliseconds
        try:
            families: list[Family] = []
            until = self._clock() + COLLECT_SECONDS
            for family in self._collect():
                families.append(family)
                if self._clock() > until:
                    await lowlevel.checkpoint()
                    until = self._clock() + COLLECT_SECONDS

            # In a thread: ten thousand samples take 30 to 110 ms, depending on the format.
            return await to_thread.run_sync(self._encoder.blocks, families, now_milliseconds)
        except Exception as fault:  # noqa: BLE001 - a failed collection must not stop the daemon
            self._log("error", "metrics not collected", exc_info=fault)
            return []

    async def _queue(self, blocks: list[Block]) -> None:
        if self._use_backlog:
            await self._backlog.add(*blocks)
        else:
            self._direct.extend(blocks)
            if sum(len(block.body) for block in self._direct) > DIRECT_MAX_BYTES:
                on_its_way, *late = self._direct
                self._direct = deque([on_its_way])
                await self._backlog.add(*late)

        self._wake.set()

    # Sending ---------------------------------------------------------------------------------------------------------

    async def _send_all(self, scope: anyio.CancelScope) -> None:
        with scope:
            while not self._ending:
                self._wake = anyio.Event()
                pause_seconds = self._backoff.remaining_seconds(self._clock())
                if self._direct:
                    await self._send_direct()
                elif self._backlog.empty:
                    await self._wake.wait()
                elif pause_seconds > 0:
                    with anyio.move_on_after(pause_seconds):
                        await self._wake.wait()
                else:
                    await self._send_backlog()

    async def _send_direct(self) -> None:
        if not isinstance(await self._send(self._direct[0]), Postponed):
            self._direct.popleft()
            return

        # All of them: those that follow are newer, and must not be sent before it.
        late = list(self._direct)
        self._direct.clear()
        await self._backlog.add(*late)

    async def _send_backlog(self) -> None:
        queued = await self._backlog.oldest()
        if queued is None:
            if not self._backlog.empty:
                self._backoff.retry_at = self._clock() + MIN_PAUSE_SECONDS  # the disk cannot be read now

            return

        block = queued.block
        if block.format != self._format:
            self._refused(block, "it was made for a target of another kind, before push.url was changed")
            await self._backlog.take(queued)
            return

        result = await self._send(block)
        if not isinstance(result, Postponed):
            await self._backlog.take(queued)
        elif result.answered and not self._format.ordered:
            await self._backlog.add(block)
            await self._backlog.take(queued)
        else:
            self._backlog.give_back()

    async def _send(self, block: Block) -> SendResult:
        result = await self._target.send(block.body)
        match result:
            case Sent():
                self._refusing = ""
                self._answered()
            case Refused(reason):
                self._refused(block, reason)
                self._answered()
            case Postponed(reason, retry_after_seconds):
                if not self._unavailable:
                    self._log("warning", "metrics not pushed", url=self._target.shown_url, reason=reason)

                self._postponed = reason
                # A Retry-After is a minimum: hosts that were given the same one must not return together.
                self._backoff.failed(self._clock(), extra_seconds=retry_after_seconds or 0.0)

        return result

    def _answered(self) -> None:
        if self._unavailable:
            self._log("info", "metrics pushed again", url=self._target.shown_url)

        self._backoff.reset()

    def _refused(self, block: Block, reason: str) -> None:
        self._drop(block.samples)
        if not self._refusing:
            self._log(
                "warning", "metrics refused", url=self._target.shown_url, reason=reason, samples_dropped=block.samples
            )

        self._refusing = reason

    def _drop(self, samples: int) -> None:
        self._count(DROPPED, samples)
