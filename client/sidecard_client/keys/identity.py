"""What a key needs to know of a function: its name, whether it holds state, its signature. Kept for functions in use."""

from collections.abc import Callable, Mapping, MutableMapping
from contextlib import suppress
from functools import partial
from types import FunctionType, MethodType
from typing import TYPE_CHECKING, Any, Final, TypeVar
from weakref import WeakKeyDictionary

from sidecard_client.functions import bare, plain, text_attribute, wrapped_by
from sidecard_client.keys.binding import Bind, Bound, Signature, as_written, signature_of
from sidecard_client.keys.captured import may_hold_state
from sidecard_client.keys.instances import texts_reader
from sidecard_client.keys.naming import LOCAL, name_of
from sidecard_client.protocol.errors import UnkeyableRequest
from sidecard_client.values.annotations import Part
from sidecard_client.values.codec import ValueCodec, annotated_codec

if TYPE_CHECKING:
    from sidecard_client.keys.fingerprint import KeyTemplate

MAX_KEPT: Final = 1024
"""Limit of the identities in a table."""

Table = TypeVar("Table", bound=MutableMapping[Any, Any])


class Identity:
    """A function, as it is identified in keys. It does not refer to the function."""

    __slots__ = (
        "__weakref__",
        "bind",
        "bind_call",
        "codecs",
        "holds",
        "holds_state",
        "name",
        "signature",
        "source",
        "template",
        "texts_of",
        "written_as_keyed",
    )

    bind: Bind
    """Returns the arguments of a call as they enter its key."""
    bind_call: Bind
    """Like `bind`, without the arguments of a partial."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self.signature = signature_of(function)
        self.bind = self.bind_call = as_written if self.signature is None else self.signature.bind
        self.written_as_keyed = -1 if self.signature is None else self.signature.written_as_keyed
        self.holds_state = may_hold_state(function)
        """Whether `captured_by` must be asked."""
        code = plain(function)
        self.source = (
            (code.__code__, code.__defaults__, code.__kwdefaults__)
            if type(code) is FunctionType
            else (None, None, None)
        )
        """What a program may replace in a function, with another answer: its code and its defaults."""
        self.codecs: dict[Part, ValueCodec | None] = {}
        """Codecs of the annotation, by part of the answer, once it was read."""
        self.name: str | None = None
        """Once it was found: a decorator runs before its function has its place in the module."""
        self.texts_of = texts_reader(function)
        """Returns those of a method's instance that count, by name; None if none do."""
        self.holds = self.holds_state or self.texts_of is not None
        """Whether the function has state or texts that `held_by` reads."""
        self.template: KeyTemplate | None = None
        """For the task and the model of the latest call that used a template."""

    def is_of(self, function: FunctionType) -> bool:
        """Return whether nothing was replaced in the function."""
        code, defaults, named_defaults = self.source
        return (
            code is function.__code__
            and defaults is function.__defaults__
            and named_defaults is function.__kwdefaults__
        )

    def of_partial(self, args: tuple[Any, ...], keywords: dict[str, Any]) -> "Identity":
        """Return the identity of a partial of the function, which is the function, called with more arguments."""
        partly = Identity.__new__(Identity)
        partly.signature = signature = self.signature
        partly.bind, partly.bind_call = _bind_partial(args, keywords, self.bind), self.bind
        if signature is not None:
            partly.bind_call = _bind_rest(signature.without_first(len(args)), frozenset(keywords))

        partly.written_as_keyed = -1
        partly.template, partly.holds = None, self.holds
        partly.holds_state, partly.texts_of, partly.source, partly.codecs, partly.name = (
            self.holds_state,
            self.texts_of,
            self.source,
            self.codecs,
            self.name,
        )
        return partly

    def find_name(self, function: Callable[..., Any]) -> str:
        """Return the function's name, and remember it. Raises `UnkeyableRequest` if it has no stable one."""
        name = self.name = name_of(function)
        return name

    def read_codec(self, function: Callable[..., Any], part: Part) -> ValueCodec | None:
        """Return the codec of the function's annotation, and remember it."""
        codec = self.codecs[part] = annotated_codec(bare(function), part)
        return codec


