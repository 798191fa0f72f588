"""What a function holds besides its arguments: the variables that a closure captures, and the attributes of a callable object.

They are part of the key, by their values at the time of the call: two functions that differ by them alone answer differently.

The instance of a bound method is not: two model clients of one class share, unless ``name=`` or ``model=`` tells them apart. Nor
are global variables, nor what is called from within.
"""

from collections.abc import Callable
from functools import partial
from types import BuiltinFunctionType, FunctionType, ModuleType
from typing import Any, Final

from sidecard_client.keys.naming import name_of
from sidecard_client.protocol.errors import UnkeyableRequest

MAX_CAPTURED: Final = 64
"""Functions and containers within each other: a function that captures a list with a function that captures another one."""

_SCALARS: Final = frozenset({str, bytes, bytearray, int, float, bool, type(None)})

_HINT: Final = "give the function a name with name=, the same in every process and for this state alone"


class StandIn:
    """Something of sidecard's own that stands for ``function``: in keys, it is that function and what it holds."""

    __slots__ = ("function",)

    function: Callable[..., Any]


def captured_by(function: Callable[..., Any]) -> dict[str, Any] | None:
    """Return what a function holds, by name; None for most functions, which hold nothing.

    Raises `UnkeyableRequest` for a value without a stable form.
    """
    if type(function) is FunctionType and function.__closure__ is None:
        return None

    return _held_by(function, ()) or None


def _held_by(function: Any, around: tuple[Any, ...]) -> dict[str, Any]:
    while isinstance(function, partial):
        function = function.func

    function = getattr(function, "__func__", function)
    if type(function) is FunctionType:
        return _variables_of(function, (*around, function))

    if isinstance(function, StandIn):
        return {"function": _form_of(function, "", around)}

    wrapped = getattr(function, "__wrapped__", None)
    if wrapped is not None:
        # `functools.lru_cache` and its like.
        return _held_by(wrapped, around)

    if isinstance(function, type) or hasattr(function, "__qualname__"):
        return {}

    return _attributes_of(function, (*around, function))


def _variables_of(function: FunctionType, around: tuple[Any, ...]) -> dict[str, Any]:
    held: dict[str, Any] = {}
    for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
        try:
            value = cell.cell_contents
        except ValueError:
            continue  # not assigned yet

        held[name] = _form_of(value, f"{name!r} of {function.__qualname__}", around)

    return held


def _attributes_of(instance: Any, around: tuple[Any, ...]) -> dict[str, Any]:
    kind = type(instance)
    slots = [name for base in kind.__mro__ for name in _slots_of(base) if hasattr(instance, name)]
    if not slots and not hasattr(instance, "__dict__") and type(kind.__call__) is not FunctionType:
        raise UnkeyableRequest(f"The state of {instance!r} cannot be read: {_HINT}.")

    attributes = {name: getattr(instance, name) for name in slots} | getattr(instance, "__dict__", {})
    return {name: _form_of(value, f"{name!r} of a {kind.__qualname__}", around) for name, value in attributes.items()}


def _slots_of(base: type) -> tuple[str, ...]:
    slots = vars(base).get("__slots__", ())
    return (slots,) if isinstance(slots, str) else tuple(slots)


def _form_of(value: Any, place: str, around: tuple[Any, ...]) -> Any:
    """Return the stable form of a value."""
    kind = type(value)
    if kind in _SCALARS:
        return value

    if isinstance(value, ModuleType | type):
        return {"module": value.__name__} if isinstance(value, ModuleType) else {"class": name_of(value)}

    if any(value is one for one in around):
        return {"recursion": True}

    if len(around) < MAX_CAPTURED:
        within = (*around, value)
        if kind in {list, tuple}:
            return [_form_of(item, f"{place}[{index}]", within) for index, item in enumerate(value)]

        if kind is dict:
            return {name: _form_of(item, f"{place}[{name!r}]", within) for name, item in value.items()}

        if isinstance(value, partial):
            bound = _form_of([list(value.args), value.keywords], place, within)
            return {"function": name_of(value), "captured": _held_by(value, around), "bound": bound}

        if isinstance(value, StandIn):
            return _form_of(value.function, place, within)

        method = isinstance(value, BuiltinFunctionType) and not isinstance(value.__self__, ModuleType | type(None))
        if isinstance(value, FunctionType | BuiltinFunctionType) and not method:
            return {"function": name_of(value), "captured": _held_by(value, around)}

    raise UnkeyableRequest(
        f"{place} is a {kind.__module__}.{kind.__qualname__}, which has no stable form: {_HINT}, or pass it as an argument."
    )
