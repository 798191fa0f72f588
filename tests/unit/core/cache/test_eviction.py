from collections.abc import Callable

import pytest

from sidecard.core.cache.entry import MAX_EARLIER_HITS, MAX_RECENT_HITS, Entry, Terms
from sidecard.core.cache.eviction import MAX_UNUSED_PRIORITY, GreedyDual
from sidecard_client.protocol.wire import Usage

TERMS = Terms("1000:default", 300.0, 60.0, "default")


def entry(name: str, asked: int = 0, dollars: float | None = None, scope: str = "1000:default", size: int = 0) -> Entry:
    """Return an entry that costs and takes the same as all others unless told otherwise."""
    terms = Terms(scope, 300.0, 60.0, "default", Usage(cost_dollars=dollars))
    made = Entry(name, b"v" * size, 0.0, 1.0, terms)
    for _ in range(asked):
        made.touch()

    return made


def admitted(policy: GreedyDual, *entries: Entry) -> None:
    """Take entries in, in order, and then the hits that they had before."""
    for one in entries:
        asked = one.recent_hits
        policy.admit(one)
        for _ in range(asked):
            one.touch()


def leaving(policy: GreedyDual, count: int, scope: str | None = None) -> list[str]:
    """Return who leaves next."""
    return [policy.victim(scope).key for _ in range(count)]


def test_victim_of_nothing_is_an_error() -> None:
    """Nobody can leave an empty cache."""
    with pytest.raises(LookupError):
        GreedyDual().victim()


def test_newcomers_leave_in_the_order_they_came() -> None:
    """Nobody asked for them: first in, first out."""
    policy = GreedyDual()
    admitted(policy, entry("a"), entry("b"))

    assert leaving(policy, 2) == ["a", "b"]


def test_a_newcomer_that_was_asked_for_stays_until_its_whole_worth_is_due() -> None:
    """Others that nobody asked for leave before it, even those who came later."""
    policy = GreedyDual()
    admitted(policy, entry("asked", asked=1), *(entry(str(number)) for number in range(20)))

    assert leaving(policy, 21) == [*map(str, range(20)), "asked"]


def test_who_is_asked_for_more_often_stays_longer() -> None:
    """In proportion, as far as hits are counted."""
    policy = GreedyDual()
    admitted(policy, entry("thrice", asked=3), entry("twice", asked=2), entry("once", asked=1), entry("never"))

    assert leaving(policy, 4) == ["never", "once", "twice", "thrice"]


def test_hits_add_up_over_the_looks_and_no_further_than_can_be_kept() -> None:
    """Three are counted between two looks; all that were are kept, up to the most."""
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
        # It is looked at when it is due, which is not in each round.
        assert favourite.earlier_hits <= MAX_EARLIER_HITS

    assert 3 <= favourite.earlier_hits <= MAX_EARLIER_HITS


def test_a_dear_answer_stays_longer_than_a_cheap_one() -> None:
    """Nobody asked for either: what it would cost to fetch it anew decides."""
    policy = GreedyDual()
    admitted(policy, entry("dear", dollars=0.5), *(entry(f"cheap{number}", dollars=0.01) for number in range(9)))

    assert leaving(policy, 10)[-1] == "dear"


def test_a_large_answer_leaves_before_small_ones_of_the_same_cost() -> None:
    """Its bytes could hold several of them."""
    policy = GreedyDual()
    admitted(policy, *(entry(f"small{number}", dollars=0.01) for number in range(9)))
    admitted(policy, entry("large", dollars=0.01, size=3000))

    assert leaving(policy, 1) == ["large"]


def test_a_ghost_that_comes_back_goes_on_from_its_hits() -> None:
    """It was wanted soon after it left: no second probation."""
    policy = GreedyDual()
    admitted(policy, entry("a"))
    policy.victim()
    back = entry("a")
    admitted(policy, back, entry("b"))

    assert back.earlier_hits == 1
    assert leaving(policy, 2) == ["b", "a"]


@pytest.mark.parametrize("dollars", [1e3, 1e9])
def test_what_nobody_asks_for_leaves_whatever_it_is_said_to_have_cost(dollars: float) -> None:
    """A peer that reports huge costs fills the cache for a while, and not for ever: usual newcomers push it out.

    The bound is the one that `MAX_UNUSED_PRIORITY` promises: so many lives of a newcomer, here of 100 entries each.
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
    """A few for each entry, and a few."""
    policy = GreedyDual()
    for number in range(1000):
        admitted(policy, entry(str(number)))
        policy.victim()

    assert 0 < len(policy._ghosts) <= 64


def test_what_left_by_itself_is_never_a_victim() -> None:
    """Neither from the middle of one level nor from the head of another."""
    policy = GreedyDual()
    gone, stays, dear = entry("gone"), entry("stays"), entry("dear", dollars=1.0)
    admitted(policy, entry("x"), gone, stays, dear)
    policy.forget(gone)
    assert leaving(policy, 2) == ["x", "stays"]
    policy.forget(dear)
    with pytest.raises(LookupError):
        policy.victim()


def test_tombstones_in_the_middle_are_tidied_in_bulk() -> None:
    """A long-lived head does not keep the dead behind it for ever."""
    policy = GreedyDual()
    admitted(policy, entry("head"))
    for number in range(10_000):
        one = entry(str(number))
        admitted(policy, one)
        policy.forget(one)

    kept = [one for level in policy._common.levels.values() for batch in level.batches for one in batch.entries]
    assert len(kept) < 100
    assert leaving(policy, 1) == ["head"]


def test_levels_have_few_runs_however_many_entries_come() -> None:
    """What is due at about the same time shares one number, or each entry would need its own."""
    policy = GreedyDual()
    for number in range(5000):
        admitted(policy, entry(f"entry{number}", asked=number % 3, dollars=0.01 * (1 + number % 7)))
        if number >= 1000:
            policy.victim()

    levels = policy._common.levels.values()
    assert sum(level.alive for level in levels) == 1000
    assert max(len(level.batches) for level in levels) <= 20


def of_scope(name: str) -> Callable[[str], bool]:
    """Return the test for one scope."""
    return lambda scope: scope == name


def test_a_scope_that_is_set_apart_has_victims_of_its_own() -> None:
    """And the first that is due in any partition is the victim of all: in the partition whose limit was met, time has passed already."""
    policy = GreedyDual()
    policy.partition(of_scope("team"))
    admitted(policy, entry("a"), entry("b", scope="team"), entry("c"), entry("d", scope="team"))

    assert leaving(policy, 1, "team") == ["b"]
    assert leaving(policy, 3) == ["d", "a", "c"]
    with pytest.raises(LookupError):
        policy.victim("team")


def test_a_room_of_its_own_ages_by_itself() -> None:
    """Where only its own limit is met, nobody else's leaving lets a dear answer become due."""
    policy = GreedyDual()
    policy.partition(of_scope("team"))
    admitted(policy, *(entry(f"usual{number}", scope="team", dollars=0.01) for number in range(20)))
    dear = entry("dear", dollars=1.0, scope="team")
    elsewhere = entry("elsewhere", dollars=0.01)
    admitted(policy, dear, elsewhere)
    turns = 0
    while dear.alive:
        turns += 1
        admitted(policy, entry(f"later{turns}", dollars=0.01, scope="team"))
        policy.victim("team")
        assert turns < 2000

    assert turns > 20
    assert elsewhere.alive


@pytest.mark.parametrize("apart", ["team", "none"])
def test_setting_apart_loses_nobody_and_keeps_the_order(apart: str) -> None:
    """Entries move to other rooms, and leave when they would have."""
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
