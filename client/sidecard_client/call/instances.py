"""Tell apart instances that look different: two clients of a model, of one class and of two models.

Methods of instances that compare by identity share one key (`sidecard_client.keys.captured`). That is what workers want of the
clients that each of them makes, and a wrong answer if an attribute decides it. Once a process has called a method of two
instances that differ in a text, it warns, and the texts of an instance are part of the key.
"""

from contextlib import suppress
from enum import Enum
from types import MethodType
from typing import Any
from weakref import ref

from sidecard_client.call.options import Options
from sidecard_client.call.warn import warn_once
from sidecard_client.keys.identity import Identity, Instances
from sidecard_client.keys.stable_forms import compared_fields, slots_of


def texts_that_count(identity: Identity, method: MethodType, options: Options) -> dict[str, str] | None:
    """Return the texts of a method's instance if those of instances have differed, by name; else None."""
    instance, seen = method.__self__, identity.instances
    if not seen.differ and seen.latest is not None and seen.latest() is instance:
        return None

    if options.model is not None or isinstance(instance, type) or compared_fields(instance) is not None:
        return None

    texts = _texts_of(instance)
    if not seen.differ:
        name = next((name for name, text in texts.items() if seen.hashes.get(name, hash(text)) != hash(text)), None)
        _remember(seen, instance, texts)
        if name is None:
            return None

        seen.differ = True
        kind = type(instance).__qualname__
        warn_once(
            f"instances {identity.name}",
            f"{method.__qualname__}: instances differ in {name!r}, so this process does not share their answers from now on; one that "
            f"has a single instance does. Pass model= or name=, or let {kind} compare by value, as a dataclass does.",
            method,
        )

    return {f"self.{name}": text for name, text in texts.items()}


def _remember(seen: Instances, instance: Any, texts: dict[str, str]) -> None:
    """Keep neither the instance nor its texts."""
    seen.hashes = {name: hash(text) for name, text in texts.items()}
    seen.latest = None
    with suppress(TypeError):  # its class has no place for weak references
        seen.latest = ref(instance)


def _texts_of(instance: Any) -> dict[str, str]:
    """Return the texts of an instance, and its members of enumerations. Numbers and containers may just count."""
    return {
        name: value.name if isinstance(value, Enum) else str.__str__(value)
        for name, value in slots_of(instance).items()
        if isinstance(value, str | Enum)
    }
