"""Types as apps annotate them, with values that are shared and values that are not: for tests of every way that a value takes."""

import collections
import dataclasses
import enum
import functools
import ipaddress
import uuid
from collections.abc import Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from datetime import UTC, date, datetime, time, timedelta, timezone
from decimal import Decimal
from fractions import Fraction
from pathlib import Path, PurePath, PurePosixPath
from typing import (
    Annotated,
    Any,
    ClassVar,
    Generic,
    Literal,
    NamedTuple,
    NewType,
    NotRequired,
    Optional,
    Required,
    TypedDict,
    TypeVar,
    Union,
)
from zoneinfo import ZoneInfo

import attrs
import msgspec
import numpy as np
import pydantic
import pydantic.dataclasses
import pydantic.v1
from msgspec import UNSET, UnsetType
from numpy.typing import NDArray
from typing_extensions import TypeAliasType

T = TypeVar("T")

Customer = NewType("Customer", str)
Number = NewType("Number", uuid.UUID)


class Color(enum.Enum):
    """An enum with an alias."""

    RED = 1
    GREEN = 2
    CRIMSON = 1  # noqa: PIE796 - an alias


class Word(enum.StrEnum):
    """Texts."""

    YES = "yes"


class Level(enum.IntEnum):
    """Numbers."""

    LOW = 1


class Access(enum.Flag):
    """Flags."""

    READ = 1
    WRITE = 2


class Line(pydantic.BaseModel):
    """A model in a model."""

    text: str
    cents: int = 0


class PricedLine(Line):
    """A subclass, which a `Line` field may hold."""

    discount: int = 0


class Invoice(pydantic.BaseModel):
    """What models may have."""

    model_config = pydantic.ConfigDict(extra="allow", arbitrary_types_allowed=True)

    number: uuid.UUID = pydantic.Field(default_factory=lambda: uuid.UUID(int=7))
    issued: datetime = pydantic.Field(default_factory=lambda: datetime(2026, 1, 2, 3, 4, 5, 6, UTC))
    total: Decimal = pydantic.Field(alias="Total", validation_alias="Total", serialization_alias="TOTAL")
    lines: list[Line] = []
    tags: set[str] = set()
    due: pydantic.AwareDatetime | None = None
    site: pydantic.HttpUrl | None = None
    any: Any = None
    color: Color = Color.RED
    _seen: int = 0
    _on: date = date(2026, 1, 2)

    @pydantic.computed_field  # type: ignore[prop-decorator]  # mypy's own limit
    @property
    def cents(self) -> int:
        """Return the total in cents."""
        return int(self.total * 100)

    @functools.cached_property
    def size(self) -> int:
        """Return the number of lines."""
        return len(self.lines)


class Counted(pydantic.BaseModel):
    """A validator that changes a value each time that it runs."""

    n: int

    @pydantic.field_validator("n")
    @classmethod
    def count(cls, n: int) -> int:
        """Return the next number."""
        return n + 1


class Lines(pydantic.RootModel[list[Line]]):
    """A root model."""


class PageOf(pydantic.BaseModel, Generic[T]):
    """A generic model."""

    rows: list[T]


class Cat(pydantic.BaseModel):
    """One of a discriminated union."""

    kind: Literal["cat"] = "cat"


class Dog(pydantic.BaseModel):
    """The other, with the same fields."""

    kind: Literal["dog"] = "dog"


Pet = Annotated[Cat | Dog, pydantic.Field(discriminator="kind")]


class OldInvoice(pydantic.v1.BaseModel):
    """A model of pydantic's version 1."""

    number: int
    issued: date = date(2026, 1, 2)
    _seen: int = pydantic.v1.PrivateAttr(0)


@pydantic.dataclasses.dataclass
class ValidatedPoint:
    """A dataclass of pydantic's."""

    x: int
    y: tuple[int, ...] = ()


@dataclasses.dataclass
class Event:
    """A field that the constructor does not take, and one that only the constructor takes."""

    kind: ClassVar[str] = "event"
    day: date
    weekday: int = dataclasses.field(init=False)
    shift: dataclasses.InitVar[int] = 0

    def __post_init__(self, shift: int) -> None:
        self.weekday = self.day.weekday() + shift


@dataclasses.dataclass(frozen=True, slots=True)
class Tree:
    """A dataclass that holds others of its class."""

    label: tuple[str, int]
    left: "Tree | None" = None
    right: "Tree | None" = None


@dataclasses.dataclass
class Pair(Generic[T]):
    """A generic dataclass."""

    first: T
    rest: list[T]


@dataclasses.dataclass
class DatedPair(Pair[date]):
    """A generic base with its parameter."""

    note: str = ""


