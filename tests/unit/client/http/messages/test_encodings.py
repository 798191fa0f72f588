"""Content encodings: what is decoded, what travels as received, and what a caller takes."""

import gzip
import tracemalloc
import zlib
from collections.abc import Callable
from types import SimpleNamespace

import pytest
import zstandard

from sidecard_client.http.messages import encodings
from sidecard_client.http.messages.encodings import (
    MAX_PIECE_BYTES,
    UndecodableAnswer,
    admits,
    decoded_whole,
    decoder_for,
    encodings_in,
)

TEXT = b"hello " * 5_000


def raw_deflate(data: bytes) -> bytes:
    """Encode as servers do that leave out the header of zlib."""
    encoder = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    return encoder.compress(data) + encoder.flush()


ENCODERS: list[tuple[str, Callable[[bytes], bytes]]] = [
    ("", bytes),
    ("identity", bytes),
    ("gzip", gzip.compress),
    ("deflate", zlib.compress),
    ("deflate", raw_deflate),
    ("zstd", zstandard.compress),
    ("zstd", lambda data: zstandard.compress(data[:9]) + zstandard.compress(data[9:])),
    ("gzip, zstd", lambda data: zstandard.compress(gzip.compress(data))),
    ("identity, Gzip ", gzip.compress),
]


@pytest.mark.parametrize(("header", "encode"), ENCODERS)
@pytest.mark.parametrize("size", [1, 7, 100_000])
def test_an_answer_is_decoded_however_it_arrives(header: str, encode: Callable[[bytes], bytes], size: int) -> None:
    """Encodings are undone in the reverse order of the header."""
    sent = encode(TEXT)
    decoder = decoder_for(encodings_in(header))
    assert decoder is not None
    parts = [part for start in range(0, len(sent), size) for part in decoder.decode(sent[start : start + size])]
    assert b"".join(parts) == TEXT


@pytest.mark.parametrize("header", ["x-gzip", "compress", "gzip, exi"])
def test_an_unknown_encoding_has_no_decoder(header: str) -> None:
    """The HTTP libraries leave it as it is too."""
    assert decoder_for(encodings_in(header)) is None
    assert decoded_whole(encodings_in(header), [b"x"], 99) is None


@pytest.mark.parametrize("name", ["gzip", "deflate", "zstd"])
def test_damaged_bytes_raise(name: str) -> None:
    """Its own caller gets the library's exception for them."""
    decoder = decoder_for([name])
    assert decoder is not None
    with pytest.raises(UndecodableAnswer, match="cannot be decoded"):
        list(decoder.decode(b"\x00nothing of this kind\xff" * 20))

    assert decoded_whole([name], [b"\x00nothing of this kind\xff" * 20], 9999) is None


def test_a_frame_of_zstd_that_ends_too_early_is_no_whole_body() -> None:
    """HTTP libraries raise for it, so that other callers must not get its beginning as all of it."""
    frames = zstandard.compress(b"one" * 99) + zstandard.compress(b"two")
    assert decoded_whole(["zstd"], [frames[:7], frames[7:]], 300) == b"one" * 99 + b"two"
    assert decoded_whole(["zstd"], [frames[:-1]], 300) is None
    assert decoded_whole(["zstd"], [], 300) == b""


