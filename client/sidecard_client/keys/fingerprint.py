"""The key of a request: everything that would change the answer, and nothing else.

The cache, the sharing of calls and the log use the same key, so that they never disagree.

Recipe, for other languages
===========================
``key = "k2-" + lower-case hex of SHA-256(canonical)``, where ``canonical`` is the msgpack array::

    ["sidecard", 2, task, model, name, args, kwargs]
    ["sidecard", 2, task, model, name, args, kwargs, extras]

``"sidecard"`` and the version ``2`` separate it from other hashes and other recipes. ``task`` and ``name`` are strings,
``model`` is a string or nil, ``args`` an array of the positional arguments, ``kwargs`` a map of the named ones. In Python,
`sidecard_client.keys.naming` names functions, and `sidecard_client.keys.binding` decides which arguments are positional.
The file ``tests/unit/client/keys/key_vectors.json`` has requests with their ``canonical`` bytes and keys. Another language that gives
``name`` and binds no arguments needs no more than that to share with Python calls that have the same ``name=``.

``extras`` is a map. It is left out if it has none of these:

``captured``
    a map of what the function holds besides its arguments, by name (`sidecard_client.keys.captured`);
``normalize``
    the names of the normal forms, see below;
``returns``
    a digest of the type of the answers, if they are not plain (`sidecard_client.values.codec`);
``sample``
    which of several answers to the same request is meant, an integer above 0.

Of several msgpack spellings, the canonical one has the shortest form of each integer (positive ones unsigned), string,
binary, array and map header; every float as float 64; and the entries of each map ordered by key: nil, false, true,
integers by value, floats by value, strings by their UTF-8 bytes, binaries by their bytes.

The order of a map's entries does not matter, and a tuple equals the list of its elements. Everything else matters: ``1``
is not ``1.0``, ``True`` is not ``1``, ``"x"`` is not ``b"x"``, a missing argument is not None. A request may hold None,
bool, int (64 bit), float (not NaN), str, bytes, list, tuple and dict. For anything else, the error names its place.

Normal forms
------------
If ``normalize`` names forms (`sidecard_client.keys.normal_form`), the texts of ``args`` and ``kwargs`` are normalized first,
and ``extras`` names the forms, each once, in alphabetical order. So callers with different forms never share, even if their
texts are equal.

What is left out
----------------
Only what the caller's ``ignore`` names: arguments, and top-level fields of a dict that is a positional argument.

Groups
------
The group of a request (`sidecard_client.keys.similarity`) is ``"g2-" + lower-case hex of SHA-256(canonical)``. There,
``canonical`` is the array of a key with nil in place of the embedded text. Its ``args`` is an array of four:

1. the positional arguments;
2. the text's place (``args[0]``, ``args[0].messages[-1].content``, ``kwargs.prompt``);
3. the numbers in the text, in order: each maximal run of decimal digits, as a string;
4. the embedder's name, a string or nil.
"""

import hashlib
import re
from collections.abc import Collection, Mapping
from operator import ne
from typing import Any, Final

import msgspec

from sidecard_client.keys.normal_form import NormalForm, normal_arguments, ordered
from sidecard_client.protocol.errors import UnkeyableRequest

KEY_VERSION = 2
_PREFIX = f"k{KEY_VERSION}-"

GROUP_VERSION = 2
_GROUP_PREFIX = f"g{GROUP_VERSION}-"
_NUMBERS = re.compile(r"\d+")

MAX_DEPTH = 200
"""Nesting that is always supported. JSON parsers of other languages stop between 100 and 1,000.
Deeper plain lists and dicts work as far as the encoder does; beyond that, `UnkeyableRequest` is raised."""

_TIMESTAMP_HEADS: Final = (b"\xd6\xff", b"\xd7\xff", b"\xc7\x0c\xff")
"""The first bytes of a msgpack timestamp, the only extension that the encoder makes by itself. A datetime decodes to an equal
one, so the comparison misses it. A string may contain these bytes too; then `_walk` finds no fault and returns the same."""

_NOTHING: frozenset[str] = frozenset()
NO_EXTRAS: Mapping[str, Any] = {}
_SCALARS = frozenset({str, int, bool, type(None)})
"""Types that the encoder takes in one way. So it does float, but NaN has no place in a key."""
_SCALARS_AND_FLOAT = _SCALARS | {float}
_encode = msgspec.msgpack.Encoder(order="sorted").encode


def _refuse_extension(code: int, _data: memoryview) -> None:
    raise TypeError(f"extension {code} has no place in the recipe")


_decode = msgspec.msgpack.Decoder(ext_hook=_refuse_extension).decode
_sha256 = hashlib.sha256