class Reading(msgspec.Struct, rename="camel", array_like=True, tag=True):
    """A Struct with its own form on other wires."""

    taken_at: datetime
    value: float | UnsetType = UNSET


class Node(msgspec.Struct, kw_only=True, frozen=True):
    """A Struct that holds others of its class."""

    at: tuple[int, str]
    below: "Node | None" = None


class Marked(msgspec.Struct, dict=True):
    """A Struct with attributes beside its fields."""

    day: date


class Incremented(msgspec.Struct):
    """A Struct whose constructor changes it."""

    n: int

    def __post_init__(self) -> None:
        self.n += 1


def _twice(text: str) -> int:
    return 2 * int(text)


@attrs.define
class Account:
    """A private field with a converter that is not idempotent."""

    _balance: int = attrs.field(converter=_twice)
    opened: date | None = None


@attrs.frozen(cache_hash=True)
class Group:
    """A class that keeps its hash."""

    members: frozenset[int]


class Point(NamedTuple):
    """A named tuple."""

    x: int
    on: date


class Order(TypedDict, total=False):
    """A dict with typed values, of which few are required."""

    number: Required[int]
    day: date
    places: NotRequired[tuple[int, ...]]


class PlainOrder(TypedDict):
    """A dict with plain values."""

    number: int
    note: NotRequired[str]


class Text(str):
    """A subclass of a plain class."""

    __slots__ = ()


class Record(dict[str, Any]):
    """A dict with attributes."""

    source = ""


Json = TypeAliasType("Json", "dict[str, Json] | list[Json] | str | int | None")
Dated = TypeAliasType("Dated", "dict[str, Dated] | list[Dated] | date")

DAY = date(2026, 1, 2)
NOON = datetime(2026, 1, 2, 12, 0, 0, 250)  # noqa: DTZ001 - a value without a zone
LINE = Line(text="a", cents=1)
MORE: dict[str, Any] = {"note": [1, "x"]}


def _seen_invoice() -> Invoice:
    invoice = Invoice(Total=Decimal("1.10"), lines=[LINE], tags={"a"}, due=NOON.replace(tzinfo=UTC), **MORE)
    invoice._seen = 3
    assert invoice.size == 1
    return invoice


FANCY_INVOICE = Invoice(Total=Decimal(1))
FANCY_INVOICE.note = (1,)  # type: ignore[attr-defined]  # an extra field


def _marked() -> Marked:
    marked = Marked(DAY)
    marked.mark = [1]  # type: ignore[attr-defined]  # no field
    return marked


