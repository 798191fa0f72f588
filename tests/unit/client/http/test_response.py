"""Parsing answers in passing: a truncated answer is never taken for a complete one."""

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import structs

from sidecard_client.http.request import ApiFamily
from sidecard_client.http.response import MAX_BODY_BYTES, MAX_LINE_BYTES, AnswerParser, AnswerSummary, kind_of_status
from sidecard_client.protocol.wire import Usage
from tests.thoroughness import cases


def events(*payloads: Any, done: bool = False, named: bool = False) -> bytes:
    """Write server-sent events."""
    lines = []
    for payload in payloads:
        name = f"event: {payload['type']}\n" if named else ""
        lines.append(f"{name}data: {json.dumps(payload)}\n\n")

    return "".join([*lines, "data: [DONE]\n\n" if done else ""]).encode()


def chunk(content: str = "", finish: str | None = None, index: int = 0, **fields: Any) -> dict[str, Any]:
    """Make a chunk of a chat."""
    choice = {"index": index, "delta": {"content": content}, "finish_reason": finish}
    return {"id": "c", "object": "chat.completion.chunk", "model": "m", "choices": [choice], **fields}


CHAT = events(
    chunk("hel"),
    chunk("lo"),
    chunk("", "stop"),
    {"id": "c", "model": "m", "choices": [], "usage": {"prompt_tokens": 7, "completion_tokens": 2}},
    done=True,
)
RESPONSES = events(
    {"type": "response.created", "response": {"status": "in_progress", "model": "m", "error": None}},
    {"type": "response.output_text.delta", "delta": "x"},
    {
        "type": "response.completed",
        "response": {
            "status": "completed",
            "model": "m",
            "error": None,
            "usage": {"input_tokens": 7, "output_tokens": 2},
        },
    },
    named=True,
)
MESSAGES = events(
    {"type": "message_start", "message": {"model": "m", "usage": {"input_tokens": 3, "cache_read_input_tokens": 4}}},
    {"type": "ping"},
    {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "x"}},
    {"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": {"output_tokens": 2}},
    {"type": "message_stop"},
    named=True,
)
OLLAMA = b"".join(
    json.dumps(line).encode() + b"\n"
    for line in (
        {"model": "m", "message": {"content": "x"}, "done": False},
        {"model": "m", "done": True, "done_reason": "stop", "prompt_eval_count": 7, "eval_count": 2},
    )
)
STREAMS: dict[ApiFamily, bytes] = {
    "openai_chat": CHAT,
    "openai_responses": RESPONSES,
    "anthropic_messages": MESSAGES,
    "ollama_chat": OLLAMA,
}
WHOLE: dict[ApiFamily, dict[str, Any]] = {
    "openai_chat": {
        "model": "m",
        "choices": [{"index": 0, "message": {"content": "x"}, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": 7, "completion_tokens": 2},
    },
    "openai_completions": {
        "model": "m",
        "choices": [{"index": 0, "text": "x", "finish_reason": "stop"}],
        "usage": {"prompt_tokens": 7, "completion_tokens": 2},
    },
    "openai_responses": {
        "model": "m",
        "status": "completed",
        "error": None,
        "usage": {"input_tokens": 7, "output_tokens": 2},
    },
    "anthropic_messages": {"model": "m", "stop_reason": "end_turn", "usage": {"input_tokens": 7, "output_tokens": 2}},
    "ollama_generate": {"model": "m", "response": "x", "done": True, "prompt_eval_count": 7, "eval_count": 2},
}
USED = Usage("m", 7, 2)
_NAMES = [
    "choices", "index", "finish_reason", "usage", "prompt_tokens", "completion_tokens", "model", "error", "type", "response",
    "status", "incomplete_details", "reason", "message", "delta", "stop_reason", "data", "done", "done_reason", "embeddings",
]  # fmt: skip
KEPT = AnswerSummary(complete=True, keep=True, reason="", usage=USED)
SUMMARIES = {"anthropic_messages": structs.replace(KEPT, usage=structs.replace(USED, cached_prompt_tokens=4))}
"""Of the answers that report what the provider's cache served."""


def read(family: ApiFamily, *pieces: bytes, stream: bool = True, **fields: Any) -> AnswerSummary:
    """Read an answer in these pieces."""
    reader = AnswerParser(family, stream=stream, **fields)
    for piece in pieces:
        reader.feed(piece)

    return reader.finish()


@pytest.mark.parametrize("family", STREAMS)
def test_a_stream_is_parsed_however_it_is_split(family: ApiFamily) -> None:
    """The result is the same for every split, line end, byte order mark and comment."""
    data, summary = STREAMS[family], SUMMARIES.get(family, KEPT)
    assert read(family, data) == summary
    for cut in range(len(data)):
        assert read(family, data[:cut], data[cut:]) == summary

    assert read(family, *(data[index : index + 1] for index in range(len(data)))) == summary
    crlf = data.replace(b"\n", b"\r\n")
    assert read(family, *(crlf[index : index + 1] for index in range(len(crlf)))) == summary
    assert read(family, data.replace(b"\n", b"\r")) == summary
    assert read(family, b"\xef\xbb\xbf" + data) == summary
    if family != "ollama_chat":
        assert read(family, b": comment\n\n" + data) == summary


@pytest.mark.parametrize("family", STREAMS)
def test_a_truncated_stream_is_incomplete(family: ApiFamily) -> None:
    """A stream cut at any byte is incomplete; only its meaningless tail may be missing."""
    data = STREAMS[family]
    finished = data.find(b'"finish_reason": "stop"}]}')
    last = len(data.rstrip()) if finished < 0 else finished + 26
    for end in range(last):
        assert not read(family, data[:end]).complete, data[:end]

    assert read(family, data[:last]).complete


@pytest.mark.parametrize("family", WHOLE)
def test_a_truncated_body_is_incomplete(family: ApiFamily) -> None:
    """A body that is not a stream is complete as a whole, and incomplete if cut at any byte."""
    data = json.dumps(WHOLE[family]).encode()
    assert read(family, data, stream=False) == KEPT
    assert read(family, data[:5], data[5:], stream=False) == KEPT
    for end in range(len(data)):
        assert not read(family, data[:end], stream=False).complete


def test_done_alone_does_not_complete_an_answer() -> None:
    """Proxies send ``[DONE]`` after a truncated answer too."""
    reading = read("openai_chat", events(chunk("hel"), done=True))
    assert not reading.complete
    assert reading.reason == "choice 0 has no finish reason"


def test_an_answer_is_complete_when_all_choices_have_ended() -> None:
    """Each requested choice needs its finish reason."""
    one = events(chunk("a", index=0), chunk("b", index=1), chunk("", "stop", 0), done=True)
    two = events(chunk("a", index=0), chunk("", "stop", 1), chunk("", "stop", 0))
    assert not read("openai_chat", one, choices=2).complete
    assert read("openai_chat", two, choices=2).keep
    assert not read("openai_chat", two, choices=3).complete


@pytest.mark.parametrize(
    ("finish", "kept", "kept_with_length"),
    [
        ("stop", True, True),
        ("tool_calls", True, True),
        ("function_call", True, True),
        ("length", False, True),
        ("content_filter", False, False),
        ("never_heard_of", False, False),
    ],
)
def test_the_finish_reason_decides_what_is_stored(finish: str, kept: bool, kept_with_length: bool) -> None:
    """An answer with any finish reason is complete, and some reasons allow to store it."""
    data = events(chunk("a"), chunk("", finish))
    assert read("openai_chat", data).complete
    assert read("openai_chat", data).keep is kept
    assert read("openai_chat", data, keep_length=True).keep is kept_with_length


@pytest.mark.parametrize(
    ("family", "reason", "complete", "keep"),
    [
        ("anthropic_messages", "tool_use", True, True),
        ("anthropic_messages", "max_tokens", True, False),
        ("anthropic_messages", "refusal", True, False),
        ("anthropic_messages", "pause_turn", True, False),
        ("anthropic_messages", None, False, False),
    ],
)
def test_the_stop_reasons_of_anthropic(family: ApiFamily, reason: str | None, complete: bool, keep: bool) -> None:
    """Anthropic's stop reasons follow the same rules."""
    body = json.dumps({"model": "m", "stop_reason": reason}).encode()
    reading = read(family, body, stream=False)
    assert (reading.complete, reading.keep) == (complete, keep)


@pytest.mark.parametrize(
    ("status", "details", "complete", "keep"),
    [
        ("incomplete", {"reason": "max_output_tokens"}, True, False),
        ("incomplete", {"reason": "content_filter"}, True, False),
        ("incomplete", None, True, False),
        ("failed", None, False, False),
        ("queued", None, False, False),
        ("in_progress", None, False, False),
    ],
)
def test_responses_of_other_statuses(status: str, details: Any, complete: bool, keep: bool) -> None:
    """An ``incomplete`` response is final and not stored; other statuses are not answers."""
    body = {"model": "m", "status": status, "incomplete_details": details, "error": None}
    reading = read("openai_responses", json.dumps(body).encode(), stream=False)
    assert (reading.complete, reading.keep) == (complete, keep)


@pytest.mark.parametrize(
    ("family", "data", "failure"),
    [
        ("openai_chat", events(chunk("a"), {"error": {"type": "server_error", "message": "x"}}), "transient"),
        ("openai_chat", events(chunk("", "stop"), {"error": {"type": "invalid_request_error"}}), "fatal"),
        (
            "anthropic_messages",
            events({"type": "error", "error": {"type": "overloaded_error"}}, named=True),
            "transient",
        ),
        ("openai_responses", events({"type": "error", "code": "server_error"}, named=True), "transient"),
        ("ollama_chat", b'{"message":{"content":"x"},"done":false}\n{"error":"unexpected EOF"}\n', "transient"),
    ],
)
def test_an_error_inside_an_answer_makes_it_incomplete(family: ApiFamily, data: bytes, failure: str) -> None:
    """An error event counts as a failure, although the status was 200."""
    reading = read(family, data)
    assert not reading.complete
    assert reading.failure == failure


def test_embeddings_need_no_finish_reason() -> None:
    """An answer with an embedding is complete."""
    data = {"data": [{"embedding": [1.0]}], "model": "m", "usage": {"prompt_tokens": 3}}
    reading = read("openai_embeddings", json.dumps(data).encode(), stream=False)
    assert (reading.keep, reading.usage) == (True, Usage("m", 3))
    assert read("ollama_embed", b'{"embeddings":[[1]],"model":"m"}', stream=False).keep
    assert not read("openai_embeddings", b'{"data":[]}', stream=False).complete
    assert not read("ollama_embed", b"{}", stream=False).complete


@pytest.mark.parametrize("stream", [True, False])
def test_an_oversized_answer_is_incomplete(stream: bool) -> None:
    """It stays incomplete, whatever follows."""
    reader = AnswerParser("openai_chat", stream=stream)
    piece = b"data: " + b"x" * 1_000_000
    for _ in range(1 + max(MAX_LINE_BYTES, MAX_BODY_BYTES) // len(piece)):
        reader.feed(piece)

    reader.feed(b"\n" + CHAT)
    reading = reader.finish()
    assert not reading.complete
    assert "cannot be read" in reading.reason


@settings(max_examples=cases(70))
@given(st.sampled_from([*STREAMS, *WHOLE]), st.lists(st.binary(max_size=60), max_size=6), st.booleans())
def test_random_bytes_raise_nothing(family: ApiFamily, pieces: list[bytes], stream: bool) -> None:
    """Random bytes are not an answer, and do not raise."""
    assert not read(family, *pieces, stream=stream).complete


@settings(max_examples=cases(70))
@given(
    st.sampled_from([*STREAMS, *WHOLE]),
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(max_size=5),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(_NAMES), inner, max_size=5),
        max_leaves=12,
    ),
    st.booleans(),
)
def test_random_json_raises_nothing(family: ApiFamily, value: Any, stream: bool) -> None:
    """Known fields may hold any JSON value."""
    data = json.dumps(value).encode()
    read(family, b"data: " + data + b"\n\n" if stream and not family.startswith("ollama") else data, stream=stream)


@pytest.mark.parametrize("kind", [[], {}, None, 7])
def test_an_event_type_of_any_json_type_raises_nothing(kind: object) -> None:
    """A ``type`` that is not a string, hashable or not, is no final event."""
    data = events({"type": kind, "response": {"status": "completed"}})
    assert not read("openai_responses", data).complete


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (200, None),
        (201, None),
        (302, "ignored"),
        (400, "fatal"),
        (401, "fatal"),
        (404, "fatal"),
        (408, "transient"),
        (409, "transient"),
        (429, "transient"),
        (500, "transient"),
        (529, "transient"),
    ],
)
def test_the_status_decides_the_failure_kind(status: int, kind: str | None) -> None:
    """Statuses that SDKs retry are transient."""
    assert kind_of_status(status) == kind


def test_token_counts_above_the_protocols_limit_are_left_out() -> None:
    """Each count is valid but their sum is not; the daemon would reject the whole answer for it."""
    most = 2**53
    body = b'{"usage":{"input_tokens":%d,"cache_read_input_tokens":%d,"output_tokens":5}}' % (most, most)
    reader = AnswerParser("anthropic_messages", stream=False)
    reader.feed(body)
    usage = reader.finish().usage
    assert usage is not None
    assert (usage.prompt_tokens, usage.completion_tokens) == (None, 5)


def test_nothing_counts_after_an_unreadable_event() -> None:
    """The summary is the same for a stream in one piece and byte by byte."""
    body = b'{"done": fal\n{"done":true,"done_reason":"stop","eval_count":5}\n'
    whole, cut_up = (AnswerParser("ollama_chat", stream=True) for _ in range(2))
    whole.feed(body)
    for at in range(len(body)):
        cut_up.feed(body[at : at + 1])

    assert whole.finish() == cut_up.finish()
