"""Metrics of hosts that nobody scrapes: collected at intervals, and sent to where they are kept.

What cannot be sent waits, and is sent later with the instants at which it was collected (`sidecard.observe.push.backlog`).
While the target answers and nothing waits, the disk is not touched: a daemon that is killed then loses the blocks that
were on their way, and nothing of what was waiting.

Two lanes lead to the target. New blocks take the direct one while the target answers, and those that wait take the other
in between, one after another as fast as the target takes them. VictoriaMetrics takes any order, so new blocks go first: a
backlog of a day does not delay them. Prometheus refuses what is older than what it has, so there all go through the backlog
until it is empty: new blocks come late by as long as it takes to drain, and none is lost.

Where the order does not matter, a block that the target fails at with 5xx goes behind the others, so that it stops none.
Where it does, such a block stops the others until the bound drops it; what Prometheus finds wrong with a block it says with
400, which drops it at once. How old a sample may be is Prometheus' own setting (``out_of_order_time_window``).

A block arrives twice where the target took it and its answer was lost. It is an exact duplicate then: Prometheus keeps one,
VictoriaMetrics does so with ``-dedup.minScrapeInterval=1ms``.
"""

from collections import deque
from collections.abc import Callable
from pathlib import Path

import anyio
from anyio import to_thread
from msgspec import Struct

from sidecard.observe.push.backlog import Backlog
from sidecard.observe.push.formats import Encoder, format_of
from sidecard.observe.push.spool_records import Block
from sidecard.observe.push.target import Access, Away, Outcome, Refused, Sent, Target
from sidecard_client.protocol.wire import Family

MIN_PAUSE_SECONDS, MAX_PAUSE_SECONDS = 1.0, 60.0
"""Between two tries of a target that is away, doubling, and jittered down to between half and all. Precedent: vmagent."""

CLOSE_SECONDS = 1.0
"""How long the last blocks may take to be sent. What is left is written to disk, if there is one."""

LANE_MAX_BYTES = 2 * 1024 * 1024
"""Of new blocks behind one that is being sent: more than that go to the backlog."""

DROPPED = "push_samples"
"""What is counted where samples are lost."""


class PushSettings(Struct, frozen=True):
    """Where metrics go, and how often. The daemon's ``[push]`` has the defaults and their sources."""

    url: str
    """Its path tells the format: see `sidecard.observe.push.formats.format_of`."""
    instance: str
    job: str = "sidecard"
    interval_seconds: float = 15.0
    timeout_seconds: float = 10.0
    spool_max_bytes: int = 256 * 1024 * 1024
    username: str = ""
    password: str = ""
    password_file: str = ""
    bearer_token_file: str = ""
    ca_file: str = ""


