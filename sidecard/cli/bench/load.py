"""What the bench asks of everything that it compares, and the orders that its worker processes take."""

from typing import Literal

import msgspec
from msgspec import Struct

from sidecard_client.call import call as calls
from sidecard_client.call.options import Options
from sidecard_client.protocol import wire
from sidecard_client.protocol.frames import frame

VALUE = "x" * 1024
"""The answer to every question: 1 KiB of text, about 250 tokens."""

CONTEXT = "You are the support assistant of a small shop. Answer briefly, in the customer's own language. "

PROMPTS = tuple(
    f"{CONTEXT}Customer {number:02d} asks: where is my order, and when will it be here?" for number in range(64)
)


class Upstream:
    """The call that is to be saved. Takes no time."""

    def __init__(self) -> None:
        self.calls = 0

    def answer(self, prompt: str) -> str:  # noqa: ARG002 - what a language model would be given
        """Answer any prompt."""
        self.calls += 1
        return VALUE

    async def answer_async(self, prompt: str) -> str:  # noqa: ARG002 - as above
        """Answer any prompt."""
        self.calls += 1
        return VALUE


def request_bytes() -> int:
    """Return the size of the frame that asks for a hit."""
    call = calls.prepare(Options(), Upstream().answer, (PROMPTS[0],), {})
    return len(frame(wire.pack(call.begin(1))))


def reply_bytes() -> int:
    """Return the size of the frame that answers with a hit."""
    hit = wire.Hit(
        1, VALUE, age_seconds=0.5, stale=False, saved_seconds=0.5, saved_dollars=0.0, backend="default", meta={}
    )
    return len(frame(wire.pack(hit)))


class Order(Struct, omit_defaults=True):
    """What a worker is to do.

    ``single``  ``count`` hits, one after another; the result has the median of their times
    ``misses``  the same with prompts that nobody has asked
    ``rate``    hits for ``seconds``; the result has their number and the time that they took
    ``burst``   ``count`` hits by ``concurrent`` tasks; the result has the time from the first to the last
    ``join``    ``count`` tasks ask ``prompt`` at once; the result has the instant of the last answer
    """

    do: Literal["single", "misses", "rate", "burst", "join"]
    side: str = "sidecard"
    count: int = 0
    concurrent: int = 1
    seconds: float = 0.0
    prompt: str = ""
    start_at: float = 0.0
    """Monotonic instant at which to begin: workers that are told one after the other begin together."""


class Result(Struct, omit_defaults=True):
    """What became of an order."""

    seconds: float = 0.0
    count: int = 0
    ended_at: float = 0.0
    """Monotonic instant."""
    upstream_calls: int = 0
    """How often this worker's own function ran during the order."""


read_order = msgspec.json.Decoder(Order).decode
read_result = msgspec.json.Decoder(Result).decode
write = msgspec.json.Encoder().encode
