"""JSON lines become msgpack messages, at a cost that their elements bound."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecard.server.json_lines.text import DECODE_FAULTS, TooManyElements, from_json, payload_of_line
from sidecard_client.protocol import wire

LIMIT = wire.MAX_LINE_ELEMENTS


def array(number: str, count: int) -> bytes:
    """Return a JSON array that repeats a number."""
    return f"[{','.join([number] * count)}]".encode()


@given(st.lists(st.floats(allow_nan=False, allow_infinity=False) | st.integers(-(2**63), 2**64 - 1)))
def test_numbers_are_those_of_other_decoders(numbers: list[float]) -> None:
    """Bit by bit, and with their types."""
    text = json.dumps(numbers)
    assert repr(from_json(text.encode())) == repr(json.loads(text))


@pytest.mark.parametrize(
    ("number", "weight"),
    [
        ("1.5", 1),
        ("-0.012345678901234567", 1),
        ("1e308", 3),
        ("5E-324", 3),
        ("0." + "1" * 62, 9),
        ("1." + "1" * 798, 101),
    ],
)
def test_numbers_count_by_the_time_that_their_conversion_takes(number: str, weight: int) -> None:
    """The usual ones take 0.03 us in the decoder, which takes up to 7 us for others."""
    most = LIMIT // weight
    assert from_json(array(number, most)) == [float(number)] * most
    with pytest.raises(TooManyElements, match="65536"):
        from_json(array(number, most + 1))


def test_whole_numbers_do_not_count() -> None:
    """All of them are cheap."""
    assert len(from_json(array("7", 2 * LIMIT))) == 2 * LIMIT


def test_each_line_has_its_own_limit() -> None:
    """Nothing is left over from a line before."""
    for _ in range(2):
        assert len(from_json(array("1.5", LIMIT))) == LIMIT


@pytest.mark.parametrize("number", ["1e999", "-1e999", "1" * 400 + ".5", "1e" + "9" * 1000])
def test_a_number_out_of_range_is_no_infinity(number: str) -> None:
    """JSON could not express it in the reply."""
    with pytest.raises(DECODE_FAULTS):
        from_json(array(number, 1))


@pytest.mark.parametrize("line", [b'{"a":[' + b"{}," * LIMIT + b"{}]}", b'{"$bytes":"","a":' + b"[" * LIMIT])
def test_arrays_and_objects_are_counted_before_decoding(line: bytes) -> None:
    """They are the costliest elements in memory."""
    with pytest.raises(TooManyElements):
        payload_of_line(line)


def test_bytes_are_found_in_a_bounded_number_of_elements() -> None:
    """The search for them costs more than decoding."""
    numbers = b",".join([b"1"] * (LIMIT - 9))
    assert len(payload_of_line(b'{"b":{"$bytes":"YQ=="},"a":[' + numbers + b"]}")) > LIMIT - 9
    with pytest.raises(TooManyElements):
        payload_of_line(b'{"b":{"$bytes":"YQ=="},"a":[' + numbers + b",1]}")


def test_arrays_and_objects_that_are_searched_for_bytes_count_three_times() -> None:
    """30,000 maps with an empty list each take 40 ms. Without bytes, they take 10."""
    maps = b",".join([b'{"a":[]}'] * (LIMIT // 4))
    assert payload_of_line(b'{"a":[' + maps + b"]}")
    with pytest.raises(TooManyElements):
        payload_of_line(b'{"b":{"$bytes":"YQ=="},"a":[' + maps + b"]}")


@pytest.mark.parametrize("escaped", ["bytes", "b\\u0079tes", "\\u0062\\u0079\\u0074\\u0065\\u0073"])
@pytest.mark.parametrize("dollar", ["$", "\\u0024"])
def test_bytes_are_found_however_their_name_is_written(dollar: str, escaped: str) -> None:
    """JSON allows an escape for each character."""
    line = '{"op":"put","key":"k","value":{"' + dollar + escaped + '":"AAE="}}'
    request = wire.unpack_request(payload_of_line(line.encode()))
    assert isinstance(request, wire.Put)
    assert bytes(request.value) == wire.pack(b"\x00\x01")


def test_escapes_of_other_alphabets_need_no_search() -> None:
    """Many programs write every character beyond ASCII with an escape."""
    numbers = b",".join([b"1"] * LIMIT)
    assert payload_of_line(b'{"a":"\\u00e9\\ud83d\\ude00","b":[' + numbers + b"]}")


def test_a_payload_is_the_message() -> None:
    """With bytes, also if their name is written with an escape."""
    line = b'{"op":"put","id":7,"key":"k","value":{"a":[1.5,{"\\u0024bytes":"AAE="}]}}'
    request = wire.unpack_request(payload_of_line(line))
    assert isinstance(request, wire.Put)
    assert bytes(request.value) == wire.pack({"a": [1.5, b"\x00\x01"]})
    assert request.id == 7
