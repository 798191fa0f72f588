import base64
import hashlib
import inspect
import json
import sys
import uuid
from collections import OrderedDict, namedtuple
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from enum import Enum, IntEnum, StrEnum
from pathlib import Path
from typing import Any

import msgspec
import pytest

from sidecard_client.keys import fingerprint as keys
from sidecard_client.keys.fingerprint import canonical, fingerprint
from sidecard_client.keys.normal_form import normal_arguments
from sidecard_client.protocol.errors import UnkeyableRequest

VECTORS = json.loads(Path(__file__).with_name("key_vectors.json").read_text())


def key(*args: Any, **kwargs: Any) -> str:
    """Return the key of a request that differs from others in its arguments alone."""
    return fingerprint("general", None, "module.function", args, kwargs)


def with_bytes(value: Any) -> Any:
    """Turn the vectors' base64 into bytes."""
    if isinstance(value, dict):
        if set(value) == {"$bytes"}:
            return base64.b64decode(value["$bytes"])
        return {name: with_bytes(item) for name, item in value.items()}
    return [with_bytes(item) for item in value] if isinstance(value, list) else value


@pytest.mark.parametrize("vector", VECTORS, ids=[vector["key"][:11] for vector in VECTORS])
def test_golden_vectors(vector: dict[str, Any]) -> None:
    """Other languages must compute the same keys, byte by byte."""
    request = (
        vector["task"],
        vector["model"],
        vector["name"],
        tuple(with_bytes(vector["args"])),
        with_bytes(vector["kwargs"]),
        (),
        tuple(vector.get("normalize", ())),
        vector.get("extras", {}),
    )

    assert canonical(*request).hex() == vector["canonical_hex"]
    assert fingerprint(*request) == vector["key"]
    assert vector["key"] == "k2-" + hashlib.sha256(bytes.fromhex(vector["canonical_hex"])).hexdigest()


Pair = namedtuple("Pair", "a b")  # noqa: PYI024 - the untyped kind is what is tested


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({"a": 1, "b": {"c": 2, "d": 3}}, {"b": {"d": 3, "c": 2}, "a": 1}),
        ([1, (2, 3)], [1, [2, 3]]),
        ({1: "x", "1": "y", None: "z"}, {None: "z", "1": "y", 1: "x"}),
        (b"x", bytearray(b"x")),
        (OrderedDict(a=1), {"a": 1}),
        (Pair(1, 2), [1, 2]),
    ],
)
def test_equal_requests_have_equal_keys(one: Any, other: Any) -> None:
    """The order of entries and the kind of sequence do not matter."""
    assert key(one) == key(other)


DIFFERENT: list[Any] = [
    None, True, False, 0, 1, 1.0, 0.5, "1", "", b"", b"1", "x", [], {}, [[]], [None], [1], [[1]], {"a": None}, {"a": 1},
    {"a": "1"}, {1: "a"}, {"1": "a"}, {True: "a"}, {None: "a"}, [1, 2], [2, 1], "a\u0301", "\u00e1", [1, [2]], [[1], 2],
]  # fmt: skip


def test_requests_that_differ_have_different_keys() -> None:
    """Type, value, order and nesting of every part matter."""
    assert len({key(value) for value in DIFFERENT}) == len(DIFFERENT)


def test_every_part_of_a_request_counts() -> None:
    """Task, model, name, positional and named arguments are separate parts."""
    requests: list[tuple[Any, ...]] = [
        ("t", None, "n", ("x",), {}),
        ("u", None, "n", ("x",), {}),
        ("t", "m", "n", ("x",), {}),
        ("t", "", "n", ("x",), {}),
        ("t", None, "o", ("x",), {}),
        ("t", None, "n", ("x", "y"), {}),
        ("t", None, "n", (["x"],), {}),
        ("t", None, "n", (), {"x": "x"}),
        ("t", None, "n", ("x",), {"x": None}),
        ("t", None, "n", ({"x": "x"},), {}),
    ]

    assert len({fingerprint(*request) for request in requests}) == len(requests)


@pytest.mark.parametrize("name", ["timeout", "request_id", "idempotency_key", "seed"])
def test_every_argument_counts(name: str) -> None:
    """A plain function may use any of them."""
    assert len({key("x", **arguments) for arguments in ({name: 1}, {name: 2}, {})}) == 3


def test_ignore_leaves_out_named_arguments_and_fields_of_positional_dicts() -> None:
    """Only top-level fields are left out."""

    def ignoring(*args: Any, **kwargs: Any) -> str:
        return fingerprint("general", None, "module.function", args, kwargs, ("user",))

    assert ignoring({"user": "a", "text": "x"}, user="b") == ignoring({"text": "x"})
    assert ignoring({"text": {"user": "a"}}) != ignoring({"text": {}})


@dataclass
class Question:
    """Something with fields."""

    text: str = "x"


class Colour(Enum):
    """Something with values."""

    RED = "red"


class Text(StrEnum):
    """A string in all but name."""

    RED = "red"


