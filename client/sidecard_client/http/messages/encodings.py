"""Content encodings of answers: gzip, deflate, br and zstd, in any order that a server applies them.

An answer travels between callers as it was received if its encodings are of `SHARED_AS_RECEIVED`, which every HTTP library
decodes, and decoded otherwise. Answer readers get decoded pieces of bounded size.
"""

import zlib
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from importlib import import_module
from typing import Any, Final, Protocol

SHARED_AS_RECEIVED: Final = frozenset({"gzip", "deflate"})

MAX_PIECE_BYTES: Final = 1024 * 1024
"""Limit of one decoded piece, where the decoder has such a limit."""

MAX_DECODED_BYTES: Final = 256 * 1024 * 1024
"""Limit of what all steps of decoding an answer return, so that a few compressed bytes can neither fill the memory nor keep the
CPU busy: an inner encoding may consist of blocks without content."""

_ZLIB_HEADER_BYTES: Final = 2

_SLICE_BYTES: Final = 256
"""How much input a decoder without a limit of its output gets at once."""


class UndecodableAnswer(Exception):
    """The bytes are not what the ``content-encoding`` header promises, or too many. Never reaches the app."""


class _Step(Protocol):
    """Undoes one encoding."""

    def decode(self, data: bytes) -> Iterator[bytes]:
        """Return the decoded pieces of some bytes. Raises the decoder's own exceptions for invalid bytes."""


class Decoder:
    """Decodes one answer. Without encodings, it returns what it gets."""

    def __init__(self, steps: Sequence[_Step]) -> None:
        self._steps = steps
        self._decoded_bytes = 0

    def decode(self, data: bytes) -> Iterator[bytes]:
        """Return the decoded pieces of some more bytes. Raises `UndecodableAnswer`, after which it is of no use."""
        if not self._steps:
            return iter((data,))

        return self._bounded(data)

    @property
    def is_between_frames(self) -> bool:
        """The body may end here: HTTP libraries raise if a frame of zstd is incomplete."""
        return all(step.is_between_frames for step in self._steps if isinstance(step, _ZstdFrames))

    def _bounded(self, data: bytes) -> Iterator[bytes]:
        try:
            yield from self._through(0, data)
        except UndecodableAnswer:
            raise
        except Exception as error:  # brotli and zstandard have exceptions of their own
            raise UndecodableAnswer(f"it cannot be decoded: {error}") from error

    def _through(self, number: int, data: bytes) -> Iterator[bytes]:
        if number == len(self._steps):
            yield data
            return

        for piece in self._steps[number].decode(data):
            self._decoded_bytes += len(piece)
            if self._decoded_bytes > MAX_DECODED_BYTES:
                raise UndecodableAnswer(f"it has more than {MAX_DECODED_BYTES} decoded bytes")

            yield from self._through(number + 1, piece)


def encodings_in(header: str) -> tuple[str, ...]:
    """Return the names in a ``content-encoding`` header, in the order in which they were applied."""
    names = (name.strip().lower() for name in header.split(","))
    return tuple(name for name in names if name not in {"", "identity"})


def decoder_for(encodings: Sequence[str]) -> Decoder | None:
    """Return what decodes an answer; None if this process cannot: an unknown encoding, or its package is not installed."""
    steps = [_step_for(name) for name in reversed(encodings)]
    return Decoder([step for step in steps if step is not None]) if None not in steps else None


def decoded_whole(encodings: Sequence[str], body: Sequence[bytes], limit: int) -> bytes | None:
    """Return a whole body decoded; None if that is not possible, if it ends too early, or if it has more than ``limit`` bytes."""
    decoder = decoder_for(encodings)
    if decoder is None:
        return None

    whole = bytearray()
    try:
        for piece in body:
            for part in decoder.decode(piece):
                whole += part
                if len(whole) > limit:
                    return None
    except UndecodableAnswer:
        return None

    return bytes(whole) if decoder.is_between_frames else None


def admits(accept_encoding: str | None, encodings: Sequence[str]) -> bool:
    """Return whether a caller with this ``accept-encoding`` header takes an answer with these encodings.

    Without the header, no encoding is admitted: programs that do not decode send none.
    """
    quality: dict[str, bool] = {}
    for item in (accept_encoding or "").split(","):
        name, *parameters = (part.strip().lower() for part in item.split(";"))
        quality[name] = not any(_is_zero(parameter) for parameter in parameters)

    return all(quality.get(name, quality.get("*", False)) for name in encodings)


