"""Generated answers of language models' servers, byte for byte: what servers, gateways and proxies really send."""

import json
import zlib
from collections.abc import Callable, Sequence
from typing import Any, Literal

import zstandard
from hypothesis import strategies as st
from msgspec import Struct

from tests.exchange_server import Ending, Script

Api = Literal["chat", "messages", "ollama", "other"]
"""OpenAI's chat completions, Anthropic's messages, Ollama's chat, and a request of no language model."""

PATHS: dict[Api, str] = {
    "chat": "/v1/chat/completions",
    "messages": "/v1/messages",
    "ollama": "/api/chat",
    "other": "/v1/surveys/7/responses",
}

Headers = tuple[tuple[bytes, bytes], ...]


class Answer(Struct, frozen=True):
    """A body as the application reads it. ``proven``: complete beyond doubt, and with a finish that is stored."""

    content_type: bytes
    pieces: tuple[bytes, ...]
    proven: bool
    done: bool = False
    """It ends with OpenAI's ``[DONE]``, after which its SDK reads no further."""
    broken: bool = False
    """A server's error inside it: a caller that has joined gets a broken stream."""

    @property
    def body(self) -> bytes:
        """All of it."""
        return b"".join(self.pieces)


class Exchange(Struct, frozen=True):
    """One answer and the way it is sent."""

    api: Api
    stream: bool
    status: bytes
    answer: Answer
    headers: Headers
    encoding: str
    framing: Literal["length", "chunked", "close"]
    cut: int | None
    """Bytes of the encoded body after which the server closes the connection."""
    ending: Ending
    version: bytes = b"HTTP/1.1"

    @property
    def code(self) -> int:
        """The status."""
        return int(self.status[:3])

    @property
    def closes_backend(self) -> bool:
        """The response asks all callers to wait."""
        return any(name.lower() == b"retry-after" for name, _ in self.headers)

    @property
    def stored(self) -> bool:
        """A second caller must get this very answer."""
        policy = [value for name, value in self.headers if name.lower() == b"cache-control"]
        whole = self.cut is None and self.api != "other"
        return self.code == 200 and self.answer.proven and whole and not policy

    def script(self) -> Script:
        """Return the bytes to send."""
        encoded = [piece for piece in _encoded(self.answer.pieces, self.encoding) if piece]
        total = sum(map(len, encoded))
        own = [(b"Content-Type", self.answer.content_type), *self.headers]
        if self.encoding:
            own.append((b"Content-Encoding", self.encoding.encode()))

        if self.framing == "length":
            own.append((b"Content-Length", b"%d" % total))
        elif self.framing == "chunked":
            own.append((b"Transfer-Encoding", b"chunked"))

        if self.framing == "close" or self.ending == "close":
            own.append((b"Connection", b"close"))

        head = b"%s %s\r\n" % (self.version, self.status)
        head += b"".join(b"%s: %s\r\n" % header for header in own) + b"\r\n"
        sent = encoded if self.cut is None else _first(encoded, self.cut)
        if self.framing == "chunked":
            sent = [b"%x\r\n%s\r\n" % (len(piece), piece) for piece in sent]
            if self.cut is None and self.ending != "hold":
                sent = [*sent[:-1], sent[-1] + b"0\r\n\r\n"] if sent else [b"0\r\n\r\n"]

        ending: Ending = "close" if self.framing == "close" or self.cut is not None else self.ending
        return Script((head, *sent), ending)


def _first(pieces: Sequence[bytes], size: int) -> list[bytes]:
    kept = []
    for piece in pieces:
        kept.append(piece[:size])
        size -= len(kept[-1])

    return [piece for piece in kept if piece]


def _encoded(pieces: Sequence[bytes], encoding: str) -> list[bytes]:
    """Encode so that each piece can be decoded as soon as it has arrived, as servers of streams do."""
    if encoding == "zstd":
        zstd = zstandard.ZstdCompressor().compressobj()
        flushed = [zstd.compress(piece) + zstd.flush(zstandard.COMPRESSOBJ_FLUSH_BLOCK) for piece in pieces]
        return [*flushed, zstd.flush(zstandard.COMPRESSOBJ_FLUSH_FINISH)]

    if encoding in {"gzip", "deflate"}:
        flate = zlib.compressobj(wbits=31 if encoding == "gzip" else 15)
        return [*(flate.compress(piece) + flate.flush(zlib.Z_SYNC_FLUSH) for piece in pieces), flate.flush()]

    return list(pieces)


