"""The demo's arithmetic, on a small run."""

import msgspec
import pytest
from msgspec.structs import replace

from sidecard.cli.demo.model import Served
from sidecard.cli.demo.summary import Summary
from sidecard.cli.demo.summary import summarize as summarize_run
from sidecard.cli.demo.summary_text import text_of
from sidecard.cli.demo.worker import DemoAnswer, cost_dollars
from sidecard_client.protocol.wire import Ledger

HOT = "What is hot?"
COLD = "What is cold?"
PLANNED = [HOT, HOT, HOT, COLD]
CALL_DOLLARS = cost_dollars(20, 10)
"""$0.000009: 20 tokens at $0.15 and 10 at $0.60 a million."""

ASKED = [
    DemoAnswer(HOT, "upstream", "Fire.", 20, 10),
    DemoAnswer(HOT, "shared", "Fire.", 20, 10),
    DemoAnswer(HOT, "cache", "Fire.", 20, 10),
    DemoAnswer(COLD, "upstream", "Ice.", 20, 10),
]
SERVED = [Served(HOT, 2.0, 20, 10), Served(COLD, 1.0, 20, 10)]
LEDGER = Ledger(
    calls=4,
    hits=1,
    shared=1,
    upstream_calls=2,
    hit_rate=0.25,
    deduplication_rate=0.25,
    average_latency_reduction=0.4,
    average_saved_seconds=0.8,
    served_seconds=8.0,
    billed_seconds=3.2,
    saved_by_cache_seconds=2.1,
    saved_by_sharing_seconds=1.1,
    waited_seconds=1.6,
    served_dollars=4 * CALL_DOLLARS,
    billed_dollars=2 * CALL_DOLLARS,
    saved_by_cache_dollars=CALL_DOLLARS,
    saved_by_sharing_dollars=CALL_DOLLARS,
)


def summarize(
    asked: list[DemoAnswer] = ASKED,
    ledger: Ledger = LEDGER,
    served: list[Served] = SERVED,
    planned: list[str] = PLANNED,
) -> Summary:
    """Summarize the run, or a variant of it."""
    return summarize_run(planned, asked, ledger, served, model="tiny", workers=3, took_seconds=5.0)


def test_cost_counts_prompt_and_completion_at_their_own_prices() -> None:
    """Prompt and completion tokens have their own prices."""
    assert cost_dollars(1_000_000, 0) == pytest.approx(0.15)
    assert cost_dollars(0, 1_000_000) == pytest.approx(0.60)


def test_summary_sets_each_number_beside_its_bound() -> None:
    """Two distinct questions among four need two calls; the other two can be saved."""
    summary = summarize()

    assert (summary.asked, summary.distinct, summary.shared, summary.cached) == (4, 2, 1, 1)
    assert (summary.made, summary.least_made) == (2, 2)
    assert (summary.saved, summary.most_saved) == (2, 2)
    assert (summary.model_seconds, summary.least_model_seconds) == (3.0, 3.0)
    assert summary.saved_seconds == pytest.approx(3.2)
    assert summary.most_saved_seconds == pytest.approx(4.8)
    assert summary.billed_dollars == pytest.approx(summary.least_billed_dollars)
    assert summary.saved_dollars == pytest.approx(summary.most_saved_dollars)
    assert summary.disagreements == []


def test_a_redundant_call_does_not_change_the_bounds() -> None:
    """If the model answers a question twice, the bounds stay and the demo fails."""
    again = Served(HOT, 1.5, 20, 10)
    ledger = replace(LEDGER, hits=0, upstream_calls=3, billed_seconds=5.0, billed_dollars=3 * CALL_DOLLARS)
    ledger = replace(ledger, saved_by_cache_dollars=0.0)
    asked = [replace(one, source="upstream") if one.source == "cache" else one for one in ASKED]
    summary = summarize(asked, ledger, [*SERVED, again])

    assert (summary.made, summary.least_made, summary.saved, summary.most_saved) == (3, 2, 1, 2)
    assert (summary.model_seconds, summary.least_model_seconds) == (4.5, 2.5)
    assert summary.most_saved_seconds == pytest.approx(3.2 + 1.6 + 2.0)
    assert summary.least_billed_dollars == pytest.approx(2 * CALL_DOLLARS)
    assert summary.most_saved_dollars == pytest.approx(2 * CALL_DOLLARS)
    assert summary.disagreements == ["The model was asked 3 times, for 2 distinct questions."]


@pytest.mark.parametrize(
    ("changed", "sentence"),
    [
        ({"planned": [HOT, HOT, COLD, COLD]}, "The workers asked 4 questions, which differ from the 4"),
        ({"ledger": replace(LEDGER, calls=5)}, "The workers count 4 questions asked, the daemon 5."),
        ({"ledger": replace(LEDGER, shared=2)}, "The workers count 1 answers shared, the daemon 2."),
        ({"ledger": replace(LEDGER, hits=0)}, "The workers count 1 answers from the cache, the daemon 0."),
        ({"ledger": replace(LEDGER, upstream_calls=1)}, "The workers count 2 calls made, the daemon 1."),
        ({"served": SERVED[:1]}, "The model was asked 1 times; the daemon counts 2 calls made."),
        ({"ledger": replace(LEDGER, billed_dollars=0.5)}, "the daemon reports $0.500000000."),
        ({"ledger": replace(LEDGER, saved_by_cache_dollars=0.5)}, "the daemon reports $0.500009000."),
        ({"ledger": replace(LEDGER, billed_seconds=2.5)}, "The model worked 3.0 s;"),
        (
            {"asked": [*ASKED[:2], replace(ASKED[2], text="Ember."), ASKED[3]]},
            "'What is hot?' got 2 different answers.",
        ),
    ],
)
def test_parties_that_count_differently_are_a_disagreement(changed: dict[str, object], sentence: str) -> None:
    """Each number that two parties know is compared, and a sentence reports a difference."""
    assert sentence in " ".join(msgspec.convert(summarize(**changed).disagreements, list[str]))  # type: ignore[arg-type] # a table of keywords


def test_text_fits_a_terminal_and_shows_a_real_answer() -> None:
    """Lines have at most 80 characters, even for long answers."""
    endless = [replace(one, text="word\n" * 100) for one in ASKED]
    text = text_of(summarize(endless))

    assert max(map(len, text.splitlines())) <= 80
    assert "What is hot? (asked 3 times)" in text
    assert "word word" in text
    assert "calls made to the model" in text
    assert "All answers to one question are equal." in text


def test_text_with_a_disagreement_does_not_claim_agreement() -> None:
    """The sentence about agreement depends on it."""
    assert "agree" not in text_of(summarize(ledger=replace(LEDGER, hits=0)))
