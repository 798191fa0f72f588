"""The span of a batch: one for all of its inputs, as for one call. Imported only if the app traces."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from msgspec.structs import replace

from sidecard_client.batches.batch import InputBatch, summary_of
from sidecard_client.call.outcome import Outcome
from sidecard_client.metrics.tracing import Span, traced
from sidecard_client.protocol.wire import Usage


class InputsSpan(Span):
    """What the calls of the inputs record: links, each once, and usage, which is added up."""

    def __init__(self, span: Span) -> None:
        self._whole = span
        self._linked: set[str] = set()
        self._tokens: list[Usage] = []

    def link(self, parent: str) -> None:
        """Link to the span whose answer an input received."""
        if parent not in self._linked:
            self._linked.add(parent)
            self._whole.link(parent)

    def set_usage(self, usage: Usage | None) -> None:
        """Add an input's share of what a call used."""
        if usage is not None:
            self._tokens.append(usage)

    def finish(self, outcomes: Sequence[Outcome[Any]]) -> None:
        """Record the usage of all calls, and where the values came from."""
        if self._tokens:
            counts = [
                [count for count in shares if count is not None]
                for shares in zip(*((one.prompt_tokens, one.completion_tokens) for one in self._tokens), strict=True)
            ]
            prompt, completion = (sum(shares) if shares else None for shares in counts)
            self._whole.set_usage(Usage(self._tokens[-1].model, prompt, completion))

        self._whole.set_outcome(summary_of(outcomes))
        self._whole.set_inputs(len(outcomes))


@contextmanager
def traced_batch(batch: InputBatch) -> Iterator[InputsSpan | None]:
    """Trace a batch while the body makes it; yield the span, which must get the outcomes, or None if tracing fails."""
    head = replace(batch.calls[0])
    with traced(head) as span:
        if span is None:
            yield None
            return

        inputs = InputsSpan(span)
        for call in batch.calls:
            call.span, call.trace = inputs, head.trace

        yield inputs
