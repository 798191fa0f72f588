"""What an answer says while it goes by: whether it is whole, whether it may be kept, what it has used. Pure.

An answer is whole when every choice has its finish reason; a closing ``[DONE]`` alone is not enough, because servers and
proxies send it after a stump as well. Whether a whole answer is kept goes by its reasons:

====================================================================================  =========================================
reason                                                                                kept
====================================================================================  =========================================
``stop``, ``end_turn``, ``stop_sequence``, ``completed``, none for embeddings         yes
``tool_calls``, ``function_call``, ``tool_use``                                       yes: the same request asks for the same
                                                                                      calls; making them is the app's affair
``length``, ``max_tokens``, ``max_output_tokens``                                     only with ``keep_length``: who asks again
                                                                                      may have better luck
``content_filter``, ``refusal``, ``pause_turn``, and any that is not known here       no
====================================================================================  =========================================

All of them are shared with those who wait at that moment; an answer that is not whole is nobody's but its own caller's.
An error that comes inside of an answer of status 200 makes it not whole.

Nothing here raises, whatever bytes come, and no byte is looked at twice.
"""

from collections.abc import Callable, Mapping
from typing import Any, Final, TypeGuard

import msgspec
from msgspec import Struct

from sidecard_client.http.request import Family
from sidecard_client.protocol.wire import FailureKind, Usage

MAX_LINE_BYTES: Final = 4 * 1024 * 1024
"""Of a stream. A line that is longer is no event of a language model."""

MAX_BODY_BYTES: Final = 15 * 1024 * 1024
"""Of an answer that is no stream; larger ones are not shared."""

_KEPT: Final = frozenset({"stop", "end_turn", "stop_sequence", "completed", "tool_calls", "function_call", "tool_use"})
_LENGTH: Final = frozenset({"length", "max_tokens", "max_output_tokens"})
_FATAL_ERRORS: Final = ("invalid", "not_found", "permission", "authentication", "unsupported")
"""What the type of an error begins with that would come again."""

_from_json = msgspec.json.Decoder().decode

TRANSIENT_STATUSES: Final = frozenset({408, 409, 425, 429})


class Reading(Struct, frozen=True):
    """What an answer was. ``reason`` says why it is not whole, or not kept; empty where it is both."""

    complete: bool
    keep: bool
    reason: str
    usage: Usage | None = None
    failure: FailureKind | None = None
    """Of an error that came inside of the answer."""


def kind_of_status(status: int) -> FailureKind | None:
    """Say what an HTTP status means for others who ask the same; None where it is an answer."""
    if 200 <= status < 300:  # noqa: PLR2004 - HTTP's class of successes
        return None

    if status < 400:  # noqa: PLR2004 - informational answers and redirects are this caller's to follow
        return "ignored"

    return "transient" if status >= 500 or status in TRANSIENT_STATUSES else "fatal"  # noqa: PLR2004 - server errors