CYCLE: list[Any] = []
CYCLE.append(CYCLE)


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ({"messages": [{"image": Question()}]}, r"args\[0\]\['messages'\]\[0\]\['image'\] is a .*Question"),
        (datetime.now(UTC), "datetime"),
        (uuid.uuid4(), "UUID"),
        (Decimal(1), "Decimal"),
        ({1, 2}, "set"),
        (Colour.RED, "Colour"),
        (object(), "object"),
        ([float("nan")], r"args\[0\]\[0\] is NaN"),
        (2**64, "cannot be encoded"),
        ("\ud800", "cannot be encoded"),
        ({(1, 2): 3}, "key of type tuple"),
        (msgspec.msgpack.Ext(5, b"x"), "Ext"),
        ([msgspec.Raw(b"\x01")], "Raw"),
        (CYCLE, "nested deeper"),
    ],
)
def test_a_value_without_a_stable_form_is_refused_with_its_place(value: Any, words: str) -> None:
    """A dataclass and a dict of its fields must not share a key."""
    with pytest.raises(UnkeyableRequest, match=words):
        key(value)


def test_a_string_enum_is_its_string() -> None:
    """It equals its string, so it shares its key."""
    assert key(Text.RED) == key("red")


class Markup(str):
    """A string that shows itself otherwise."""

    __slots__ = ()

    def __str__(self) -> str:
        return "shown"


class Number(int):
    """An integer with a class of its own."""


class Rank(IntEnum):
    """An integer in all but name."""

    FIRST = 1


class Real(float):
    """A float with a class of its own, as numpy's is."""


class Blob(bytes):
    """Bytes with a class of their own."""


@pytest.mark.parametrize(
    ("special", "plain"),
    [(Markup("x"), "x"), (Number(3), 3), (Real(1.5), 1.5), (Blob(b"x"), b"x"), (Rank.FIRST, 1)],
)
def test_a_subclass_of_a_plain_class_is_keyed_by_its_plain_value(special: Any, plain: Any) -> None:
    """As a value, inside others and as the key of a map."""
    assert key(special) == key(plain)
    assert key([special], k=(special,)) == key([plain], k=[plain])
    assert key({special: special}) == key({plain: plain})


def test_keys_of_a_map_are_in_the_documented_order() -> None:
    """By class, then by value: JSON vectors cannot express that."""
    request = {b"a": 0, "b": 0, "aa": 0, 2.5: 0, -1.5: 0, 300: 0, 7: 0, -1: 0, True: 0, False: 0, None: 0}

    entries = "c000 c200 c300 ff00 0700 cd012c00 cbbff800000000000000 cb400400000000000000 a2616100 a16200 c4016100"

    assert canonical("t", None, "n", (request,), {}) == bytes.fromhex(
        f"97a8736964656361726402a174c0a16e91 8b {entries} 80"
    )


def test_a_request_that_meets_a_full_stack_is_refused() -> None:
    """The caller's own recursion leads to the usual error."""
    nested: Any = (1,)
    for _ in range(keys.MAX_DEPTH - 10):
        nested = [nested]

    def call_from(depth: int) -> str:
        return call_from(depth - 1) if depth else key(nested)

    used = len(inspect.stack(0))
    with pytest.raises(UnkeyableRequest, match="nested too deep"):
        call_from(sys.getrecursionlimit() - used - 150)


def test_requests_in_different_normal_forms_never_share() -> None:
    """A caller without forms must not get an answer to another spelling."""
    forms: list[tuple[Any, ...]] = [(), ("nfc",), ("space",), ("case",), ("case", "nfc"), ("case", "nfc", "space")]
    keys_ = [fingerprint("t", None, "n", ("plain",), {}, (), form) for form in forms]
    assert len(set(keys_)) == len(forms)


def test_the_order_of_forms_does_not_count() -> None:
    """Nor does a repeated form."""
    one = fingerprint("t", None, "n", ("A  b",), {}, (), ("space", "case"))
    assert fingerprint("t", None, "n", (" a B",), {}, (), ("case", "space", "case")) == one


@pytest.mark.parametrize("value", [(1, ("A ",)), {"x": {1: "A "}}, b"A ", OrderedDict(a=["A ", None, 1.5, True])])
def test_the_walk_and_the_encoder_agree_on_normal_forms(value: Any) -> None:
    """The strict walk gives the canonical form of the normalized request."""
    normal = canonical("t", None, "n", (value,), {"k": value}, (), ("case", "space"))
    args, kwargs = normal_arguments((value,), {"k": value}, ("case", "space"))
    extras = msgspec.msgpack.encode({"normalize": ["case", "space"]})
    assert normal[1:] == canonical("t", None, "n", args, kwargs)[1:] + extras
    assert normal[0] == 0x98


def test_a_value_without_a_stable_form_is_refused_in_normal_form_too() -> None:
    """The error has its place."""
    with pytest.raises(UnkeyableRequest, match=r"args\[0\]\['a'\]"):
        fingerprint("t", None, "n", ({"a": object()},), {}, (), ("nfc",))


def test_endless_nesting_is_refused_in_normal_form_too() -> None:
    """The error is the usual one."""
    endless: list[Any] = []
    endless.append(endless)
    with pytest.raises(UnkeyableRequest, match="nested too deep"):
        fingerprint("t", None, "n", (endless,), {}, (), ("nfc",))


def test_the_strict_walk_agrees_with_the_encoder(monkeypatch: pytest.MonkeyPatch) -> None:
    """Both encode a plain request to the same bytes."""
    requests = [("t", "m", "n", (value,), {"b": value, "a": 1}) for value in DIFFERENT if value != {None: "a"}]
    requests = [
        request
        for request in requests
        if not isinstance(request[3][0], dict) or all(isinstance(k, str) for k in request[3][0])
    ]
    fast = [canonical(*request) for request in requests]
    monkeypatch.setattr(keys, "_decode", lambda _: [None] * 7)

    assert [canonical(*request) for request in requests] == fast