_kept: dict[Any, Identity] = {}
"""Of functions of modules and classes, which live as long as the program."""
_kept_while_used: "WeakKeyDictionary[FunctionType | type, Identity]" = WeakKeyDictionary()
"""Of functions that were defined in a function, and of classes of callable objects."""
_methods: "WeakKeyDictionary[type, WeakKeyDictionary[FunctionType, Identity]]" = WeakKeyDictionary()
"""Of methods of classes that were defined in a function."""


def identity_of(function: Callable[..., Any]) -> Identity:
    """Identify a function."""
    place: Any = function
    code: Any = function
    if type(function) is MethodType:
        bound_to, code = function.__self__, function.__func__
        place = (bound_to if isinstance(bound_to, type) else type(bound_to), code)

    if type(code) is not FunctionType:
        return _identity_of_partial(function) if isinstance(function, partial) else _identity_of_object(function)

    if code.__closure__ is not None and code is function:
        return _identity_while_used(_kept_while_used, code, function)

    identity = _kept.get(place)
    if (
        identity is None  # else as `is_of`, whose call a hit is spared
        or identity.source[0] is not code.__code__
        or identity.source[1] is not code.__defaults__
        or identity.source[2] is not code.__kwdefaults__
    ):
        owner: Any = code if code is function else place[0]
        if LOCAL in owner.__qualname__:
            table = _kept_while_used if owner is code else _room_in(_methods).setdefault(owner, WeakKeyDictionary())
            return _identity_while_used(table, code, function)

        identity = _room_in(_kept)[place] = Identity(function)

    return identity


def _identity_while_used(
    table: "WeakKeyDictionary[Any, Identity]", code: FunctionType, function: Callable[..., Any]
) -> Identity:
    identity = table.get(code)
    if identity is None or not identity.is_of(code):
        identity = _room_in(table)[code] = Identity(function)

    return identity


def _room_in(table: Table) -> Table:
    """Clear a full table. What it has of a function may refer to that, so weak references alone do not bound it."""
    if len(table) >= MAX_KEPT:
        table.clear()

    return table


def _identity_of_object(function: Callable[..., Any]) -> Identity:
    """Identify an object by its class, or by the function that it represents."""
    if wrapped_by(function) is not None or text_attribute(function, "__qualname__") is not None:
        return Identity(function)

    kind = type(function)
    identity = _kept_while_used.get(kind)
    if identity is None:
        identity = _room_in(_kept_while_used)[kind] = Identity(function)

    return identity


def _identity_of_partial(function: Any) -> Identity:
    args: tuple[Any, ...] = ()
    keywords: dict[str, Any] = {}
    while isinstance(function, partial):
        args, keywords, function = function.args + args, {**function.keywords, **keywords}, function.func

    identity = identity_of(function)
    if identity.name is None:
        with suppress(UnkeyableRequest):  # raised later, unless the call has a name of its own
            identity.find_name(function)

    return identity.of_partial(args, keywords)


def _bind_partial(args: tuple[Any, ...], keywords: Mapping[str, Any], bind: Bind) -> Bind:
    def bind_all(more: tuple[Any, ...], others: Mapping[str, Any], ignore: tuple[str, ...]) -> Bound:
        return bind(args + more, {**keywords, **others}, ignore)

    return bind_all


def _bind_rest(signature: Signature, keywords: frozenset[str]) -> Bind:
    """Bind what a call adds to a partial with these ``keywords``, which count where the call replaces them."""

    def bind_added(more: tuple[Any, ...], others: Mapping[str, Any], ignore: tuple[str, ...]) -> Bound:
        left_out = keywords - others.keys()
        return signature.bind(more, {**dict.fromkeys(left_out), **others}, (*ignore, *left_out))

    return bind_added
