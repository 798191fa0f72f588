"""Records and slots of a view never overlap, and a reader finds the newest of a key, whatever was withdrawn meanwhile."""

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sidecard.core.cache.entry import Entry, Terms
from sidecard.core.cache.view.publication import Publication
from sidecard.core.cache.view.space import ViewSpace
from sidecard_client.protocol.view import BUCKET_SLOTS, UNIT_BYTES, bucket_of, digest_of, slot_offset, units_for
from tests.thoroughness import cases

SIZE = 8192 + 4096
TERMS = Terms("1000:default", 10.0, 0.0, "default")
LENGTHS = st.sampled_from([1, 60, 500, 700, 900, 1100, 1300, 1500, 1700, 1790])
STEPS = st.lists(
    st.tuples(st.sampled_from(["publish"] * 24 + ["withdraw"] * 3 + ["clear"]), st.integers(0, 60), LENGTHS),
    min_size=60,
    max_size=120,
)


@pytest.mark.timeout(600)  # shrinking a failure takes its time
@settings(max_examples=cases(60), deadline=None, database=None, suppress_health_check=list(HealthCheck))
@given(steps=STEPS)
def test_places_against_a_file(steps: list[tuple[str, int, int]]) -> None:
    """The file keeps what was there before `clear`: slots of an older generation, as a reader finds them."""
    space, number, generation = ViewSpace(SIZE), 0, 1
    slots: dict[int, tuple[str, int, int] | None] = {}
    """In the file: key, generation and publication of each slot that is not empty."""
    for step, name, length in steps:
        key = f"key-{name}"
        held = space.by_key.get(key)
        if step == "clear":
            expected = list(space.by_key.values())
            assert list(space.clear().values()) == expected
            generation += 1
        elif held is not None:
            space.remove(held)
            slots[held.slot] = None
        elif step == "publish" and length <= space.max_record_bytes:
            number += 1
            place = space.find(digest_of(key), length)
            end = place.offset + units_for(length) * UNIT_BYTES
            for other in space.by_key.values():
                overlaps = other.offset < end and place.offset < other.offset + other.length
                assert not overlaps or other in place.victims

            for victim in place.victims:
                space.remove(victim)
                slots[victim.slot] = None

            entry = Entry(key, b"", 0.0, 0.0, TERMS)
            publication = Publication(
                number, 1, TERMS.scope, entry, key, 0.0, "general", 1, 0.0, place.slot, place.offset, length
            )
            space.add(publication)
            assert slots.get(place.slot) is None or slots[place.slot][1] < generation  # type: ignore[index]  # not None
            slots[place.slot] = key, generation, number

        _check(space, slots, generation)


def _check(space: ViewSpace, slots: dict[int, tuple[str, int, int] | None], generation: int) -> None:
    publications = list(space.by_key.values())
    assert [each.number for each in publications] == sorted(each.number for each in publications)
    end = slot_offset(space.slot_count)
    for publication in sorted(publications, key=lambda each: each.offset):
        assert publication.offset >= end
        assert publication.offset % UNIT_BYTES == 0
        end = publication.offset + publication.length

    assert end <= SIZE
    for publication in publications:
        first = bucket_of(digest_of(publication.key), space.slot_count)
        bucket = [slots.get(slot) for slot in range(first, first + BUCKET_SLOTS)]
        found = next(each for each in bucket if each is not None and each[0] == publication.key)
        assert found == (publication.key, generation, publication.number)


def test_a_full_bucket_gives_up_its_oldest() -> None:
    """And the ring its oldest records: here there is room for all records, but for four slots."""
    space = ViewSpace(8192)
    assert space.slot_count == 16
    keys = [key for key in map("key-{}".format, range(1000)) if bucket_of(digest_of(key), space.slot_count) == 0]
    for number, key in enumerate(keys[:6]):
        place = space.find(digest_of(key), 64)
        assert [victim.key for victim in place.victims] == ([keys[number - 4]] if number >= 4 else [])
        for victim in place.victims:
            space.remove(victim)

        entry = Entry(key, b"", 0.0, 0.0, TERMS)
        space.add(Publication(number, 1, TERMS.scope, entry, key, 0.0, "general", 1, 0.0, place.slot, place.offset, 64))
