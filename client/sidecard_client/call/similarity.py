"""Answers to similar requests: which text of a request is embedded, and how its vector and its group come about. Pure.

::

    with Client(embed=embed_text) as sidecard:          # text -> vector
        sidecard.call(llm.generate, "What is the capital of France?", task="faq")
        sidecard.call(llm.generate, "Which city is the capital of France?", task="faq")   # may have the same answer

The daemon decides whether: where ``[tasks.NAME] similar`` is not set, nothing of this happens but a flag in each request.

When
====
The embedder runs once per call, and only if the daemon asks for a vector: it has no answer to the request itself, nobody
makes the call, and the task looks for similar requests. It never runs for a hit, and never without the daemon.

What
====
The *text* is the first of these that there is:

1. of the first positional argument: itself, if it is a str; the ``content`` of its last element, if it is a list of messages
   and that is a str; of a dict, a field of `TEXT_NAMES`, by the same rules;
2. without positional arguments, the first of `TEXT_NAMES` that is a named argument, by the same rules.

Where it has no text, a call is shared by its key alone, and says so once. All the rest of the request, earlier messages
included, is the *group* (`keys.group_of`): nothing else may differ. Nor may the numbers in the text: embedding models hardly
see them, and "in 2023" must not be answered by "in 2024".

Vectors of two embedding models cannot be compared, so the embedder's name is part of the group as well: that of the function,
or of the dict's one key, ``embed={"all-MiniLM-L6-v2": model.encode}``. Two models of one class need the latter.

A failing embedder costs one warning and never the call, which goes on by its key alone.
"""

import inspect
import warnings
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final

from msgspec import Struct, structs

from sidecard_client.call.call import Call, key_name
from sidecard_client.call.keys import group_of, name_of
from sidecard_client.call.vectors import Brought, Embedding
from sidecard_client.protocol import wire
from sidecard_client.protocol.errors import SidecardWarning, UnkeyableRequest

TEXT_NAMES: Final = ("prompt", "messages", "question", "query", "input", "text")
"""Arguments, and fields of a request, that hold what is asked, in the order in which they are looked for."""

MAX_WARNED: Final = 1000
"""How many functions are remembered as warned of."""

_warned_of: set[str] = set()


class Text(Struct, frozen=True):
    """The text of a request, and the request without it."""

    text: str
    place: str
    args: tuple[Any, ...]
    kwargs: dict[str, Any]


def embedding_by(embedder: Any) -> Embedding:
    """Return what ``embed=`` says. Raises `TypeError` for what is none, and `UnkeyableRequest` for one without a name."""
    if isinstance(embedder, Mapping):
        if len(embedder) != 1:
            raise TypeError(f"embed= takes one embedder, as a function or {{name: function}}, not {len(embedder)}.")

        ((name, function),) = embedder.items()
        if isinstance(name, str) and name and callable(function):
            return Embedding(name, function)

    elif callable(embedder):
        try:
            return Embedding(name_of(embedder), embedder)
        except UnkeyableRequest:
            raise UnkeyableRequest(
                f"embed={embedder!r} has no stable name: name the model, as in embed={{'all-MiniLM-L6-v2': model.encode}}."
            ) from None

    raise TypeError(f"embed= must be callable (text to vector), or {{name: callable}}, not {type(embedder).__name__}.")


def packed(vector: Any) -> bytes:
    """Return a vector as it is sent. Raises `TypeError` and `ValueError` for what is none."""
    from array import array  # noqa: PLC0415 - for those who embed
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


def text_of(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Text | None:
    """Find the text that is embedded."""
    if args:
        found = _within(args[0], "args[0]")
        if found is None:
            return None

        text, place, rest = found
        return Text(text, place, (rest, *args[1:]), dict(kwargs))

    found = _field(kwargs, "kwargs")
    if found is None:
        return None

    text, place, rest = found
    return Text(text, place, (), rest)


def _within(value: Any, place: str) -> tuple[str, str, Any] | None:
    """Return the text in a value, where it stands, and the value with None in its place."""
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


def embedded(call: Call) -> Call:
    """Return the call with its vector, from an embedder that blocks; where there is none to be had, without."""
    question = _question(call)
    if question is None:
        return plain(call)

    embedding, text, group = question
    try:
        vector: Any = embedding.vector
        if embedding.function is not None:
            vector = embedding.function(text)

        asked = Brought(packed(vector), group)
    except Exception as error:  # noqa: BLE001 - the boundary to the user's embedder, which must not break the call
        return _without(call, embedding, error)
    else:
        return structs.replace(call, similar=asked)


async def embedded_by_async(call: Call, in_thread: Callable[[Callable[[], Any]], Awaitable[Any]]) -> Call:
    """As `embedded`, where the embedder may be asynchronous; one that is not runs ``in_thread``."""
    question = _question(call)
    if question is None:
        return plain(call)

    embedding, text, group = question
    function = embedding.function
    try:
        vector: Any = embedding.vector
        if function is not None:
            if inspect.iscoroutinefunction(function):
                vector = await function(text)
            else:
                vector = await in_thread(lambda: function(text))

        asked = Brought(packed(vector), group)
    except Exception as error:  # noqa: BLE001 - the boundary to the user's embedder, which must not break the call
        return _without(call, embedding, error)
    else:
        return structs.replace(call, similar=asked)


def plain(call: Call) -> Call:
    """Return the call as one that is shared by its key alone."""
    return structs.replace(call, similar=None)


def _question(call: Call) -> tuple[Embedding, str, str] | None:
    """Return what is to be embedded, by what, and the group; None, with a warning, for a request that has no such parts."""
    options = call.options
    embedding = options.embed
    assert embedding is not None  # noqa: S101 - only calls that have one are asked; for the type checker
    found = text_of(call.args, call.kwargs)
    name = getattr(call.functions[0], "__qualname__", type(call.functions[0]).__qualname__)
    if found is None:
        _warn_once(name, f"embed= finds no text in the arguments of {name} (see sidecard_client.call.similarity)")
        return None

    try:
        group = group_of(
            options.task,
            options.model,
            key_name(call),
            found.args,
            found.kwargs,
            options.ignore,
            found.place,
            found.text,
            embedding.name,
        )
    except UnkeyableRequest as error:
        _warn_once(name, f"embed= finds no group for {name}: {error}")
        return None

    return embedding, found.text, group


def _without(call: Call, embedding: Embedding, error: Exception) -> Call:
    _warn_once(f"{embedding.name}", f"embed= failed ({type(error).__name__}: {error})")
    return plain(call)


def _warn_once(name: str, message: str) -> None:
    if name not in _warned_of:
        if len(_warned_of) < MAX_WARNED:
            _warned_of.add(name)

        warnings.warn(f"{message}, so no similar request is looked for.", SidecardWarning, stacklevel=4)
