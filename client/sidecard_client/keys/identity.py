"""What a key needs to know of a function: its name, what it holds, and its signature. Kept for the functions called most."""

from collections.abc import Callable, Mapping
from functools import partial
from types import FunctionType, MethodType
from typing import Any, Final

from sidecard_client.keys.binding import Bound, signature_of
from sidecard_client.keys.captured import captured_by
from sidecard_client.keys.naming import name_of
from sidecard_client.protocol.errors import UnkeyableRequest
from sidecard_client.values.codec import ValueCodec, annotated_codec

MAX_KEPT: Final = 1024
"""Functions without closures, which live as long as their modules."""


class Identity:
    """A function, as it is identified in keys."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self._function = function
        self._args: tuple[Any, ...] = ()
        self._kwargs: dict[str, Any] = {}
        while isinstance(function, partial):
            # A partial is its function, called with more arguments.
            self._args = function.args + self._args
            self._kwargs = {**function.keywords, **self._kwargs}
            function = function.func

        self._signature = signature_of(function)
        self._bare = function
        self._codecs: dict[bool, ValueCodec | None] = {}
        try:
            self._name: str | UnkeyableRequest = name_of(function)
        except UnkeyableRequest as error:
            self._name = error

    @property
    def name(self) -> str:
        """The function's name. Raises `UnkeyableRequest` if it has no stable one."""
        if isinstance(self._name, str):
            return self._name

        raise UnkeyableRequest(str(self._name))

    def captured(self) -> dict[str, Any] | None:
        """Return what the function holds, as `captured_by` does."""
        return captured_by(self._function)

    def codec(self, *, stream: bool) -> ValueCodec | None:
        """Return what brings back the type in the function's annotation, of its answers or of its stream's pieces."""
        try:
            return self._codecs[stream]
        except KeyError:
            codec = self._codecs[stream] = annotated_codec(self._bare, stream=stream)
            return codec

    def bind(self, args: tuple[Any, ...], kwargs: Mapping[str, Any], ignore: tuple[str, ...]) -> Bound:
        """Return the arguments of a call as they enter its key."""
        if self._args or self._kwargs:
            args, kwargs = self._args + args, {**self._kwargs, **kwargs}

        return (args, kwargs) if self._signature is None else self._signature.bind(args, kwargs, ignore)


class _Plain(Identity):
    """A function that holds nothing."""

    def captured(self) -> None:
        """Return None."""


_kept: dict[Any, Identity] = {}


def identity_of(function: Callable[..., Any]) -> Identity:
    """Identify a function."""
    if type(function) is FunctionType:
        place: Any = function
        closure = function.__closure__
    elif type(function) is MethodType:
        bound_to, plain = function.__self__, function.__func__
        place = (bound_to if isinstance(bound_to, type) else type(bound_to), plain)
        closure = getattr(plain, "__closure__", place)
    else:
        return Identity(function)

    if closure is not None:
        return Identity(function)

    identity = _kept.get(place)
    if identity is None:
        if len(_kept) >= MAX_KEPT:
            _kept.clear()

        identity = _kept[place] = _Plain(function)

    return identity
