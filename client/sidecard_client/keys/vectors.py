"""The vector of a call and its embedder; `sidecard_client.keys.similarity` describes their use."""

from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import Final

from msgspec import Struct

Vector = bytes | Iterable[float]
"""Numbers (a list, an array of numpy), or their bytes as little-endian float 32."""

EmbedText = Callable[[str], Vector | Awaitable[Vector]]
Embedder = EmbedText | Mapping[str, EmbedText]


class Embedding(Struct, frozen=True):
    """The source of a call's vector: ``function`` computes it, or ``vector`` is given."""

    name: str | None
    function: EmbedText | None = None
    vector: bytes | None = None


class QueryVector(Struct, frozen=True):
    """The vector that a call sends, and its group."""

    vector: bytes
    group: str


class CanEmbed(Struct, frozen=True):
    """The call can compute a vector, which the daemon has not asked for."""


CAN_EMBED: Final = CanEmbed()
