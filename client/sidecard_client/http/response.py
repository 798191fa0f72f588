"""Parse an answer while it passes through: is it complete, may it be stored, what did it use. Pure.

An answer is complete when every choice has its finish reason. ``[DONE]`` alone does not suffice: servers and proxies send it
after a truncated answer too. A complete answer is stored if all of its finish reasons are in `_STORED`, or, with
``keep_length``, in `_LENGTH`. Refusals, filtered answers, pauses and unknown reasons are not stored.
Current waiters receive every complete answer. Only its own caller receives an incomplete one.
An error inside an answer of status 200 makes it incomplete.

No input makes this module raise, and no byte is parsed twice.
"""

from collections.abc import Callable, Mapping
from typing import Any, Final

import msgspec
from msgspec import Struct

from sidecard_client.http.request import ApiFamily
from sidecard_client.protocol.usage import counts_of
from sidecard_client.protocol.wire import FailureKind, Usage

MAX_LINE_BYTES: Final = 4 * 1024 * 1024
"""Limit of a stream's line. A longer line is not an event of a language model."""

MAX_BODY_BYTES: Final = 15 * 1024 * 1024
"""Limit of an answer that is not a stream. Larger ones are not shared."""

_STORED: Final = frozenset(
    {"stop", "end_turn", "stop_sequence", "completed", "tool_calls", "function_call", "tool_use"}
)
"""Tool calls are stored because the same request asks for the same ones. Embeddings count as ``stop``."""
_LENGTH: Final = frozenset({"length", "max_tokens", "max_output_tokens"})
"""Not stored by default, because a repetition may get further."""
_FATAL_ERRORS: Final = ("invalid", "not_found", "permission", "authentication", "unsupported")
"""Prefixes of the error types that a repetition would meet again."""

_FINAL_EVENTS: Final = ("response.completed", "response.incomplete", "response.failed")
"""Last events of the Responses API. A tuple, because a hostile ``type`` may be unhashable."""

_from_json = msgspec.json.Decoder().decode

TRANSIENT_STATUSES: Final = frozenset({408, 409, 425, 429})


class AnswerSummary(Struct, frozen=True):
    """The assessment of an answer. ``reason`` says why it is incomplete or not stored; otherwise it is empty."""

    complete: bool
    keep: bool
    reason: str
    usage: Usage | None = None
    failure: FailureKind | None = None
    """Kind of an error inside the answer."""


def kind_of_status(status: int) -> FailureKind | None:
    """Return how an HTTP status affects others that wait for the answer; None if it is an answer."""
    if 200 <= status < 300:  # noqa: PLR2004 - HTTP's class of successes
        return None

    if status < 400:  # noqa: PLR2004 - informational answers and redirects are this caller's to follow
        return "ignored"

    return "transient" if status >= 500 or status in TRANSIENT_STATUSES else "fatal"  # noqa: PLR2004 - server errors


