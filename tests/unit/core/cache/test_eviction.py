from collections.abc import Callable

import pytest

from sidecard.core.cache.entry import MAX_EARLIER_HITS, MAX_RECENT_HITS, Entry, Terms
from sidecard.core.cache.eviction import MAX_UNUSED_PRIORITY, GreedyDual
from sidecard_client.protocol.wire import Usage

TERMS = Terms("1000:default", 300.0, 60.0, "default")


def entry(name: str, asked: int = 0, dollars: float | None = None, scope: str = "1000:default", size: int = 0) -> Entry:
    """Return an entry; all have equal cost and size by default."""
    terms = Terms(scope, 300.0, 60.0, "default", Usage(cost_dollars=dollars))
    made = Entry(name, b"v" * size, 0.0, 1.0, terms)
    for _ in range(asked):
        made.touch()

    return made


def admitted(policy: GreedyDual, *entries: Entry) -> None:
    """Admit entries in order, then repeat the hits that they had before."""
    for one in entries:
        asked = one.recent_hits
        policy.admit(one, one.charge)
        for _ in range(asked):
            one.touch()


def leaving(policy: GreedyDual, count: int, scope: str | None = None) -> list[str]:
    """Return the keys of the next victims."""
    return [policy.victim(scope).key for _ in range(count)]


def test_victim_of_an_empty_policy_raises() -> None:
    """An empty policy has no victim."""
    with pytest.raises(LookupError):
        GreedyDual().victim()


def test_entries_without_hits_leave_in_order_of_insertion() -> None:
    """Equal entries leave first in, first out."""
    policy = GreedyDual()
    admitted(policy, entry("a"), entry("b"))

    assert leaving(policy, 2) == ["a", "b"]


def test_an_entry_with_a_hit_outlives_its_probation() -> None:
    """Entries without hits leave before it, even later ones."""
    policy = GreedyDual()
    admitted(policy, entry("asked", asked=1), *(entry(str(number)) for number in range(20)))

    assert leaving(policy, 21) == [*map(str, range(20)), "asked"]


def test_entries_with_more_hits_stay_longer() -> None:
    """The order of eviction follows the number of hits."""
    policy = GreedyDual()
    admitted(policy, entry("thrice", asked=3), entry("twice", asked=2), entry("once", asked=1), entry("never"))

    assert leaving(policy, 4) == ["never", "once", "twice", "thrice"]


def test_hits_accumulate_over_examinations_up_to_their_bound() -> None:
    """Three hits are counted between two examinations; their sum is bounded."""
    policy = GreedyDual()
    favourite = entry("favourite")
    admitted(policy, favourite)
    for look in range(1, 10):
        for _ in range(5):
            favourite.touch()

        assert favourite.recent_hits == MAX_RECENT_HITS
        admitted(policy, entry(f"x{look}"))
        while policy.victim().key != f"x{look}":
            pass

        admitted(policy, entry(f"y{look}", asked=3))
        assert favourite.alive
        # It is examined when it is due, which is not in every round.
        assert favourite.earlier_hits <= MAX_EARLIER_HITS

    assert 3 <= favourite.earlier_hits <= MAX_EARLIER_HITS


def test_an_expensive_answer_stays_longer_than_a_cheap_one() -> None:
    """Without hits, the cost of fetching it again decides."""
    policy = GreedyDual()
    admitted(policy, entry("dear", dollars=0.5), *(entry(f"cheap{number}", dollars=0.01) for number in range(9)))

    assert leaving(policy, 10)[-1] == "dear"


def test_a_large_answer_leaves_before_small_ones_of_the_same_cost() -> None:
    """Its bytes could hold several of them."""
    policy = GreedyDual()
    admitted(policy, *(entry(f"small{number}", dollars=0.01) for number in range(9)))
    admitted(policy, entry("large", dollars=0.01, size=3000))

    assert leaving(policy, 1) == ["large"]


def test_a_returning_ghost_keeps_its_hits() -> None:
    """It skips the second probation."""
    policy = GreedyDual()
    admitted(policy, entry("a"))
    policy.victim()
    back = entry("a")
    admitted(policy, back, entry("b"))

    assert back.earlier_hits == 1
    assert leaving(policy, 2) == ["b", "a"]