SHARED: list[tuple[Any, Any]] = [
    (Invoice, _seen_invoice()),
    (Invoice, Invoice.model_validate({"Total": "1", "due": "2026-01-02T03:04:05+02:00", "site": "https://a.b/c?d=1"})),
    (Invoice, Invoice.model_construct(total=Decimal(1), lines=[])),
    (Line, LINE),
    (Counted, Counted(n=1)),
    (Lines, Lines([LINE])),
    (PageOf[Line], PageOf[Line](rows=[LINE])),
    (PageOf[date], PageOf[date](rows=[DAY])),
    (list[Pet], [Cat(), Dog()]),
    (Line | PricedLine, PricedLine(text="a")),
    (Union[PricedLine, Line], LINE),  # noqa: UP007 - as apps may write it
    (OldInvoice, OldInvoice(number=1)),
    (ValidatedPoint, ValidatedPoint(1, (2, 3))),
    (Event, Event(DAY, 1)),
    (Tree, Tree(("a", 1), Tree(("b", 2)), None)),
    (Pair[date], Pair(DAY, [DAY])),
    (DatedPair, DatedPair(DAY, [], "x")),
    (Reading, Reading(NOON, 1.5)),
    (Reading, Reading(NOON)),
    (Marked, _marked()),
    (Node, Node(at=(1, "a"), below=Node(at=(2, "b")))),
    (Account, Account("3", DAY)),
    (Group, Group(frozenset({1, 2}))),
    (Point, Point(1, DAY)),
    (Order, {"number": 1, "places": (1, 2)}),
    (Order, {"number": 1, "unknown": [1]}),
    (PlainOrder, {"number": 1}),
    (Color, Color.CRIMSON),
    (Word, Word.YES),
    (Level, Level.LOW),
    (Access, Access.READ | Access.WRITE),
    (Literal[Color.RED, "x"], Color.RED),
    (Customer, "c"),
    (Number, uuid.UUID(int=1)),
    (datetime, NOON),
    (datetime, NOON.replace(tzinfo=UTC)),
    (datetime, NOON.replace(tzinfo=timezone(timedelta(hours=-3, minutes=-30)))),
    (datetime, NOON.replace(tzinfo=timezone(timedelta(hours=1), "CET"))),
    (datetime, datetime(2026, 10, 25, 2, 30, tzinfo=ZoneInfo("Europe/Berlin"), fold=1)),
    (datetime, NOON.replace(tzinfo=ZoneInfo("UTC"))),
    (time, time(1, 2, 3, 4, tzinfo=UTC)),
    (date, DAY),
    (timedelta, timedelta(days=-1, microseconds=3)),
    (date | datetime, NOON),
    (date | datetime, DAY),
    (Decimal, Decimal("-0.00")),
    (Decimal, Decimal("123456789012345678901234567890.12345678901234567890")),
    (Fraction, Fraction(1, 3)),
    (Path, Path("/a/b")),
    (PurePath, PurePath("a")),
    (PurePosixPath, PurePosixPath("a")),
    (ipaddress.IPv6Address, ipaddress.ip_address("::1")),
    (bytes, b"\x00\xff"),
    (bytearray, bytearray(b"\x00\xff")),
    (complex, complex(-0.0, 2)),
    (tuple[int, str], (1, "x")),
    (tuple[int, ...], ()),
    (tuple, (1, [2])),
    (tuple[tuple[int, ...], ...], ((1,), ())),
    (list[tuple[str, float]], [("a", -0.0)]),
    (set[int], {1, 2}),
    (frozenset[tuple[int, int]], frozenset({(1, 2)})),
    (AbstractSet[int], frozenset({1})),
    (Sequence[str], ("a",)),
    (Sequence[str], ["a"]),
    (Mapping[str, date], {"a": DAY}),
    (dict[uuid.UUID, Line], {uuid.UUID(int=1): LINE}),
    (dict[tuple[int, int], str], {(2, 1): "b", (1, 2): "a"}),
    (dict[Word, int], {Word.YES: 1}),
    (collections.OrderedDict[str, int], collections.OrderedDict(b=1, a=2)),
    (collections.Counter[str], collections.Counter("aab")),
    (collections.deque[int], collections.deque([1, 2], 3)),
    (Optional[Line], None),  # noqa: UP045 - as above
    (Line | dict[str, Any] | None, {"text": "a"}),
    (list[Line] | list[str], ["a"]),
    (list[Line] | list[str], [LINE]),
    (Annotated[date, "unhashable", []], DAY),
    (Json, {"a": [{"b": "c"}, None, 1]}),
    (Dated, {"a": [{"b": DAY}]}),
    (np.ndarray, np.arange(6.0).reshape(2, 3)),
    (NDArray[np.float32], np.asfortranarray(np.ones((2, 3), "f4"))),
    (np.ndarray, np.array(3, ">i2")),
    (np.ndarray, np.zeros((0, 3))),
    (np.ndarray, np.array([1.0, np.nan])),
    (np.ndarray, np.array([(1, [2.0, 3.0])], dtype=[("a", "i1"), ("b", "f8", (2,))])),
    (np.ndarray, np.ones(2, np.dtype([("a", "i1"), ("b", [("c", "f8"), ("d", "i2")])], align=True))),
    (np.ndarray, np.array(["2026-01-02"], "M8[D]")),
    (np.ndarray, np.array(["a", "bc"])),
    (np.float32, np.float32(1.5)),
    (np.bool_, np.bool_(True)),
    (Any, {"a": [1, 2.5, None, b"x", {1: True}]}),
]
"""Annotations and values that come back."""

