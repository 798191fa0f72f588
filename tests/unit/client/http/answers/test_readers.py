"""Parsing answers in passing: a truncated answer is never taken for a complete one."""

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import structs

from sidecard_client.http.answers.events import MAX_EVENT_BYTES
from sidecard_client.http.answers.readers import MAX_BODY_BYTES
from sidecard_client.http.family import AnswerReader, AnswerSummary, ApiRequest
from sidecard_client.http.recognition import families
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
STREAMS: dict[str, bytes] = {
    "openai_chat": CHAT,
    "openai_responses": RESPONSES,
    "anthropic_messages": MESSAGES,
    "ollama_chat": OLLAMA,
}
WHOLE: dict[str, dict[str, Any]] = {
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
        "object": "response",
        "model": "m",
        "status": "completed",
        "error": None,
        "usage": {"input_tokens": 7, "output_tokens": 2},
    },
    "anthropic_messages": {
        "type": "message",
        "model": "m",
        "stop_reason": "end_turn",
        "usage": {"input_tokens": 7, "output_tokens": 2},
    },
    "ollama_generate": {"model": "m", "response": "x", "done": True, "prompt_eval_count": 7, "eval_count": 2},
}
USED = Usage("m", 7, 2)
_NAMES = [
    "choices", "index", "finish_reason", "usage", "prompt_tokens", "completion_tokens", "model", "error", "type", "response",
    "status", "incomplete_details", "reason", "message", "delta", "stop_reason", "data", "done", "done_reason", "embeddings",
]  # fmt: skip
KEPT = AnswerSummary("complete", usage=USED)
SUMMARIES = {"anthropic_messages": structs.replace(KEPT, usage=structs.replace(USED, cached_prompt_tokens=4))}
"""Of the answers that report what the provider's cache served."""


def reader_of(family: str, *, stream: bool = True, choices: int = 1) -> AnswerReader:
    """Return the reader of an answer in the family's own form."""
    content_type = "application/json"
    if stream:
        content_type = "application/x-ndjson" if family.startswith("ollama") else "text/event-stream; charset=utf-8"

    return families()[family].reader(ApiRequest("m", {}, stream, choices=choices), content_type=content_type)


def read(family: str, *pieces: bytes, stream: bool = True, choices: int = 1) -> AnswerSummary:
    """Read an answer in these pieces."""
    reader = reader_of(family, stream=stream, choices=choices)
    for piece in pieces:
        reader.feed(piece)

    return reader.finish()


@pytest.mark.parametrize("family", STREAMS)
def test_a_stream_is_parsed_however_it_is_split(family: str) -> None:
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
def test_a_truncated_stream_is_incomplete(family: str) -> None:
    """A stream cut at any byte is incomplete; only its meaningless tail may be missing."""
    data = STREAMS[family]
    finished = data.find(b'"finish_reason": "stop"}]}')
    last = len(data.rstrip()) if finished < 0 else finished + 26
    for end in range(last):
        assert not read(family, data[:end]).complete, data[:end]

    assert read(family, data[:last]).complete


@pytest.mark.parametrize("family", WHOLE)
def test_a_truncated_body_is_incomplete(family: str) -> None:
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
    assert reading.verdict == "unproven"
    assert reading.detail == "choice 0 has no finish reason"


def test_an_answer_is_complete_when_all_choices_have_ended() -> None:
    """Each requested choice needs its finish reason."""
    one = events(chunk("a", index=0), chunk("b", index=1), chunk("", "stop", 0), done=True)
    two = events(chunk("a", index=0), chunk("", "stop", 1), chunk("", "stop", 0))
    assert not read("openai_chat", one, choices=2).complete
    assert read("openai_chat", two, choices=2).not_stored == ""
    assert not read("openai_chat", two, choices=3).complete


def test_any_number_of_choices_may_be_requested() -> None:
    """The server decides how many there are; no list of all is made."""
    answer = events(chunk("a", index=0), chunk("", "stop", 0), done=True)
    assert read("openai_chat", answer, choices=10**15).detail == "choice 1 has no finish reason"


