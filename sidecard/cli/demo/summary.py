"""What a run of the demo comes to: each number beside the best that the workload allows. Pure.

Three parties count, each for itself: the daemon (its report), the workers (what they asked and got),
and the model (what reached it). Where they do not agree, the demo has failed.
"""

import math
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from math import isclose
from typing import Final

from msgspec import Struct

from sidecard.cli import tables
from sidecard.cli.demo.model import Served
from sidecard.cli.demo.worker import (
    COMPLETION_DOLLARS_PER_MILLION_TOKENS,
    PROMPT_DOLLARS_PER_MILLION_TOKENS,
    Asked,
    cost_dollars,
)
from sidecard_client.protocol.wire import Ledger

CLOCK_SECONDS: Final = 0.1
"""How much two processes' measurements of the same time may differ."""

ROUNDING: Final = 1e-6
"""How much sums of the same amounts may differ, relatively."""

SHOWN_ANSWERS: Final = 3
SHOWN_CHARACTERS: Final = 70


class Answer(Struct, frozen=True):
    """A question, its answer, and how many workers' questions it was the answer to."""

    question: str
    answer: str
    times_asked: int


class Summary(Struct, frozen=True, kw_only=True):
    """The demo's numbers; also what ``--json`` prints.

    ``least_...`` and ``most_...`` are what the workload allows at best: one call for each distinct question,
    and all other questions answered at once.
    """

    model: str
    workers: int
    took_seconds: float
    """From the first question to the last answer."""
    asked: int
    distinct: int
    made: int
    least_made: int
    shared: int
    cached: int
    saved: int
    most_saved: int
    model_seconds: float
    least_model_seconds: float
    saved_seconds: float
    most_saved_seconds: float
    waited_seconds: float
    """What sharing workers waited for calls that were under way; part of ``most_saved_seconds``."""
    billed_dollars: float
    least_billed_dollars: float
    saved_dollars: float
    most_saved_dollars: float
    prompt_dollars_per_million_tokens: float = PROMPT_DOLLARS_PER_MILLION_TOKENS
    completion_dollars_per_million_tokens: float = COMPLETION_DOLLARS_PER_MILLION_TOKENS
    answers: list[Answer]
    """Each distinct question, the most often asked first."""
    disagreements: list[str]
    """Sentences; empty where all is as it must be."""


def summarize(
    planned: Sequence[str],
    asked: Sequence[Asked],
    ledger: Ledger,
    served: Sequence[Served],
    *,
    model: str,
    workers: int,
    took_seconds: float,
) -> Summary:
    """Return the numbers of a run whose workers were to ask ``planned``, and whether all parties agree on them."""
    times_asked = Counter(planned)
    saved = ledger.hits + ledger.shared
    saved_seconds = ledger.saved_by_cache_seconds + ledger.saved_by_sharing_seconds
    least_billed_dollars = _least(served, _cost_dollars)
    model_seconds = sum(call.seconds for call in served)
    least_model_seconds = _least(served, lambda call: call.seconds)
    texts = {one.question: one.text for one in asked}
    return Summary(
        model=model,
        workers=workers,
        took_seconds=took_seconds,
        asked=ledger.calls,
        distinct=len(times_asked),
        made=ledger.upstream_calls,
        least_made=len(times_asked),
        shared=ledger.shared,
        cached=ledger.hits,
        saved=saved,
        most_saved=len(planned) - len(times_asked),
        model_seconds=model_seconds,
        least_model_seconds=least_model_seconds,
        saved_seconds=saved_seconds,
        most_saved_seconds=saved_seconds + ledger.waited_seconds + model_seconds - least_model_seconds,
        waited_seconds=ledger.waited_seconds,
        billed_dollars=ledger.billed_dollars,
        least_billed_dollars=least_billed_dollars,
        saved_dollars=_saved_dollars(ledger),
        most_saved_dollars=ledger.served_dollars - least_billed_dollars,
        answers=[Answer(question, texts.get(question, ""), times) for question, times in times_asked.most_common()],
        disagreements=_disagreements(planned, asked, ledger, served),
    )


def rows(summary: Summary) -> list[tuple[str, str, str]]:
    """Return what, how much, and the most or least that was possible, as text."""
    count, seconds, dollars = tables.count, tables.seconds, tables.dollars
    return [
        ("questions asked", count(summary.asked), ""),
        ("calls made to the model", count(summary.made), f"at least {count(summary.least_made)}"),
        ("calls saved", count(summary.saved), f"at most {count(summary.most_saved)}"),
        ("  by sharing a call under way", count(summary.shared), ""),
        ("  by the cache", count(summary.cached), ""),
        ("time the model worked", seconds(summary.model_seconds), f"at least {seconds(summary.least_model_seconds)}"),
        (
            "time saved for the workers",
            seconds(summary.saved_seconds),
            f"at most {seconds(summary.most_saved_seconds)}",
        ),
        ("cost billed", dollars(summary.billed_dollars), f"at least {dollars(summary.least_billed_dollars)}"),
        ("cost saved", dollars(summary.saved_dollars), f"at most {dollars(summary.most_saved_dollars)}"),
    ]


