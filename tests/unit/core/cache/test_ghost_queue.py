from itertools import pairwise

from sidecard.core.cache.ghost_queue import GHOSTS_PER_ENTRY, MIN_GHOSTS, GhostQueue


def test_recall_returns_the_hits_once() -> None:
    """A recalled key is no longer a ghost."""
    ghosts = GhostQueue()
    ghosts.remember("scope", "key", 5, 0)

    assert ghosts.recall("scope", "key") == 5
    assert ghosts.recall("scope", "key") is None


def test_a_ghost_belongs_to_one_scope() -> None:
    """The same key of another scope is no ghost."""
    ghosts = GhostQueue()
    ghosts.remember("1000:default", "key", 0, 0)

    assert ghosts.recall("1001:default", "key") is None
    assert ghosts.recall("1000:default", "key") == 0


def test_the_youngest_ghosts_are_kept() -> None:
    """Most of the latest ghosts are kept, apart from collisions within a set, and none of the older ones."""
    ghosts = GhostQueue()
    for number in range(5000):
        ghosts.remember("scope", str(number), number % 3, 100)

    limit = GHOSTS_PER_ENTRY * 100
    young = [number for number in range(5000 - limit, 5000) if ghosts.recall("scope", str(number)) == number % 3]
    assert len(young) > 0.8 * limit
    assert not [number for number in range(5000 - limit) if ghosts.recall("scope", str(number)) is not None]


def test_turns_wrap_around() -> None:
    """After a quarter of a billion evictions, new ghosts are kept and old ones are not."""
    ghosts = GhostQueue()
    ghosts._turn = 2**28 - 10
    for number in range(2 * MIN_GHOSTS):
        ghosts.remember("scope", str(number), 1, 0)

    assert 0 < ghosts._turn < 2 * MIN_GHOSTS
    assert ghosts.recall("scope", str(2 * MIN_GHOSTS - 1)) == 1
    assert ghosts.recall("scope", "0") is None


def test_the_table_grows_in_proportion_to_the_cache() -> None:
    """A word has eight bytes, and an entry at most six words."""
    ghosts = GhostQueue()
    for entries in (10, 1000, 100_000, 50):
        ghosts.remember("scope", "key", 1, entries)
        assert ghosts.recall("scope", "key") == 1

    assert 300_000 <= ghosts._size <= 600_000


def test_no_eviction_allocates_a_large_table_in_one_go() -> None:
    """With a million entries, the table takes 48 MB in the end, but no eviction allocates more than half a megabyte."""
    ghosts = GhostQueue()
    sizes = [0]
    for number in range(300):
        ghosts.remember("scope", str(number), 1, 1_000_000)
        sizes.append(sum(8 * len(part) for part in ghosts._parts.values()))

    assert max(after - before for before, after in pairwise(sizes)) <= 512 * 1024
    assert sizes[-1] > 30_000_000
    assert all(ghosts.recall("scope", str(number)) == 1 for number in range(300))


def test_a_key_with_a_lone_surrogate_is_kept() -> None:
    """JSON can contain half of a surrogate pair."""
    ghosts = GhostQueue()
    ghosts.remember("scope", "\ud800", 1, 0)
    assert ghosts.recall("scope", "\ud800") == 1
