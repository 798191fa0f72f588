"""Similar requests: which text of a request is embedded, and which requests are compared. Pure.

::

    with Client(embed=embed_text) as sidecard:          # text -> vector
        sidecard.call(llm.generate, "What is the capital of France?", task="faq")
        sidecard.call(llm.generate, "Please tell me what the capital of France is.", task="faq")   # may get the same answer

The daemon decides whether similar answers are served: without ``[tasks.NAME] similar``, an embedder only sets a flag in
each request. The embedder runs once per call, and only if the daemon asks for a vector: it has no answer to the request
itself, no call of it in progress, and a task that looks for similar requests. The embedder never runs for a hit, and never
without the daemon. If it fails, the client warns once, and the call goes on by its key alone.

The *text* is the first of these:

1. of the first positional argument: itself, if it is a str; the ``content`` of its last element, if it is a list of
   messages and that is a str; of a dict, a field of `TEXT_NAMES`, by the same rules;
2. without positional arguments, the first of `TEXT_NAMES` that is a named argument, by the same rules.

Everything else, earlier messages included, is the *group* (`fingerprint.group_of`) and must be equal. So must the numbers
in the text: embedding models hardly distinguish them, and "in 2023" must not get the answer to "in 2024". The client sends a
*signature* of the text as well (`sidecard_client.keys.guard`), so that negations, opposites, names and directions keep texts
apart. Vectors of two
models cannot be compared, so the embedder's name is part of the group: the function's name, or the one key of a dict,
``embed={"all-MiniLM-L6-v2": model.encode}``. Two models of one class need the dict.
"""

import math
from collections.abc import Mapping
from contextlib import suppress
from functools import partial
from operator import mul
from typing import Any, Final

from sidecard_client.keys.captured import captured_by
from sidecard_client.keys.naming import name_of
from sidecard_client.keys.vectors import Embedding, FoundText
from sidecard_client.protocol import wire
from sidecard_client.protocol.errors import UnkeyableRequest

TEXT_NAMES: Final = ("prompt", "messages", "question", "query", "input", "text")
"""Arguments and fields that hold the text, in order of precedence."""


def embedding_by(embedder: Any) -> Embedding:
    """Check ``embed=``. Raises `TypeError` if it is not an embedder, and `UnkeyableRequest` if it has no stable name."""
    if isinstance(embedder, Embedding):
        return embedder

    if isinstance(embedder, Mapping):
        if len(embedder) != 1:
            raise TypeError(f"embed= takes one embedder, as a function or {{name: function}}, not {len(embedder)}.")

        ((name, function),) = embedder.items()
        if isinstance(name, str) and name and callable(function):
            return Embedding(name, function)

    elif callable(embedder):
        with suppress(UnkeyableRequest):
            if captured_by(embedder) is None and not isinstance(embedder, partial):
                return Embedding(name_of(embedder), embedder)

        raise UnkeyableRequest(
            f"embed={embedder!r} has no stable name, or holds state: name the model, as in "
            "embed={'all-MiniLM-L6-v2': model.encode}."
        )

    raise TypeError(f"embed= must be callable (text to vector), or {{name: callable}}, not {type(embedder).__name__}.")


def packed(vector: Any) -> bytes:
    """Return a vector's bytes. Raises `TypeError` and `ValueError` for an invalid vector."""
    from array import array  # noqa: PLC0415 - for apps that embed
    from math import isfinite  # noqa: PLC0415 - as above

    if isinstance(vector, bytes | bytearray | memoryview):
        numbers = array("f")
        numbers.frombytes(vector)
    else:
        numbers = array("f", [float(number) for number in vector])

    if not 1 <= len(numbers) <= wire.MAX_DIMENSIONS:
        raise ValueError(f"A vector has 1 to {wire.MAX_DIMENSIONS} numbers, not {len(numbers)}.")

    if not isfinite(sum(number * number for number in numbers)) or not any(numbers):
        raise ValueError("A vector's numbers are finite, and not all 0.")

    return numbers.tobytes()


def text_of(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> FoundText | None:
    """Find the text to embed."""
    if args:
        found = _within(args[0], "args[0]")
        if found is None:
            return None

        text, place, rest = found
        return FoundText(text, place, (rest, *args[1:]), dict(kwargs))

    found = _field(kwargs, "kwargs")
    if found is None:
        return None

    text, place, rest = found
    return FoundText(text, place, (), rest)


def _within(value: Any, place: str) -> tuple[str, str, Any] | None:
    """Return a value's text, its place, and the value with None in its place."""
    if isinstance(value, str):
        return value, place, None

    if isinstance(value, dict):
        return _field(value, place)

    if isinstance(value, list | tuple) and value and isinstance(value[-1], dict):
        last = value[-1]
        if isinstance(last.get("content"), str):
            return last["content"], f"{place}[-1].content", [*value[:-1], {**last, "content": None}]

    return None


def _field(fields: Mapping[str, Any], place: str) -> tuple[str, str, dict[str, Any]] | None:
    name = next((name for name in TEXT_NAMES if name in fields), None)
    if name is None or isinstance(fields[name], dict):
        return None

    found = _within(fields[name], f"{place}.{name}")
    return None if found is None else (found[0], found[1], {**fields, name: found[2]})


def cosine(one: bytes, other: bytes) -> float:
    """Return the cosine of two vectors; -1 if their lengths differ."""
    a, b = memoryview(one).cast("f").tolist(), memoryview(other).cast("f").tolist()
    if len(a) != len(b):
        return -1.0

    dot: float = sum(map(mul, a, b))
    return min(1.0, dot / (math.hypot(*a) * math.hypot(*b)))
