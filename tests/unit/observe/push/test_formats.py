"""The formats, read back by parsers that share no code with the encoders."""

import gzip
import json
import struct
from collections.abc import Iterator
from math import inf, nan

import pytest
from cramjam import snappy
from hypothesis import given
from hypothesis import strategies as st

from sidecard.observe.push.formats import (
    MAX_RAW_BYTES,
    MAX_SAMPLES,
    STALE,
    Encoder,
    Format,
    _varint,
    format_of,
)
from sidecard_client.protocol.wire import Family, Sample

AT = 1_795_453_445_200
ADDED = {"job": "sidecard", "instance": "host"}

Series = tuple[tuple[tuple[str, str], ...], bytes, int]


def encoder(form: Format) -> Encoder:
    """Make an encoder with the usual labels."""
    return Encoder(form, **ADDED)


def family(*samples: Sample) -> list[Family]:
    """Make a family."""
    return [Family("tests", "gauge", "What tests see.", list(samples))]


def varint(data: bytes, at: int) -> tuple[int, int]:
    """Read a number and where it ends."""
    number = shift = 0
    while True:
        number |= (data[at] & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if data[at - 1] < 0x80:
            return number, at


def fields(data: bytes) -> Iterator[tuple[int, bytes | int]]:
    """Read the fields of a protocol buffer."""
    at = 0
    while at < len(data):
        key, at = varint(data, at)
        match key & 7:
            case 0:
                number, at = varint(data, at)
                yield key >> 3, number
            case 1:
                yield key >> 3, data[at : at + 8]
                at += 8
            case 2:
                length, at = varint(data, at)
                yield key >> 3, data[at : at + length]
                at += length
            case kind:
                raise AssertionError(kind)


def written(body: bytes) -> list[Series]:
    """Read a WriteRequest: for each series its labels, the eight bytes of its value, its timestamp."""
    series = []
    for number, one in fields(bytes(snappy.decompress_raw(body))):
        assert number == 1
        assert isinstance(one, bytes)
        labels, values = [], []
        for part, content in fields(one):
            assert isinstance(content, bytes)
            pair = dict(fields(content))
            if part == 1:
                name, text = pair[1], pair[2]
                assert isinstance(name, bytes)
                assert isinstance(text, bytes)
                labels.append((name.decode(), text.decode()))
            else:
                values.append(pair)

        (value,) = values
        assert isinstance(value[1], bytes)
        assert isinstance(value[2], int)
        series.append((tuple(labels), value[1], value[2]))

    return series


@pytest.mark.parametrize(
    ("url", "form"),
    [
        ("http://vm:8428/api/v1/import", Format.JSON_LINES),
        ("http://vm:8428/api/v1/import/?extra_label=a=b", Format.JSON_LINES),
        ("https://vm/insert/0/prometheus/api/v1/import/prometheus", Format.TEXT),
        ("http://prometheus:9090/api/v1/write", Format.REMOTE_WRITE),
    ],
)
def test_the_path_names_the_format(url: str, form: Format) -> None:
    """With any prefix of a proxy, and any query."""
    assert format_of(url) is form


def test_an_unknown_path_is_an_error_that_lists_the_known_ones() -> None:
    """The path's end counts."""
    with pytest.raises(ValueError, match="/api/v1/write"):
        format_of("http://vm:8428/api/v1/query")


def test_json_lines_have_one_line_per_sample() -> None:
    """With its timestamp. Non-finite values are left out: a server would reject the line."""
    samples = [Sample("a", 1), Sample("b", 0.5, {"x": 'q"\n'}), Sample("c", nan), Sample("d", inf), Sample("e", -inf)]
    (block,) = encoder(Format.JSON_LINES).blocks(family(*samples), AT)
    assert [json.loads(line) for line in gzip.decompress(block.body).splitlines()] == [
        {"metric": {"__name__": "a", **ADDED}, "values": [1.0], "timestamps": [AT]},
        {"metric": {"__name__": "b", "x": 'q"\n', **ADDED}, "values": [0.5], "timestamps": [AT]},
    ]
    assert (block.samples, block.at_milliseconds, block.format) == (2, AT, Format.JSON_LINES)


def test_text_escapes_special_characters() -> None:
    """Numbers are written as Prometheus writes them."""
    samples = [Sample("a", nan, {"x": 'q"\\\n'}), Sample("b", inf), Sample("c", -inf), Sample("d", 1e300)]
    (block,) = encoder(Format.TEXT).blocks(family(*samples), AT)
    assert gzip.decompress(block.body).decode().splitlines() == [
        rf'a{{x="q\"\\\n",job="sidecard",instance="host"}} NaN {AT}',
        f'b{{job="sidecard",instance="host"}} +Inf {AT}',
        f'c{{job="sidecard",instance="host"}} -Inf {AT}',
        f'd{{job="sidecard",instance="host"}} 1e+300 {AT}',
    ]


def test_remote_write_sorts_labels() -> None:
    """Including the name, as the protocol requires."""
    (block,) = encoder(Format.REMOTE_WRITE).blocks(family(Sample("a", 2.5, {"Z": "1", "k": "é"})), AT)
    labels = (("Z", "1"), ("__name__", "a"), ("instance", "host"), ("job", "sidecard"), ("k", "é"))
    assert written(block.body) == [(labels, struct.pack("<d", 2.5), AT)]


def test_an_ended_series_is_marked_stale_once() -> None:
    """So queries do not show it for five more minutes; it may return."""
    one = encoder(Format.REMOTE_WRITE)
    both = family(Sample("a", 1.0, {"worker": "1"}), Sample("a", 2.0, {"worker": "2"}))
    one.blocks(both, AT)
    alone = family(both[0].samples[0])
    values = [[value for _, value, _ in written(block.body)] for at in (1, 2) for block in one.blocks(alone, AT + at)]
    assert values == [[struct.pack("<d", 1.0), STALE], [struct.pack("<d", 1.0)]]
    assert len(written(one.blocks(both, AT + 3)[0].body)) == 2


@pytest.mark.parametrize("form", Format)
def test_a_samples_own_job_and_instance_are_renamed(form: Format) -> None:
    """As Prometheus does when it scrapes. A label without a value counts as absent."""
    (block,) = encoder(form).blocks(family(Sample("a", 1.0, {"job": "theirs", "empty": ""})), AT)
    body = bytes(snappy.decompress_raw(block.body)) if form.ordered else gzip.decompress(block.body)
    assert b"exported_job" in body
    assert b"theirs" in body
    assert b"empty" not in body


@pytest.mark.parametrize("form", Format)
def test_a_large_collection_becomes_several_blocks(form: Format) -> None:
    """By the number of samples, and by their bytes."""
    many = [Sample("a", number, {"n": str(number)}) for number in range(MAX_SAMPLES * 2 + 1)]
    blocks = encoder(form).blocks(family(*many), AT)
    assert sum(block.samples for block in blocks) == len(many)
    assert all(block.samples <= MAX_SAMPLES for block in blocks)
    assert len(blocks) >= 3
    wide = [Sample("a", number, {"n": f"{number}" + "x" * 400_000}) for number in range(5)]
    assert [block.samples for block in encoder(form).blocks(family(*wide), AT)] == [2, 2, 1]
    huge = [Sample("a", 1.0), Sample("b", 1.0, {"n": "x" * MAX_RAW_BYTES}), Sample("c", 1.0)]
    assert [block.samples for block in encoder(form).blocks(family(*huge), AT)] == [1, 1, 1]


@pytest.mark.parametrize("form", Format)
def test_an_empty_collection_makes_no_block(form: Format) -> None:
    """Not an empty one either."""
    assert encoder(form).blocks([], AT) == []


@given(st.integers(0, 2**63))
def test_varints_are_read_back(number: int) -> None:
    """Seven bits a byte."""
    assert varint(_varint(number), 0) == (number, len(_varint(number)))
