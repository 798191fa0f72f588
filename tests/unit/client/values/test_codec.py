"""Values of every kind of type, taken apart and put together again as the processes of a host do."""

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime
from enum import Enum
from typing import Annotated, Any

import numpy as np
import pytest
from msgspec import msgpack

from sidecard_client.protocol.errors import UnreadableAnswer, UnshareableValue
from sidecard_client.values.codec import (
    TYPED,
    ValueCodec,
    annotated_codec,
    codec_of,
    problem_of_annotation,
    unpack_value,
)
from sidecard_client.values.packing import pack_value
from tests.typed_values import DAY, LINE, NOON, REFUSED, SHARED, Counted, Invoice, Line, PricedLine, Tree, portrait

IDS = [f"{number}-{str(row[0])[:40]}" for number, row in enumerate(SHARED)]


def codec(annotation: Any) -> ValueCodec:
    """Return the codec of a type that is not plain."""
    found = codec_of(annotation)
    assert found is not None
    return found


def came_back(annotation: Any, value: Any) -> Any:
    """Return what another process gets."""
    found = codec_of(annotation)
    plain = unpack_value(pack_value(value, found))
    return plain if found is None else found.from_plain(plain)


@pytest.mark.parametrize(("annotation", "value"), SHARED, ids=IDS)
def test_a_value_of_an_annotated_type_comes_back_with_all_its_types(annotation: Any, value: Any) -> None:
    """Equal, and of the same types at every place; again from what came back."""
    before = portrait(value)
    back = came_back(annotation, value)

    assert portrait(back) == before
    assert portrait(value) == before
    assert portrait(came_back(annotation, back)) == before


@pytest.mark.parametrize(("annotation", "value", "place"), REFUSED)
def test_a_value_that_is_not_exactly_of_its_type_is_refused_with_its_place(
    annotation: Any, value: Any, place: str
) -> None:
    """It is neither sliced to the annotation nor converted."""
    with pytest.raises(UnshareableValue, match=place):
        pack_value(value, codec_of(annotation))


@pytest.mark.parametrize(("annotation", "value"), SHARED, ids=IDS)
def test_each_reader_gets_a_copy_of_its_own(annotation: Any, value: Any) -> None:
    """No part that can be changed is shared with the holder's value or with another reader's."""
    found = codec_of(annotation)
    packed = pack_value(value, found)
    copies = [unpack_value(packed) if found is None else found.from_plain(unpack_value(packed)) for _ in range(2)]

    assert not mutable_parts(copies[0]) & mutable_parts(copies[1])
    assert not mutable_parts(copies[0]) & mutable_parts(value)


def mutable_parts(value: Any) -> set[int]:
    """Return the identities of lists, dicts, sets and arrays within a value."""
    found, level = set(), [value]
    while level:
        part = level.pop()
        if isinstance(part, Enum):
            continue

        if isinstance(part, list | dict | set | bytearray | np.ndarray):
            found.add(id(part))

        level += part.values() if isinstance(part, dict) else part if isinstance(part, list | tuple) else ()
        level += getattr(part, "__dict__", {}).values()

    return found


def test_an_array_that_came_back_can_be_changed() -> None:
    """It does not refer to the received bytes."""
    back = came_back(np.ndarray, np.arange(3))
    back[0] = 7

    assert back.tolist() == [7, 1, 2]


@pytest.mark.parametrize(
    "annotation", [5, "Line", object(), memoryview, type, Iterator[int], ValueError, sys.__class__]
)
def test_what_is_no_type_that_can_be_shared_has_no_codec(annotation: Any) -> None:
    """The error names it."""
    with pytest.raises(TypeError, match=r"values of type .* cannot be shared"):
        codec_of(annotation)


@pytest.mark.parametrize(
    "annotation", [None, str, int, float, bool, bytes, Any, list, dict[str, list[int]], str | None]
)
def test_plain_types_have_no_codec(annotation: Any) -> None:
    """Their values travel as they are."""
    assert codec_of(annotation) is None


def test_the_identity_of_a_type_changes_with_what_its_values_hold() -> None:
    """A field's name, its type, or a type within a type."""
    versions = [
        type("Versioned", (), {"__annotations__": fields})
        for fields in ({"a": int}, {"b": int}, {"a": date}, {"a": Line}, {"a": PricedLine}, {"a": list[Line]})
    ]
    identities = {codec(dataclass(version)).identity for version in versions}
    assert len(identities) == len(versions)


