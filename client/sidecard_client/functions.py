"""What a callable is made of, without running any of its code: proxies answer every ``getattr`` with another proxy."""

import sys
from collections.abc import Callable
from contextlib import suppress
from functools import lru_cache, partial
from types import FunctionType, MethodType
from typing import Any, Final

MAX_WRAPPED: Final = 64
"""Decorators around each other that are looked through."""

CACHE_TYPE: Final = type(lru_cache(lambda: None))
"""Of functions cached by the standard library, which pass their arguments on as they are."""


class StandIn:
    """An object of sidecard that represents ``function``: in keys, it counts as that function and what it holds."""

    __slots__ = ("function",)

    function: Callable[..., Any]


def bare(function: Any) -> Any:
    """Return the function of a partial."""
    while isinstance(function, partial):
        function = function.func

    return function


def plain(function: Any) -> Any:
    """Return the function of a method."""
    return function.__func__ if isinstance(function, MethodType) else function


def wrapped_by(function: Any) -> Any:
    """Return what a decorator's result wraps, as `functools.wraps` says; None if it wraps nothing."""
    if type(function) is FunctionType:
        return function.__dict__.get("__wrapped__")

    if isinstance(function, type):
        return None

    attributes = _attributes_of(function)
    if "__wrapped__" in attributes:
        return attributes["__wrapped__"]

    return attribute(function, "__wrapped__") if hasattr(type(function), "__wrapped__") else None


def chain_of(function: Any) -> list[Any]:
    """Return a function, and what it wraps, from outside to inside."""
    chain: list[Any] = []
    while function is not None and len(chain) < MAX_WRAPPED:
        chain.append(function)
        function = wrapped_by(plain(function))

    return chain


def attribute(function: Any, name: str) -> Any:
    """Return an attribute; None if there is none, or if an object's own code raises for it."""
    with suppress(Exception):
        return getattr(function, name, None)

    return None


def text_attribute(function: Any, name: str) -> str | None:
    """Return an attribute that is text."""
    value = attribute(function, name)
    return value if isinstance(value, str) else None


def call_of(instance: object) -> tuple[Any, bool]:
    """Return the function that runs when an object is called, and whether it takes the object first."""
    for kind in type(instance).__mro__:
        call = kind.__dict__.get("__call__")
        if isinstance(call, staticmethod):
            return call.__func__, False

        if call is not None:
            return call, isinstance(call, FunctionType)

    return None, False


def variables_of(function: FunctionType) -> dict[str, Any]:
    """Return the variables of the module in a function's ``__module__``; a wrapper has that of its function."""
    if function.__globals__.get("__name__") == function.__module__:
        return function.__globals__

    module = sys.modules.get(function.__module__)
    return {} if module is None else vars(module)


def defined_as(name: str, variables: dict[str, Any]) -> Any:
    """Return what a qualified name means in a module; None if it means nothing there."""
    first, *rest = name.split(".")
    found = variables.get(first)
    for part in rest:
        if not isinstance(found, type):
            return None

        found = next((kind.__dict__[part] for kind in found.__mro__ if part in kind.__dict__), None)

    return found


def attribute_name(slot: str, kind: type) -> str:
    """Return the name of the attribute for a slot of a class: names with two underscores are private to their class."""
    private = slot.startswith("__") and not slot.endswith("__")
    return f"_{kind.__name__.lstrip('_')}{slot}" if private else slot


def is_named_alone(kind: type) -> bool:
    """Return whether a class is what its name means in its module: others may have the same name otherwise."""
    module = sys.modules.get(kind.__module__)
    return module is not None and defined_as(kind.__qualname__, vars(module)) is kind


def is_defined_as(function: Callable[..., Any], definition: Any) -> bool:
    """Return whether a definition is a function, or decorates it."""
    if isinstance(definition, staticmethod | classmethod):
        definition = definition.__func__

    return any(plain(one) is function for one in chain_of(definition))


def _attributes_of(instance: Any) -> dict[str, Any]:
    try:
        attributes = object.__getattribute__(instance, "__dict__")
    except AttributeError:
        return {}

    return attributes if isinstance(attributes, dict) else {}
