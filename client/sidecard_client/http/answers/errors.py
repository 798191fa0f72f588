"""Tell errors that a request caused from those of the server, in HTTP statuses and inside answers. Pure.

A server describes an error inside an answer by a number, a code, a type, or only a sentence. The first of these that is known
decides; an error that none of them explains is the server's.
"""

import re
from collections.abc import Iterator
from typing import Any, Final, Literal

from msgspec import Struct

from sidecard_client.protocol.wire import FailureKind

ErrorOrigin = Literal["request_error", "server_error"]

TRANSIENT_STATUSES: Final = frozenset({408, 409, 425, 429})
_STATUS_DIGITS: Final = 3
_SUCCESS, _REDIRECT, _CLIENT, _SERVER, _END = 200, 300, 400, 500, 600

_OF_THE_SERVER: Final = re.compile(
    r"rate_?limit|overload|timed?_?out|unavailable|server_error|internal|api_error|quota|too_many|capacity|busy|exhausted"
    r"|aborted|try_again|conflict|failed_to_download|connection|bad_gateway|upstream"
)
_OF_THE_REQUEST: Final = re.compile(
    r"invalid|not_found|permission|authentication|unauthenticated|unauthorized|forbidden|unsupported|not_supported|bad_request"
    r"|precondition|out_of_range|too_large"
    r"|too_long|too_small|context_length|context_size|context_window|above_max|policy|content_filter|validation|malformed"
    r"|unknown_parameter|billing|spend_limit|unprocessable|mismatch|parse_error|empty_image|missing|safety|moderation"
    r"|exceeds?_.*(length|size|limit|tokens)"
)
_SENTENCE_ABOUT_THE_REQUEST: Final = re.compile(
    r"context (length|window|size)|maximum context|too (long|large)|not found|does not support|not supported|unsupported"
    r"|invalid (request|argument|parameter|input|option|image|schema)"
)
_WORD_START: Final = re.compile(r"(?<=[a-z0-9])(?=[A-Z])")
_MAX_CHARACTERS: Final = 80
_STATUS_FIELDS: Final = ("code", "status", "status_code")


class InBandError(Struct, frozen=True):
    """An error inside an answer of status 2xx."""

    origin: ErrorOrigin
    description: str


def kind_of_status(status: int) -> FailureKind | None:
    """Return how an HTTP status affects others that wait for the answer; None if it is an answer."""
    if _SUCCESS <= status < _REDIRECT:
        return None

    if status < _CLIENT:  # informational answers and redirects are this caller's to follow
        return "ignored"

    return "transient" if status >= _SERVER or status in TRANSIENT_STATUSES else "fatal"


def in_band_error(error: Any) -> InBandError:
    """Classify what an answer has as its error: an object, a string, or anything else."""
    if not isinstance(error, dict):
        sentence = str(error)[: 10 * _MAX_CHARACTERS]
        return InBandError(_origin_of_sentence(sentence), sentence[:_MAX_CHARACTERS])

    words = list(_words(error))
    origin = next((origin for word in words if (origin := _origin_of_word(word)) is not None), None)
    message = error.get("message")
    if origin is None:
        origin = _origin_of_sentence(message) if isinstance(message, str) else "server_error"

    description = next((str(word) for word in words), message)
    return InBandError(origin, str(description)[:_MAX_CHARACTERS])


def is_refusal(fields: dict[str, Any]) -> bool:
    """Return whether an object is an error by itself: it has a message and the status of one."""
    return isinstance(fields.get("message"), str) and any(_status_in(fields.get(name)) for name in _STATUS_FIELDS)


def _words(error: dict[str, Any]) -> Iterator[Any]:
    """Yield an error's numbers, then its names."""
    named = [error.get(field) for field in (*_STATUS_FIELDS, "type", "error_type", "reason")]
    details = error.get("error")
    if isinstance(details, dict):
        named += [details.get(field) for field in ("code", "status", "type")]

    yield from (word for word in named if _status_in(word))
    yield from (word for word in named if isinstance(word, str) and word and not _status_in(word))


def _origin_of_word(word: Any) -> ErrorOrigin | None:
    status = _status_in(word)
    if status:
        return "request_error" if kind_of_status(status) == "fatal" else "server_error"

    name = _WORD_START.sub("_", word[: 2 * _MAX_CHARACTERS]).lower().replace("-", "_").replace(" ", "_")
    if _OF_THE_SERVER.search(name):
        return "server_error"

    return "request_error" if _OF_THE_REQUEST.search(name) else None


def _origin_of_sentence(sentence: str) -> ErrorOrigin:
    return "request_error" if _SENTENCE_ABOUT_THE_REQUEST.search(sentence[:2000].lower()) else "server_error"


def _status_in(word: Any) -> int:
    """Return the HTTP status of an error that a value is; 0 if it is none."""
    if isinstance(word, str) and len(word) == _STATUS_DIGITS and word.isdecimal() and word.isascii():
        word = int(word)

    return word if type(word) is int and _CLIENT <= word < _END else 0
