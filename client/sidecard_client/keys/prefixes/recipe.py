"""Digests of successively longer prefixes of a prompt, for `Begin.prefix`. Pure.

Two prompts share exactly the digests of their common prefixes, so the daemon finds calls that share a prefix, and knows which
prefixes a backend has processed. The daemon never sees a prompt.

Recipe, for other languages
===========================
::

    d(0) = SHA-256(msgpack [1, kind, model, account])
    d(i) = SHA-256(d(i-1) + SHA-256(msgpack part(i)))

1. ``1`` is the version of the recipe. ``kind`` is the name of the API's family, or ``"function"``; ``model`` the model's name,
   or ``""``; ``account`` the digits of the caller's account in the backend's name, or ``""``. All three are strings.
2. Each part is a value that msgpack can express, in the canonical spelling of keys (`sidecard_client.keys.fingerprint`):
   shortest integers, floats as float 64, the entries of a map ordered by key.
3. After some of the parts there is a *boundary*, where a prefix ends. Its digest is the first 16 bytes of d(i) as 32 lower-case
   hex digits. Its length in bytes is the sum of the lengths of the parts' msgpack up to there.
4. Of more than 16 boundaries, the first 4 and the last 12 count.

The parts and boundaries of an API's requests are listed in ``sidecard docs protocol``. Those of a function are the texts of
its ``prefix=``, in order, each with a boundary after it. ``tests/unit/client/keys/prefixes/prefix_vectors.json`` has examples.
"""

import hashlib
from collections.abc import Iterable
from typing import Any, Final, NamedTuple

import msgspec

from sidecard_client.protocol.values import MAX_PREFIXES, PREFIX_CHARACTERS

RECIPE_VERSION: Final = 1

_FIRST: Final = 4
"""Of too many boundaries, the number of first ones that count; the others are the last ones."""

_DIGEST_BYTES: Final = PREFIX_CHARACTERS // 2

FUNCTION_KIND: Final = "function"

_encode = msgspec.msgpack.Encoder(order="sorted").encode
_sha256 = hashlib.sha256


class PromptPart(NamedTuple):
    """A part of a prompt."""

    value: Any
    """What the backend sees: plain values that msgpack can express."""
    is_boundary: bool = False
    """Whether a prefix ends after this part."""


class PromptPrefixes(NamedTuple):
    """The prefixes of a prompt, the shortest first."""

    digests: tuple[str, ...]
    lengths: tuple[int, ...]
    """In bytes."""


NO_PREFIXES: Final = PromptPrefixes((), ())


def prefixes_of(kind: str, model: str, account: str, parts: Iterable[PromptPart]) -> PromptPrefixes:
    """Return the digests and lengths of a prompt's prefixes."""
    digest = _sha256(_encode((RECIPE_VERSION, kind, model, account))).digest()
    length = 0
    found: list[tuple[str, int]] = []
    for value, is_boundary in parts:
        encoded = _encode(value)
        digest = _sha256(digest + _sha256(encoded).digest()).digest()
        length += len(encoded)
        if is_boundary:
            found.append((digest[:_DIGEST_BYTES].hex(), length))

    if len(found) > MAX_PREFIXES:
        found[_FIRST : _FIRST + len(found) - MAX_PREFIXES] = []

    return PromptPrefixes(tuple(digest for digest, _ in found), tuple(length for _, length in found))


def prefixes_of_texts(model: str, texts: Iterable[str | bytes]) -> PromptPrefixes:
    """Return the prefixes of a function's ``prefix=``."""
    parts = (PromptPart(_plain(text), True) for text in texts)  # noqa: FBT003 - named above
    return prefixes_of(FUNCTION_KIND, str.__str__(model), "", parts)


def _plain(text: str | bytes) -> str | bytes:
    """Return a text without its class: templates and arrays have texts of their own, which mean the same."""
    return str.__str__(text) if isinstance(text, str) else bytes(memoryview(text))
