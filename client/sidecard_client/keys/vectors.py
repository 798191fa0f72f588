"""The vector of a call and its embedder; `sidecard_client.keys.similarity` describes their use."""

from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import Any, Final

from msgspec import Struct

Vector = bytes | Iterable[float]
"""Numbers (a list, an array of numpy), or their bytes as little-endian float 32."""

EmbedText = Callable[[str], Vector | Awaitable[Vector]]
Embedder = EmbedText | Mapping[str, EmbedText]


class FoundText(Struct, frozen=True):
    """The text of a request, and the request without it."""

    text: str
    place: str
    args: tuple[Any, ...]
    kwargs: dict[str, Any]


class Embedding(Struct, frozen=True):
    """The source of a call's vector: ``function`` computes it, or ``vector`` is given."""

    name: str | None
    function: EmbedText | None = None
    vector: bytes | None = None
    find: Callable[[], tuple[str, FoundText] | None] | None = None
    """Returns the name in the key and the text, where these are not those of the function and its arguments."""


class QueryVector(Struct, frozen=True):
    """The vector that a call sends, its group, and the signature of its text."""

    vector: bytes
    group: str
    signature: bytes


class CanEmbed(Struct, frozen=True):
    """The call can compute a vector, which the daemon has not asked for."""


CAN_EMBED: Final = CanEmbed()
