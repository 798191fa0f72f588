"""Pending changes and a store, against the simplest model: every change is done immediately."""

from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from sidecard.core.effects import NO_TICKET, StorePurge, StoreRemove, StoreWrite
from sidecard.core.records import Record
from sidecard.core.scopes import covers
from sidecard.store.base import StoreChange
from sidecard.store.pending_writes import PendingWrites, _size
from tests.thoroughness import cases

SCOPES, KEYS, TAGS = ("1:d", "2:d", "1:e"), ("a", "b"), ("t", "u")

_names = st.tuples(st.sampled_from(SCOPES), st.sampled_from(KEYS))
_tags = st.lists(st.sampled_from(TAGS), unique=True, max_size=2).map(tuple)
_purges = st.tuples(st.just("purge"), st.sampled_from([None, "d", "e", *SCOPES]), st.sampled_from([None, *TAGS]))
_steps = st.lists(
    st.one_of(
        st.tuples(st.just("write"), _names, _tags),
        st.tuples(st.just("remove"), _names, st.none()),
        _purges,
        st.tuples(st.just("take"), st.integers(1, 4), st.none()),
        st.tuples(st.just("done"), st.none(), st.none()),
        st.tuples(st.just("give_back"), st.none(), st.none()),
        st.tuples(st.just("give_some_back"), st.integers(0, 15), st.none()),
    ),
    min_size=10,
    max_size=40,
)

Entries = dict[tuple[str, str], tuple[bytes, tuple[str, ...]]]


def do(entries: Entries, change: StoreChange) -> None:
    """Apply a change, as a store does."""
    match change:
        case StoreWrite(scope, key, record):
            entries[scope, key] = record.value, record.tags
        case StoreRemove(_, scope, key):
            entries.pop((scope, key), None)
        case StorePurge(_, namespace, tag):
            for scope, key in list(entries):
                if covers(namespace, scope) and (tag is None or tag in entries[scope, key][1]):
                    del entries[scope, key]


def _is_purge(change: StoreChange) -> bool:
    return isinstance(change, StorePurge)


class Trial:
    """A store that is written behind, and beside it what it should look like."""

    def __init__(self, max_bytes: int, *, in_order: bool) -> None:
        self.in_order = in_order
        """A purge that is left over leaves what came after it over as well; a later entry is else purged with the earlier."""
        self.pending = PendingWrites(max_bytes)
        self.disk: Entries = {}
        self.truth: Entries = {}
        self.taken: list[StoreChange] = []
        self.number = 0

    def step(self, kind: str, first: Any, second: Any) -> None:
        """Do one thing."""
        if kind in {"write", "remove", "purge"}:
            self.number += 1
            change: StoreChange
            if kind == "write":
                change = StoreWrite(
                    first[0], first[1], Record(b"%d" % self.number, 1.0, 300.0, 60.0, "", tags=second), replace=True
                )
            elif kind == "remove":
                change = StoreRemove(NO_TICKET, first[0], first[1])
            else:
                change = StorePurge(NO_TICKET, first, second)

            self.pending.add(change)
            do(self.truth, change)
        elif kind == "take":
            if not self.taken:
                self.taken = self.pending.take(first)
        elif kind == "give_some_back":
            # As Redis does: the connection breaks in mid-batch.
            left = [change for place, change in enumerate(self.taken) if first >> place % 4 & 1]
            first_purge = next(
                (place for place, change in enumerate(self.taken) if _is_purge(change) and change in left), None
            )
            if self.in_order and first_purge is not None:
                left += [change for change in self.taken[first_purge:] if not any(change is one for one in left)]

            self._write(change for change in self.taken if not any(change is one for one in left))
            self.pending.give_back(left)
            self.taken = []
        elif kind == "done":
            self._write(self.taken)
            self.pending.done()
            self.taken = []
        else:
            self.pending.give_back()
            self.taken = []

    def _write(self, changes: Any) -> None:
        for change in changes:
            do(self.disk, change)

    def seen(self, scope: str, key: str) -> tuple[bytes, tuple[str, ...]] | None:
        """Return what a caller that asks now is served."""
        change = self.pending.find(scope, key)
        if change is not None:
            return (change.record.value, change.record.tags) if isinstance(change, StoreWrite) else None

        entry = self.disk.get((scope, key))
        return (
            None
            if entry is None or self.pending.purged(scope, Record(entry[0], 1.0, 300.0, 60.0, "", tags=entry[1]))
            else entry
        )

    def check_charge(self) -> None:
        """Compare the running sum with what it is of."""
        changes = [*self.pending._waiting.values(), *self.pending._taken.values()]
        assert self.pending.bytes == sum(map(_size, changes))
        purges = [change for change in changes if isinstance(change, StorePurge)]
        assert sorted(map(id, self.pending._purges.values())) == sorted(map(id, purges))


@settings(max_examples=cases(120), deadline=None)
@given(_steps)
def test_pending_changes_read_as_if_they_were_written(steps: list[tuple[str, Any, Any]]) -> None:
    """At each instant, and on disk in the end; wherever a batch fails, completely or in part."""
    trial = Trial(1 << 20, in_order=True)
    for step in steps:
        trial.step(*step)
        trial.check_charge()
        for scope in SCOPES:
            for key in KEYS:
                assert trial.seen(scope, key) == trial.truth.get((scope, key)), step

    trial.step("give_back", None, None)
    trial.step("take", 1000, None)
    trial.step("done", None, None)
    assert trial.disk == trial.truth
    assert (len(trial.pending), trial.pending.bytes) == (0, 0)


@settings(max_examples=cases(120), deadline=None)
@given(_steps, st.integers(900, 2500))
def test_a_dropped_entry_is_a_miss_never_an_older_entry(steps: list[tuple[str, Any, Any]], max_bytes: int) -> None:
    """Within the limit at each instant; no replaced or removed entry is served, unless track was lost."""
    trial = Trial(max_bytes, in_order=False)
    for step in steps:
        trial.step(*step)
        trial.check_charge()
        assert trial.pending.bytes <= max_bytes or not trial.pending._waiting
        if trial.pending.must_clear_store:
            return

        for scope in SCOPES:
            for key in KEYS:
                assert trial.seen(scope, key) in (None, trial.truth.get((scope, key))), step
