"""Shared counters: breakers that open on all hosts, and budgets that all hosts spend, if the settings share them.

One Redis hash has the open breakers: each backend, and until when its breaker is open. One hash for each budget and period has
the total spending of each run of each daemon, so that a total reported twice counts once. A daemon reads both at its start, so
that no restart closes an open breaker or refills a budget.
"""

from collections.abc import Callable
from typing import Any

import anyio
from redis.exceptions import ResponseError

from sidecard.core import notes
from sidecard.core.effects import ShareSpending
from sidecard.core.events import RemoteBreakerOpened, RemoteSpending
from sidecard.store.base import StoreReporter
from sidecard.store.redis.connection import Command, RedisConnection, ScriptCall
from sidecard.store.redis.scripts import LAYOUT, NOW, Script

POLL_SECONDS = 0.5
"""Poll interval: an opening spreads within a second, and a budget is overspent by what all hosts spend in one interval."""

_KEPT_PERIODS = 2
"""How long spending is kept, in periods: hosts' clocks differ."""

_BREAKERS = f"sidecard-breakers:{LAYOUT}".encode()

_MAX_OPEN_MILLISECONDS = 86_400_000
"""The longest opening that is believed: a breaker doubles its open time up to `max_open_seconds`, 300 s by default."""

_MAX_NAME_CHARACTERS = 4096

_MAX_DOLLARS = 1_000_000_000
"""The most that one host is believed to have spent in a period. Other fields are skipped, not a number above all."""

_OPEN = Script(
    NOW
    + """
local ends = now + tonumber(ARGV[2])
local before = tonumber(redis.call('HGET', KEYS[1], ARGV[1]) or 0) or 0
if not (before < now + MAX_OPEN) then before = 0 end
redis.call('HSET', KEYS[1], ARGV[1], math.max(ends, before))
redis.call('PEXPIREAT', KEYS[1], math.max(ends, now + redis.call('PTTL', KEYS[1])))
return 1
""".replace("MAX_OPEN", str(_MAX_OPEN_MILLISECONDS))
)
"""Arguments: backend, milliseconds."""

_CLOSE = Script("return redis.call('HDEL', KEYS[1], ARGV[1])")
"""Arguments: backend."""

_OPEN_NOW = Script(
    NOW
    + """
local open = {}
local all = redis.call('HGETALL', KEYS[1])
for i = 1, #all, 2 do
  local left = (tonumber(all[i + 1]) or 0) - now
  if left > 0 and left < MAX_OPEN then
    open[#open + 1] = all[i]
    open[#open + 1] = left
  end
end
return open
""".replace("MAX_OPEN", str(_MAX_OPEN_MILLISECONDS))
)
"""Returns the open breakers: backend, remaining milliseconds, and so on."""

_SPEND = Script(
    """
if tonumber(ARGV[2]) > 0 then
  redis.call('HSET', KEYS[1], ARGV[1], ARGV[2])
  redis.call('PEXPIRE', KEYS[1], ARGV[3])
end
local sum = 0
local all = redis.call('HGETALL', KEYS[1])
for i = 1, #all, 2 do
  local spent = tonumber(all[i + 1])
  if all[i] ~= ARGV[1] and spent and spent >= 0 and spent <= MAX_DOLLARS then sum = sum + spent end
end
return tostring(sum)
""".replace("MAX_DOLLARS", str(_MAX_DOLLARS))
)
"""Arguments: host, dollars, milliseconds. Returns the spending of the other hosts."""


