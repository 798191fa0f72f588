"""Warn of instances that share answers although they look different: two clients of a model, of one class and of two models.

Methods of instances that compare by identity share one key (`sidecard_client.keys.captured`). That is what workers want of the
clients that each of them makes, and a wrong answer if an attribute decides it.
"""

from enum import Enum
from types import MethodType
from typing import Any
from weakref import ref

from sidecard_client.call.options import Options
from sidecard_client.call.warn import warn_once
from sidecard_client.keys.identity import Identity
from sidecard_client.keys.stable_forms import slots_of


def notice_instance(identity: Identity, method: MethodType, options: Options) -> None:
    """Remember the instance of a call, and warn once per method if a text of it differs from that of the call before."""
    instance, latest = method.__self__, identity.latest_instance
    other = None if latest is None else latest()
    if other is instance or options.model is not None or isinstance(instance, type):
        return

    try:
        identity.latest_instance = ref(instance)
    except TypeError:  # its class has no place for weak references
        return

    name = None if other is None else _differing(instance, other)
    if name is not None:
        warn_once(
            f"instances {identity.name}",
            f"{method.__qualname__}: two instances share answers, and differ in {name!r}. If it changes the answer, pass model= or "
            f"name=, or let {type(instance).__qualname__} compare by value, as a dataclass does; if not, name= too ends this "
            "warning.",
            method,
        )


def _differing(one: Any, other: Any) -> str | None:
    """Return the name of a text, or of a member of an enumeration, that differs. Numbers and containers may just count."""
    mine, others = slots_of(one), slots_of(other)
    for name, value in mine.items():
        if isinstance(value, str | Enum) and isinstance(others.get(name), str | Enum) and value != others[name]:
            return name

    return None