class AnswerParser:
    """Parse one answer of ``family``, as events or JSON lines if it is a ``stream``. ``choices`` were requested."""

    def __init__(self, family: ApiFamily, *, stream: bool, keep_length: bool = False, choices: int = 1) -> None:
        self._api = _APIS[family]
        self._stream = stream
        self._keep_length = keep_length
        self._choices = choices
        self._lines = _LineSplitter() if stream else None
        self._body: list[bytes] = []
        self._body_bytes = 0
        self._unreadable = ""
        self.reasons: dict[int, str] = {}
        """Finish reasons, by choice."""
        self.over = False
        """The event that ends a stream was received, if its API has one."""
        self.received_done = False
        """OpenAI's ``[DONE]`` was received."""
        self.failure: FailureKind | None = None
        self.error_type = ""
        self.model: str | None = None
        self.prompt_tokens: int | None = None
        self.completion_tokens: int | None = None
        self.cached_prompt_tokens: int | None = None
        self.cache_write_prompt_tokens: int | None = None

    def feed(self, data: bytes) -> None:
        """Parse bytes of the body, split anywhere."""
        if self._unreadable:
            return

        if self._lines is None:
            self._body_bytes += len(data)
            if self._body_bytes > MAX_BODY_BYTES:
                self._unreadable = f"it has more than {MAX_BODY_BYTES} bytes"
                self._body.clear()
            else:
                self._body.append(data)

            return

        for line in self._lines.feed(data):
            self._read_line(line)

        if self._lines.too_long:
            self._unreadable = f"it has a line of more than {MAX_LINE_BYTES} bytes"

    @property
    def terminal(self) -> bool:
        """The rest of the stream has no meaning. SDKs close it here, without reading to its end."""
        return self.over or self.received_done

    def finish(self) -> AnswerSummary:
        """Return what the answer was, after the end of its body."""
        if self._lines is not None:
            self._read_line(self._lines.rest())
        elif not self._unreadable:
            self._read_json(b"".join(self._body))

        usage = self._usage()
        if self._unreadable:
            problem = f"it cannot be read: {self._unreadable}"
        elif self.failure is not None:
            problem = f"it contains an error ({self.error_type})"
        else:
            problem = self._missing()

        if problem:
            failure = None if self._unreadable else self.failure
            return AnswerSummary(complete=False, keep=False, reason=problem, usage=usage, failure=failure)

        objection = self._objection_to_storing()
        return AnswerSummary(complete=True, keep=not objection, reason=objection, usage=usage)

    def _missing(self) -> str:
        unfinished = [choice for choice in range(self._choices) if choice not in self.reasons]
        if unfinished:
            return f"choice {unfinished[0]} has no finish reason"

        return "its last event is missing" if self._stream and self._api.has_end and not self.over else ""

    def _objection_to_storing(self) -> str:
        for reason in self.reasons.values():
            if reason not in _STORED and not (reason in _LENGTH and self._keep_length):
                return f"its finish reason is {reason!r}"

        return ""

    def _usage(self) -> Usage | None:
        if self.model is None and self.prompt_tokens is None and self.completion_tokens is None:
            return None

        return Usage(
            self.model,
            self.prompt_tokens,
            self.completion_tokens,
            cached_prompt_tokens=self.cached_prompt_tokens,
            cache_write_prompt_tokens=self.cache_write_prompt_tokens,
        )

    def _read_line(self, line: bytes) -> None:
        if self._api.json_lines:
            self._read_json(line)
        elif line.startswith(b"data:"):
            # An event's data may span several lines; language models send one JSON object without line feeds.
            data = line[5:].strip()
            if data == b"[DONE]":
                self.received_done = True
            else:
                self._read_json(data)

    def _read_json(self, data: bytes) -> None:
        # After an unreadable event nothing counts, so that the result does not depend on how the bytes were split.
        if self._unreadable or not data.strip():
            return

        try:
            event = _from_json(data)
        except (msgspec.MsgspecError, RecursionError, UnicodeError, ValueError):
            self._unreadable = "it is not JSON"
            return

        if not isinstance(event, dict):
            self._unreadable = "it is not a JSON object"
            return

        error = event.get("error")
        if error is not None and error is not False:
            self._fail(error)

        message = self._api.read(self, event)
        self._read_model(message)
        self._read_tokens(message if self._api.json_lines else message.get("usage"))

    def _fail(self, error: Any) -> None:
        kind = error.get("type") or error.get("code") or error.get("message") if isinstance(error, dict) else error
        self.error_type = str(kind)[:80]
        self.failure = "fatal" if self.error_type.startswith(_FATAL_ERRORS) else "transient"

    def _read_model(self, message: Mapping[str, Any]) -> None:
        model = message.get("model")
        if isinstance(model, str) and 0 < len(model) <= 128:  # noqa: PLR2004 - the protocol's limit of names
            self.model = model

    def _read_tokens(self, usage: Any) -> None:
        if not isinstance(usage, dict):
            return

        counts = counts_of(usage).fields
        self.prompt_tokens = counts.get("prompt_tokens", self.prompt_tokens)
        self.completion_tokens = counts.get("completion_tokens", self.completion_tokens)
        self.cached_prompt_tokens = counts.get("cached_prompt_tokens", self.cached_prompt_tokens)
        self.cache_write_prompt_tokens = counts.get("cache_write_prompt_tokens", self.cache_write_prompt_tokens)

    # One method for each form of answer: read its finish reasons, return the object that has model and usage -----------

    def openai_choices(self, event: dict[str, Any]) -> dict[str, Any]:
        """Read a chat or plain completion, or an event of one."""
        choices = event.get("choices")
        for place, choice in enumerate(choices if isinstance(choices, list) else ()):
            if isinstance(choice, dict):
                index, reason = choice.get("index", place), choice.get("finish_reason")
                if isinstance(index, int) and isinstance(reason, str) and reason:
                    self.reasons[index] = reason

        return event

    def openai_response(self, event: dict[str, Any]) -> dict[str, Any]:
        """Read a response: an object with a status, which each event of a stream may carry."""
        response = event.get("response") if self._stream else event
        kind = event.get("type") if self._stream else None
        if kind == "error":
            self._fail(event)

        if not isinstance(response, dict):
            return {}

        if self._stream and kind not in _FINAL_EVENTS:
            return response

        self.over = True
        status = response.get("status")
        if status == "incomplete":
            details = response.get("incomplete_details")
            reason = details.get("reason") if isinstance(details, dict) else None
            self.reasons[0] = reason if isinstance(reason, str) else "incomplete"
        elif status == "completed":
            self.reasons[0] = "completed"

        return response

    def anthropic_message(self, event: dict[str, Any]) -> dict[str, Any]:
        """Read a message, or an event of one."""
        delta = event.get("delta")
        reason = delta.get("stop_reason") if isinstance(delta, dict) else event.get("stop_reason")
        if isinstance(reason, str) and reason:
            self.reasons[0] = reason

        self.over = self.over or event.get("type") == "message_stop"
        message = event.get("message")
        return message if isinstance(message, dict) else event

    def ollama(self, event: dict[str, Any]) -> dict[str, Any]:
        """Read an answer, or a line of one; the last line is ``done``."""
        if event.get("done") is True:
            reason = event.get("done_reason", "stop")
            self.over = True
            self.reasons[0] = reason if isinstance(reason, str) else "unknown"

        return event

    def embeddings(self, event: dict[str, Any]) -> dict[str, Any]:
        """Read embeddings, which have no finish reason."""
        if self._api.json_lines:
            found = event.get("embeddings") or event.get("embedding")
        else:
            data = event.get("data")
            found = data if isinstance(data, list) else None

        if found:
            self.reasons[0] = "stop"

        return event


