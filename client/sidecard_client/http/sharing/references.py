"""The objects that an object refers to, found without running any of its code."""

import functools
import sys
from collections import UserDict, UserList, deque
from collections.abc import Iterator
from threading import local
from types import CellType, FunctionType, MemberDescriptorType, MethodType, ModuleType, SimpleNamespace
from typing import Any, Final

_NOT_ENTERED: Final = frozenset(
    {
        "boto3", "botocore",
        "ddtrace", "langfuse", "langsmith", "logfire", "mlflow", "opentelemetry", "phoenix", "posthog", "sentry_sdk", "wandb",
        "sidecard_client",
    }
)  # fmt: skip
"""AWS's, whose clients have thousands of objects and no client of httpx. Monitoring, whose clients talk to no model. Our own."""


def referred_by(value: Any) -> Iterator[tuple[str, Any]]:
    """Yield the objects that ``value`` refers to, each with how it is reached, such as ``.client`` or ``[0]``.

    Attributes are those that an object holds, in its ``__dict__`` and its slots. Properties are not read, because foreign ones
    may have effects.
    """
    match value:
        case dict():
            yield from ((f"[{key!r:.40}]", one) for key, one in list(dict.items(value)))
        case list() | tuple() | set() | frozenset() | deque():
            yield from ((f"[{number}]", one) for number, one in enumerate(list(value)))
        case MethodType():
            yield ".__self__", value.__self__
            yield ".__func__", value.__func__
        case functools.partial():
            yield ".func", value.func
            yield ".args", value.args
            yield ".keywords", value.keywords
        case FunctionType():
            yield from _captured_by(value)
        case ModuleType():
            yield from ((f".{name}", one) for name, one in list(vars(value).items()) if _is_object(one))
        case SimpleNamespace() | local() | UserDict() | UserList():
            yield from ((f".{name}", one) for name, one in list(vars(value).items()))
        case _ if _is_entered(type(value)):
            yield from _attributes_of(value)


def is_plain(value: Any) -> bool:
    """Return whether a value refers to nothing of interest."""
    return value is None or isinstance(value, str | bytes | bytearray | int | float | complex | type | ModuleType)


def _captured_by(function: FunctionType) -> Iterator[tuple[str, Any]]:
    for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
        value = _content_of(cell)
        if value is not None:
            yield f".{name}", value

    wrapped = vars(function).get("__wrapped__")
    if wrapped is not None:
        yield ".__wrapped__", wrapped


def _content_of(cell: CellType) -> Any:
    try:
        return cell.cell_contents
    except ValueError:  # not set yet
        return None


def _attributes_of(value: Any) -> Iterator[tuple[str, Any]]:
    try:
        own = object.__getattribute__(value, "__dict__")
    except AttributeError:
        own = {}

    if isinstance(own, dict):
        yield from ((f".{name}", one) for name, one in list(own.items()))

    for kind in type(value).__mro__:
        for name, member in list(vars(kind).items()):
            if isinstance(member, MemberDescriptorType):
                try:
                    yield f".{name}", member.__get__(value, type(value))
                except AttributeError:  # a slot without a value
                    continue


def _is_entered(kind: type) -> bool:
    package = str(kind.__module__).partition(".")[0]
    return package not in sys.stdlib_module_names and package not in _NOT_ENTERED


def _is_object(value: Any) -> bool:
    return not is_plain(value) and not isinstance(value, FunctionType)