class Reader:
    """Reads one answer of ``family``. ``stream``: it comes as events or JSON lines. ``choices`` were asked for."""

    def __init__(self, family: Family, *, stream: bool, keep_length: bool = False, choices: int = 1) -> None:
        self._family: Family = family
        self._stream = stream
        self._keep_length = keep_length
        self._choices = choices
        self._lines = _Lines() if stream else None
        self._body: list[bytes] = []
        self._body_bytes = 0
        self._unreadable = ""
        self._take: Callable[[Mapping[str, Any]], None] = _TAKERS[family].__get__(self)
        self.reasons: dict[int, str] = {}
        """By choice, how it ended."""
        self.over = False
        """The event that ends a stream has come, where its interface has one."""
        self.said_done = False
        """OpenAI's ``[DONE]`` has come."""
        self.failure: FailureKind | None = None
        self.said = ""
        """The type of the error that came."""
        self.model: str | None = None
        self.prompt_tokens: int | None = None
        self.completion_tokens: int | None = None

    def feed(self, data: bytes) -> None:
        """Take bytes of the body in, in whatever pieces."""
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
            self._line(line)

        if self._lines.too_long:
            self._unreadable = f"it has a line of more than {MAX_LINE_BYTES} bytes"

    @property
    def terminal(self) -> bool:
        """Nothing that means anything follows in a stream: SDKs close it here, without having read its end."""
        return self.over or self.said_done

    def finish(self) -> Reading:
        """Say what the answer was, now that its body has ended."""
        if self._lines is not None:
            self._line(self._lines.rest())
        elif not self._unreadable:
            self._event(b"".join(self._body))

        usage = self._usage()
        if self._unreadable:
            return Reading(complete=False, keep=False, reason=f"it cannot be read: {self._unreadable}", usage=usage)

        if self.failure is not None:
            reason = f"an error came in it ({self.said})"
            return Reading(complete=False, keep=False, reason=reason, usage=usage, failure=self.failure)

        missing = self._missing()
        if missing:
            return Reading(complete=False, keep=False, reason=missing, usage=usage)

        against = self._against_keeping()
        return Reading(complete=True, keep=not against, reason=against, usage=usage)

    def _missing(self) -> str:
        without = [choice for choice in range(self._choices) if choice not in self.reasons]
        if without:
            return f"choice {without[0]} has no finish reason"

        return "its last event is missing" if self._stream and self._family in _HAVE_AN_END and not self.over else ""

    def _against_keeping(self) -> str:
        for reason in self.reasons.values():
            if reason in _KEPT or (reason in _LENGTH and self._keep_length):
                continue

            return f"it ended by {reason!r}"

        return ""

    def _usage(self) -> Usage | None:
        if self.model is None and self.prompt_tokens is None and self.completion_tokens is None:
            return None

        return Usage(self.model, self.prompt_tokens, self.completion_tokens)

    def _line(self, line: bytes) -> None:
        if self._family in _JSON_LINES:
            self._event(line)
        elif line.startswith(b"data:"):
            # An event's data may be several lines; that of language models is one JSON object, which has no line feeds.
            data = line[5:].strip()
            if data == b"[DONE]":
                self.said_done = True
            else:
                self._event(data)

    def _event(self, data: bytes) -> None:
        # After what cannot be read nothing counts, wherever the pieces are cut.
        if self._unreadable or not data.strip():
            return

        try:
            event = _from_json(data)
        except (msgspec.MsgspecError, RecursionError, UnicodeError, ValueError):
            self._unreadable = "it is no JSON"
            return

        if not isinstance(event, dict):
            self._unreadable = "it is no JSON object"
            return

        error = event.get("error")
        if error is not None and error is not False:
            self._fail(error)

        self._take(event)

    def _fail(self, error: Any) -> None:
        said = error.get("type") or error.get("code") or error.get("message") if isinstance(error, dict) else error
        self.said = str(said)[:80]
        self.failure = "fatal" if self.said.startswith(_FATAL_ERRORS) else "transient"

    # What each interface says ------------------------------------------------------------------------------------------

    def _named(self, fields: Any) -> None:
        model = fields.get("model") if isinstance(fields, dict) else None
        if isinstance(model, str) and 0 < len(model) <= 128:  # noqa: PLR2004 - the wire's limit of names
            self.model = model

    def _counted(self, usage: Any, prompt: tuple[str, ...], completion: str) -> None:
        if not isinstance(usage, dict):
            return

        counts = [usage.get(name) for name in prompt]
        counted = [count for count in counts if _is_count(count)]
        if counted and _is_count(sum(counted)):
            self.prompt_tokens = sum(counted)

        count = usage.get(completion)
        if _is_count(count):
            self.completion_tokens = count

    def openai_choices(self, event: Mapping[str, Any]) -> None:
        """Chat and plain completions, whole or as events."""
        self._named(event)
        self._counted(event.get("usage"), ("prompt_tokens",), "completion_tokens")
        choices = event.get("choices")
        for place, choice in enumerate(choices if isinstance(choices, list) else ()):
            if isinstance(choice, dict):
                index, reason = choice.get("index", place), choice.get("finish_reason")
                if isinstance(index, int) and isinstance(reason, str) and reason:
                    self.reasons[index] = reason

    def openai_response(self, event: Mapping[str, Any]) -> None:
        """The Responses interface: the whole is an object with a status, each event may carry it."""
        response = event.get("response") if self._stream else event
        kind = event.get("type") if self._stream else None
        if kind == "error":
            self._fail(event)

        if not isinstance(response, dict):
            return

        self._named(response)
        self._counted(response.get("usage"), ("input_tokens",), "output_tokens")
        status = response.get("status")
        if self._stream and kind not in {"response.completed", "response.incomplete", "response.failed"}:
            return

        self.over = True
        if status == "incomplete":
            details = response.get("incomplete_details")
            reason = details.get("reason") if isinstance(details, dict) else None
            self.reasons[0] = reason if isinstance(reason, str) else "incomplete"
        elif status == "completed":
            self.reasons[0] = "completed"

    def openai_embedding(self, event: Mapping[str, Any]) -> None:
        """A list of embeddings."""
        self._named(event)
        self._counted(event.get("usage"), ("prompt_tokens",), "completion_tokens")
        if isinstance(event.get("data"), list) and event["data"]:
            self.reasons[0] = "stop"

    def anthropic_message(self, event: Mapping[str, Any]) -> None:
        """A message, or the events that it is made of."""
        inner = event.get("message")
        message = inner if isinstance(inner, dict) else event
        self._named(message)
        inputs = ("input_tokens", "cache_read_input_tokens", "cache_creation_input_tokens")
        self._counted(message.get("usage"), inputs, "output_tokens")
        delta = event.get("delta")
        reason = delta.get("stop_reason") if isinstance(delta, dict) else event.get("stop_reason")
        if isinstance(reason, str) and reason:
            self.reasons[0] = reason

        self.over = self.over or event.get("type") == "message_stop"

    def ollama(self, event: Mapping[str, Any]) -> None:
        """One object, or a line for each piece, the last of which is done."""
        self._named(event)
        self._counted(event, ("prompt_eval_count",), "eval_count")
        if event.get("done") is True:
            reason = event.get("done_reason", "stop")
            self.over = True
            self.reasons[0] = reason if isinstance(reason, str) else "unknown"

    def ollama_embedding(self, event: Mapping[str, Any]) -> None:
        """A list of embeddings, or one."""
        self._named(event)
        self._counted(event, ("prompt_eval_count",), "eval_count")
        if event.get("embeddings") or event.get("embedding"):
            self.reasons[0] = "stop"


