"""Limits and field types of the messages."""

import re
from typing import Annotated, Final, Literal, Protocol, get_args

from msgspec import Meta, Raw

PROTOCOL_VERSION = 1

MAX_FRAME_BYTES = 16 * 1024 * 1024
"""Default limit of a msgpack frame. Precedents: Redis 512 MB bulk, memcached 1 MB item, gRPC 4 MiB message, Kafka 1 MiB."""

MAX_LINE_BYTES = 1024 * 1024
"""Default limit of a JSON line. Lines are for people and scripts; larger values travel in msgpack."""

MAX_LINE_ELEMENTS = 65536
"""Limit of arrays and objects in a JSON line, of fractional numbers, and of all elements if it has bytes.

They take up to 20 ms to decode. Some count more than once: 3 times arrays and objects if the line has bytes, and numbers with an
exponent; once more for each 8 characters of a number that is longer than 24.
"""

FRAME_HEADER_BYTES = 4

MAX_MEASUREMENTS = 2048
"""Limit of one `RecordMetrics`: they take 20 ms, during which the daemon serves no one else. A full frame would take seconds."""

MAX_MEASURED = 1e15
"""The largest number that one measurement may add to a counter or a histogram."""

MAX_DIMENSIONS = 4096
"""Limit of a vector. Precedents: OpenAI's text-embedding-3-large has 3072, the largest open models 4096, small ones 384."""

MAX_KEY_CHARACTERS = 1024

MAX_DETAIL_BYTES = 64 * 1024
"""Limit of a failure's `Fail.detail`; the daemon drops a larger one."""

MAX_PASSED = 256
"""Limit of the counts of passed requests in one `RecordMetrics`."""

MAX_HIT_ITEMS = 4096
"""Limit of the items in one `RecordHits`."""

MAX_REPORTED_HITS = 65536
"""Limit of the hits in one `RecordHits`."""

REPORT_SECONDS = 0.25
"""A client reports hits from a view within this time of the first one."""

REPORT_HITS = 512
"""A client reports hits from a view as soon as there are this many."""

MAX_SIGNATURE_BYTES = 8192
"""Limit of a text's signature: digests of some 1,000 words."""

MAX_PREFIXES = 16
"""Limit of a begin's prefixes."""

PREFIX_CHARACTERS = 32
"""Length of a prefix's digest: 16 bytes in hexadecimal digits."""

BYTES_PER_TOKEN = 4
"""Bytes of a prompt that count as one token, wherever only its length is known."""

DEFAULT_NAMESPACE = "default"
DEFAULT_TASK = "general"
DEFAULT_BACKEND = "default"

LOCAL_BACKENDS = frozenset({"local", DEFAULT_BACKEND})
"""Backends that count as local unless configured otherwise. Loopback addresses do too (`is_local`)."""

_LOOPBACK = re.compile(r"(?:localhost|127(?:\.\d{1,3}){3}|\[::1\])(?::\d+)?(?:[/#].*)?", re.DOTALL)


def is_local(backend: str) -> bool:
    """Return whether a backend without configuration runs on this host, judged by its name or loopback address."""
    return backend in LOCAL_BACKENDS or _LOOPBACK.fullmatch(backend) is not None


def sampled(name: str, sample: int) -> str:
    """Return the name of one of several answers that share a key or a group."""
    return f"{name}#{sample}"


class AgeLimits(Protocol):
    """What limits the age of an answer: a begin, or the policy that leads to it."""

    @property
    def ttl_seconds(self) -> float | None:
        """How long an answer is fresh."""

    @property
    def max_age_seconds(self) -> float | None:
        """How old an answer may be."""


def bound_of(limits: AgeLimits) -> float | None:
    """Return the age in seconds from which an answer is too old; None without such a limit."""
    ttl_seconds, max_age_seconds = limits.ttl_seconds, limits.max_age_seconds
    if ttl_seconds is None or max_age_seconds is None:
        return max_age_seconds if ttl_seconds is None else ttl_seconds

    return min(ttl_seconds, max_age_seconds)


Seconds = Annotated[float, Meta(ge=0, le=366 * 86400)]
Name = Annotated[str, Meta(min_length=1, max_length=128)]
Namespace = Annotated[str, Meta(min_length=1, max_length=160)]
Key = Annotated[str, Meta(min_length=1, max_length=MAX_KEY_CHARACTERS)]
Tags = Annotated[tuple[Name, ...], Meta(max_length=16)]
Text = Annotated[str, Meta(max_length=4096)]
Trace = Annotated[str, Meta(max_length=128)]
"""A span as W3C Trace Context writes it: ``00-<trace id>-<span id>-<flags>``; empty without tracing."""
Context = Annotated[str, Meta(max_length=128)]
"""A digest, or empty."""
Word = Annotated[str, Meta(max_length=64)]
"""A reason or the name of an API family, in lower case; empty if there is none."""
HttpStatus = Annotated[int, Meta(ge=100, le=999)]
Count = Annotated[int, Meta(ge=0, le=2**53)]
MAX_DOLLARS = 1e9
"""Limit of what one call may cost."""