def test_the_order_of_a_union_does_not_matter() -> None:
    """Unions in another order have one identity: typing takes both for equal, and caches either."""
    assert codec(Line | PricedLine).identity == codec(PricedLine | Line).identity
    assert codec(Line | None).identity == codec(None | Line).identity


@pytest.mark.parametrize(
    "plain",
    [
        None,
        [],
        {},
        "",
        [1, 2, 3],
        ["0" * 16, {"text": "a", "cents": 1}],
        {"text": "a", "cents": 1},
        [TYPED + codec(Line).identity, {"text": "a"}],
        5,
    ],
)
def test_an_answer_of_another_form_is_unreadable(plain: Any) -> None:
    """Whatever was stored under the key: it is no value of the type."""
    with pytest.raises(UnreadableAnswer, match="Line"):
        codec(Line).from_plain(plain)


def test_received_bytes_name_no_class() -> None:
    """An answer has the names of fields, and of no class or module."""
    packed = pack_value(Tree(("a", 1), Tree(("b", 2))), codec(Tree))

    assert b"Tree" not in packed
    assert b"typed_values" not in packed


def test_a_validator_is_not_run_again() -> None:
    """What it made of the value is kept."""
    assert came_back(Counted, Counted(n=1)).n == 2


def test_an_unhashable_annotation_is_supported() -> None:
    """Metadata of ``Annotated`` may be a list."""
    assert came_back(list[Annotated[date, ["x"]]], [DAY]) == [DAY]


def test_a_value_that_contains_itself_is_refused() -> None:
    """Endless nesting is an error, not a crash."""
    invoice = Invoice(Total=1)  # type: ignore[arg-type]  # converted by pydantic
    invoice.any = invoice
    endless: list[Any] = []
    endless.append(endless)
    tree: Any = Tree(("a", 1))
    object.__setattr__(tree, "left", tree)

    for annotation, value in ((Tree, tree), (tuple, (endless,)), (Invoice, invoice)):
        with pytest.raises(UnshareableValue):
            pack_value(value, codec(annotation))


def test_a_deep_value_is_refused_with_advice() -> None:
    """Nesting counts as it is sent."""
    tree = Tree(("a", 1))
    for _ in range(80):
        tree = Tree(("a", 1), tree)

    with pytest.raises(UnshareableValue, match=r"nested more than 64 deep.*flatter"):
        pack_value(tree, codec(Tree))


def test_a_zone_that_the_host_does_not_have_is_unreadable() -> None:
    """`ZoneInfo` would import a package by that name."""
    found = codec(datetime)
    before = set(sys.modules)
    for key in ("os", "../../etc/passwd", "/etc/passwd", "tzdata/zones", ""):
        with pytest.raises(UnreadableAnswer):
            found.from_plain([TYPED + found.identity, [NOON.isoformat(), 0, ["zone", key]]])

    assert set(sys.modules) == before


def test_a_hit_imports_nothing() -> None:
    """Decoding a hit imports no module."""
    found = [(codec_of(annotation), pack_value(value, codec_of(annotation))) for annotation, value in SHARED]
    before = set(sys.modules)
    for one, packed in found:
        if one is not None:
            one.from_plain(msgpack.decode(packed))

    assert set(sys.modules) == before


def undated(_: str) -> "Undefined":  # type: ignore[name-defined]  # noqa: F821 - as with ``if TYPE_CHECKING``
    """Have an annotation that cannot be read."""


def dated(_: str) -> datetime:
    """Have one that can be."""
    return NOON.replace(tzinfo=UTC)


def unsupported(_: str) -> memoryview:
    """Have one whose values cannot be shared."""
    return memoryview(b"")


def test_the_codec_of_a_function() -> None:
    """By its annotation, if it can be read and is supported; otherwise, the reason is known."""
    assert annotated_codec(dated, "whole") is codec_of(datetime)
    assert problem_of_annotation(dated, "whole") is None
    assert annotated_codec(undated, "whole") is None
    assert "Undefined" in str(problem_of_annotation(undated, "whole"))
    assert "returns=" in str(problem_of_annotation(undated, "whole"))
    assert annotated_codec(unsupported, "whole") is None
    assert "memoryview" in str(problem_of_annotation(unsupported, "whole"))


def test_a_codec_is_made_once_per_type() -> None:
    """Functions that are defined anew each time have equal annotations."""
    assert codec_of(list[Line]) is codec_of(list[Line])
    assert came_back(list[Line], [LINE]) == [LINE]
