"""Convert values of a type to plain ones and back: msgspec's types, pydantic's, paths and numpy's arrays.

Nothing is ever imported because of bytes that were received: a type is what the app gave, by ``returns=`` or an annotation.
"""

import functools
import hashlib
import sys
import typing
import warnings
from collections.abc import Callable
from pathlib import PurePath
from typing import Any, Final

import msgspec
from msgspec import Struct

from sidecard_client.protocol.errors import UnreadableAnswer, UnshareableValue
from sidecard_client.values.annotations import annotation_of
from sidecard_client.values.likeness import place_of_difference

_ARRAY_KINDS: Final = frozenset("biufcmMSU")
"""Kinds of numpy's dtypes whose bytes are the whole value: no objects."""


class ValueCodec(Struct, frozen=True, eq=False):
    """Converts the values of one type. ``name`` is for messages, ``identity`` for keys: it has a digest of the type's schema."""

    name: str
    identity: str
    _to_plain: Callable[[Any], Any]
    _from_plain: Callable[[Any], Any]

    def to_plain(self, value: Any) -> Any:
        """Return the plain form of a value, from which `from_plain` returns the same. Raises `UnshareableValue`."""
        try:
            plain = self._to_plain(value)
            difference = place_of_difference(value, self._from_plain(plain))
        except Exception as error:
            raise UnshareableValue(
                f"The value is not shared: it cannot be converted to plain values and back to {self.name} "
                f"({type(error).__name__}: {error}). Return what the annotation says, or give returns=."
            ) from error

        if difference is None:
            return plain

        raise UnshareableValue(
            f"The value is not shared: {difference}. Return what {self.name} describes, or give returns=."
        )

    def from_plain(self, plain: Any) -> Any:
        """Return the value of a plain form. Raises `UnreadableAnswer` if it is none of the type."""
        try:
            return self._from_plain(plain)
        except Exception as error:
            raise UnreadableAnswer(f"The answer is no {self.name}: {error}") from error


def codec_of(annotation: Any) -> ValueCodec:
    """Return the codec of a type. Raises `TypeError` for a type that is not supported."""
    name = name_of_type(annotation)
    annotation = _without_generic_arrays(annotation)
    if _mentions_pydantic(annotation):
        return _pydantic_codec(name, annotation)

    try:
        msgspec.json.Decoder(annotation, dec_hook=_restored)
    except TypeError:
        # Unions of several classes, for example.
        if "pydantic" not in sys.modules:
            raise

        return _pydantic_codec(name, annotation)

    def from_plain(plain: Any) -> Any:
        return msgspec.convert(plain, annotation, builtin_types=(bytes,), dec_hook=_restored)

    identity = _identity_of(name, lambda: msgspec.json.schema(annotation, schema_hook=_schema_of_unknown))
    return ValueCodec(name, identity, _builtins, from_plain)


def annotated_codec(function: Callable[..., Any], *, stream: bool) -> ValueCodec | None:
    """Return the codec of a function's annotation; None for plain values, and for types that are not supported."""
    annotation = annotation_of(function, stream=stream)
    if annotation is None:
        return None

    try:
        return _kept_codec_of(annotation)
    except TypeError:
        return None


@functools.lru_cache(maxsize=1024)
def _kept_codec_of(annotation: Any) -> ValueCodec:
    return codec_of(annotation)


def _identity_of(name: str, schema: Callable[[], Any]) -> str:
    """Return a name with a digest of the schema, so that answers of a type that has changed are not found any more."""
    try:
        text = msgspec.json.encode(schema(), order="deterministic")
    except Exception:  # noqa: BLE001 - types without a schema: their answers are validated when they are read
        return name

    return f"{name} {hashlib.sha256(text).hexdigest()[:16]}"


def _schema_of_unknown(kind: type) -> dict[str, Any]:
    return {"type": name_of_type(kind)}


def name_of_type(annotation: Any) -> str:
    """Return the name of a type, the same in every process."""
    if isinstance(annotation, type) and not typing.get_args(annotation):
        return f"{annotation.__module__}.{annotation.__qualname__}"

    return repr(annotation)


def _builtins(value: Any) -> Any:
    return msgspec.to_builtins(value, builtin_types=(bytes,), enc_hook=_replaced)


def _replaced(value: Any) -> Any:
    """Return a value that stands for one which msgspec does not know."""
    if isinstance(value, PurePath):
        return str(value)

    numpy = sys.modules.get("numpy")
    if numpy is not None and isinstance(value, numpy.ndarray | numpy.generic) and value.dtype.kind in _ARRAY_KINDS:
        return [value.dtype.str, list(value.shape), value.tobytes()]

    dump = getattr(value, "__pydantic_serializer__", None)
    if dump is not None:
        return _dumped(dump.to_python(value, exclude_unset=True, round_trip=True))

    raise NotImplementedError(f"a {type(value).__module__}.{type(value).__qualname__} has no plain form")


def _restored(kind: Any, plain: Any) -> Any:
    """Return a value of a type that msgspec does not know, from what stands for it."""
    if isinstance(kind, type) and issubclass(kind, PurePath):
        return kind(plain)

    numpy = sys.modules.get("numpy")
    if numpy is not None and isinstance(kind, type) and issubclass(kind, numpy.ndarray | numpy.generic):
        text, shape, data = plain
        dtype = numpy.dtype(text)
        if dtype.kind not in _ARRAY_KINDS:
            raise ValueError(f"arrays of {dtype} are not supported")

        array = numpy.frombuffer(data, dtype).reshape(shape)
        return array.copy() if issubclass(kind, numpy.ndarray) else array[()]

    validator = getattr(kind, "__pydantic_validator__", None)
    if validator is not None:
        return validator.validate_python(plain)

    raise NotImplementedError(f"{name_of_type(kind)} is not supported")


def _pydantic_codec(name: str, annotation: Any) -> ValueCodec:
    import pydantic  # noqa: PLC0415 - the app has imported it

    try:
        adapter = pydantic.TypeAdapter(annotation)
    except Exception as error:
        raise TypeError(f"{name} is not supported: {error}") from error

    def to_plain(value: Any) -> Any:
        return _dumped(adapter.dump_python(value, exclude_unset=True, round_trip=True))

    def schema() -> Any:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about defaults that JSON cannot express
            return adapter.json_schema()

    return ValueCodec(name, _identity_of(name, schema), to_plain, adapter.validate_python)


def _dumped(dump: Any) -> Any:
    return msgspec.to_builtins(dump, builtin_types=(bytes,), enc_hook=_replaced)


def _mentions_pydantic(annotation: Any) -> bool:
    return hasattr(annotation, "__pydantic_validator__") or any(map(_mentions_pydantic, typing.get_args(annotation)))


def _without_generic_arrays(annotation: Any) -> Any:
    """Return the type with ``NDArray[...]`` replaced by the array's class: a dtype is in the value."""
    origin = typing.get_origin(annotation)
    numpy = sys.modules.get("numpy")
    return origin if numpy is not None and origin is numpy.ndarray else annotation