def decoded(encoding: str, data: bytes) -> bytes:
    """Return what of a body can be decoded."""
    if encoding == "zstd":
        return zstandard.ZstdDecompressor().decompressobj().decompress(data)

    return zlib.decompressobj(wbits=47).decompress(data) if encoding else data


# Bodies ---------------------------------------------------------------------------------------------------------------

_texts = st.lists(st.sampled_from(["yes", " no", "é ", "模型", "\n\n", "data: ", "🙂", '"']), min_size=1, max_size=4)
_SIGNS = st.sampled_from(["\n", "\r\n", "\r"])

_ERRORS = [
    ({"code": 400, "message": "bad", "type": "BadRequestError"}, False),
    ({"code": "context_length_exceeded", "message": "too long", "type": "invalid_request_error"}, False),
    ({"code": 503, "message": "busy", "type": "server_error"}, True),
    ({"type": "overloaded_error", "message": "Overloaded"}, True),
]
"""Errors inside answers, and whether they are the server's."""


def _chat_choice(index: int, text: str | None, finish: str | None) -> dict[str, Any]:
    delta: dict[str, Any] = {} if text is None else {"role": "assistant", "content": text}
    return {"index": index, "delta": delta, "finish_reason": finish, "logprobs": None}


@st.composite
def _chat_events(draw: st.DrawFn) -> tuple[list[tuple[str, Any]], bool, bool, bool]:
    """Return events by name, and whether they are proven to be complete, end with ``[DONE]``, and contain a server's error."""
    common = {"id": "c-1", "object": "chat.completion.chunk", "created": 1_700_000_000, "model": "modèle"}
    events: list[tuple[str, Any]] = [("", common | {"choices": [_chat_choice(0, text, None)]}) for text in draw(_texts)]
    finish = draw(st.sampled_from(["stop", "stop", "stop", "length", "", None]))
    error, of_server = draw(st.sampled_from([(None, False)] * 6 + _ERRORS))
    if error is None:
        events.append(("", common | {"choices": [_chat_choice(0, None, finish)]}))
        if draw(st.booleans()):
            usage = {"prompt_tokens": 3, "completion_tokens": 4, "total_tokens": 7}
            events.append(("", common | {"choices": [], "usage": usage}))
    else:
        events.append(("", {"error": error}))

    done = draw(st.booleans())
    if done:
        events.append(("", "[DONE]"))

    return events, error is None and finish == "stop", done, of_server