class _Api(Struct, frozen=True):
    """How the answers of an API are read."""

    read: Callable[[AnswerParser, dict[str, Any]], dict[str, Any]]
    json_lines: bool = False
    """Its streams are JSON lines, and its usage is not in an object of its own."""
    has_end: bool = False
    """Its streams have a last event. OpenAI's ``[DONE]`` is none: some servers leave it out."""


_OPENAI: Final = _Api(AnswerParser.openai_choices)
_OLLAMA: Final = _Api(AnswerParser.ollama, json_lines=True, has_end=True)
_APIS: Final[Mapping[ApiFamily, _Api]] = {
    "openai_chat": _OPENAI,
    "openai_completions": _OPENAI,
    "openai_responses": _Api(AnswerParser.openai_response, has_end=True),
    "openai_embeddings": _Api(AnswerParser.embeddings),
    "anthropic_messages": _Api(AnswerParser.anthropic_message, has_end=True),
    "ollama_generate": _OLLAMA,
    "ollama_chat": _OLLAMA,
    "ollama_embed": _Api(AnswerParser.embeddings, json_lines=True),
}


class _LineSplitter:
    """Split a stream into lines that end in CR, LF or both, however the bytes arrive."""

    def __init__(self) -> None:
        self._parts: list[bytes] = []
        self._size = 0
        self.too_long = False

    def feed(self, data: bytes) -> list[bytes]:
        """Add bytes, and return the lines that they complete."""
        if self.too_long:
            return []

        # A CR and its LF make an additional empty line, which has no meaning.
        first, *others = data.replace(b"\r", b"\n").split(b"\n")
        self._parts.append(first)
        self._size += len(first)
        lines: list[bytes] = []
        if others:
            lines = [b"".join(self._parts), *others[:-1]]
            self._parts = [others[-1]]
            self._size = len(others[-1])

        self.too_long = self._size > MAX_LINE_BYTES
        return [line.removeprefix(b"\xef\xbb\xbf") for line in lines if line]

    def rest(self) -> bytes:
        """Return the last line if it has no line feed."""
        return b"" if self.too_long else b"".join(self._parts)
