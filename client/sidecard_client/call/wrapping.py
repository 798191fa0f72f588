"""What `cached` and `wrap` return: functions and objects whose calls are shared, for both clients.

``perform`` makes a `Call` and returns its value, or an awaitable of it.
"""

import functools
from collections.abc import Callable, Collection
from types import BuiltinMethodType, FunctionType, MethodType
from typing import Any

from msgspec import UNSET

from sidecard_client.call.call import Call, check_identity, prepare
from sidecard_client.call.options import Options

Perform = Callable[[Call], Any]

NEVER_SHARED = frozenset({"close", "aclose"})
"""Public methods that `wrap` passes through unless ``methods`` names them: each process must run them itself."""

_GENERATOR_FLAGS = 0x20 | 0x200
"""``inspect.CO_GENERATOR`` and ``CO_ASYNC_GENERATOR``."""

METHOD_TYPES = (MethodType, FunctionType, BuiltinMethodType)


class CachedFunction:
    """A function or method whose calls are shared. ``__wrapped__`` is the function itself."""

    def __init__(self, perform: Perform, function: Callable[..., Any], options: Options) -> None:
        _refuse_key(options)
        if options.key is UNSET:
            check_identity(
                function, options
            )  # a function without a stable name is an error here, not at its first call

        functools.update_wrapper(self, function)
        self._perform = perform
        self._function = function
        self._options = options
        self._stream = generates(function)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Return the function's value. It runs only if no stored or running call has the answer."""
        call = prepare(self._options, self._function, args, kwargs, stream=self._stream, policy_is_bound=True)
        return self._perform(call)

    def __get__(self, instance: object | None, owner: type | None = None) -> Any:
        """Bind to an instance like a function, so that ``self`` is not part of the key."""
        if instance is None:
            return self

        return _shared(self._perform, MethodType(self._function, instance), self._options)

    def __repr__(self) -> str:
        """Show the function."""
        return f"<cached {self._function!r}>"


class SharedMethods:
    """A proxy of an object whose public methods are shared; everything else passes through."""

    __slots__ = ("_sidecard_methods", "_sidecard_options", "_sidecard_perform", "_sidecard_target")

    def __init__(self, perform: Perform, target: object, options: Options, methods: Collection[str] | None) -> None:
        _refuse_key(options)
        if isinstance(methods, str):
            raise TypeError(f"methods= must be a list of names, such as methods=[{methods!r}].")

        for name in methods or ():
            if not callable(getattr(target, name)):
                raise TypeError(f"methods= names {name!r}, which is not callable.")

        object.__setattr__(self, "_sidecard_perform", perform)
        object.__setattr__(self, "_sidecard_target", target)
        object.__setattr__(self, "_sidecard_options", options)
        object.__setattr__(self, "_sidecard_methods", None if methods is None else frozenset(methods))

    def __getattr__(self, name: str) -> Any:
        """Return the target's attribute, shared if it is one of the methods."""
        attribute = getattr(self._sidecard_target, name)
        methods = self._sidecard_methods
        if methods is None:
            if name.startswith("_") or name in NEVER_SHARED or not isinstance(attribute, METHOD_TYPES):
                return attribute
        elif name not in methods:
            return attribute

        options = self._sidecard_options
        if options.name is not None:  # it names the object; its methods must not answer for each other
            options = options.changed({"name": f"{options.name}.{name}"})

        return _shared(self._sidecard_perform, attribute, options)

    def __setattr__(self, name: str, value: object) -> None:
        """Set the target's attribute."""
        setattr(self._sidecard_target, name, value)

    def __delattr__(self, name: str) -> None:
        """Delete the target's attribute."""
        delattr(self._sidecard_target, name)

    def __dir__(self) -> list[str]:
        """List the target's attributes."""
        return dir(self._sidecard_target)

    def __repr__(self) -> str:
        """Show the target."""
        return f"<shared {self._sidecard_target!r}>"


def generates(function: Callable[..., Any]) -> bool:
    """Return whether a function or method is a generator function, asynchronous or not: its answer is a stream.

    Without ``inspect``, which takes longer to import than the rest of the client.
    """
    plain = getattr(function, "__func__", function)
    while isinstance(plain, functools.partial):
        plain = plain.func

    code = getattr(plain, "__code__", None)
    return code is not None and bool(code.co_flags & _GENERATOR_FLAGS)


def _refuse_key(options: Options) -> None:
    if options.embed is not None and options.embed.vector is not None:
        raise TypeError("vector= is for one call: here it would be the vector of all arguments. Use embed=.")

    if isinstance(options.key, str):
        raise TypeError("key= is for one call: here all arguments would share one answer. Use name=.")


def _shared(perform: Perform, function: Callable[..., Any], options: Options) -> Callable[..., Any]:
    stream = generates(function)

    def shared(*args: Any, **kwargs: Any) -> Any:
        return perform(prepare(options, function, args, kwargs, stream=stream, policy_is_bound=True))

    return functools.update_wrapper(shared, function)
