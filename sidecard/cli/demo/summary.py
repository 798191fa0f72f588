"""Summarize a run of the demo: each number beside its bound, and whether all parties agree. Pure.

Three parties count independently: the daemon (its report), the workers (questions and answers), and the model (requests). The
demo fails if they disagree.
"""

import math
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from math import isclose
from typing import Final

from msgspec import Struct

from sidecard.cli.demo.model import Served
from sidecard.cli.demo.worker import (
    COMPLETION_DOLLARS_PER_MILLION_TOKENS,
    PROMPT_DOLLARS_PER_MILLION_TOKENS,
    DemoAnswer,
    cost_dollars,
)
from sidecard_client.protocol.wire import Ledger

CLOCK_SECONDS: Final = 0.1
"""Allowed difference between two processes' measurements of the same time."""

ROUNDING: Final = 1e-6
"""Allowed relative difference between sums of the same amounts."""


class Answer(Struct, frozen=True):
    """A question, its answer, and how often it was asked."""

    question: str
    answer: str
    times_asked: int


class Summary(Struct, frozen=True, kw_only=True):
    """The demo's numbers; also the output of ``--json``.

    ``least_...`` and ``most_...`` are bounds of the workload: one call per distinct question, and every other question
    answered immediately.
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
    """Time that workers waited for other workers' calls; part of ``most_saved_seconds``."""
    billed_dollars: float
    least_billed_dollars: float
    saved_dollars: float
    most_saved_dollars: float
    prompt_dollars_per_million_tokens: float = PROMPT_DOLLARS_PER_MILLION_TOKENS
    completion_dollars_per_million_tokens: float = COMPLETION_DOLLARS_PER_MILLION_TOKENS
    answers: list[Answer]
    """Each distinct question, most frequent first."""
    disagreements: list[str]
    """One sentence per disagreement between the parties."""


def summarize(
    planned: Sequence[str],
    asked: Sequence[DemoAnswer],
    ledger: Ledger,
    served: Sequence[Served],
    *,
    model: str,
    workers: int,
    took_seconds: float,
) -> Summary:
    """Return the numbers of a run in which the workers were to ask the ``planned`` questions."""
    times_asked = Counter(planned)
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
        saved=ledger.hits + ledger.shared,
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
        disagreements=[
            *_miscounted(planned, asked, ledger, served),
            *_mismeasured(asked, ledger, served),
            *_inconsistent(asked),
        ],
    )


def _miscounted(
    planned: Sequence[str], asked: Sequence[DemoAnswer], ledger: Ledger, served: Sequence[Served]
) -> Iterator[str]:
    if Counter(planned) != Counter(one.question for one in asked):
        yield f"The workers asked {len(asked)} questions, which differ from the {len(planned)} planned ones."

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


def _mismeasured(asked: Sequence[DemoAnswer], ledger: Ledger, served: Sequence[Served]) -> Iterator[str]:
    billed_dollars = sum(_cost_dollars(call) for call in served)
    if not isclose(billed_dollars, ledger.billed_dollars, rel_tol=ROUNDING):
        yield f"The model's tokens cost ${billed_dollars:.9f}; the daemon reports ${ledger.billed_dollars:.9f}."

    saved_dollars = sum(_cost_dollars(one) for one in asked if one.source != "upstream")
    if not isclose(saved_dollars, _saved_dollars(ledger), rel_tol=ROUNDING):
        yield f"The workers saved ${saved_dollars:.9f}; the daemon reports ${_saved_dollars(ledger):.9f}."

    model_seconds = sum(call.seconds for call in served)
    if model_seconds > ledger.billed_seconds + CLOCK_SECONDS:
        yield f"The model worked {model_seconds:.1f} s; the daemon reports {ledger.billed_seconds:.1f} s for its calls."


def _inconsistent(asked: Sequence[DemoAnswer]) -> Iterator[str]:
    answers: dict[str, set[str]] = {}
    for one in asked:
        answers.setdefault(one.question, set()).add(one.text)

    for question, texts in answers.items():
        if len(texts) > 1:
            yield f"{question!r} got {len(texts)} different answers."


def _least(served: Sequence[Served], measure: Callable[[Served], float]) -> float:
    """Return the sum over distinct questions of the lowest measured value."""
    least: dict[str, float] = {}
    for call in served:
        least[call.question] = min(measure(call), least.get(call.question, math.inf))

    return sum(least.values())


def _saved_dollars(ledger: Ledger) -> float:
    return ledger.saved_by_cache_dollars + ledger.saved_by_sharing_dollars


def _cost_dollars(call: Served | DemoAnswer) -> float:
    return cost_dollars(call.prompt_tokens, call.completion_tokens)