def fingerprint(
    task: str,
    model: str | None,
    name: str,
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any],
    ignore: tuple[str, ...] | frozenset[str] = _NOTHING,
    normalize: tuple[NormalForm, ...] = (),
    extras: Mapping[str, Any] = NO_EXTRAS,
) -> str:
    """Return the key of a request. Raises `UnkeyableRequest` for a part without a stable form."""
    if not (kwargs or ignore or normalize):
        # `canonical`, without its call: most requests are a prompt alone.
        for value in args:
            if type(value) not in _SCALARS:
                break
        else:
            try:
                if extras:
                    encoded = _encode(("sidecard", KEY_VERSION, task, model, name, args, kwargs, extras))
                else:
                    encoded = _encode(("sidecard", KEY_VERSION, task, model, name, args, kwargs))

                return f"{_PREFIX}{_sha256(encoded).hexdigest()}"
            except (ValueError, OverflowError):
                pass  # the general path names the place

    return _PREFIX + _sha256(canonical(task, model, name, args, kwargs, ignore, normalize, extras)).hexdigest()


class KeyTemplate:
    """The canonical form of calls of one function, up to their arguments."""

    __slots__ = ("_start", "_start_with_extras", "model", "task")

    def __init__(self, task: str, model: str | None, name: str) -> None:
        self.task = task
        self.model = model
        parts: tuple[Any, ...] = ("sidecard", KEY_VERSION, task, model, name, None, None)
        self._start = _encode(parts)[:-2]
        self._start_with_extras = _encode((*parts, None))[:-3]

    def fingerprint(self, args: tuple[Any, ...], kwargs: Mapping[str, Any], extras: Mapping[str, Any]) -> str | None:
        """Return what `fingerprint` returns for these parts; None if an argument needs its slower checks."""
        try:
            encoded = _encode((args, kwargs))
            for value in (*args, *kwargs.values()) if kwargs else args:
                if type(value) not in _SCALARS:
                    if _decode(encoded) != [list(args), kwargs] or _may_have_timestamp(encoded):
                        return None

                    break

            encoded = encoded[1:]  # both, without the array that holds them here
            if extras:
                return f"{_PREFIX}{_sha256(self._start_with_extras + encoded + _encode(extras)).hexdigest()}"

            return f"{_PREFIX}{_sha256(self._start + encoded).hexdigest()}"
        except (TypeError, ValueError, OverflowError, RecursionError):
            return None


def key_of(encoded: bytes) -> str:
    """Return the key of a `canonical` form."""
    return _PREFIX + _sha256(encoded).hexdigest()


def group_of(  # noqa: PLR0917 - the parts of a key, and those of the text
    task: str,
    model: str | None,
    name: str,
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any],
    ignore: tuple[str, ...] | frozenset[str],
    place: str,
    text: str,
    embedder: str | None,
    extras: Mapping[str, Any] = NO_EXTRAS,
) -> str:
    """Return the group of a request whose ``args`` and ``kwargs`` have None in place of ``text``.

    Raises `UnkeyableRequest` for a part without a stable form.
    """
    if ignore:
        args = tuple(_without(value, ignore) if isinstance(value, dict) else value for value in args)

    parts = (list(args), place, _NUMBERS.findall(text), embedder)
    return _GROUP_PREFIX + _sha256(canonical(task, model, name, parts, kwargs, ignore, (), extras)).hexdigest()


def canonical(
    task: str,
    model: str | None,
    name: str,
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any],
    ignore: tuple[str, ...] | frozenset[str] = _NOTHING,
    normalize: tuple[NormalForm, ...] = (),
    extras: Mapping[str, Any] = NO_EXTRAS,
) -> bytes:
    """Return the bytes that are hashed; ``extras`` without the normal forms. Raises `UnkeyableRequest` as `fingerprint` does."""
    if ignore:
        kwargs = {name: value for name, value in kwargs.items() if name not in ignore}
        args = tuple(_without(value, ignore) if isinstance(value, dict) else value for value in args)

    parts: tuple[Any, ...] = ("sidecard", KEY_VERSION, task, model, name, args, kwargs)
    if normalize:
        try:
            args, kwargs = normal_arguments(args, kwargs, normalize)
        except RecursionError as error:
            raise _too_deep() from error

        extras = {**extras, "normalize": ordered(normalize)}
        parts = (*parts[:5], args, kwargs)

    if extras:
        parts = (*parts, extras)

    try:
        encoded = _encode(parts)
        # Extras are plain already: the client has made them.
        if _all_scalar(args) and (not kwargs or _all_scalar(kwargs.values())):
            return encoded

        if _comes_back(encoded, args, kwargs):
            return encoded

    except (TypeError, ValueError, OverflowError, RecursionError):
        pass  # the walk below finds the place, or encodes it

    try:
        heads = [_scalar(part, "the request") for part in parts[:5]]
        body = [_walk(list(args), "args", 0), _walk(kwargs, "kwargs", 0)]
        if extras:
            body.append(_walk(extras, "extras", 0))

    except RecursionError as error:  # the caller's own stack is nearly used up
        raise _too_deep() from error

    return bytes((0x90 + len(parts),)) + b"".join(heads + body)