class Push:
    """Sends what ``collect`` returns, every interval.

    ``directory`` is the spool's; with None what waits is kept in memory, and lost with the daemon.
    ``clock`` is monotonic and ``wall`` the wall's, both in seconds; ``jitter`` is uniform in [0, 1).
    ``say`` is a log's; ``count(what, number)`` gets what is dropped.

    Raises `ValueError` where the URL does not tell the format, and `OSError` where ``ca_file`` cannot be used.
    """

    def __init__(
        self,
        settings: PushSettings,
        collect: Callable[[], list[Family]],
        *,
        directory: Path | None,
        clock: Callable[[], float],
        wall: Callable[[], float],
        say: Callable[..., None],
        count: Callable[[str, int], None],
        jitter: Callable[[], float],
    ) -> None:
        self._interval_seconds = settings.interval_seconds
        self._collect = collect
        self._clock = clock
        self._wall = wall
        self._say = say
        self._count = count
        self._jitter = jitter
        self._format = format_of(settings.url)
        self._encoder = Encoder(self._format, job=settings.job, instance=settings.instance)
        access = Access(
            settings.url,
            settings.timeout_seconds,
            settings.username,
            settings.password,
            settings.password_file,
            settings.bearer_token_file,
            settings.ca_file,
        )
        self._target = Target(access, self._format.headers, wall=wall)
        self._backlog = Backlog(directory, max_bytes=settings.spool_max_bytes, clock=clock, dropped=self._drop, say=say)
        self._lane: deque[Block] = deque()
        """New blocks for the target; the first one is on its way, or will be next."""
        self._away = False
        """Whether the target did not take the last block."""
        self._failures = 0
        """In a row."""
        self._retry_at = float("-inf")
        self._refusing = False
        self._last_milliseconds = 0
        self._news = anyio.Event()
        """There is something new to send, or nothing more is to be sent."""
        self._ending = False

    @property
    def spool_bytes(self) -> int:
        """What waits to be sent, on disk and in memory."""
        return self._backlog.size_bytes

    async def run(self) -> None:
        """Collect and send, until cancelled; `close` is to be awaited after that."""
        await self._backlog.open()
        async with anyio.create_task_group() as tasks:
            sending = anyio.CancelScope(shield=True)
            tasks.start_soon(self._send_on, sending)
            try:
                await self._collect_on()
            finally:
                # A request that is cut off may have arrived all the same, and its block would then be there twice.
                self._ending = True
                self._news.set()
                sending.deadline = anyio.current_time() + CLOSE_SECONDS

    async def close(self) -> None:
        """Collect once more, and send or write what there is, within some two seconds. Does not raise."""
        with anyio.CancelScope(shield=True):
            new = await self._collected()
            self._backlog.give_back()
            if self._away or (self._format.ordered and not self._backlog.empty):
                await self._backlog.add(*self._lane, *new)
                self._lane.clear()
            else:
                self._lane.extend(new)

            with anyio.move_on_after(CLOSE_SECONDS):
                while not self._away and self._lane:
                    await self._send_new()

                while not self._away and not self._backlog.empty:
                    await self._send_waiting()

            await self._backlog.add(*self._lane)
            self._lane.clear()
            await self._backlog.close()
            with anyio.move_on_after(CLOSE_SECONDS):
                await self._target.close()

    # Collecting ------------------------------------------------------------------------------------------------------

    async def _collect_on(self) -> None:
        # Hosts that start together must not send together for ever.
        collect_at = self._clock() + self._jitter() * self._interval_seconds
        while True:
            await anyio.sleep(max(0.0, collect_at - self._clock()))
            with anyio.CancelScope(shield=True):
                # What was collected is not lost because the daemon stops at this moment.
                await self._take_new(await self._collected())

            # What was missed while the host slept is missed; the pace stays. A gap in a graph has its reason in the log.
            missed = int(max(0.0, self._clock() - collect_at) // self._interval_seconds)
            if missed:
                self._say("info", "metrics collected late", missed=missed)

            collect_at += (missed + 1) * self._interval_seconds

    async def _collected(self) -> list[Block]:
        now_milliseconds = int(self._wall() * 1000)
        back_milliseconds = self._last_milliseconds - now_milliseconds
        if 0 <= back_milliseconds < self._interval_seconds * 1000:
            # A clock that is set back a little: Prometheus would refuse all of it.
            now_milliseconds = self._last_milliseconds + 1

        self._last_milliseconds = now_milliseconds
        try:
            families = self._collect()
            # Ten thousand samples take 30 to 110 ms, by the format, which the event loop need not wait for.
            return await to_thread.run_sync(self._encoder.blocks, families, now_milliseconds)
        except Exception as fault:  # noqa: BLE001 - metrics that cannot be had are no reason to stop the daemon
            self._say("error", "metrics not collected", exc_info=fault)
            return []

    async def _take_new(self, blocks: list[Block]) -> None:
        if self._away or (self._format.ordered and not self._backlog.empty):
            await self._backlog.add(*blocks)
        else:
            self._lane.extend(blocks)
            waiting_bytes = sum(len(block.body) for block in self._lane)
            if waiting_bytes > LANE_MAX_BYTES:
                on_its_way = self._lane.popleft()
                late = list(self._lane)
                self._lane = deque([on_its_way])
                await self._backlog.add(*late)

        self._news.set()

    # Sending ---------------------------------------------------------------------------------------------------------

    async def _send_on(self, scope: anyio.CancelScope) -> None:
        with scope:
            while not self._ending:
                self._news = anyio.Event()
                pause_seconds = self._retry_at - self._clock()
                if self._lane:
                    await self._send_new()
                elif self._backlog.empty:
                    await self._news.wait()
                elif pause_seconds > 0:
                    with anyio.move_on_after(pause_seconds):
                        await self._news.wait()
                else:
                    await self._send_waiting()

    async def _send_new(self) -> None:
        if not isinstance(await self._send(self._lane[0]), Away):
            self._lane.popleft()
            return

        # All of the lane: what follows is newer, and must not go before it.
        late = list(self._lane)
        self._lane.clear()
        await self._backlog.add(*late)

    async def _send_waiting(self) -> None:
        waiting = await self._backlog.oldest()
        if waiting is None:
            if not self._backlog.empty:
                self._retry_at = self._clock() + MIN_PAUSE_SECONDS  # the disk does not give it

            return

        block = waiting.block
        if block.format != self._format:
            self._refuse(block, "it was made for a target of another kind, before push.url was changed")
            await self._backlog.take(waiting)
            return

        outcome = await self._send(block)
        if not isinstance(outcome, Away):
            await self._backlog.take(waiting)
        elif outcome.answered and not self._format.ordered:
            await self._backlog.add(block)
            await self._backlog.take(waiting)
        else:
            self._backlog.give_back()

    async def _send(self, block: Block) -> Outcome:
        outcome = await self._target.send(block.body)
        match outcome:
            case Sent():
                self._refusing = False
                self._arrive()
            case Refused(reason):
                self._refuse(block, reason)
                self._arrive()
            case Away():
                self._stay_away(outcome)

        return outcome

    def _arrive(self) -> None:
        self._failures = 0
        self._retry_at = float("-inf")
        if self._away:
            self._away = False
            self._say("info", "metrics pushed again", url=self._target.shown_url)

    def _stay_away(self, away: Away) -> None:
        longest = min(MAX_PAUSE_SECONDS, MIN_PAUSE_SECONDS * 2.0 ** min(self._failures, 10))
        self._failures += 1
        # What the target asks for is a least: those that it has asked at the same time must not come back together.
        pause_seconds = longest * (0.5 + 0.5 * self._jitter()) + (away.retry_after_seconds or 0.0)
        self._retry_at = self._clock() + pause_seconds
        if not self._away:
            self._away = True
            self._say("warning", "metrics not pushed", url=self._target.shown_url, reason=away.reason)

    def _refuse(self, block: Block, reason: str) -> None:
        self._drop(block.samples)
        if not self._refusing:
            self._refusing = True
            self._say(
                "warning", "metrics refused", url=self._target.shown_url, reason=reason, samples_dropped=block.samples
            )

    def _drop(self, samples: int) -> None:
        self._count(DROPPED, samples)
