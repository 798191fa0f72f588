"""An app worker of the demo: asks the model what it is told to, through the client, as any app would.

``python -m sidecard.cli.demo_worker SOCKET ADDRESS`` takes a question a line, as JSON, and prints an `Answered` a line.
"""

import sys
from time import perf_counter
from typing import Any

import msgspec
from msgspec import Struct

from sidecard.cli.demo_model import Completion, Model
from sidecard_client import Client, Usage

TASK = "demo"


class Answered(Struct, frozen=True):
    """One question as its worker saw it."""

    question: str
    completion: Completion
    source: str
    took_seconds: float
    saved_seconds: float
    saved_dollars: float
    upstream_calls: int
    """1 where this worker's own function ran."""


class CountedModel(Model):
    """A model that knows how often it was really asked."""

    calls = 0

    def complete(self, question: str) -> dict[str, Any]:
        """Count, and ask."""
        self.calls += 1
        return super().complete(question)


def usage(fields: dict[str, Any]) -> Usage:
    """Tell the daemon what a completion cost, at the assumed prices."""
    completion = msgspec.convert(fields, Completion)
    return Usage(
        prompt_tokens=completion.prompt_tokens,
        completion_tokens=completion.completion_tokens,
        cost_dollars=completion.dollars,
    )


def main(path: str, address: str) -> None:
    """Answer questions until there are no more."""
    model = CountedModel(address)
    with Client(path, task=TASK, usage=usage, on_unavailable="raise") as sidecard:
        sidecard.ping()
        _print("ready")
        for line in sys.stdin.buffer:
            question = msgspec.json.decode(line, type=str)
            before = model.calls
            began = perf_counter()
            outcome = sidecard.outcome(model.complete, question)
            _print(
                Answered(
                    question=question,
                    completion=msgspec.convert(outcome.value, Completion),
                    source=outcome.source,
                    took_seconds=perf_counter() - began,
                    saved_seconds=outcome.saved_seconds,
                    saved_dollars=outcome.saved_dollars,
                    upstream_calls=model.calls - before,
                )
            )


def _print(message: Any) -> None:
    sys.stdout.buffer.write(msgspec.json.encode(message) + b"\n")
    sys.stdout.buffer.flush()


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])
