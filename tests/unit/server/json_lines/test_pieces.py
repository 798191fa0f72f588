"""Large msgpack becomes the same JSON in pieces as at once."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import msgpack

from sidecard.server.json_lines import pieces
from sidecard.server.json_lines.pieces import PIECE_BYTES, json_pieces
from sidecard.server.json_lines.text import DECODE_FAULTS, json_text

SCALARS = (
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text()
    | st.binary()
)
VALUES = st.recursive(SCALARS, lambda part: st.lists(part) | st.dictionaries(st.text(), part), max_leaves=40)


@pytest.fixture
def _small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pieces, "PIECE_BYTES", 9)
    monkeypatch.setattr(pieces, "_PIECE_PARTS", 4)


@pytest.mark.usefixtures("_small_pieces")
@given(VALUES)
def test_the_pieces_of_a_value_are_its_text(value: object) -> None:
    """Wherever it is cut: in texts of all code points, in bytes, between parts, and between names and values."""
    packed = msgpack.encode(value)
    assert b"".join(json_pieces(packed)) == json_text(packed)


@pytest.mark.parametrize(
    "value",
    [
        [1] * 300_000,
        [1.5] * 100_000,
        [7, "a"] * 50_000,
        "é𝄞a" * 100_000,
        b"\xff\x00" * 200_000,
        {str(number): number for number in range(50_000)},
        [{"role": "user", "content": "text " * 30, "parts": [1, [2, [3]]]}] * 2_000,
        {"x" * 100_000: "y" * 100_000, "z": ["w" * 100_000]},
        [[]] * 100_000,
        [[1]] * 30_000,
    ],
)
def test_each_piece_is_little_work(value: object) -> None:
    """Bytes are at most those of one piece of text, numbers and other parts at most 2,048 in a row."""
    packed = msgpack.encode(value)
    texts = list(json_pieces(packed))
    assert json.loads(b"".join(texts)) == json.loads(json_text(packed))
    assert max(map(len, texts)) <= 2 * PIECE_BYTES
    assert max(text.count(b",") for text in texts) <= 2 * 2048


@pytest.mark.parametrize(
    "packed",
    [
        msgpack.encode({1: "a"}),
        msgpack.encode([{"a": {2: "b"}}]),
        msgpack.encode(float("nan")),
        msgpack.encode([1.0, [float("inf")]]),
        b"\xda\xff\xff" + b"\xff" * 65535,
        b"\xa1\xff",
        b"\x92\x01",
        b"\x91\xd9\x05ab",
        b"\xdb\x00\x01\x00\x00ab",
        b"\x01\x01",
        b"",
        b"\x81\x91\x01\x01",
    ],
)
def test_what_json_cannot_express_is_a_fault(packed: bytes) -> None:
    """Names that are no text, numbers that are none, texts that are no UTF-8, and incomplete values."""
    with pytest.raises(DECODE_FAULTS):
        b"".join(json_pieces(packed))
