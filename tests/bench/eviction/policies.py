"""Eviction policies to compare with: installed libraries, and published policies that no maintained library implements.

A `Policy` takes a budget in bytes and the mean size of an answer, and returns a function that takes a call and returns whether
it was a hit. A library that counts entries instead of bytes gets room for the mean number of answers.
"""

import contextlib
from collections import OrderedDict, deque
from collections.abc import Callable
from heapq import heappop, heappush
from typing import Any

from sidecard.core.cache.entry import Terms
from sidecard.core.cache.memory import MemoryCache
from sidecard_client.protocol.wire import Usage
from tests.bench.eviction.traces import Call

Lookup = Callable[[Call], bool]
Policy = Callable[[int, int], Lookup]

OURS = "sidecard"
_SCOPE = "1000:default"
_FOREVER = 1e9


def ours(budget_bytes: int, mean_bytes: int) -> Lookup:
    """Return the daemon's own cache as a policy."""
    cache = MemoryCache(budget_bytes)

    def look_up(call: Call) -> bool:
        if cache.get(_SCOPE, call.key, 0.0) is not None:
            return True

        # The entry is charged with the call's bytes although its value is empty.
        overhead_bytes = call.bytes - len(call.key)
        usage = Usage(cost_dollars=call.dollars)
        terms = Terms(_SCOPE, _FOREVER, 0.0, "default", usage, overhead_bytes=overhead_bytes)
        cache.put(call.key, b"", 0.0, terms, 0.0)
        return False

    return look_up


def _of_mapping(make: Callable[[int], Any], too_large: type[Exception]) -> Policy:
    """Return a library whose caches are mappings that call a function for the size of a value."""

    def policy(budget_bytes: int, mean_bytes: int) -> Lookup:
        cache = make(budget_bytes)

        def look_up(call: Call) -> bool:
            if cache.get(call.key) is not None:
                return True

            # Raised if the answer alone exceeds the budget.
            with contextlib.suppress(too_large):
                cache[call.key] = call

            return False

        return look_up

    return policy