def test_a_few_bytes_do_not_fill_the_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pieces are bounded, and so is their sum."""
    monkeypatch.setattr(encodings, "MAX_DECODED_BYTES", 4 * MAX_PIECE_BYTES)
    decoder = decoder_for(["gzip"])
    assert decoder is not None
    parts: list[bytes] = []
    with pytest.raises(UndecodableAnswer, match="decoded bytes"):
        parts += decoder.decode(gzip.compress(bytes(5 * MAX_PIECE_BYTES)))

    bomb = decoder_for(["gzip"])
    assert bomb is not None
    assert max(map(len, bomb.decode(gzip.compress(bytes(3 * MAX_PIECE_BYTES))))) <= MAX_PIECE_BYTES


def test_all_steps_of_decoding_are_limited(monkeypatch: pytest.MonkeyPatch) -> None:
    """Any number of inner bytes may have no content at all."""
    monkeypatch.setattr(encodings, "MAX_DECODED_BYTES", 4 * MAX_PIECE_BYTES)
    empty = zlib.compress(b"")[:2] + b"\x00\x00\x00\xff\xff" * MAX_PIECE_BYTES
    assert decoded_whole(["deflate"], [empty], 0) == b""
    decoder = decoder_for(["deflate", "gzip"])
    assert decoder is not None
    with pytest.raises(UndecodableAnswer, match="decoded bytes"):
        list(decoder.decode(gzip.compress(empty)))


@pytest.mark.parametrize(
    ("accepts", "encoding", "admitted"),
    [
        ("gzip, deflate", ["gzip"], True),
        ("GZIP;q=0.5", ["gzip"], True),
        ("gzip;q=0", ["gzip"], False),
        ("gzip; q=0.000", ["gzip"], False),
        ("br", ["gzip"], False),
        ("*", ["gzip"], True),
        ("*;q=0", ["gzip"], False),
        ("gzip;q=0, *", ["gzip"], False),
        ("identity", ["gzip"], False),
        ("", ["gzip"], False),
        (None, ["gzip"], False),
        (None, [], True),
        ("gzip", ["gzip", "deflate"], False),
    ],
)
def test_a_caller_takes_what_its_header_admits(accepts: str | None, encoding: list[str], admitted: bool) -> None:
    """Without the header it takes no encoding."""
    assert admits(accepts, encoding) is admitted


@pytest.mark.parametrize("limit", [len(TEXT), len(TEXT) - 1])
def test_a_whole_body_is_decoded_up_to_a_limit(limit: int) -> None:
    """A few compressed bytes cannot fill the memory."""
    assert decoded_whole(["gzip"], [gzip.compress(TEXT)], limit) == (TEXT if limit == len(TEXT) else None)


@pytest.mark.parametrize(("name", "encode"), [("gzip", gzip.compress), ("deflate", zlib.compress)])
def test_what_follows_the_end_is_not_kept(name: str, encode: Callable[[bytes], bytes]) -> None:
    """Copies of it would take time that grows with its square."""
    decoder = decoder_for([name])
    assert decoder is not None
    assert b"".join(decoder.decode(encode(TEXT))) == TEXT
    tracemalloc.start()
    try:
        for _ in range(100):
            assert list(decoder.decode(bytes(10_000))) == []

        assert tracemalloc.get_traced_memory()[0] < 100_000
    finally:
        tracemalloc.stop()


class LimitedBrotli:
    """Has the interface of brotli 1.2, and another encoding: zlib's."""

    def __init__(self) -> None:
        self._object = zlib.decompressobj()

    def process(self, data: bytes, *, output_buffer_limit: int) -> bytes:
        """Return at most so much; the rest by calls without data."""
        return self._object.decompress(self._object.unconsumed_tail + data, output_buffer_limit)

    def can_accept_more_data(self) -> bool:
        """Return whether all input has been used, which says nothing about the output."""
        return not self._object.unconsumed_tail


def test_brotli_is_given_a_limit_of_its_output(monkeypatch: pytest.MonkeyPatch) -> None:
    """In versions that take one: 256 bytes of it may have 300 MB of output."""
    monkeypatch.setattr(encodings, "_first_of", lambda *_: SimpleNamespace(Decompressor=LimitedBrotli))
    encodings._brotli.cache_clear()
    try:
        decoder = decoder_for(["br"])
    finally:
        encodings._brotli.cache_clear()

    assert decoder is not None
    sent = zlib.compress(bytes(3 * MAX_PIECE_BYTES + 1))
    pieces = [piece for start in range(0, len(sent), 1000) for piece in decoder.decode(sent[start : start + 1000])]
    assert sum(map(len, pieces)) == 3 * MAX_PIECE_BYTES + 1
    assert max(map(len, pieces)) <= MAX_PIECE_BYTES
