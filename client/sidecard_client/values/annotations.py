"""Which type a function's answers have, by ``returns=`` or its annotation."""

import types
import typing
from collections.abc import (
    AsyncGenerator,
    AsyncIterable,
    AsyncIterator,
    Awaitable,
    Callable,
    Coroutine,
    Generator,
    Iterable,
    Iterator,
)
from types import FunctionType, MethodType
from typing import Any, Final, Literal, TypeVar, Union

_PLAIN: Final[frozenset[Any]] = frozenset(
    {str, int, float, bool, bytes, None, type(None), Any, object, list, dict, typing.List, typing.Dict}  # noqa: UP006 - as apps may still write
)
_PLAIN_ORIGINS: Final[frozenset[Any]] = frozenset({list, dict, Union, types.UnionType})

_STREAMS: Final[frozenset[Any]] = frozenset(
    {AsyncGenerator, AsyncIterable, AsyncIterator, Generator, Iterable, Iterator}
)
_AWAITABLES: Final[frozenset[Any]] = frozenset({Awaitable, Coroutine})


def annotation_of(function: Callable[..., Any], *, stream: bool) -> Any:
    """Return the type of a function's answers, or of its stream's pieces; None if it is not known or plain msgpack has it."""
    plain: Any = function.__func__ if isinstance(function, MethodType) else function
    while (wrapped := getattr(plain, "__wrapped__", None)) is not None:
        plain = wrapped

    if not isinstance(plain, FunctionType):
        plain = getattr(type(function), "__call__", None)  # noqa: B004 - its signature, not whether there is one
        if not isinstance(plain, FunctionType):
            return None

    annotation = plain.__annotations__.get("return")
    if annotation is None:
        return None

    annotation = _resolved(annotation, plain)
    if annotation is None:
        return None

    origin = typing.get_origin(annotation)
    parameters = typing.get_args(annotation)
    if origin in _AWAITABLES and parameters:
        # A function that returns an awaitable without being a coroutine function.
        annotation = parameters[-1]
        origin, parameters = typing.get_origin(annotation), typing.get_args(annotation)

    if stream:
        if origin not in _STREAMS or not parameters:
            return None

        annotation = parameters[0]

    return None if is_plain(annotation) else annotation


def is_plain(annotation: Any) -> bool:
    """Return whether all values of a type come back from msgpack as they are, or nothing is known of them."""
    try:
        if annotation in _PLAIN:
            return True
    except TypeError:
        return False

    if isinstance(annotation, TypeVar):
        return True

    origin = typing.get_origin(annotation)
    if origin is Literal:
        return all(type(word) in {str, bytes, int, bool, type(None)} for word in typing.get_args(annotation))

    return origin in _PLAIN_ORIGINS and all(map(is_plain, typing.get_args(annotation)))


def _resolved(annotation: Any, function: FunctionType) -> Any:
    """Resolve names in a text or within a type; None if they are not defined where the function is."""
    if isinstance(annotation, type) and not typing.get_args(annotation):
        return annotation

    holder = types.SimpleNamespace(__annotations__={"return": annotation})
    try:
        return typing.get_type_hints(holder, function.__globals__, include_extras=True).get("return")
    except (NameError, TypeError, AttributeError, SyntaxError):
        return None
