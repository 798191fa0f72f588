"""Show the summary of a demo run to people. Pure."""

from typing import Final

from sidecard.cli.demo.summary import Summary
from sidecard.cli.output import Verbatim
from sidecard.cli.text.numbers import count, dollars, seconds
from sidecard.cli.text.tables import render, table
from sidecard.printable import printable

SHOWN_ANSWERS: Final = 3
SHOWN_CHARACTERS: Final = 70


def text_of(summary: Summary) -> Verbatim:
    """Return the summary as text: some answers, the numbers beside their bounds, and the assumptions."""
    samples = [
        line
        for answer in summary.answers[:SHOWN_ANSWERS]
        for line in (
            f"  {printable(answer.question)} (asked {answer.times_asked} times)",
            f"    {_shortened(answer.answer)}",
        )
    ]
    prompts = dollars(summary.prompt_dollars_per_million_tokens)
    answers = dollars(summary.completion_dollars_per_million_tokens)
    notes = [
        f"Possible: one call for each of the {summary.distinct} distinct questions, without any waiting;",
        f"the workers waited {seconds(summary.waited_seconds)} for calls in progress.",
        "Cost: the local model is free; the numbers assume, per million tokens,",
        f"{prompts} for prompts and {answers} for answers.",
    ]
    agreement = (
        "All answers to one question are equal.\nThe independent counts of daemon, workers and model agree."
        if not summary.disagreements
        else ""
    )
    title = f"{summary.workers} workers, {summary.asked} questions, {seconds(summary.took_seconds)}"
    numbers = render(table(title, ("", "this run", "possible"), _rows(summary)))
    parts = [
        "\n".join([f"Answers of {printable(summary.model)}, for example:", *samples]),
        numbers,
        "\n".join(notes),
        agreement,
    ]
    return Verbatim("\n\n".join(part for part in parts if part))


def _rows(summary: Summary) -> list[tuple[str, str, str]]:
    return [
        ("questions asked", count(summary.asked), ""),
        ("calls made to the model", count(summary.made), f"at least {count(summary.least_made)}"),
        ("calls saved", count(summary.saved), f"at most {count(summary.most_saved)}"),
        ("  by sharing a call in progress", count(summary.shared), ""),
        ("  by the cache", count(summary.cached), ""),
        ("time the model worked", seconds(summary.model_seconds), f"at least {seconds(summary.least_model_seconds)}"),
        ("time the workers saved", seconds(summary.saved_seconds), f"at most {seconds(summary.most_saved_seconds)}"),
        ("cost billed", dollars(summary.billed_dollars), f"at least {dollars(summary.least_billed_dollars)}"),
        ("cost saved", dollars(summary.saved_dollars), f"at most {dollars(summary.most_saved_dollars)}"),
    ]


def _shortened(answer: str) -> str:
    line = printable(" ".join(answer.split()))
    return line if len(line) <= SHOWN_CHARACTERS else f"{line[: SHOWN_CHARACTERS - 3].rstrip()}..."
