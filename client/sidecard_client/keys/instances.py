"""Texts of a method's instance: they distinguish two clients of one class and two models.

An instance that compares by identity holds connections, locks and counters beside its configuration, and workers want to share the
answers of the instances that each of them makes. So of its attributes those count that are texts or members of an enum, by their values
at the time of the call. Numbers and containers are left out: they may be mere counters.
"""

from collections.abc import Callable, Iterable
from enum import Enum
from functools import cached_property
from types import MethodType
from typing import Any

from sidecard_client.keys.stable_forms import attributes_of, compared_fields, has_slots

ReadTexts = Callable[[Any], dict[str, str]]


def texts_reader(function: Callable[..., Any]) -> ReadTexts | None:
    """Return what reads the texts of a method's instances; None for what has no such instance."""
    if type(function) is not MethodType:
        return None

    instance = function.__self__
    if isinstance(instance, type) or compared_fields(instance) is not None:
        return None

    return _texts_of_slots if has_slots(type(instance)) else _texts_of_attributes


def _texts_of_attributes(instance: Any) -> dict[str, str]:
    # A copy, since another thread may add an attribute.
    return _texts_among(type(instance), dict(getattr(instance, "__dict__", ())).items())


def _texts_of_slots(instance: Any) -> dict[str, str]:
    return _texts_among(type(instance), attributes_of(instance).items())


def _texts_among(kind: type, attributes: Iterable[tuple[str, Any]]) -> dict[str, str]:
    return {
        f"self.{name}": f"{type(value).__qualname__}.{value.name}" if isinstance(value, Enum) else str.__str__(value)
        for name, value in attributes
        # A cached property is computed of the others, once somebody reads it.
        if isinstance(value, str | Enum) and not isinstance(getattr(kind, name, None), cached_property)
    }