def _theine(budget_bytes: int, mean_bytes: int) -> Lookup:
    import theine  # noqa: PLC0415 - optional

    cache: Any = theine.Cache(max(1, budget_bytes // mean_bytes), nolock=True)

    def look_up(call: Call) -> bool:
        _, found = cache.get(call.key)
        if not found:
            cache.set(call.key, call)

        return bool(found)

    return look_up


def _moka(budget_bytes: int, mean_bytes: int) -> Lookup:
    import moka_py  # noqa: PLC0415 - optional

    cache: Any = moka_py.Moka(budget_bytes, weigher=lambda _, call: call.bytes)

    def look_up(call: Call) -> bool:
        if cache.get(call.key) is not None:
            return True

        cache.set(call.key, call)
        # Evicts now; otherwise the cache exceeds its budget until its next maintenance run.
        cache.run_pending_tasks()
        return False

    return look_up


def _sieve(budget_bytes: int, mean_bytes: int) -> Lookup:
    """SIEVE (Zhang et al., NSDI 2024): a queue, one bit per entry, and a hand that keeps its position."""
    visits: OrderedDict[str, bool] = OrderedDict()
    sizes: dict[str, int] = {}
    held = 0
    passed: list[str] = []
    visited_of_passed: dict[str, bool] = {}

    def evict() -> None:
        nonlocal held, passed
        # Two parts of one queue: entries that the hand passed in this round, and those ahead of it, oldest first.
        while True:
            if not visits:
                for key in passed:
                    visits[key] = visited_of_passed.pop(key)

                passed = []

            key, visited = visits.popitem(last=False)
            if not visited:
                held -= sizes.pop(key)
                return

            passed.append(key)
            visited_of_passed[key] = False

    def look_up(call: Call) -> bool:
        nonlocal held
        if call.key in sizes:
            (visits if call.key in visits else visited_of_passed)[call.key] = True
            return True

        if call.bytes <= budget_bytes:
            while held + call.bytes > budget_bytes:
                evict()

            visits[call.key] = False
            sizes[call.key] = call.bytes
            held += call.bytes

        return False

    return look_up


def _s3_fifo(budget_bytes: int, mean_bytes: int) -> Lookup:  # noqa: C901 - the whole policy in one place
    """S3-FIFO (Yang et al., SOSP 2023), measured in bytes."""
    visits: dict[str, int] = {}
    small: deque[Call] = deque()
    main: deque[Call] = deque()
    ghosts: OrderedDict[str, None] = OrderedDict()
    held = {"small": 0, "main": 0}

    def evict() -> None:
        while True:
            if small and (not main or held["small"] > budget_bytes // 10):
                call = small.popleft()
                held["small"] -= call.bytes
                if visits[call.key] > 1:
                    visits[call.key] = 0
                    main.append(call)
                    held["main"] += call.bytes
                    continue

                ghosts[call.key] = None
                while len(ghosts) > max(len(main), 1):
                    ghosts.popitem(last=False)

            else:
                call = main.popleft()
                if visits[call.key]:
                    visits[call.key] -= 1
                    main.append(call)
                    continue

                held["main"] -= call.bytes

            del visits[call.key]
            return

    def look_up(call: Call) -> bool:
        if call.key in visits:
            visits[call.key] = min(3, visits[call.key] + 1)
            return True

        if call.bytes <= budget_bytes:
            known = call.key in ghosts
            ghosts.pop(call.key, None)
            while sum(held.values()) + call.bytes > budget_bytes:
                evict()

            visits[call.key] = 0
            (main if known else small).append(call)
            held["main" if known else "small"] += call.bytes

        return False

    return look_up


def _gdsf(budget_bytes: int, mean_bytes: int) -> Lookup:
    """GDSF (Cherkasova, 1998): the only policy here that considers costs; a heap that is updated on each hit."""
    kept: dict[str, tuple[float, int]] = {}
    heap: list[tuple[float, str, Call]] = []
    held, inflation = 0, 0.0

    def rank(call: Call, times: int) -> None:
        due = inflation + times * call.dollars / call.bytes
        kept[call.key] = due, times
        heappush(heap, (due, call.key, call))

    def look_up(call: Call) -> bool:
        nonlocal held, inflation
        if call.key in kept:
            rank(call, kept[call.key][1] + 1)
            return True

        if call.bytes <= budget_bytes:
            while held + call.bytes > budget_bytes:
                due, key, other = heappop(heap)
                if key in kept and kept[key][0] == due:
                    del kept[key]
                    held -= other.bytes
                    inflation = due

            rank(call, 1)
            held += call.bytes

        return False

    return look_up


def libraries() -> dict[str, Policy]:
    """Return the libraries from the `test` extra. Raises `ImportError` if one is not installed."""
    import cachebox  # noqa: PLC0415 - optional
    import cachetools  # noqa: PLC0415 - optional
    import moka_py  # noqa: F401, PLC0415 - optional
    import theine  # noqa: F401, PLC0415 - optional

    def of_cachebox(cache: Any) -> Policy:
        return _of_mapping(lambda size: cache(size, getsizeof=lambda _, call: call.bytes), OverflowError)

    def of_cachetools(cache: Any) -> Policy:
        return _of_mapping(lambda size: cache(size, getsizeof=lambda call: call.bytes), ValueError)

    return {
        "cachetools LRU": of_cachetools(cachetools.LRUCache),
        "cachetools LFU": of_cachetools(cachetools.LFUCache),
        "cachebox LRU": of_cachebox(cachebox.LRUCache),
        "cachebox LFU": of_cachebox(cachebox.LFUCache),
        "cachebox FIFO": of_cachebox(cachebox.FIFOCache),
        "theine (W-TinyLFU)": _theine,
        "moka-py (W-TinyLFU)": _moka,
    }


PAPERS: dict[str, Policy] = {"SIEVE": _sieve, "S3-FIFO": _s3_fifo, "GDSF": _gdsf}
