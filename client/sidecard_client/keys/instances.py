"""Texts of a method's instance: they distinguish two clients of one class and two models.

An instance that compares by identity holds connections, locks and counters beside its configuration, and workers want to share the
answers of the instances that each of them makes. So of its attributes those count that are texts or members of an enum, by their values
at the time of the call. Numbers and containers are left out: they may be mere counters.
"""

from collections.abc import Callable
from enum import Enum
from functools import cached_property
from types import MethodType
from typing import Any, Final

from sidecard_client.keys.stable_forms import attributes_of, compared_fields, has_slots

ReadTexts = Callable[[Any], dict[str, str]]

_TEXTS: Final = (str, Enum)
_PLAIN: Final = frozenset({bool, int, float, bytes, type(None), list, tuple, dict, set, frozenset})
"""Types of attributes that are no texts."""


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
    return _texts_among(type(instance), dict(getattr(instance, "__dict__", ())))


def _texts_of_slots(instance: Any) -> dict[str, str]:
    return _texts_among(type(instance), attributes_of(instance))


def _texts_among(kind: type, attributes: dict[str, Any]) -> dict[str, str]:
    texts: dict[str, str] = {}
    for name, value in attributes.items():
        # Asking whether a plain value is a member of an enum takes longer than all the rest.
        if type(value) in _PLAIN or not isinstance(value, _TEXTS):
            continue

        # A cached property is computed of the others, once somebody reads it.
        if not isinstance(getattr(kind, name, None), cached_property):
            text = f"{type(value).__qualname__}.{value.name}" if isinstance(value, Enum) else str.__str__(value)
            texts[f"self.{name}"] = text

    return texts