def text(summary: Summary) -> str:
    """Return the summary for people."""
    samples = [
        line
        for answer in summary.answers[:SHOWN_ANSWERS]
        for line in (
            f"  {answer.question} (asked {answer.times_asked} times)",
            f"    {_shortened(answer.answer)}",
        )
    ]
    prompt = tables.dollars(summary.prompt_dollars_per_million_tokens)
    completion = tables.dollars(summary.completion_dollars_per_million_tokens)
    notes = [
        f"Possible: one call for each of the {summary.distinct} distinct questions, and no waiting at all;",
        f"the workers waited {tables.seconds(summary.waited_seconds)} for calls that were under way.",
        "Cost: the local model is free; this assumes, for each million tokens,",
        f"{prompt} of a prompt and {completion} of an answer.",
    ]
    agreed = (
        ""
        if summary.disagreements
        else (
            "All answers to one question are equal.\n"
            "The daemon, the workers and the model, each counting for itself, agree."
        )
    )
    title = f"{summary.workers} workers, {summary.asked} questions, {tables.seconds(summary.took_seconds)}"
    table = tables.drawn(tables.table(title, ("", "this run", "possible"), rows(summary)))
    parts = ["\n".join([f"{summary.model} said, for example:", *samples]), table, "\n".join(notes), agreed]
    return "\n\n".join(part for part in parts if part)


def _disagreements(
    planned: Sequence[str], asked: Sequence[Asked], ledger: Ledger, served: Sequence[Served]
) -> list[str]:
    return [
        *_miscounted(planned, asked, ledger, served),
        *_mismeasured(asked, ledger, served),
        *_answered_differently(asked),
    ]


def _miscounted(
    planned: Sequence[str], asked: Sequence[Asked], ledger: Ledger, served: Sequence[Served]
) -> Iterator[str]:
    if Counter(planned) != Counter(one.question for one in asked):
        yield f"The workers asked {len(asked)} questions, which are not the {len(planned)} that they were to ask."

    sources = Counter(one.source for one in asked)
    for what, workers, daemon in (
        ("questions asked", len(asked), ledger.calls),
        ("calls made", sources["upstream"], ledger.upstream_calls),
        ("answers shared", sources["shared"], ledger.shared),
        ("answers from the cache", sources["cache"], ledger.hits),
    ):
        if workers != daemon:
            yield f"The workers count {workers} {what}, the daemon {daemon}."

    if len(served) != ledger.upstream_calls:
        yield f"The model was asked {len(served)} times; the daemon counts {ledger.upstream_calls} calls made."

    distinct = len(set(planned))
    if len(served) != distinct:
        yield f"The model was asked {len(served)} times, for {distinct} distinct questions."


def _mismeasured(asked: Sequence[Asked], ledger: Ledger, served: Sequence[Served]) -> Iterator[str]:
    billed_dollars = sum(_cost_dollars(call) for call in served)
    if not isclose(billed_dollars, ledger.billed_dollars, rel_tol=ROUNDING):
        yield f"The model's tokens cost ${billed_dollars:.9f}; the daemon says ${ledger.billed_dollars:.9f}."

    saved_dollars = sum(_cost_dollars(one) for one in asked if one.source != "upstream")
    if not isclose(saved_dollars, _saved_dollars(ledger), rel_tol=ROUNDING):
        yield f"The workers were spared ${saved_dollars:.9f}; the daemon says ${_saved_dollars(ledger):.9f}."

    model_seconds = sum(call.seconds for call in served)
    if model_seconds > ledger.billed_seconds + CLOCK_SECONDS:
        yield f"The model worked {model_seconds:.1f} s; the daemon says that its calls took {ledger.billed_seconds:.1f} s."


def _answered_differently(asked: Sequence[Asked]) -> Iterator[str]:
    answers: dict[str, set[str]] = {}
    for one in asked:
        answers.setdefault(one.question, set()).add(one.text)

    for question, texts in answers.items():
        if len(texts) > 1:
            yield f"{question!r} got {len(texts)} different answers."


def _least(served: Sequence[Served], measure: Callable[[Served], float]) -> float:
    """Return the sum of what each distinct question took at least."""
    least: dict[str, float] = {}
    for call in served:
        least[call.question] = min(measure(call), least.get(call.question, math.inf))

    return sum(least.values())


def _saved_dollars(ledger: Ledger) -> float:
    return ledger.saved_by_cache_dollars + ledger.saved_by_sharing_dollars


def _cost_dollars(call: Served | Asked) -> float:
    return cost_dollars(call.prompt_tokens, call.completion_tokens)


def _shortened(answer: str) -> str:
    line = tables.plain(" ".join(answer.split()))
    return line if len(line) <= SHOWN_CHARACTERS else f"{line[: SHOWN_CHARACTERS - 3].rstrip()}..."