class SharedCounters:
    """Publishes this ``host``'s breakers and spending, and reports those of other hosts.

    ``budgets`` are the names of the shared budgets with their periods in seconds; ``wall_clock`` determines the period.
    """

    def __init__(
        self,
        reporter: StoreReporter,
        *,
        host: str,
        breakers: bool,
        budgets: dict[str, float],
        clock: Callable[[], float],
        wall_clock: Callable[[], float],
    ) -> None:
        self._host = host
        self._reporter = reporter
        self._breakers = breakers
        self._budgets = budgets
        self._clock = clock
        self._wall_clock = wall_clock
        self._open: dict[str, float] = {}
        """Breakers that opened on this host, and until when."""
        self._closed: set[str] = set()
        """Breakers that closed on this host and are not published as closed yet."""
        self._unpublished: set[str] = set()
        """Breakers that opened on this host and are not published yet."""
        self._reported: dict[str, float] = {}
        """Breakers of other hosts that were reported to the engine, and until when they are open."""
        self._spent: dict[str, ShareSpending] = {}

    def note(self, note: notes.Note) -> None:
        """Receive the core's notes: breakers that open or close."""
        if not self._breakers:
            return

        if isinstance(note, notes.BreakerOpened) and note.cause not in {"operator", "elsewhere"}:
            self._open[note.backend] = self._clock() + (note.seconds or 0.0)
            self._unpublished.add(note.backend)
            self._closed.discard(note.backend)
        elif isinstance(note, notes.BreakerClosed):
            self._open.pop(note.backend, None)
            self._unpublished.discard(note.backend)
            self._closed.add(note.backend)

    def spend(self, spending: ShareSpending) -> None:
        """Publish this run's total spending with the next poll."""
        self._spent[spending.budget] = spending

    async def serve(self, connection: RedisConnection) -> None:
        """Publish and poll until canceled. Raises as `RedisConnection.run`."""
        self._reported.clear()
        # The server may have lost what was published.
        self._unpublished |= {backend for backend, until in self._open.items() if until > self._clock()}
        while True:
            if self._breakers:
                await self._share_breakers(connection)

            for budget, period_seconds in self._budgets.items():
                await self._share_budget(connection, budget, period_seconds)

            await anyio.sleep(POLL_SECONDS)

    async def _share_breakers(self, connection: RedisConnection) -> None:
        now = self._clock()
        opened = {backend: self._open[backend] - now for backend in self._unpublished if self._open[backend] > now}
        closed = set(self._closed)
        commands: list[Command] = [
            ScriptCall(_OPEN, _BREAKERS, (backend, int(1000 * seconds) + 1)) for backend, seconds in opened.items()
        ]
        commands += [ScriptCall(_CLOSE, _BREAKERS, (backend,)) for backend in closed]
        *replies, listed = await connection.run([*commands, ScriptCall(_OPEN_NOW, _BREAKERS)])
        if not any(isinstance(reply, ResponseError) for reply in replies):
            self._unpublished -= opened.keys()
            self._closed -= closed

        if not isinstance(listed, list):
            self._reporter.invalid("the open breakers cannot be read")

        for backend, milliseconds in _pairs(listed):
            until = now + milliseconds / 1000
            # Each poll lists the same opening; a later end is a new one.
            if backend not in self._open and until > self._reported.get(backend, 0.0) + 2 * POLL_SECONDS:
                self._reported[backend] = until
                self._reporter.notify(RemoteBreakerOpened(backend, milliseconds / 1000))

        self._open = {backend: until for backend, until in self._open.items() if until > now}

    async def _share_budget(self, connection: RedisConnection, budget: str, period_seconds: float) -> None:
        period = int(self._wall_clock() // period_seconds)
        spending = self._spent.get(budget)
        dollars = spending.dollars if spending is not None and spending.period == period else 0.0
        name = f"sidecard-budget:{LAYOUT}:{budget}:{period}".encode()
        milliseconds = int(1000 * _KEPT_PERIODS * period_seconds)
        (reply,) = await connection.run([ScriptCall(_SPEND, name, (self._host, repr(dollars), milliseconds))])
        dollars_elsewhere = _dollars(reply)
        if dollars_elsewhere is None:
            self._reporter.invalid("a budget's spending cannot be read", budget=budget)
        else:
            self._reporter.notify(RemoteSpending(budget, period, dollars_elsewhere))


def _dollars(reply: Any) -> float | None:
    try:
        dollars = float(reply)
    except (TypeError, ValueError):
        return None

    return dollars if 0 <= dollars < float("inf") else None


def _pairs(listed: Any) -> list[tuple[str, int]]:
    if not isinstance(listed, list):
        return []

    return [
        (name.decode(), left)
        for name, left in zip(listed[::2], listed[1::2], strict=True)
        if _is_backend(name) and isinstance(left, int)
    ]


def _is_backend(name: Any) -> bool:
    try:
        return isinstance(name, bytes) and 0 < len(name.decode()) <= _MAX_NAME_CHARACTERS
    except UnicodeDecodeError:
        return False