@pytest.mark.parametrize("dollars", [1e3, 1e9])
def test_entries_with_invented_costs_leave_within_a_bounded_time(dollars: float) -> None:
    """A peer that reports huge costs fills the cache for a while only: usual new entries push its entries out.

    The bound is `MAX_UNUSED_PRIORITY` times the life of a new entry, which here is 100 insertions.
    """
    policy = GreedyDual()
    for number in range(1000):
        admitted(policy, entry(f"usual{number}", dollars=0.01))
        if number >= 100:
            policy.victim()

    invented = [entry(f"invented{number}", dollars=dollars) for number in range(90)]
    for one in invented:
        admitted(policy, one)
        policy.victim()

    assert all(one.alive for one in invented)
    turns = 0
    while any(one.alive for one in invented):
        turns += 1
        admitted(policy, entry(f"later{turns}", dollars=0.01))
        policy.victim()
        assert turns < 1.3 * MAX_UNUSED_PRIORITY * 100

    assert turns > 100


def test_ghosts_are_bounded() -> None:
    """There are a few ghosts for each entry."""
    policy = GreedyDual()
    for number in range(1000):
        admitted(policy, entry(str(number)))
        policy.victim()

    assert 0 < len(policy._ghosts) <= 64


def test_a_forgotten_entry_is_never_a_victim() -> None:
    """Neither from the middle of one level nor from the head of another."""
    policy = GreedyDual()
    gone, stays, dear = entry("gone"), entry("stays"), entry("dear", dollars=1.0)
    admitted(policy, entry("x"), gone, stays, dear)
    policy.forget(gone)
    assert leaving(policy, 2) == ["x", "stays"]
    policy.forget(dear)
    with pytest.raises(LookupError):
        policy.victim()


def test_tombstones_behind_a_live_head_are_removed_in_bulk() -> None:
    """A long-lived head does not keep dead entries behind it."""
    policy = GreedyDual()
    admitted(policy, entry("head"))
    for number in range(10_000):
        one = entry(str(number))
        admitted(policy, one)
        policy.forget(one)

    kept = [one for level in policy._common.levels.values() for batch in level.batches for one in batch.entries]
    assert len(kept) < 100
    assert leaving(policy, 1) == ["head"]


def test_levels_have_few_batches_for_any_number_of_entries() -> None:
    """Entries that are due at about the same time share one number."""
    policy = GreedyDual()
    for number in range(5000):
        admitted(policy, entry(f"entry{number}", asked=number % 3, dollars=0.01 * (1 + number % 7)))
        if number >= 1000:
            policy.victim()

    levels = policy._common.levels.values()
    assert sum(level.alive for level in levels) == 1000
    assert max(len(level.batches) for level in levels) <= 20


def of_scope(name: str) -> Callable[[str], bool]:
    """Return a predicate for one scope."""
    return lambda scope: scope == name


def test_a_scope_with_a_partition_has_victims_of_its_own() -> None:
    """For the whole cache, the first due of any partition leaves. Evictions within one partition advance its time alone."""
    policy = GreedyDual()
    policy.partition(of_scope("team"))
    admitted(policy, entry("a"), entry("b", scope="team"), entry("c"), entry("d", scope="team"))

    assert leaving(policy, 1, "team") == ["b"]
    assert leaving(policy, 3) == ["d", "a", "c"]
    with pytest.raises(LookupError):
        policy.victim("team")


def test_a_partition_ages_by_its_own_evictions() -> None:
    """Evictions in one partition do not age the entries of another."""
    policy = GreedyDual()
    policy.partition(of_scope("team"))
    admitted(policy, *(entry(f"usual{number}", scope="team", dollars=0.01) for number in range(20)))
    dear = entry("dear", dollars=1.0, scope="team")
    other = entry("other", dollars=0.01)
    admitted(policy, dear, other)
    turns = 0
    while dear.alive:
        turns += 1
        admitted(policy, entry(f"later{turns}", dollars=0.01, scope="team"))
        policy.victim("team")
        assert turns < 2000

    assert turns > 20
    assert other.alive


@pytest.mark.parametrize("apart", ["team", "none"])
def test_partition_keeps_all_entries_and_their_order(apart: str) -> None:
    """Entries move to other partitions and leave at the same time as before."""
    usual, moved = GreedyDual(), GreedyDual()
    moved.partition(of_scope("other"))
    for policy in (usual, moved):
        for number in range(200):
            scope = ("team", "other", "third")[number % 3]
            admitted(policy, entry(f"entry{number}", number % 3, 0.01 * (1 + number % 5), scope))

    moved.partition(of_scope(apart))
    gone, as_usual = leaving(moved, 200), leaving(usual, 200)
    assert sorted(gone) == sorted(as_usual)
    assert len(set(gone)) == 200
    # Rooms round what is due together each for itself.
    assert len(set(gone[:100]) & set(as_usual[:100])) >= 85
