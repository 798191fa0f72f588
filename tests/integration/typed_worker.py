"""An app worker that asks for values of every type: ``python -m tests.integration.typed_worker SOCKET KIND``.

Prints how many answers of each source it got, and exits with 1 if one is not the same as its function's own.
"""

import collections
import json
import sys
from collections.abc import Callable, Iterator
from typing import Any

from tests.callers import Caller, connecting
from tests.typed_values import SHARED, Extractor, event, line_by_line, numbered, portrait


def answers(client: Caller) -> Iterator[tuple[str, Any, Any]]:
    """Return source, answer and what the function returns: by ``returns=``, annotations, and the methods of an object."""
    for index, (annotation, value) in enumerate(SHARED):
        outcome = client.outcome(numbered, index, returns=annotation)
        yield outcome.source, outcome.value, value

    dated = client.outcome(event, "2026-01-02")
    yield dated.source, dated.value, event("2026-01-02")

    extractor = Extractor()
    shared = client.sidecard.wrap(extractor)
    functions: list[tuple[Callable[..., Any], Callable[..., Any], Any]] = [
        (client.sidecard.cached(name="event")(event), event, "2026-01-03"),
        (shared.extract, extractor.extract, "abc"),
    ]
    for made, function, argument in functions:
        value = made(argument) if client.portal is None else client.portal.call(made, argument)
        yield "wrapped", value, function(argument)

    for stream, pieces in (
        (client.sidecard.stream(line_by_line, "a b c"), line_by_line("a b c")),
        (shared.points(3), extractor.points(3)),
    ):
        taken = list(stream) if client.portal is None else client.portal.call(_taken, stream)
        yield stream.source, taken, list(pieces)


async def _taken(stream: Any) -> list[Any]:
    return [piece async for piece in stream]


def ask_for_all(kind: str, socket: str) -> dict[str, int]:
    """Return how many answers of each source a client of ``kind`` got, all of which must be as their functions return them."""
    sources: collections.Counter[str] = collections.Counter()
    with connecting(kind, socket) as connect:
        for source, answer, own in answers(connect()):
            sources[source] += 1
            assert portrait(answer) == portrait(own), (answer, own)

    return dict(sources)


if __name__ == "__main__":
    print(json.dumps(ask_for_all(sys.argv[2], sys.argv[1])))
