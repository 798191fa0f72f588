"""What the demo's workers saw, held against what the daemon reports, and how it is told. Pure."""

from collections.abc import Sequence
from math import isclose

from msgspec import Struct

from sidecard.cli.demo_model import INPUT_DOLLARS_PER_MILLION_TOKENS, OUTPUT_DOLLARS_PER_MILLION_TOKENS
from sidecard.cli.demo_worker import Answered
from sidecard.cli.tables import count, dollars, drawn, percent, seconds, table
from sidecard_client.wire import Ledger

SAMPLES = 4
TOLERANCE = 1e-6
"""Of sums of the same numbers in another order."""


class Account(Struct, frozen=True):
    """The demo's result. ``faults`` says where workers and daemon disagree, or an answer differs; it must be empty.

    The workers counted ``asked`` to ``answers``; the rest is the daemon's.
    """

    asked: int
    upstream_calls: int
    shared: int
    cached: int
    distinct: int
    """Questions that differ: fewer calls than these no cache can make."""
    answers: dict[str, str]
    took_seconds: float
    billed_seconds: float
    saved_by_cache_seconds: float
    saved_by_sharing_seconds: float
    waited_seconds: float
    billed_dollars: float
    saved_by_cache_dollars: float
    saved_by_sharing_dollars: float
    faults: list[str]


def account(answered: Sequence[Answered], ledger: Ledger, took_seconds: float) -> Account:
    """Add up what the workers saw, and check it against the daemon's ledger."""
    sources = [one.source for one in answered]
    seen = {
        "calls": len(answered),
        "upstream_calls": sum(one.upstream_calls for one in answered),
        "hits": sources.count("cache"),
        "shared": sources.count("shared"),
        "billed_dollars": sum(one.completion.dollars for one in answered if one.upstream_calls),
        "saved_by_cache_seconds": sum(one.saved_seconds for one in answered if one.source == "cache"),
        "saved_by_sharing_seconds": sum(one.saved_seconds for one in answered if one.source == "shared"),
        "saved_by_cache_dollars": sum(one.saved_dollars for one in answered if one.source == "cache"),
        "saved_by_sharing_dollars": sum(one.saved_dollars for one in answered if one.source == "shared"),
    }
    answers: dict[str, str] = {}
    faults = []
    for one in answered:
        first = answers.setdefault(one.question, one.completion.answer)
        if one.completion.answer != first:
            faults.append(f"{one.question!r} was answered {first!r} and {one.completion.answer!r}")

    for name, value in seen.items():
        told = getattr(ledger, name)
        if not isclose(told, value, rel_tol=TOLERANCE, abs_tol=TOLERANCE * TOLERANCE):
            faults.append(f"{name}: the daemon reports {told:g}, the workers saw {value:g}")

    return Account(
        asked=len(answered),
        upstream_calls=int(seen["upstream_calls"]),
        shared=int(seen["shared"]),
        cached=int(seen["hits"]),
        distinct=len(answers),
        answers=answers,
        took_seconds=took_seconds,
        billed_seconds=ledger.billed_seconds,
        saved_by_cache_seconds=ledger.saved_by_cache_seconds,
        saved_by_sharing_seconds=ledger.saved_by_sharing_seconds,
        waited_seconds=ledger.waited_seconds,
        billed_dollars=ledger.billed_dollars,
        saved_by_cache_dollars=ledger.saved_by_cache_dollars,
        saved_by_sharing_dollars=ledger.saved_by_sharing_dollars,
        faults=faults,
    )


def draw(result: Account, answered: Sequence[Answered], workers: int, model: str) -> str:
    """Return the tables that the demo ends with."""
    avoidable = result.asked - result.distinct
    avoided = result.asked - result.upstream_calls
    calls = [
        ("asked", count(result.asked), f"by {workers} workers, each in a process of its own"),
        ("made", count(result.upstream_calls), f"at least {result.distinct}: one for each question that differs"),
        ("shared", count(result.shared), "got the answer of a call that another worker had just begun"),
        ("cached", count(result.cached), "got a stored answer"),
        (
            "avoided",
            count(avoided),
            f"of {avoidable} that this workload allows ({percent(avoided / avoidable) if avoidable else '-'})",
        ),
    ]
    money = (
        f"at an assumed ${INPUT_DOLLARS_PER_MILLION_TOKENS:.2f} and ${OUTPUT_DOLLARS_PER_MILLION_TOKENS:.2f} "
        "per million tokens in and out; this model itself costs nothing"
    )
    spent = [
        (
            "spent",
            seconds(result.billed_seconds),
            dollars(result.billed_dollars),
            "from permission to answer, of the calls made",
        ),
        (
            "saved by cache",
            seconds(result.saved_by_cache_seconds),
            dollars(result.saved_by_cache_dollars),
            "what the stored answers had taken",
        ),
        (
            "saved by sharing",
            seconds(result.saved_by_sharing_seconds),
            dollars(result.saved_by_sharing_dollars),
            f"the same, less {seconds(result.waited_seconds)} waited",
        ),
    ]
    asked = [one.question for one in answered]
    samples = [
        (question, answer, f"asked {asked.count(question)} times")
        for question, answer in sorted(result.answers.items(), key=lambda item: -asked.count(item[0]))[:SAMPLES]
    ]
    return drawn(
        table(f"Calls of {model}", (), calls, align="lrl"),
        table("Time and cost", ("", "time", "cost", ""), spent, align="lrrl"),
        f"Cost is {money}.",
        table("What the model said, right or wrong", (), samples, align="lll"),
        _verdict(result),
    )


def _verdict(result: Account) -> str:
    if result.faults:
        return "\n".join(("NOT FINE:", *result.faults))

    return (
        f"Checked: all {result.asked} answers to the {result.distinct} questions are equal to their first, "
        "and the workers' own counts are the daemon's."
    )
