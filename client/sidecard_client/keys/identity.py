"""What a key needs to know of a function: its name, whether it holds state, its signature. Kept for functions in use."""

from collections.abc import Callable, Mapping
from functools import partial
from types import FunctionType, MethodType
from typing import Any, Final
from weakref import WeakKeyDictionary

from sidecard_client.keys.binding import Bind, Bound, as_written, signature_of
from sidecard_client.keys.naming import name_of
from sidecard_client.protocol.errors import UnkeyableRequest
from sidecard_client.values.annotations import Part
from sidecard_client.values.codec import ValueCodec, annotated_codec

MAX_KEPT: Final = 1024
"""Functions of modules and classes, which live as long as the program."""


class Identity:
    """A function, as it is identified in keys. It does not refer to the function."""

    __slots__ = ("__weakref__", "bind", "codecs", "holds_state", "name", "problem", "source")

    bind: Bind
    """Returns the arguments of a call as they enter its key."""

    def __init__(self, function: Callable[..., Any], *, holds_state: bool) -> None:
        args: tuple[Any, ...] = ()
        keywords: dict[str, Any] = {}
        bare = function
        while isinstance(bare, partial):
            # A partial is its function, called with more arguments.
            args, keywords, bare = bare.args + args, {**bare.keywords, **keywords}, bare.func

        signature = signature_of(bare)
        self.bind = as_written if signature is None else signature.bind
        if args or keywords:
            self.bind = _bind_partial(args, keywords, self.bind)

        self.holds_state = holds_state
        """Whether `captured_by` must be asked."""
        self.source = _source_of(bare)
        self.codecs: dict[Part, ValueCodec | None] = {}
        """What brings back the type in the annotation, of a part of the answer, once it was read."""
        self.name: str | None = None
        self.problem = ""
        """Why there is no name."""
        try:
            self.name = name_of(bare)
        except UnkeyableRequest as error:
            self.problem = str(error)  # not the error: its traceback refers to the caller's frames

    def read_codec(self, function: Callable[..., Any], part: Part) -> ValueCodec | None:
        """Return what brings back the type in the function's annotation, and remember it."""
        while isinstance(function, partial):
            function = function.func

        codec = self.codecs[part] = annotated_codec(function, part)
        return codec


_kept: dict[Any, Identity] = {}
_kept_while_used: "WeakKeyDictionary[FunctionType, Identity]" = WeakKeyDictionary()
"""Of functions that were defined in a function."""


def identity_of(function: Callable[..., Any]) -> Identity:
    """Identify a function."""
    place: Any = function
    plain: Any = function
    if type(function) is MethodType:
        bound_to, plain = function.__self__, function.__func__
        place = (bound_to if isinstance(bound_to, type) else type(bound_to), plain)

    if type(plain) is not FunctionType:
        return Identity(function, holds_state=True)

    if plain.__closure__ is not None:
        return _identity_of_local(function, plain)

    identity = _kept.get(place)
    if identity is None or identity.source[1] is not plain.__defaults__ or identity.source[0] is not plain.__code__:
        if len(_kept) >= MAX_KEPT:
            _kept.clear()

        identity = _kept[place] = Identity(function, holds_state=False)

    return identity


def _identity_of_local(function: Callable[..., Any], plain: FunctionType) -> Identity:
    """Identify a function with a closure, or a method that is one."""
    if function is not plain:
        return Identity(function, holds_state=True)

    identity = _kept_while_used.get(plain)
    if identity is None or identity.source != _source_of(plain):
        identity = _kept_while_used[plain] = Identity(function, holds_state=True)

    return identity


def _source_of(function: Any) -> tuple[Any, Any]:
    """Return what a program may replace in a function, with another answer: its code and its defaults."""
    plain = function.__func__ if type(function) is MethodType else function
    return (plain.__code__, plain.__defaults__) if type(plain) is FunctionType else (None, None)


def _bind_partial(args: tuple[Any, ...], keywords: Mapping[str, Any], bind: Bind) -> Bind:
    def bind_all(more: tuple[Any, ...], others: Mapping[str, Any], ignore: tuple[str, ...]) -> Bound:
        return bind(args + more, {**keywords, **others}, ignore)

    return bind_all
