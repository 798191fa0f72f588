import asyncio
import sys
from itertools import count

import pytest

from sidecard.adapters import memory_trim
from sidecard.adapters.memory_trim import LEAST_BYTES, MAX_SECONDS, MAX_TRIM_SLOWDOWN, MemoryTrim, Trim, load_trim


class _Heap:
    """Counts trims, each of which takes ``seconds``."""

    def __init__(self) -> None:
        self.removed = 0
        self.trims = 0
        self.seconds = 0.0
        self.now = 0.0

    def trim(self, pad: int) -> int:
        assert pad == 0
        self.trims += 1
        self.now += self.seconds
        return 1

    def new(self) -> MemoryTrim:
        return MemoryTrim(lambda: self.removed, clock=lambda: self.now)


def test_a_trim_is_due_after_enough_has_left() -> None:
    """And then only after as much again."""
    heap = _Heap()
    trimmer = heap.new()
    heap.removed = LEAST_BYTES - 1
    assert not trimmer.is_due()
    heap.removed += 1
    assert trimmer.is_due()
    trimmer.trim(heap.trim)
    assert not trimmer.is_due()
    heap.removed += LEAST_BYTES
    assert trimmer.is_due()


def test_slow_trims_become_rare() -> None:
    """A trim that stops the daemon for long is not repeated soon."""
    heap = _Heap()
    trimmer = heap.new()
    heap.seconds = 2 * MAX_SECONDS
    trimmer.trim(heap.trim)
    heap.removed += LEAST_BYTES
    assert not trimmer.is_due()
    heap.removed += 3 * LEAST_BYTES
    assert trimmer.is_due()


def test_run_ends_if_there_is_no_trim_or_it_is_too_slow(monkeypatch: pytest.MonkeyPatch) -> None:
    """There is none with musl; and with a heap of many gigabytes, each takes too long."""
    monkeypatch.setattr(memory_trim, "PERIOD_SECONDS", 0.0)
    heap = _Heap()
    removed = count(0, MAX_TRIM_SLOWDOWN * LEAST_BYTES)

    def run(trim: Trim | None) -> None:
        asyncio.run(asyncio.wait_for(MemoryTrim(lambda: next(removed), lambda: trim, lambda: heap.now).run(), 5))

    run(None)
    assert heap.trims == 0
    heap.seconds = 2 * MAX_SECONDS
    run(heap.trim)
    assert 1 < heap.trims <= 4


def test_load_finds_the_function_of_glibc(monkeypatch: pytest.MonkeyPatch) -> None:
    """And nothing without ctypes."""
    trim = load_trim()
    if trim is not None:
        assert trim(0) in {0, 1}

    monkeypatch.setitem(sys.modules, "ctypes", None)
    assert load_trim() is None
