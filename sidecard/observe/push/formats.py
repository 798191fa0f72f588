"""The formats of a push: families of samples, encoded for one of three kinds of targets.

Each sample has the timestamp of its collection, so a block that arrives twice is an exact duplicate.
The labels ``job`` and ``instance`` are added; a sample's own become ``exported_job`` and ``exported_instance``, as when
Prometheus scrapes.
"""

import gzip
import struct
from collections.abc import Callable, Iterable, Iterator
from enum import IntEnum
from functools import lru_cache
from math import isfinite, isinf, isnan
from urllib.parse import urlsplit

import msgspec

from sidecard.observe.push.spool_records import Block
from sidecard.persistence.batches import batches
from sidecard_client.protocol.wire import Family

MAX_SAMPLES = 10_000
"""Limit of one block. Precedent: vmagent's 10,000 rows."""

MAX_RAW_BYTES = 1024 * 1024
"""Limit of one block before compression, unless a single sample has more."""

STALE = struct.pack("<Q", 0x7FF0000000000002)
"""Prometheus' stale marker, the value of a series that has ended: one of many NaNs."""

_GZIP_LEVEL = 1
"""Takes a third of the time of the usual 6; either compresses metrics to a tenth."""


class Format(IntEnum):
    """Formats that a target accepts. The numbers are written to disk and must keep their meaning."""

    JSON_LINES = 1
    """VictoriaMetrics' ``/api/v1/import``. Non-finite values are left out: it rejects lines with them."""
    TEXT = 2
    """VictoriaMetrics' ``/api/v1/import/prometheus``."""
    REMOTE_WRITE = 3
    """Prometheus' ``/api/v1/write``, version 0.1.0. A series that has ended gets a stale marker."""

    @property
    def ordered(self) -> bool:
        """Whether the target rejects samples older than what it has of the same series."""
        return self is Format.REMOTE_WRITE

    @property
    def headers(self) -> dict[str, str]:
        """The HTTP headers of a request."""
        return _HEADERS[self]


_HEADERS = {
    Format.JSON_LINES: {"Content-Type": "application/x-ndjson", "Content-Encoding": "gzip"},
    Format.TEXT: {"Content-Type": "text/plain; version=0.0.4", "Content-Encoding": "gzip"},
    Format.REMOTE_WRITE: {
        "Content-Type": "application/x-protobuf",
        "Content-Encoding": "snappy",
        "X-Prometheus-Remote-Write-Version": "0.1.0",
    },
}
_PATHS = {
    "/api/v1/import": Format.JSON_LINES,
    "/api/v1/import/prometheus": Format.TEXT,
    "/api/v1/write": Format.REMOTE_WRITE,
}


def format_of(url: str) -> Format:
    """Return the format of the target at ``url``, by its path. Raises `ValueError` for an unknown path."""
    path = urlsplit(url).path.rstrip("/")
    for end, form in _PATHS.items():
        if path.endswith(end):
            return form

    first, *others = _PATHS
    raise ValueError(f"the path of push.url must end in {', '.join(others)} or {first}: it names the format")


class Encoder:
    """Encodes blocks in one format. Remembers the series of the last collection, for stale markers.

    One thread at a time may use it.
    """

    def __init__(self, form: Format, *, job: str, instance: str) -> None:
        self._format = form
        self._added = {"job": job, "instance": instance}
        self._compress = _compression(form)
        self._series: set[bytes] = set()

    def blocks(self, families: Iterable[Family], at_milliseconds: int) -> list[Block]:
        """Return the blocks of one collection, in the order in which they are to be sent."""
        return [
            Block(int(self._format), len(batch), at_milliseconds, self._compress(b"".join(batch)))
            for batch in batches(self._pieces(families, at_milliseconds), len, MAX_RAW_BYTES, MAX_SAMPLES)
        ]

    def _pieces(self, families: Iterable[Family], at_milliseconds: int) -> Iterator[bytes]:
        match self._format:
            case Format.JSON_LINES:
                return self._json_lines(families, at_milliseconds)
            case Format.TEXT:
                return self._text_lines(families, at_milliseconds)
            case Format.REMOTE_WRITE:
                return self._time_series(families, at_milliseconds)

    def _samples(self, families: Iterable[Family]) -> Iterator[tuple[str, dict[str, str], float]]:
        """Yield name, labels and value of each sample. A label without a value counts as absent."""
        for family in families:
            for sample in family.samples:
                labels = {
                    f"exported_{name}" if name in self._added else name: value
                    for name, value in sample.labels.items()
                    if value
                }
                yield sample.name, {**labels, **self._added}, float(sample.value)

    def _json_lines(self, families: Iterable[Family], at_milliseconds: int) -> Iterator[bytes]:
        encode = msgspec.json.Encoder().encode
        for name, labels, value in self._samples(families):
            if isfinite(value):
                line = {"metric": {"__name__": name, **labels}, "values": [value], "timestamps": [at_milliseconds]}
                yield encode(line) + b"\n"

    def _text_lines(self, families: Iterable[Family], at_milliseconds: int) -> Iterator[bytes]:
        for name, labels, value in self._samples(families):
            shown = ",".join(f'{label}="{_escaped(text)}"' for label, text in labels.items())
            yield f"{name}{{{shown}}} {_number(value)} {at_milliseconds}\n".encode()

    def _time_series(self, families: Iterable[Family], at_milliseconds: int) -> Iterator[bytes]:
        series: set[bytes] = set()
        at = _varint(at_milliseconds)
        for name, labels, value in self._samples(families):
            identity = b"".join(_label(label, text) for label, text in sorted({"__name__": name, **labels}.items()))
            series.add(identity)
            yield _one_sample(identity, struct.pack("<d", value), at)

        for identity in self._series - series:
            yield _one_sample(identity, STALE, at)

        self._series = series


def _compression(form: Format) -> Callable[[bytes], bytes]:
    if form is not Format.REMOTE_WRITE:
        return lambda raw: gzip.compress(raw, _GZIP_LEVEL, mtime=0)

    from cramjam import snappy  # noqa: PLC0415 - only remote write needs it

    return lambda raw: bytes(snappy.compress_raw(raw))


def _escaped(text: str) -> str:
    return text.replace("\\", r"\\").replace("\n", r"\n").replace('"', r"\"")


def _number(value: float) -> str:
    if isnan(value):
        return "NaN"

    if isinf(value):
        return "+Inf" if value > 0 else "-Inf"

    return repr(value)


# Protocol buffers, as far as WriteRequest needs them ------------------------------------------------------------------


def _varint(number: int) -> bytes:
    encoded = bytearray()
    while number > 0x7F:  # noqa: PLR2004 - seven bits a byte
        encoded.append(number & 0x7F | 0x80)
        number >>= 7

    encoded.append(number)
    return bytes(encoded)


def _field(number: int, content: bytes) -> bytes:
    """Return a field of bytes, preceded by its length (wire type 2)."""
    return _varint(number << 3 | 2) + _varint(len(content)) + content


@lru_cache(maxsize=1024)
def _label(name: str, text: str) -> bytes:
    """Return field 1 of a time series. Cached: a few labels make up most of all."""
    return _field(1, _field(1, name.encode()) + _field(2, text.encode()))


def _one_sample(identity: bytes, value: bytes, at: bytes) -> bytes:
    """Return a time series of one sample: ``WriteRequest.timeseries`` is field 1, ``TimeSeries.samples`` field 2.

    Of the sample, the value is field 1 (eight bytes, wire type 1) and the timestamp field 2 (varint, wire type 0).
    """
    return _field(1, identity + _field(2, b"\x09" + value + b"\x10" + at))
