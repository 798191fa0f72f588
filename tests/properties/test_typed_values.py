"""Any value of any annotated type comes back equal and of the same types, or is refused."""

import collections
import dataclasses
import uuid
from collections.abc import Callable
from datetime import UTC, date, datetime, time, timedelta, timezone
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from typing import Any, NamedTuple, Union

import attrs
import msgspec
import numpy as np
import pydantic
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from typing_extensions import TypedDict

from sidecard_client.protocol.errors import UnshareableValue
from sidecard_client.values.codec import codec_of, unpack_value
from sidecard_client.values.packing import pack_value
from tests.typed_values import REFUSED, SHARED, Access, Color, Level, Word, portrait

ZONES = st.sampled_from([None, UTC, timezone(timedelta(hours=5, minutes=30)), timezone(timedelta(seconds=-61), "odd")])

LEAVES: list[tuple[Any, st.SearchStrategy[Any]]] = [
    (str, st.text(max_size=4)),
    (int, st.integers()),
    (float, st.floats()),
    (bool, st.booleans()),
    (bytes, st.binary(max_size=4)),
    (None, st.none()),
    (Any, st.recursive(st.none() | st.floats() | st.text(max_size=2), st.lists, max_leaves=3)),
    (date, st.dates()),
    (datetime, st.datetimes(timezones=ZONES)),
    (time, st.times(timezones=ZONES)),
    (timedelta, st.timedeltas()),
    (Decimal, st.decimals()),
    (Fraction, st.fractions()),
    (complex, st.complex_numbers()),
    (uuid.UUID, st.uuids()),
    (bytearray, st.binary(max_size=4).map(bytearray)),
    (Path, st.sampled_from([Path("a/b"), Path("/")])),
    (Color, st.sampled_from(Color)),
    (Word, st.sampled_from(Word)),
    (Level, st.sampled_from(Level)),
    (Access, st.sampled_from([*Access, Access(0), Access(3)])),
    (np.ndarray, arrays.arrays(arrays.scalar_dtypes(), arrays.array_shapes(min_dims=0, min_side=0, max_side=2))),
]
HASHABLE = [row for row in LEAVES if row[0] not in {Any, bytearray, np.ndarray, Decimal, float, complex}]

Typed = tuple[Any, st.SearchStrategy[Any]]
ROWS: list[tuple[Any, ...]] = [*SHARED, *REFUSED]


def _of(kind: Any, *parameters: Any) -> Any:
    return kind[parameters[0] if len(parameters) == 1 else parameters]


def _lists(one: Typed) -> list[Typed]:
    kind, values = one
    some = st.lists(values, max_size=3)
    return [
        (_of(list, kind), some),
        (_of(tuple, kind, ...), some.map(tuple)),
        (_of(tuple, kind, int), st.tuples(values, st.integers(0, 9))),
        (_of(collections.deque, kind), st.builds(collections.deque, some, st.none() | st.integers(0, 3))),
        (_of(dict, str, kind), st.dictionaries(st.text(max_size=2), values, max_size=2)),
        (_either(kind, None), st.none() | values),
    ]


def _classes(one: Typed, other: Typed) -> list[Typed]:
    """Make classes with two fields."""
    hints = {"a": one[0], "b": other[0]}
    fields: dict[str, Any] = {name: (hint, ...) for name, hint in hints.items()}
    config = pydantic.ConfigDict(arbitrary_types_allowed=True)
    named_tuple: Any = NamedTuple
    typed_dict: Any = TypedDict
    kinds: list[Any] = [
        dataclasses.make_dataclass("Data", hints.items()),
        dataclasses.make_dataclass("SlottedData", hints.items(), frozen=True, slots=True),
        attrs.make_class("Attrs", {name: attrs.field(type=hint) for name, hint in hints.items()}),
        msgspec.defstruct("Struct", hints.items()),
        pydantic.create_model("Model", __config__=config, **fields),
        named_tuple("Named", hints.items()),
    ]
    made: list[Typed] = [(kind, st.builds(_made_by(kind), a=one[1], b=other[1])) for kind in kinds]
    return [*made, (typed_dict("Dict", hints), st.fixed_dictionaries({"a": one[1]}, optional={"b": other[1]}))]


def _made_by(kind: Any) -> Callable[..., Any]:
    """Return what makes an instance whose fields are as given, without validation."""
    make: Callable[..., Any] = getattr(kind, "model_construct", kind)
    return make


def _mapping(key: Typed, value: Typed) -> Typed:
    return _of(dict, key[0], value[0]), st.dictionaries(key[1], value[1], max_size=2)


def _bigger(smaller: st.SearchStrategy[Typed]) -> st.SearchStrategy[Typed]:
    return st.one_of(
        smaller.flatmap(lambda one: st.sampled_from(_lists(one))),
        st.sampled_from(HASHABLE).map(lambda one: (_of(frozenset, one[0]), st.frozensets(one[1], max_size=3))),
        st.builds(_mapping, st.sampled_from(HASHABLE), smaller),
        st.builds(_classes, smaller, smaller).flatmap(st.sampled_from),
        st.builds(lambda one, other: (_either(one[0], other[0]), one[1] | other[1]), smaller, smaller),
    )


def _either(one: Any, other: Any) -> Any:
    return Any if Any in {one, other} else Union[one, other]  # noqa: UP007 - types that are known when it runs


def check(annotation: Any, value: Any) -> None:
    """Send a value to another process."""
    codec = codec_of(annotation)
    before = portrait(value)
    try:
        packed = pack_value(value, codec)
    except UnshareableValue:
        return

    plain = unpack_value(packed)
    assert portrait(plain if codec is None else codec.from_plain(plain)) == before


@given(st.recursive(st.sampled_from(LEAVES), _bigger, max_leaves=4), st.data())
def test_a_value_of_its_type_comes_back_or_is_refused(typed: Typed, data: st.DataObject) -> None:
    """Whatever the type is made of."""
    annotation, values = typed
    check(annotation, data.draw(values))


@given(st.sampled_from([row[0] for row in ROWS]), st.sampled_from([row[1] for row in ROWS]))
def test_a_value_of_another_type_comes_back_or_is_refused(annotation: Any, value: Any) -> None:
    """A function may return what its annotation does not say."""
    check(annotation, value)
