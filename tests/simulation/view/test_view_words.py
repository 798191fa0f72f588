"""A writer and readers of one view, interleaved word by word: no read is torn, mixed, of another key, or older than a removal."""

import random
from collections.abc import Iterator
from contextlib import contextmanager
from unittest.mock import patch

import pytest

from sidecard.core.effects import RetireView, Withdraw, WithdrawAll
from sidecard_client.protocol import view as layout
from sidecard_client.view import reader as client_reader
from tests.simulation.schedules import SEED
from tests.simulation.view.bugs import BUGS, Bug
from tests.simulation.view.exactness import Reader, judge, record
from tests.simulation.view.plans import (
    NOW,
    SLOT_COUNT,
    STORED_AT,
    TASK,
    VIEW,
    Event,
    Operation,
    Planner,
    Publication,
    digests,
)
from tests.simulation.view.words import Architecture, EveryChoice, Loads, RandomChoices
from tests.thoroughness import cases

_EVENTS = 12
_READS = 150
"""Of each life."""
_LIVES = cases(25)
_LIVES_UNTIL_FOUND = 120


class _Digest:
    """The digest of a key that is named by it."""

    def __init__(self, key: bytes) -> None:
        self._digest = bytes.fromhex(key.decode())

    def digest(self) -> bytes:
        return self._digest


@pytest.fixture(autouse=True)
def _keys_are_digests() -> Iterator[None]:
    """Let keys be the digests of `plans.digests`, which no hash function would give."""
    with patch.object(client_reader, "sha256", _Digest):
        yield


@contextmanager
def _unchecked(*, unchecked: bool = True) -> Iterator[None]:
    """Let all checksums be the same."""
    if not unchecked:
        yield
        return

    with (
        patch.object(layout, "checksum_of", lambda *_: 0),
        patch.object(client_reader, "crc32", lambda *_: 0),
    ):
        yield


def _live(seed: str, architecture: Architecture, bug: Bug) -> int:
    """Read at random while a planned view changes; return how many reads ended in a hit."""
    chance = random.Random(seed)
    planner = Planner(chance, 24, **bug.planned)
    recorded = record(list(planner.events(_EVENTS)), bug.stored or (lambda _, stores: stores))
    timeline = recorded.timeline(architecture, chance)
    reader, keys, choices = Reader(recorded), digests(), RandomChoices(chance)
    for _ in range(_READS):
        digest, began = chance.choice(keys), chance.randrange(timeline.end + 1)
        choices.patience = chance.choice([0.3, 1.0, 3.0])
        hit = reader.read(Loads(timeline, began, architecture, choices), digest, bug.reader)
        judge(hit, reader.found[-1] if hit else 0, digest, began, planner.all)

    for digest in keys if bug == Bug() else []:
        # Once all is quiet, what is published is found, and nothing else.
        hit = reader.read(Loads(timeline, timeline.end, architecture, choices), digest)
        expected = [one.number for one in planner.live.values() if one.digest == digest and one.expires_at > NOW]
        assert ([reader.found[-1]] if hit else []) == expected

    return len(reader.found)


@pytest.mark.parametrize(
    ("architecture", "unchecked"), [("x86-64, ascending", True), ("x86-64", False), ("arm64", False)]
)
def test_reads_of_a_changing_view_are_exact(architecture: Architecture, unchecked: bool) -> None:
    """A checksum makes each read exact; where copies ascend and nothing is reordered, sequence and generation do so alone."""
    with _unchecked(unchecked=unchecked):
        hits = sum(_live(f"{SEED} {architecture} {life}", architecture, Bug()) for life in range(_LIVES))

    assert hits > _LIVES


def _live_on(bug: Bug) -> None:
    for life in range(_LIVES_UNTIL_FOUND):
        _live(f"1 {life}", bug.architecture, bug)


_Case = tuple[list[Publication], list[Event]]

_BUCKET = layout.bucket_of(digests()[0], SLOT_COUNT)


def _publication(number: int, digest: int, place: int, unit: int, generation: int = 1) -> Publication:
    """Make one whose record differs from others in its first word and its last."""
    entry = layout.ViewRecord(number, STORED_AT, 1.0, 1.0, "b", TASK, {"model": "m"}, [number, number])
    encoded = layout.encode_record(entry)
    units = layout.units_for(len(encoded))
    return Publication(number, digests()[digest], _BUCKET + place, unit, units, NOW + 90.0, encoded, generation)


def _replaced(place: int, unit: int, digest: int) -> _Case:
    """A key is published, then removed, and the same or a similar key is published."""
    one, other = _publication(1, 0, 0, 0), _publication(2, digest, place, unit)
    return [one, other], [Event([one.effect], []), Event([Withdraw(VIEW, (one.slot,)), other.effect], [one])]


def _all_withdrawn(place: int) -> _Case:
    """All is withdrawn, and the space of a record is used again."""
    one, other = _publication(1, 0, 1, 0), _publication(2, 1, place, 0, generation=2)
    return [one, other], [Event([one.effect], []), Event([WithdrawAll(VIEW, 2)], [one]), Event([other.effect], [])]


def _published(*last: Operation) -> _Case:
    """A key is published; perhaps more happens."""
    one = _publication(1, 0, 0, 0)
    return [one], [Event([one.effect], []), *([Event(last, [one])] if last else [])]


_SMALL = {
    "published": _published(),
    "retired": _published(RetireView(VIEW)),
    "replaced in its slot and its space": _replaced(0, 0, 0),
    "replaced in its slot by a similar key": _replaced(0, 0, 1),
    "replaced in its space alone": _replaced(1, 0, 0),
    "replaced in its slot alone": _replaced(0, 20, 0),
    "all withdrawn, and space reused": _all_withdrawn(0),
    "all withdrawn, slot and space reused": _all_withdrawn(1),
}


_LARGE = {("arm64", "replaced in its slot alone"), ("arm64", "replaced in its space alone")}
"""Cases with tens of thousands of reads."""


@pytest.mark.parametrize(
    ("architecture", "case"),
    [
        pytest.param(architecture, case, marks=[pytest.mark.slow] if (architecture, case) in _LARGE else [])
        for architecture in ("x86-64", "arm64")
        for case in _SMALL
    ],
)
def test_every_read_of_a_small_case_is_exact(architecture: Architecture, case: str) -> None:
    """All that loads can see is tried. A read that begins later sees a part of what one sees that begins with the last reply."""
    known, events = _SMALL[case]
    recorded = record(events)
    timeline = recorded.timeline("x86-64", random.Random())  # loads in any order see what stores in any order show
    reader = Reader(recorded)
    numbers = set()
    acknowledged = [sum(map(len, recorded.segments[:done])) for done in range(len(events) + 1)]
    for began in acknowledged[-2:]:
        for digest in {publication.digest for publication in known}:
            every = EveryChoice()
            while True:
                hit = reader.read(Loads(timeline, began, architecture, every), digest)
                judge(hit, reader.found[-1] if hit else 0, digest, began, known)
                numbers.add(reader.found[-1] if hit else 0)
                if not every.next():
                    break

    assert numbers == {
        0,
        *(publication.number for publication in known if publication.acknowledged_at > acknowledged[-2]),
    }


@pytest.mark.parametrize("name", BUGS)
def test_reads_with_a_planted_bug_are_found_out(name: str) -> None:
    """Each part of the reader and of the writer is needed, where no other part covers for it."""
    bug = BUGS[name]
    with _unchecked(unchecked=not bug.checked), pytest.raises(AssertionError, match="a read returned"):
        _live_on(bug)