Dollars = Annotated[float, Meta(ge=0, le=MAX_DOLLARS)]
RequestId = Annotated[int, Meta(ge=-(2**63), le=2**63 - 1)]

BatchNumber = Annotated[int, Meta(ge=0, le=2**63 - 1)]
SampleNumber = Annotated[int, Meta(ge=0, le=2**31 - 1)]

VectorBytes = Annotated[bytes, Meta(min_length=4, max_length=4 * MAX_DIMENSIONS)]
"""A vector as little-endian float 32. 384 numbers take 1.5 KB and 0.2 us to decode; as an array 3.5 KB and 18 us."""
HitItem = tuple[Count, Annotated[int, Meta(ge=1, le=MAX_REPORTED_HITS)], float, float]
"""Hits on one publication of a view: its number, how many, and the instants of the first and the last."""
HitItems = Annotated[tuple[HitItem, ...], Meta(max_length=MAX_HIT_ITEMS)]
SignatureBytes = Annotated[bytes, Meta(min_length=1, max_length=MAX_SIGNATURE_BYTES)]
PrefixDigest = Annotated[str, Meta(min_length=PREFIX_CHARACTERS, max_length=PREFIX_CHARACTERS)]
"""Digest of a prefix, in lower-case hexadecimal digits."""
Prefixes = Annotated[tuple[PrefixDigest, ...], Meta(max_length=MAX_PREFIXES)]
"""Digests of successively longer prefixes of a prompt, the shortest first."""
PrefixBytes = Annotated[tuple[Count, ...], Meta(max_length=MAX_PREFIXES)]
"""For each of `Prefixes`, the number of the prompt's bytes up to its end."""
VectorNumbers = Annotated[tuple[float, ...], Meta(min_length=1, max_length=MAX_DIMENSIONS)]

NO_VALUE = Raw(b"")
"""The ``value`` of a `Complete` that carries none."""

Mode = Literal["use", "refresh", "only_if_cached"]
FailureKind = Literal["transient", "fatal", "ignored", "cancelled"]
RejectionReason = Literal["breaker_open", "saturated", "busy", "sovereign", "budget", "draining", "not_cached"]
PassedReason = Literal[
    "dialect",  # no family recognizes the request
    "state",  # the request changes the state of its server
    "tool",  # a tool that acts runs on the server
    "size",  # the body is too large to be read
    "policy",  # an option or a header of the app forbids sharing
    "other",
]
"""Why an intercepting client passed a request to the upstream without asking the daemon."""

NotStoredReason = Literal[
    PassedReason,
    "length",  # the answer was cut at its limit of tokens
    "refusal",  # the model refused
    "filter",  # a content filter cut the answer
    "pause",  # the answer continues with another request
    "incomplete",  # the end of the answer is not proven
    "error",  # the answer reports an error
    "invalid",  # the caller's ``valid=`` rejected the answer
    "unshareable",  # other processes would not receive the same value
    "removed",  # the key or a tag was removed during the call
]
"""Why the answer of a call was not stored; ``policy`` includes the daemon's settings and the upstream's ``no-store``."""

PASSED_REASONS: Final = get_args(PassedReason)
NOT_STORED_REASONS: Final = get_args(NotStoredReason)
"""The daemon counts any other word as ``other``."""

Route = Literal["order", "cheapest", "fastest", "least_busy", "weighted"]
StreamSource = Literal["", "cache", "stale", "shared"]
BreakerAction = Literal["open", "close", "auto", "disable"]
BreakerState = Literal["closed", "open", "half_open", "forced_open", "disabled"]
Locality = Literal["local", "remote"]
StoreState = Literal["none", "up", "read_only", "down"]
PrefixAffinity = Literal["off", "slots", "provider"]
"""Where a backend keeps the prompts that it has processed: in the slots of a model server, or in a provider's cache."""
PrefixState = Literal["cold", "processing", "warm"]
"""``processing``: a call in progress has sent this prefix for the first time, and has no output yet."""
MetricKind = Literal["counter", "gauge", "histogram"]
Aggregate = Literal["sum", "max", "min", "last", "each"]
LogLevel = Literal["debug", "info", "warning", "error"]
ErrorCode = Literal["bad_request", "unknown_op", "too_large", "denied", "unavailable", "internal"]