@st.composite
def _message_events(draw: st.DrawFn) -> tuple[list[tuple[str, Any]], bool, bool, bool]:
    """Return as `_chat_events`."""
    usage = {"input_tokens": 3, "output_tokens": 1}
    message: dict[str, Any] = {"id": "m-1", "type": "message", "role": "assistant", "model": "m", "content": []}
    message |= {"usage": usage}
    message |= {"stop_reason": None, "stop_sequence": None}
    events: list[Any] = [{"type": "message_start", "message": message}]
    events.append({"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}})
    for text in draw(_texts):
        delta = {"type": "text_delta", "text": text}
        events.append({"type": "content_block_delta", "index": 0, "delta": delta})
        if draw(st.booleans()):
            events.append({"type": "ping"})

    error, of_server = draw(st.sampled_from([(None, False)] * 6 + _ERRORS))
    finish = draw(st.sampled_from(["end_turn", "end_turn", "max_tokens", "refusal"]))
    if error is None:
        events.append({"type": "content_block_stop", "index": 0})
        end = {"stop_reason": finish, "stop_sequence": None}
        events.append({"type": "message_delta", "delta": end, "usage": {"output_tokens": 5}})
        events.append({"type": "message_stop"})
    else:
        events.append({"type": "error", "error": error})

    return [(event["type"], event) for event in events], error is None and finish == "end_turn", False, of_server


@st.composite
def _event_streams(draw: st.DrawFn, events: st.SearchStrategy[Any]) -> Answer:
    """Write events in a dialect: line ends, names, comments, data over several lines."""
    written, proven, done, broken = draw(events)
    end = draw(_SIGNS)
    space = draw(st.sampled_from([" ", ""]))
    comments = draw(st.booleans())
    lines_of_json = draw(st.sampled_from([None, None, None, 1]))
    pieces = []
    for number, (name, event) in enumerate(written):
        text = event if isinstance(event, str) else json.dumps(event, ensure_ascii=False, indent=lines_of_json)
        lines = [f"event:{space}{name}"] if name else []
        lines += [f"id:{space}{number}"] if comments else []
        lines += [f"data:{space}{line}" for line in text.split("\n")]
        lines += [": keep-alive", ""] if comments else [""]
        pieces.append((end.join(lines) + end).encode())

    content_type = draw(st.sampled_from([b"text/event-stream", b"text/event-stream; charset=utf-8"]))
    return Answer(content_type, tuple(draw(_split(pieces))), proven, done, broken)


@st.composite
def _json_lines(draw: st.DrawFn) -> Answer:
    """Write Ollama's lines."""
    common = {"model": "m", "created_at": "2026-01-01T00:00:01Z"}
    lines: list[dict[str, Any]] = [
        common | {"message": {"role": "assistant", "content": text}, "done": False} for text in draw(_texts)
    ]
    finish = draw(st.sampled_from(["stop", "stop", "length", None]))
    error = draw(st.sampled_from([None, None, None, "model runner has unexpectedly stopped"]))
    if error is not None:
        lines.append({"error": error})
    elif finish is not None:
        last = {"done": True, "done_reason": finish, "eval_count": 4, "prompt_eval_count": 3}
        lines.append(common | {"message": {"role": "assistant", "content": ""}} | last)

    pieces = [json.dumps(line, ensure_ascii=False).encode() + b"\n" for line in lines]
    proven = error is None and finish == "stop"
    return Answer(b"application/x-ndjson", tuple(draw(_split(pieces))), proven, broken=error is not None)


@st.composite
def _split(draw: st.DrawFn, pieces: list[bytes]) -> list[bytes]:
    """Send each event by itself, or cut the bytes anywhere."""
    if draw(st.booleans()):
        return pieces

    whole = b"".join(pieces)
    places = sorted(draw(st.sets(st.integers(1, len(whole) - 1), max_size=5)))
    return [whole[start:stop] for start, stop in zip([0, *places], [*places, len(whole)], strict=True)]


@st.composite
def _objects(draw: st.DrawFn, api: Api) -> Answer:
    """Write an answer that is no stream."""
    text = "".join(draw(_texts))
    finish: str | None
    if api == "chat":
        finish = draw(st.sampled_from(["stop", "stop", "tool_calls", "content_filter", None]))
        choice = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": finish}
        usage = {"prompt_tokens": 3, "completion_tokens": 4, "total_tokens": 7}
        whole = {"id": "c-1", "object": "chat.completion", "created": 1, "model": "modèle", "choices": [choice]}
        whole |= {"usage": usage, "unknown_field": {"of": "a gateway"}}
    elif api == "messages":
        finish = draw(st.sampled_from(["end_turn", "tool_use", "max_tokens", "pause_turn"]))
        whole = {"id": "m-1", "type": "message", "role": "assistant", "model": "m"}
        whole |= {"content": [{"type": "text", "text": text}], "stop_reason": finish, "stop_sequence": None}
        whole |= {"usage": {"input_tokens": 3, "output_tokens": 4}}
    elif api == "ollama":
        finish = draw(st.sampled_from(["stop", "stop", "length"]))
        whole = {"model": "m", "created_at": "2026-01-01T00:00:01Z", "done": True, "done_reason": finish}
        whole |= {"message": {"role": "assistant", "content": text}}
    else:
        finish, whole = None, {"status": "completed", "text": text}

    error, _ = draw(st.sampled_from([(None, False)] * 8 + _ERRORS))
    if error is not None:
        whole = {"error": error}

    body = json.dumps(whole, ensure_ascii=draw(st.booleans()), indent=draw(st.sampled_from([None, 2]))).encode()
    proven = error is None and finish in {"stop", "tool_calls", "end_turn", "tool_use"}
    if draw(st.integers(0, 9)) == 9:
        body, proven = body[: draw(st.integers(0, len(body) - 1))], False

    content_type = draw(st.sampled_from([b"application/json", b"application/json; charset=utf-8"]))
    return Answer(content_type, tuple(draw(_split([body]))) if len(body) > 1 else (body,), proven)


_STREAMS: dict[Api, Callable[[], st.SearchStrategy[Answer]]] = {
    "chat": lambda: _event_streams(_chat_events()),
    "messages": lambda: _event_streams(_message_events()),
    "ollama": _json_lines,
}

_REFUSALS = [
    b"400 Bad Request",
    b"401 Unauthorized",
    b"404 Not Found",
    b"422 Unprocessable Entity",
    b"429 Too Many Requests",
    b"500 Internal Server Error",
    b"503 Backend fetch failed",
    b"529 ",
]


@st.composite
def _refusals(draw: st.DrawFn) -> Answer:
    """Write a body with the reason of a refusal, some of more than two thousand characters."""
    message = "é because " * draw(st.sampled_from([1, 1, 300]))
    error = {"message": message, "type": "invalid_request_error", "code": "scripted", "param": "messages"}
    if draw(st.booleans()):
        return Answer(b"application/json", (json.dumps({"type": "error", "error": error}).encode(),), proven=False)

    return Answer(b"text/html", (b"<html>" + message.encode() + b"</html>",), proven=False)


# Heads ----------------------------------------------------------------------------------------------------------------

_HEADERS = [
    (b"x-request-id", b"req-1"),
    (b"Request-Id", b"req-2"),
    (b"X-Model", "modèle".encode()),
    (b"X-Model", "modèle".encode("latin-1")),
    (b"x-model", b"twice"),
    (b"openai-processing-ms", b"17"),
    (b"x-ratelimit-remaining-requests", b"99"),
    (b"anthropic-ratelimit-tokens-remaining", b"5"),
    (b"Date", b"Sun, 29 Nov 2026 12:00:00 GMT"),
    (b"Set-Cookie", b"__cf_bm=abc; path=/; HttpOnly"),
    (b"Server", b"tests"),
    (b"Vary", b"Origin"),
    (b"Vary", b"Accept-Encoding"),
    (b"x-should-retry", b"false"),
    (b"X-Empty", b""),
    (b"Cache-Control", b"no-store"),
]


@st.composite
def exchanges(
    draw: st.DrawFn, apis: Sequence[Api], encodings: Sequence[str], *, reads_past_done: bool = True
) -> Exchange:
    """Return an exchange. ``reads_past_done``: its reader needs the end of the body."""
    api = draw(st.sampled_from(apis))
    stream = api != "other" and draw(st.booleans())
    refused = draw(st.integers(0, 5)) == 5
    if refused:
        status, answer = draw(st.sampled_from(_REFUSALS)), draw(_refusals())
    else:
        status = draw(st.sampled_from([b"200 OK", b"200 OK", b"200 Fine", b"200 "]))
        answer = draw(_STREAMS[api]() if stream else _objects(api))

    framing: Literal["length", "chunked", "close"] = draw(
        st.sampled_from(["chunked", "chunked", "length", "length", "close"])
    )
    encoding = draw(st.sampled_from(["", "", "", *encodings]))
    cut = draw(st.sampled_from([None, None, None, None, None, 0.0, 0.5, 0.9]))
    may_hold = answer.done and not reads_past_done and framing == "chunked" and cut is None
    ending: Ending = draw(st.sampled_from(["hold", "keep"] if may_hold else ["keep", "close"]))
    size = len(b"".join(_encoded(answer.pieces, encoding)))
    # A server of the first version closes each connection, and knows no chunks.
    is_first = framing != "chunked" and draw(st.integers(0, 5)) == 5
    headers = draw(st.lists(st.sampled_from(_HEADERS), max_size=6))
    if status[:3] in {b"429", b"503", b"529"} and cut is None and draw(st.booleans()):
        headers.append((b"Retry-After", b"5"))

    return Exchange(
        api=api,
        stream=stream,
        status=status,
        answer=answer,
        headers=tuple(headers),
        encoding=encoding,
        framing=framing,
        cut=None if cut is None or size == 0 else int(cut * size),
        ending="close" if is_first else ending,
        version=b"HTTP/1.0" if is_first else b"HTTP/1.1",
    )