def _comes_back(encoded: bytes, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> bool:
    """Return whether all arguments are plain: the encoder also takes a dataclass or a UUID, which decodes to something else."""
    decoded = _decode(encoded)
    return decoded[5] == list(args) and decoded[6] == kwargs and not _may_have_timestamp(encoded)


def _may_have_timestamp(encoded: bytes) -> bool:
    # No text has the byte that all heads have, and one byte is found ten times as fast.
    return b"\xff" in encoded and any(head in encoded for head in _TIMESTAMP_HEADS)


def _all_scalar(values: Collection[Any]) -> bool:
    if _SCALARS.issuperset(map(type, values)):
        return True

    # NaN differs from itself.
    return _SCALARS_AND_FLOAT.issuperset(map(type, values)) and not any(map(ne, values, values))


def _too_deep() -> UnkeyableRequest:
    return UnkeyableRequest("The arguments are nested too deep for the stack: pass less of them, or give key=.")


def _without(fields: dict[Any, Any], ignore: tuple[str, ...] | frozenset[str]) -> dict[Any, Any]:
    return {name: value for name, value in fields.items() if name not in ignore}


def _walk(value: Any, path: str, depth: int) -> bytes:
    """Encode a value that the encoder refuses or changes. Raises `UnkeyableRequest` with the place of a faulty part."""
    if depth > MAX_DEPTH:
        raise UnkeyableRequest(f"{path} is nested deeper than {MAX_DEPTH} levels: pass less of it, or give key=.")

    if isinstance(value, list | tuple):
        items = [_walk(item, f"{path}[{index}]", depth + 1) for index, item in enumerate(value)]
        return _header(len(items), 0x90, 0xDC) + b"".join(items)

    if isinstance(value, dict):
        entries = sorted(
            (_rank(name, path), _scalar(name, f"a key of {path}"), _walk(item, f"{path}[{name!r}]", depth + 1))
            for name, item in value.items()
        )
        return _header(len(entries), 0x80, 0xDE) + b"".join(name + item for _, name, item in entries)

    return _scalar(value, path)


def _scalar(value: Any, path: str) -> bytes:
    if value is not None and not isinstance(value, bool | int | float | str | bytes | bytearray | memoryview):
        kind = type(value)
        raise UnkeyableRequest(
            f"{path} is a {kind.__module__}.{kind.__qualname__}, which has no stable form: "
            "pass str, bytes, numbers, None, lists or dicts, leave it out with ignore=, or give key=."
        )

    if value != value:  # noqa: PLR0124 - the one value that differs from itself
        raise UnkeyableRequest(f"{path} is NaN, which equals nothing: pass a number or None.")

    try:
        return _encode(_plain(value))
    except (OverflowError, ValueError) as error:
        raise UnkeyableRequest(f"{path} cannot be encoded: {error}.") from error


def _plain(value: Any) -> Any:
    """Return the plain value of a subclass's instance, whatever methods it overrides: the encoder takes plain ones only."""
    if isinstance(value, str):
        return str.__str__(value)

    if isinstance(value, bool):
        return value

    if isinstance(value, int):
        return int.__int__(value)

    if isinstance(value, float):
        return float.__float__(value)

    return b"".join((value,)) if isinstance(value, bytes) else value


def _rank(name: Any, path: str) -> tuple[int, Any]:
    """Return the sort key of a map's key: by class first, because values of different classes cannot be compared."""
    if name is None:
        return 0, 0

    for rank, kind in enumerate((bool, int, float, str, bytes), start=1):
        if isinstance(name, kind):
            return rank, name

    raise UnkeyableRequest(f"{path} has a key of type {type(name).__qualname__}: use str keys.")


def _header(length: int, short: int, long: int) -> bytes:
    if length < 16:  # noqa: PLR2004 - msgpack's fixarray and fixmap
        return bytes((short | length,))

    if length < 1 << 16:
        return bytes((long,)) + length.to_bytes(2, "big")

    return bytes((long + 1,)) + length.to_bytes(4, "big")