@pytest.mark.parametrize(
    ("finish", "not_stored"),
    [
        ("stop", ""),
        ("eos", ""),
        ("STOP", ""),
        ("tool_calls", ""),
        ("function_call", ""),
        ("length", "length"),
        ("content_filter", "filter"),
        ("abort", "incomplete"),
        ("never_heard_of", "dialect"),
    ],
)
def test_the_finish_reason_decides_what_is_stored(finish: str, not_stored: str) -> None:
    """An answer with any finish reason is complete, and some reasons allow to store it."""
    reading = read("openai_chat", events(chunk("a"), chunk("", finish)))
    assert (reading.verdict, reading.not_stored) == ("complete", not_stored)
    assert bool(reading.detail) is bool(not_stored)


@pytest.mark.parametrize(
    ("reason", "verdict", "not_stored"),
    [
        ("tool_use", "complete", ""),
        ("max_tokens", "complete", "length"),
        ("model_context_window_exceeded", "complete", "length"),
        ("refusal", "complete", "refusal"),
        ("pause_turn", "complete", "pause"),
        (None, "unproven", "incomplete"),
    ],
)
def test_the_stop_reasons_of_anthropic(reason: str | None, verdict: str, not_stored: str) -> None:
    """Anthropic's stop reasons follow the same rules."""
    body = json.dumps({"type": "message", "model": "m", "stop_reason": reason}).encode()
    reading = read("anthropic_messages", body, stream=False)
    assert (reading.verdict, reading.not_stored) == (verdict, not_stored)


@pytest.mark.parametrize(
    ("status", "details", "verdict", "not_stored"),
    [
        ("incomplete", {"reason": "max_output_tokens"}, "complete", "length"),
        ("incomplete", {"reason": "max_messages"}, "complete", "length"),
        ("incomplete", {"reason": "content_filter"}, "complete", "filter"),
        ("incomplete", {"reason": "steered"}, "complete", "incomplete"),
        ("incomplete", None, "complete", "incomplete"),
        ("failed", None, "server_error", "error"),
        ("cancelled", None, "unproven", "incomplete"),
        ("queued", None, "unproven", "incomplete"),
        ("in_progress", None, "unproven", "incomplete"),
    ],
)
def test_responses_of_other_statuses(status: str, details: Any, verdict: str, not_stored: str) -> None:
    """An ``incomplete`` response is final and not stored; other statuses are not answers."""
    body = {"object": "response", "model": "m", "status": status, "incomplete_details": details, "error": None}
    reading = read("openai_responses", json.dumps(body).encode(), stream=False)
    assert (reading.verdict, reading.not_stored) == (verdict, not_stored)


@pytest.mark.parametrize(
    ("family", "data", "verdict"),
    [
        ("openai_chat", events(chunk("a"), {"error": {"type": "server_error", "message": "x"}}), "server_error"),
        ("openai_chat", events(chunk("", "stop"), {"error": {"type": "invalid_request_error"}}), "request_error"),
        (
            "anthropic_messages",
            events({"type": "error", "error": {"type": "overloaded_error"}}, named=True),
            "server_error",
        ),
        ("openai_responses", events({"type": "error", "code": "server_error"}, named=True), "server_error"),
        ("ollama_chat", b'{"message":{"content":"x"},"done":false}\n{"error":"unexpected EOF"}\n', "server_error"),
    ],
)
def test_an_error_inside_an_answer_decides_it(family: str, data: bytes, verdict: str) -> None:
    """An error event counts as a failure, although the status was 200."""
    assert read(family, data).verdict == verdict


def test_embeddings_need_no_finish_reason() -> None:
    """An answer with a vector for each text is complete."""
    data = {"data": [{"embedding": [1.0]}], "model": "m", "usage": {"prompt_tokens": 3}}
    reading = read("openai_embeddings", json.dumps(data).encode(), stream=False)
    assert reading == AnswerSummary("complete", usage=Usage("m", 3))
    assert read("openai_embeddings", json.dumps(data).encode(), stream=False, choices=2).verdict == "unproven"
    assert read("ollama_embed", b'{"embeddings":[[1]],"model":"m"}', stream=False).complete
    assert read("ollama_embed", b'{"embedding":[1]}', stream=False).complete
    assert read("openai_embeddings", b'{"data":[]}', stream=False).verdict == "unproven"
    assert read("ollama_embed", b"{}", stream=False).verdict == "unclassifiable"


