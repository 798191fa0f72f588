"""The vector of a call, and how it comes by it; what is done with them is told in `similar`."""

from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import Final

from msgspec import Struct

Vector = bytes | Iterable[float]
"""Numbers (a list, an array of numpy), or their bytes as little-endian float 32."""

EmbedText = Callable[[str], Vector | Awaitable[Vector]]
Embedder = EmbedText | Mapping[str, EmbedText]


class Embedding(Struct, frozen=True):
    """How a call comes by its vector: by ``function``, or it is there."""

    name: str | None
    function: EmbedText | None = None
    vector: bytes | None = None


class QueryVector(Struct, frozen=True):
    """What a call brings when it is asked for its vector."""

    vector: bytes
    group: str


class CanEmbed(Struct, frozen=True):
    """What a call brings before it is asked."""


CAN_EMBED: Final = CanEmbed()
