"""When an answer's output begins: the prompt is processed from then on, and not before."""

import json
from typing import Any

import pytest

from sidecard_client.http.answers import events
from sidecard_client.http.family import AnswerReader, ApiRequest
from sidecard_client.http.recognition import families
from tests.api_samples import EVENT_STREAM, EVENTS, JSON, JSON_LINES, as_events, as_message

CREATED = {"type": "response.created", "response": {"status": "queued", "model": "m"}}
QUEUED = {"type": "response.queued", "response": {"status": "queued"}}
IN_PROGRESS = {"type": "response.in_progress", "response": {"status": "in_progress"}}
ITEM = {"type": "response.output_item.added", "item": {"type": "message"}}
FAILED = {"type": "response.failed", "response": {"status": "failed", "error": {"code": "server_error"}}}
ROLE = {"choices": [{"index": 0, "delta": {"role": "assistant", "content": ""}, "finish_reason": None}]}
START = {"type": "message_start", "message": {"model": "m", "usage": {"input_tokens": 3}}}
RECEIVED = as_events(CREATED, QUEUED, IN_PROGRESS, named=True)
PING = b'event: ping\ndata: {"type": "ping"}\n\n'
KEPT_OPEN = b": OPENROUTER PROCESSING\n\n\n\n: keep-alive\n\nid: 7\n\nevent: x\ndata:\n\ndata:  \n\n"
BLANK = b"\n\n\r\n \t\n"

ANSWERS: dict[str, tuple[str, str, bytes, bytes]] = {
    "responses": ("openai_responses", EVENTS, RECEIVED, as_events(ITEM, named=True)),
    "responses without names": ("openai_responses", EVENTS, as_events(CREATED, IN_PROGRESS), as_events(ITEM)),
    "responses with names alone": ("openai_responses", EVENTS, b"event: response.created\ndata: {}\n\n", as_events(ITEM)),
    "responses, commented": ("openai_responses", EVENTS, KEPT_OPEN + RECEIVED + KEPT_OPEN, as_events(ITEM, named=True)),
    "responses, failed": ("openai_responses", EVENTS, RECEIVED, as_events(FAILED, named=True)),
    "responses, unreadable": ("openai_responses", EVENTS, RECEIVED, b"data: {\n\n"),
    "responses, of no object": ("openai_responses", EVENTS, RECEIVED, b"data: []\n\n"),
    "responses, of no known type": ("openai_responses", EVENTS, RECEIVED, b'data: {"type": []}\n\n'),
    "responses, ended": ("openai_responses", EVENTS, RECEIVED, b"data: [DONE]\n\n"),
    "response": ("openai_responses", JSON, BLANK, b"{"),
    "chat stream": ("openai_chat", EVENTS, b"", as_events(ROLE)),
    "chat stream, commented": ("openai_chat", EVENTS, KEPT_OPEN, as_events(ROLE)),
    "chat stream in lines of CR": ("openai_chat", EVENTS, b": PROCESSING\r\r", b"data: {}\r\r"),
    "chat stream that says created": ("openai_chat", EVENTS, b"", as_events(CREATED)),
    "chat": ("openai_chat", JSON, BLANK, b"{"),
    "messages": ("anthropic_messages", EVENTS, PING, as_events(START, named=True)),
    "Ollama's lines": ("ollama_chat", JSON_LINES, BLANK, b"{"),
    "Gemini's array": ("gemini_generate", JSON, BLANK, b"["),
    "Bedrock's messages": ("bedrock_converse", EVENT_STREAM, b"", as_message({"role": "assistant"}, "messageStart")),
    "Bedrock, damaged": ("bedrock_converse", EVENT_STREAM, b"", b"\0" * 12),
    "speech": ("openai_speech", "audio/mpeg", b"", b"\0"),
    "text": ("openai_transcriptions", "text/plain", BLANK, b"H"),
}  # fmt: skip
"""Family, content type, what precedes the output, and the first bytes that complete a part of the output."""


def reader_of(family: str, content_type: str) -> AnswerReader:
    """Return the reader of an answer."""
    body: Any = {"response_format": "text"}
    return families()[family].reader(ApiRequest("m", body, stream=content_type == EVENTS), content_type=content_type)


@pytest.mark.parametrize("name", ANSWERS)
def test_output_begins_with_the_models_first_event_or_byte(name: str) -> None:
    """It does so at the same byte for every split; half an event is none."""
    family, content_type, preceding, output = ANSWERS[name]
    for size in (1, 7, max(1, len(preceding))):
        reader = reader_of(family, content_type)
        for start in range(0, len(preceding), size):
            reader.feed(preceding[start : start + size])
            assert not reader.has_output, preceding[: start + size]

        for byte in range(len(output)):
            assert not reader.has_output, output[:byte]
            reader.feed(output[byte : byte + 1])

        assert reader.has_output

    reader = reader_of(family, content_type)
    reader.feed(preceding + output)
    assert reader.has_output


@pytest.mark.parametrize("name", ANSWERS)
def test_output_that_has_begun_does_not_end(name: str) -> None:
    """Whatever follows, such as what may precede it."""
    family, content_type, preceding, output = ANSWERS[name]
    reader = reader_of(family, content_type)
    reader.feed(preceding + output)
    for later in (b"", b"\n", preceding, b"data: rubbish\n\n"):
        reader.feed(later)
        assert reader.has_output


@pytest.mark.parametrize("family", ["openai_responses", "openai_chat", "anthropic_messages", "bedrock_converse"])
def test_an_answer_of_an_unknown_type_counts_as_output(family: str) -> None:
    """It cannot be read, so no byte of it is known to precede the output."""
    assert reader_of(family, "text/html").has_output


def test_an_event_that_is_too_long_counts_as_output(monkeypatch: pytest.MonkeyPatch) -> None:
    """No event follows it that could say more."""
    monkeypatch.setattr(events, "MAX_EVENT_BYTES", 100)
    reader = reader_of("openai_chat", EVENTS)
    reader.feed(b"data: " + json.dumps("x" * 90).encode())
    assert not reader.has_output
    reader.feed(b"xxxxx")
    assert reader.has_output