_TAKERS: Final[Mapping[Family, Callable[..., None]]] = {
    "openai_chat": Reader.openai_choices,
    "openai_completions": Reader.openai_choices,
    "openai_responses": Reader.openai_response,
    "openai_embeddings": Reader.openai_embedding,
    "anthropic_messages": Reader.anthropic_message,
    "ollama_generate": Reader.ollama,
    "ollama_chat": Reader.ollama,
    "ollama_embed": Reader.ollama_embedding,
}
_JSON_LINES: Final = frozenset({"ollama_generate", "ollama_chat", "ollama_embed"})
_HAVE_AN_END: Final = frozenset({"openai_responses", "anthropic_messages", "ollama_generate", "ollama_chat"})
"""Interfaces whose streams have an event that is the last. OpenAI's ``[DONE]`` is left out by some servers, and says nothing."""


class _Lines:
    """Cuts a stream into lines, which end in CR, LF or both, wherever the pieces are cut."""

    def __init__(self) -> None:
        self._parts: list[bytes] = []
        self._size = 0
        self.too_long = False

    def feed(self, data: bytes) -> list[bytes]:
        """Take a piece in and return the lines that are whole now."""
        if self.too_long:
            return []

        # A CR and its LF make one empty line more, which means nothing here.
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
        """Return the last line where it has no end."""
        return b"" if self.too_long else b"".join(self._parts)


def _is_count(count: Any) -> TypeGuard[int]:
    return isinstance(count, int) and not isinstance(count, bool) and 0 <= count <= 2**53
