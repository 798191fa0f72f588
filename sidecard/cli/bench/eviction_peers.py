"""Who eviction is compared with: libraries as they are installed, and policies without one as their papers have them.

Each is a function from a budget in bytes, and what an answer takes in the middle, to a function that takes a call and tells
whether it was a hit. Libraries that count entries and not bytes may hold as many as fit in the middle.
"""

import contextlib
from collections import OrderedDict, deque
from collections.abc import Callable
from heapq import heappop, heappush
from typing import Any

from sidecard.cli.bench.eviction_traces import Call
from sidecard.core.cache.entry import Terms
from sidecard.core.cache.memory import MemoryCache
from sidecard_client.protocol.wire import Usage

Ask = Callable[[Call], bool]
Peer = Callable[[int, int], Ask]

OURS = "sidecard"
_SCOPE = "1000:default"
_FOR_EVER = 1e9


def ours(budget_bytes: int, middle_bytes: int) -> Ask:  # noqa: ARG001 - as its siblings
    """Return the daemon's own cache."""
    cache = MemoryCache(budget_bytes)

    def ask(call: Call) -> bool:
        if cache.get(_SCOPE, call.key, 0.0) is not None:
            return True

        # Its charge is the call's bytes without there being any.
        overhead_bytes = call.bytes - len(call.key)
        usage = Usage(cost_dollars=call.dollars)
        terms = Terms(_SCOPE, _FOR_EVER, 0.0, "default", usage, overhead_bytes=overhead_bytes)
        cache.put(call.key, b"", 0.0, terms, 0.0)
        return False

    return ask


def _of_mapping(make: Callable[[int], Any], too_large: type[Exception]) -> Peer:
    """Return a library whose caches are mappings that ask a function for the size of a value."""

    def peer(budget_bytes: int, middle_bytes: int) -> Ask:  # noqa: ARG001 - as its siblings
        cache = make(budget_bytes)

        def ask(call: Call) -> bool:
            if cache.get(call.key) is not None:
                return True

            # Which it is where it is alone larger than the cache.
            with contextlib.suppress(too_large):
                cache[call.key] = call

            return False

        return ask

    return peer


def _theine(budget_bytes: int, middle_bytes: int) -> Ask:
    import theine  # noqa: PLC0415 - of the extra `bench`

    cache: Any = theine.Cache(max(1, budget_bytes // middle_bytes), nolock=True)

    def ask(call: Call) -> bool:
        _, found = cache.get(call.key)
        if not found:
            cache.set(call.key, call)

        return bool(found)

    return ask


def _moka(budget_bytes: int, middle_bytes: int) -> Ask:  # noqa: ARG001 - as its siblings
    import moka_py  # noqa: PLC0415 - of the extra `bench`

    cache: Any = moka_py.Moka(budget_bytes, weigher=lambda _, call: call.bytes)

    def ask(call: Call) -> bool:
        if cache.get(call.key) is not None:
            return True

        cache.set(call.key, call)
        # Else it holds more than it may, until it comes to it.
        cache.run_pending_tasks()
        return False

    return ask


def _sieve(budget_bytes: int, middle_bytes: int) -> Ask:  # noqa: ARG001 - as its siblings
    """SIEVE (Zhang et al., NSDI 2024): a queue, a bit, and a hand that stays where it was. No library of it is kept."""
    asked: OrderedDict[str, bool] = OrderedDict()
    sizes: dict[str, int] = {}
    held = 0
    passed: list[str] = []
    visited_of_passed: dict[str, bool] = {}

    def evict() -> None:
        nonlocal held, passed
        # The queue is in two parts: what the hand has passed in this round, and what it has not, oldest first.
        while True:
            if not asked:
                for key in passed:
                    asked[key] = visited_of_passed.pop(key)

                passed = []

            key, visited = asked.popitem(last=False)
            if not visited:
                held -= sizes.pop(key)
                return

            passed.append(key)
            visited_of_passed[key] = False

    def ask(call: Call) -> bool:
        nonlocal held
        if call.key in sizes:
            (asked if call.key in asked else visited_of_passed)[call.key] = True
            return True

        if call.bytes <= budget_bytes:
            while held + call.bytes > budget_bytes:
                evict()

            asked[call.key] = False
            sizes[call.key] = call.bytes
            held += call.bytes

        return False

    return ask


def _s3_fifo(budget_bytes: int, middle_bytes: int) -> Ask:  # noqa: ARG001, C901 - as its siblings; one policy, told whole
    """S3-FIFO (Yang et al., SOSP 2023), by bytes. No library of it is kept."""
    asked: dict[str, int] = {}
    small: deque[Call] = deque()
    main: deque[Call] = deque()
    ghosts: OrderedDict[str, None] = OrderedDict()
    held = {"small": 0, "main": 0}

    def evict() -> None:
        while True:
            if small and (not main or held["small"] > budget_bytes // 10):
                call = small.popleft()
                held["small"] -= call.bytes
                if asked[call.key] > 1:
                    asked[call.key] = 0
                    main.append(call)
                    held["main"] += call.bytes
                    continue

                ghosts[call.key] = None
                while len(ghosts) > max(len(main), 1):
                    ghosts.popitem(last=False)

            else:
                call = main.popleft()
                if asked[call.key]:
                    asked[call.key] -= 1
                    main.append(call)
                    continue

                held["main"] -= call.bytes

            del asked[call.key]
            return

    def ask(call: Call) -> bool:
        if call.key in asked:
            asked[call.key] = min(3, asked[call.key] + 1)
            return True

        if call.bytes <= budget_bytes:
            known = call.key in ghosts
            ghosts.pop(call.key, None)
            while sum(held.values()) + call.bytes > budget_bytes:
                evict()

            asked[call.key] = 0
            (main if known else small).append(call)
            held["main" if known else "small"] += call.bytes

        return False

    return ask


def _gdsf(budget_bytes: int, middle_bytes: int) -> Ask:  # noqa: ARG001 - as its siblings
    """GDSF (Cherkasova, 1998): the only one of these that knows costs. A heap, and work at each hit. No library is kept."""
    kept: dict[str, tuple[float, int]] = {}
    heap: list[tuple[float, str, Call]] = []
    held, inflation = 0, 0.0

    def rank(call: Call, times: int) -> None:
        due = inflation + times * call.dollars / call.bytes
        kept[call.key] = due, times
        heappush(heap, (due, call.key, call))

    def ask(call: Call) -> bool:
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

    return ask


def libraries() -> dict[str, Peer]:
    """Return the libraries of the extra ``bench``. Raises `ImportError` where one is not installed."""
    import cachebox  # noqa: PLC0415 - of the extra `bench`
    import cachetools  # noqa: PLC0415 - as above
    import moka_py  # noqa: F401, PLC0415 - as above
    import theine  # noqa: F401, PLC0415 - as above

    def of_cachebox(cache: Any) -> Peer:
        return _of_mapping(lambda size: cache(size, getsizeof=lambda _, call: call.bytes), OverflowError)

    def of_cachetools(cache: Any) -> Peer:
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


PAPERS: dict[str, Peer] = {"SIEVE": _sieve, "S3-FIFO": _s3_fifo, "GDSF": _gdsf}