REFUSED: list[tuple[Any, Any, str]] = [
    (Line, PricedLine(text="a"), r"value is of type .*PricedLine, not .*Line"),
    (
        Invoice,
        Invoice(Total=Decimal(1), lines=[PricedLine(text="a")]),
        r"value\.lines\[0\] is of type .*PricedLine, not .*\.Line",
    ),
    (Invoice, Invoice(Total=Decimal(1), any={"a": (1,)}), r"value\.any\['a'\] is of type tuple"),
    (Invoice, FANCY_INVOICE, r"value\.note is of type tuple"),
    (PageOf[Line], PageOf(rows=[LINE]), r"value is of type .*PageOf, not .*PageOf\[Line\]"),
    (Event, Event(NOON), r"value\.day is of type datetime\.datetime, not datetime\.date"),
    (Pair[int], Pair(DAY, []), r"value\.first is of type datetime\.date"),
    (Incremented, Incremented(1), r"value\.n would come back changed"),
    (Order, {"number": 1, "unknown": (1,)}, r"value\['unknown'\] is of type tuple"),
    (tuple[int, str], (1,), r"value has 1 items"),
    (tuple[int, str], [1, "x"], r"value is of type list, not a tuple of 2"),
    (list[date], [DAY, "2026-01-02"], r"value\[1\] is of type str, not datetime\.date"),
    (Color, Word.YES, r"value is of type .*Word, not .*Color"),
    (str, Word.YES, r"value is of type .*Word"),
    (str, Text("x"), r"value is of type .*Text"),
    (dict, Record(), r"value is of type .*Record"),
    (dict[str, int], collections.defaultdict(int, a=1), r"value is of type collections\.defaultdict"),
    (dict[str, date], collections.defaultdict(None), r"value is of type collections\.defaultdict, not dict"),
    (dict[str, int], {Word.YES: 1}, r"value has the key .*YES.*Word"),
    (dict[date, str], {NOON: ""}, r"value.* has a key that is of type datetime\.datetime, not datetime\.date"),
    (list, [0, bytearray(b"")], r"value\[1\] is of type bytearray"),
    (list[int], [1, True, 2**64], r"value\[2\] is an integer beyond 64 bits"),
    (dict[str, Any], {"a": [0.5, float("nan")]}, r"value\['a'\]\[1\] is NaN"),
    (Decimal, Decimal("NaN"), r"value is NaN"),
    (list[complex], [complex("nan")], r"value\[0\] is NaN"),
    (str, "\ud800", r"value has a lone surrogate"),
    (Path, PurePosixPath("a"), r"value is of type pathlib.*\.PurePosixPath, not pathlib.*\.PosixPath"),
    (PurePath, Path("a"), r"value is of type pathlib.*\.PosixPath, not pathlib.*\.PurePosixPath"),
    (np.ndarray, np.array([{}]), r"value has elements of object"),
    (np.ndarray, np.ma.array([1]), r"value is of type numpy\.ma.*MaskedArray"),
    (np.float32, np.float64(1.5), r"value is of type numpy\.float64, not numpy\.float32"),
    (float, np.float64(1.5), r"value is of type numpy\.float64"),
    (Invoice, Invoice.model_construct(total="1"), r"value\.total is of type str, not decimal\.Decimal"),
    (Any, (1, 2), r"value is of type tuple"),
    (dict, {"items": [{"when": DAY}]}, r"value\['items'\]\[0\]\['when'\] is of type datetime\.date"),
]
"""Annotations and values that are returned to their own caller only, with the place that the warning names."""


def numbered(index: int) -> Any:
    """Return a value of `SHARED`, whose type a caller names with ``returns=``."""
    return SHARED[index][1]


def event(day: str) -> "Event":
    """Return a dataclass."""
    return Event(date.fromisoformat(day), 1)


def line_by_line(text: str) -> Iterator[Line]:
    """Return models, one by one."""
    for word in text.split():
        yield Line(text=word)


class Extractor:
    """An SDK's client, whose methods return typed values."""

    def extract(self, text: str) -> Invoice:
        """Return a model."""
        return Invoice(Total=Decimal(len(text)))

    def points(self, count: int) -> Iterator[Point]:
        """Return named tuples, one by one."""
        for x in range(count):
            yield Point(x, DAY)


def portrait(value: Any) -> Any:  # noqa: C901 - one case for each kind of value
    """Return what a value consists of, with all types, as pickle takes it apart: equal for values that are the same."""
    kind = type(value)
    if kind in {str, bytes, int, bool, type(None)} or isinstance(value, type):
        return kind, value

    if kind in {float, complex}:
        return kind, repr(value)  # -0.0 is not 0.0

    if kind in {list, tuple}:
        return kind, [portrait(part) for part in value]

    if kind is dict:
        return kind, [(portrait(key), portrait(part)) for key, part in value.items()]

    if kind in {set, frozenset}:
        return kind, sorted(repr(portrait(part)) for part in value)

    if kind is np.ndarray:
        order = value.flags.c_contiguous, value.flags.f_contiguous
        # The bytes between the fields of a structure are of no account.
        return kind, value.dtype, value.shape, order, value.tobytes() if value.dtype.names is None else repr(value)

    if isinstance(value, enum.Enum):
        return kind, value._value_, value._name_

    if isinstance(value, msgspec.Struct):
        more = getattr(value, "__dict__", None)
        return kind, [portrait(getattr(value, name)) for name in value.__struct_fields__], portrait(more)

    if hasattr(kind, "_attrs_cached_hash"):
        return kind, [portrait(getattr(value, attribute.name)) for attribute in attrs.fields(kind)]

    if isinstance(value, pydantic.BaseModel):
        state = value.__getstate__()
        state["__dict__"] = {name: part for name, part in state["__dict__"].items() if name != "size"}
        return kind, [(name, portrait(part)) for name, part in sorted(state.items())]

    _, *parts = value.__reduce_ex__(2)
    return kind, [portrait(list(part) if hasattr(part, "__next__") else part) for part in parts]
