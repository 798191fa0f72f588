"""The load of the bench: prompts, answers, and the orders of its worker processes."""

from collections.abc import Sequence
from typing import Literal

import msgspec
from msgspec import Struct

from sidecard_client.call import call as calls
from sidecard_client.call.options import Options
from sidecard_client.protocol import wire
from sidecard_client.protocol.frames import frame

VALUE = "x" * 1024
"""Every answer: 1 KiB of text, about 250 tokens."""

CONTEXT = "You are the support assistant of a small shop. Answer briefly, in the customer's own language. "

PROMPTS = tuple(
    f"{CONTEXT}Customer {number:02d} asks: where is my order, and when will it be here?" for number in range(64)
)


class Answers:
    """The number of calls of `answer` and `answer_async`, a model that answers immediately."""

    def __init__(self) -> None:
        self.calls = 0


ANSWERS = Answers()


def answer(prompt: str) -> str:  # noqa: ARG001 - the signature of a model
    """Answer any prompt."""
    ANSWERS.calls += 1
    return VALUE


async def answer_async(prompt: str) -> str:
    """Answer any prompt."""
    return answer(prompt)


PERCENTILES = {"p1": 0.01, "p10": 0.1, "p25": 0.25, "p50": 0.5, "p75": 0.75, "p90": 0.9, "p99": 0.99, "p99.9": 0.999}
"""The quantiles of a result, by name."""


def quantiles_of(times: Sequence[float]) -> dict[str, float]:
    """Return the quantiles of some times: each is exceeded by its share of them at most."""
    ordered = sorted(times)
    return {name: ordered[min(len(ordered) - 1, int(share * len(ordered)))] for name, share in PERCENTILES.items()}


def request_bytes() -> int:
    """Return the size of the frame that requests a hit."""
    call = calls.prepare(Options(), answer, (PROMPTS[0],), {})
    return len(frame(wire.pack(call.begin(1))))


def reply_bytes() -> int:
    """Return the size of the frame that replies with a hit."""
    hit = wire.Hit(
        1, VALUE, age_seconds=0.5, stale=False, saved_seconds=0.5, saved_dollars=0.0, backend="default", meta={}
    )
    return len(frame(wire.pack(hit)))


class Order(Struct, omit_defaults=True):
    """An order to a worker process.

    ``single``  make ``count`` hits, one after another; the result has their median time and the other `PERCENTILES`
    ``misses``  the same with new prompts
    ``rate``    make hits for ``seconds``; the result has their number and the elapsed time
    ``burst``   make ``count`` hits in ``concurrent`` tasks; the result has the elapsed time
    ``join``    request ``prompt`` in ``count`` tasks at the same time; the result has the instant of the last answer
    """

    do: Literal["single", "misses", "rate", "burst", "join"]
    side: str = "sidecard"
    count: int = 0
    concurrent: int = 1
    seconds: float = 0.0
    prompt: str = ""
    start_at: float = 0.0
    """Monotonic instant of the start, common to several workers."""


class Result(Struct, omit_defaults=True):
    """The result of an order."""

    seconds: float = 0.0
    count: int = 0
    ended_at: float = 0.0
    """Monotonic instant."""
    upstream_calls: int = 0
    """Calls of this worker's own `answer` during the order."""
    quantiles: dict[str, float] = {}


read_order = msgspec.json.Decoder(Order).decode
read_result = msgspec.json.Decoder(Result).decode
write = msgspec.json.Encoder().encode
