"""Give a call its vector: find the text, run the embedder, name the group of requests to search."""

import inspect
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from msgspec import structs

from sidecard_client.call.call import Call
from sidecard_client.call.keying import key_parts
from sidecard_client.call.warn import name_of_function, place_of, warn_once
from sidecard_client.keys.fingerprint import NO_EXTRAS, group_of
from sidecard_client.keys.guard.signature import signature_of
from sidecard_client.keys.similarity import packed, text_of
from sidecard_client.keys.vectors import Embedding, FoundText, QueryVector
from sidecard_client.protocol.errors import UnkeyableRequest


def embedded(call: Call) -> Call:
    """Return the call with its vector, from an embedder that blocks; without a vector if that fails."""
    question = _question(call)
    if question is None:
        return plain(call)

    embedding, text, group = question
    try:
        vector: Any = embedding.vector
        if embedding.function is not None:
            vector = embedding.function(text)

        asked = QueryVector(packed(vector), group, signature_of(text, group))
    except Exception as error:  # noqa: BLE001 - the boundary to the user's embedder, which must not break the call
        return _without(call, embedding, error)
    else:
        return structs.replace(call, similar=asked)


async def embedded_by_async(call: Call, in_thread: Callable[[Callable[[], Any]], Awaitable[Any]]) -> Call:
    """Like `embedded`, for an embedder that may be asynchronous. A plain one runs ``in_thread``."""
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

        asked = QueryVector(packed(vector), group, signature_of(text, group))
    except Exception as error:  # noqa: BLE001 - the boundary to the user's embedder, which must not break the call
        return _without(call, embedding, error)
    else:
        return structs.replace(call, similar=asked)


def plain(call: Call) -> Call:
    """Return the call without similarity: shared by its key alone."""
    return structs.replace(call, similar=None)


def _question(call: Call) -> tuple[Embedding, str, str] | None:
    """Return embedding, text and group; None, with a warning, for a request without text or group."""
    options = call.options
    embedding = options.embed
    assert embedding is not None  # noqa: S101 - only calls that have one are asked; for the type checker
    function = call.functions[0]
    name, place = name_of_function(function), place_of(function)
    try:
        found = _named_text(call, embedding)
        if found is None:
            if embedding.find is None:
                problem = f"embed= finds no text in the arguments of {name} (see sidecard_client.keys.similarity)"
                _warn(place, problem, function)

            return None

        key_name, text, extras = found
        group = group_of(
            options.task,
            options.model,
            key_name,
            text.args,
            text.kwargs,
            options.ignore,
            text.place,
            text.text,
            embedding.name,
            extras,
        )
    except UnkeyableRequest as error:
        _warn(place, f"embed= finds no group for {name}: {error}", function)
        return None

    return embedding, text.text, group


def _named_text(call: Call, embedding: Embedding) -> tuple[str, FoundText, Mapping[str, Any]] | None:
    """Return the name in the key, the text, and the key's extras. Raises `UnkeyableRequest`."""
    if embedding.find is not None:
        named = embedding.find()
        return None if named is None else (*named, NO_EXTRAS)

    key_name, args, kwargs, extras = key_parts(call)
    found = text_of(args, kwargs)
    return None if found is None else (key_name, found, extras)


def _without(call: Call, embedding: Embedding, error: Exception) -> Call:
    function = call.functions[0]
    problem = f"embed= failed ({type(error).__name__}: {error}) for {name_of_function(function)}"
    _warn(f"{embedding.name}", problem, function)
    return plain(call)


def _warn(subject: str, message: str, function: Callable[..., Any]) -> None:
    warn_once(f"embed {subject}", f"{message}, so the call is not compared with similar requests.", function)