def _is_zero(parameter: str) -> bool:
    name, _, value = parameter.partition("=")
    return name.strip() == "q" and not value.strip().strip("0.")


def _step_for(name: str) -> _Step | None:
    match name:
        case "gzip":
            return _Zlib(zlib.MAX_WBITS | 16)
        case "deflate":
            return _Deflate()
        case "br":
            make = _brotli()
        case "zstd":
            make = _zstd()
        case _:
            return None

    return None if make is None else make()


class _Zlib:
    """One gzip member, as HTTP libraries decode it, or a zlib stream."""

    def __init__(self, window_bits: int) -> None:
        self._object = zlib.decompressobj(window_bits)

    def decode(self, data: bytes) -> Iterator[bytes]:
        """Decode some bytes. What follows the end has no meaning, and the object would collect all of it."""
        while not self._object.eof and (piece := self._object.decompress(data, MAX_PIECE_BYTES)):
            yield piece
            data = self._object.unconsumed_tail


class _Deflate:
    """A zlib stream, or, as some servers send it, one without header and checksum. The first two bytes decide."""

    def __init__(self) -> None:
        self._head = b""
        self._step: _Zlib | None = None

    def decode(self, data: bytes) -> Iterator[bytes]:
        """Decode some bytes."""
        if self._step is None:
            data = self._head = self._head + data
            if len(data) < _ZLIB_HEADER_BYTES:
                return

            has_header = data[0] & 0x0F == zlib.DEFLATED and int.from_bytes(data[:2], "big") % 31 == 0
            self._step = _Zlib(zlib.MAX_WBITS if has_header else -zlib.MAX_WBITS)

        yield from self._step.decode(data)


class _InSlices:
    """A decoder whose output has no limit: little input at once bounds it well enough."""

    def __init__(self, decompress: Callable[[bytes], bytes]) -> None:
        self._decompress = decompress

    def decode(self, data: bytes) -> Iterator[bytes]:
        """Decode some bytes."""
        for start in range(0, len(data), _SLICE_BYTES):
            piece = self._decompress(data[start : start + _SLICE_BYTES])
            if piece:
                yield piece


class _Brotli:
    """A stream of a version of brotli whose output has a limit."""

    def __init__(self, decoder: Any) -> None:
        self._decoder = decoder

    def decode(self, data: bytes) -> Iterator[bytes]:
        """Decode some bytes."""
        while piece := self._decoder.process(data, output_buffer_limit=MAX_PIECE_BYTES):
            yield piece
            data = b""


class _ZstdFrames:
    """Frames one after another. ``make`` returns the decoder of one."""

    def __init__(self, make: Callable[[], Any]) -> None:
        self._make = make
        self._object = make()
        self.is_between_frames = True

    def decode(self, data: bytes) -> Iterator[bytes]:
        """Decode some bytes."""
        for start in range(0, len(data), _SLICE_BYTES):
            rest = data[start : start + _SLICE_BYTES]
            while rest:
                if self._object.eof:
                    self._object = self._make()

                piece = self._object.decompress(rest)
                self.is_between_frames = self._object.eof
                rest = self._object.unused_data if self._object.eof else b""
                if piece:
                    yield piece


@cache
def _brotli() -> Callable[[], _Step] | None:
    module = _first_of("brotli", "brotlicffi")
    if module is None:
        return None

    def make() -> _Step:
        decoder = module.Decompressor()
        if hasattr(decoder, "can_accept_more_data"):
            return _Brotli(decoder)

        return _InSlices(decoder.process if hasattr(decoder, "process") else decoder.decompress)

    return make


@cache
def _zstd() -> Callable[[], _Step] | None:
    module = _first_of("compression.zstd", "backports.zstd")
    if module is not None:
        return lambda: _ZstdFrames(module.ZstdDecompressor)

    zstandard = _first_of("zstandard")
    if zstandard is None:
        return None

    return lambda: _ZstdFrames(lambda: zstandard.ZstdDecompressor().decompressobj())


def _first_of(*names: str) -> Any:
    for name in names:
        try:
            return import_module(name)
        except ImportError:
            continue

    return None
