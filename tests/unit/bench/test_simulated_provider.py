"""A simulated provider, and the acceptance of prefix affinity against it: in virtual time, with a real engine."""

from collections.abc import Sequence

import pytest

from sidecard.core.settings import BackendSettings
from tests.bench.prefixes.agents.provider import (
    LATENCY_SECONDS,
    LIFETIME_SECONDS,
    MIN_TOKENS,
    OUTPUT_TOKENS_PER_SECOND,
    TOKENS_PER_SECOND,
    WORKERS,
    Ideal,
    Provider,
    Turn,
    is_first,
    work_of_agents,
)
from tests.bench.prefixes.agents.server import turn_of
from tests.bench.prefixes.agents.virtual import Outcome, Simulation, outcome_of
from tests.bench.prefixes.agents.worker import body_of

AFFINITY = BackendSettings(prefix_affinity="provider", prefix_family="anthropic")


def turn(*marks: tuple[str, int], output: int = 60) -> Turn:
    """Return a call whose prompt has these prefixes."""
    return Turn(tuple(digest for digest, _ in marks), tuple(tokens for _, tokens in marks), output, 0.0)


def test_provider_reads_a_prefix_from_the_first_output_of_the_call_that_wrote_it() -> None:
    """A call that starts before it writes the same tokens once more."""
    provider = Provider()
    first = provider.call(turn(("a", 5000), ("b", 6000)), 0.0)
    assert first.first_output_at == LATENCY_SECONDS + 6000 / TOKENS_PER_SECOND
    assert first.ends_at == first.first_output_at + 60 / OUTPUT_TOKENS_PER_SECOND
    assert (first.read_tokens, first.written_tokens, first.plain_tokens) == (0, 6000, 0)

    early = provider.call(turn(("a", 5000), ("c", 6000)), first.first_output_at - 0.1)
    assert (early.read_tokens, early.written_tokens) == (0, 6000)
    late = provider.call(turn(("a", 5000), ("d", 6000)), first.first_output_at)
    assert (late.read_tokens, late.written_tokens) == (5000, 1000)
    assert late.dollars == pytest.approx((5000 * 0.5 + 1000 * 6.25 + 60 * 25) / 1e6)


def test_provider_forgets_a_prefix_five_minutes_after_its_last_use() -> None:
    """Reading is a use; a prefix that is too short is never kept."""
    provider = Provider()
    provider.call(turn(("a", 2000)), 0.0)
    assert provider.call(turn(("a", 2000)), 200.0).read_tokens == 2000
    assert provider.call(turn(("a", 2000)), 200.0 + LIFETIME_SECONDS - 1).read_tokens == 2000
    assert provider.call(turn(("a", 2000)), 200.0 + 3 * LIFETIME_SECONDS).read_tokens == 0
    for at in (0.0, 10.0):
        short = provider.call(turn(("s", MIN_TOKENS - 1)), at)
        assert (short.read_tokens, short.written_tokens, short.plain_tokens) == (0, 0, MIN_TOKENS - 1)


def test_ideal_is_what_any_earlier_call_has_had() -> None:
    """Whether its output has begun does not matter."""
    ideal = Ideal()
    assert ideal.readable(turn(("a", 5000), ("b", 6000)), 0.0) == 0
    assert ideal.readable(turn(("a", 5000), ("c", 6000)), 0.0) == 5000
    assert ideal.readable(turn(("a", 5000), ("b", 6000), ("d", 7000)), 1.0) == 6000
    assert ideal.readable(turn(("a", 5000)), 1.0 + LIFETIME_SECONDS) == 0


def test_work_depends_only_on_the_seed() -> None:
    """Every worker begins each burst with the first turn of a task."""
    assert work_of_agents() == work_of_agents()
    assert work_of_agents(seed=1) != work_of_agents()
    assert [sum(is_first(one) for one in turns) for turns in work_of_agents(bursts=3)] == [3] * WORKERS


# Acceptance ----------------------------------------------------------------------------------------------------------


def served(work: Sequence[Sequence[Turn]], settings: BackendSettings, *, tells: bool = True) -> Outcome:
    """Serve the work in one way."""
    return outcome_of(Simulation(work, settings, tells=tells).run())


@pytest.mark.parametrize("seed", range(3))
def test_workers_of_ten_agents_reach_what_could_be_cached(seed: int) -> None:
    """95 % of it, for little more than half of the money; half of all calls have their first output as early as in arrival order.

    In arrival order a third is missed: in each burst, calls with the same prefix start together.
    """
    work = work_of_agents(seed=seed)
    arrival, ours = served(work, BackendSettings()), served(work, AFFINITY)

    assert arrival.reached < 0.75
    assert ours.reached >= 0.95
    assert ours.median_first_output_seconds <= arrival.median_first_output_seconds + 1e-9
    assert ours.dollars < 0.6 * arrival.dollars
    assert ours.calls == arrival.calls == sum(map(len, work))


def test_calls_that_never_tell_their_first_output_are_waited_for_until_they_end() -> None:
    """As those of plain functions. As much is read; no caller waits longer for its first output than for a whole call before its own."""
    work = work_of_agents()
    told, untold = served(work, AFFINITY), served(work, AFFINITY, tells=False)

    assert untold.reached >= 0.95
    longest_call = LATENCY_SECONDS + 23_000 / TOKENS_PER_SECOND + 300 / OUTPUT_TOKENS_PER_SECOND
    assert told.longest_first_output_seconds < untold.longest_first_output_seconds < 2 * longest_call


def test_requests_of_workers_have_the_prefixes_of_their_turns() -> None:
    """The provider's server sees the same lengths, and equal prefixes where turns have them."""
    first, second = turn(("a", 2000), ("b", 2300)), turn(("a", 2000), ("b", 2300), ("c", 2900))
    seen, seen_next = turn_of(body_of(first)), turn_of(body_of(second))

    assert seen.tokens == (2000, 2300)
    assert seen_next.prefix[:2] == seen.prefix
    assert seen_next.tokens == (2000, 2300, 2301, 2901)
    assert turn_of(body_of(turn(("x", 2000), ("b", 2300)))).prefix[0] != seen.prefix[0]
