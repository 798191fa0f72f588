"""Collect what a call's function and arguments add to its key. Pure."""

import re
from collections.abc import Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from sidecard_client.call.options import Options
from sidecard_client.call.warn import name_of_function
from sidecard_client.functions import bare
from sidecard_client.keys.binding import signature_of
from sidecard_client.keys.captured import captured_by, check_partial
from sidecard_client.keys.fingerprint import NO_EXTRAS, KeyTemplate
from sidecard_client.keys.identity import Identity, identity_of
from sidecard_client.keys.naming import name_of
from sidecard_client.protocol.errors import UnkeyableRequest
from sidecard_client.values.codec import ValueCodec

if TYPE_CHECKING:
    from sidecard_client.call.call import Call  # which imports this module

KeyParts = tuple[str, tuple[Any, ...], Mapping[str, Any], Mapping[str, Any]]
"""Name, positional and named arguments, and extras of a key; see `sidecard_client.keys.fingerprint`."""

STREAM_SUFFIX = "()*"
"""Ends the function's name in the key of a stream. No name ends in it."""

EACH_SUFFIX = "[]"
"""Ends the function's name in the key of one input of a batch, unless ``name=`` gave the name. No name ends in it."""

_ARGUMENT: Final = re.compile(r"\bargs\[(?P<index>\d+)\]|\bkwargs\['(?P<named>\w+)'\]")
"""How an error of the key names an argument."""


def template_of(identity: Identity, function: Callable[..., Any], options: Options) -> KeyTemplate:
    """Make the template of a function's keys, and remember it. Raises `UnkeyableRequest`."""
    name = identity.name or identity.find_name(function)
    template = identity.template = KeyTemplate(options.task, options.model, name)
    return template


def key_parts(call: "Call", identity: Identity | None = None) -> KeyParts:
    """Return what the function, identified if not given, and the arguments add to a call's key.

    Raises `UnkeyableRequest`.
    """
    options, function = call.options, call.functions[0]
    if identity is None:
        identity = identity_of(function)

    name, bind = options.name, identity.bind
    if name is None:
        name = identity.name or identity.find_name(function)
        if call.each:
            name += EACH_SUFFIX
    else:
        bind = identity.bind_call  # ``name=`` replaces the arguments that a partial holds

    if call.stream:
        name += STREAM_SUFFIX

    args: tuple[Any, ...] = call.args
    kwargs: Mapping[str, Any] = call.kwargs
    if kwargs or options.ignore or len(args) != identity.written_as_keyed:
        args, kwargs = bind(args, kwargs, options.ignore)

    return name, args, kwargs, extras_of(function, identity, options, call.codec)


def extras_of(
    function: Callable[..., Any], identity: Identity, options: Options, codec: ValueCodec | None
) -> Mapping[str, Any]:
    """Return the extras of a key, without its normal forms. Raises `UnkeyableRequest`."""
    captured: Mapping[str, Any] | None = None
    if options.name is None and identity.holds:
        captured = held_by(function, identity, options)

    if captured is None and codec is None and not options.sample:
        return NO_EXTRAS

    extras: dict[str, Any] = {} if captured is None else {"captured": captured}
    if codec is not None:
        extras["returns"] = codec.identity

    if options.sample:
        extras["sample"] = options.sample

    return extras


def held_by(function: Callable[..., Any], identity: Identity, options: Options) -> Mapping[str, Any] | None:
    """Return what a function without ``name=`` holds now, by name; None for nothing. Raises `UnkeyableRequest`."""
    held = captured_by(function) if identity.holds_state else None
    if identity.texts_of is None or options.model is not None:
        return held

    texts = identity.texts_of(bare(function).__self__)
    return {**(held or {}), **texts} if texts else held


def located(call: "Call", error: UnkeyableRequest) -> UnkeyableRequest:
    """Return the error about an argument with the names of the function and of its parameter."""
    function, options = call.functions[0], call.options
    if options.name is None:
        check_partial(function, options.ignore)

    signature = signature_of(bare(function))
    names = () if signature is None else signature.names
    if isinstance(function, partial) and options.name is not None:
        names = names[len(function.args) :]  # ``name=`` replaces the arguments that the partial holds

    def name_of_argument(found: re.Match[str]) -> str:
        named = found["named"] or (names[int(found["index"])] if int(found["index"]) < len(names) else None)
        return named or found[0]

    named = _ARGUMENT.sub(name_of_argument, str(error), count=1)
    return UnkeyableRequest(f"{name_of_function(function)}: {named}")


def check_identity(function: Callable[..., Any], options: Options) -> None:
    """Raise `UnkeyableRequest` for a function whose name or state has no stable form, unless ``name=`` identifies it."""
    if options.name is None:
        name_of(function)
        captured_by(function)