@pytest.mark.parametrize("stream", [True, False])
def test_an_oversized_answer_is_unclassifiable(stream: bool) -> None:
    """It stays so, whatever follows."""
    reader = reader_of("openai_chat", stream=stream)
    piece = b"data: " + b"x" * 1_000_000
    for _ in range(1 + max(MAX_EVENT_BYTES, MAX_BODY_BYTES) // len(piece)):
        reader.feed(piece)

    reader.feed(b"\n" + CHAT)
    reading = reader.finish()
    assert (reading.verdict, reading.not_stored) == ("unclassifiable", "size")


@settings(max_examples=cases(70))
@given(st.sampled_from([*STREAMS, *WHOLE]), st.lists(st.binary(max_size=60), max_size=6), st.booleans())
def test_random_bytes_raise_nothing(family: str, pieces: list[bytes], stream: bool) -> None:
    """Random bytes are not an answer, and do not raise."""
    assert read(family, *pieces, stream=stream).verdict == "unclassifiable"


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
def test_random_json_raises_nothing(family: str, value: Any, stream: bool) -> None:
    """Known fields may hold any JSON value."""
    data = json.dumps(value).encode()
    read(family, b"data: " + data + b"\n\n" if stream and not family.startswith("ollama") else data, stream=stream)


@pytest.mark.parametrize("kind", [[], {}, None, 7])
def test_an_event_type_of_any_json_type_raises_nothing(kind: object) -> None:
    """A ``type`` that is not a string, hashable or not, is no final event."""
    data = events({"type": kind, "response": {"status": "completed"}})
    assert not read("openai_responses", data).complete


def test_token_counts_above_the_protocols_limit_are_left_out() -> None:
    """Each count is valid but their sum is not; the daemon would reject the whole answer for it."""
    most = 2**53
    body = b'{"usage":{"input_tokens":%d,"cache_read_input_tokens":%d,"output_tokens":5}}' % (most, most)
    usage = read("anthropic_messages", body, stream=False).usage
    assert usage is not None
    assert (usage.prompt_tokens, usage.completion_tokens) == (None, 5)


def test_the_timings_of_a_model_server_count_its_cached_tokens() -> None:
    """llama.cpp sends them beside the usage, and in the last chunk of a stream that has no usage."""
    timings = {"cache_n": 300, "prompt_n": 100, "predicted_n": 5}
    choice = {"index": 0, "message": {"content": "Paris"}, "delta": {}, "finish_reason": "stop"}
    used = {"prompt_tokens": 400, "completion_tokens": 5, "total_tokens": 405}
    whole = {"choices": [choice], "model": "m", "usage": used, "timings": timings}
    chunk = {"choices": [choice], "model": "m", "timings": timings}

    of_whole = read("openai_chat", json.dumps(whole).encode(), stream=False)
    of_stream = read("openai_chat", b"data: %s\n\ndata: [DONE]\n\n" % json.dumps(chunk).encode(), stream=True)
    assert of_whole == of_stream == AnswerSummary("complete", usage=Usage("m", 400, 5, cached_prompt_tokens=300))


@pytest.mark.parametrize("last", [{"input_tokens": 3}, {"input_tokens": 3, "cache_read_input_tokens": None}, {}])
def test_the_last_event_of_a_message_takes_no_cached_tokens_back(last: dict[str, Any]) -> None:
    """Its counts are cumulative, and complete only together with those of the first event."""
    counts = {"input_tokens": 3, "cache_read_input_tokens": 280, "cache_creation_input_tokens": 20, "output_tokens": 1}
    events = [
        {"type": "message_start", "message": {"model": "m", "usage": counts}},
        {"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": {"output_tokens": 9, **last}},
        {"type": "message_stop"},
    ]
    body = b"".join(b"data: %s\n\n" % json.dumps(event).encode() for event in events)

    usage = read("anthropic_messages", body, stream=True).usage
    assert usage == Usage("m", 303, 9, cached_prompt_tokens=280, cache_write_prompt_tokens=20)


def test_nothing_counts_after_an_unreadable_event() -> None:
    """The summary is the same for a stream in one piece and byte by byte."""
    body = b'{"done": fal\n{"done":true,"done_reason":"stop","eval_count":5}\n'
    assert read("ollama_chat", body) == read("ollama_chat", *(body[at : at + 1] for at in range(len(body))))
