"""Answers of real servers that differ from their API's documentation. None counts against a backend."""

import json
from typing import Any

import pytest

from sidecard_client.http.family import AnswerReader, AnswerSummary, ApiRequest
from sidecard_client.http.recognition import families
from sidecard_client.protocol.wire import Usage

EVENTS = "text/event-stream"
JSON = "application/json"


def chunk(delta: str = "", finish: str | None = None, **fields: Any) -> str:
    """Return a chunk of a chat as JSON."""
    choice = {"index": 0, "delta": {"content": delta}, "finish_reason": finish}
    return json.dumps({"id": "c", "object": "chat.completion.chunk", "model": "m", "choices": [choice], **fields})


def data(*events: str) -> str:
    """Return server-sent events with these data."""
    return "".join(f"data: {event}\n\n" for event in events)


def reader(family: str, content_type: str = EVENTS, **fields: Any) -> AnswerReader:
    """Return the reader of an answer to a request with these fields."""
    asked = ApiRequest("m", fields.pop("body", {}), fields.pop("stream", content_type != JSON), **fields)
    return families()[family].reader(asked, content_type=content_type)


def summary(family: str, text: str, content_type: str = EVENTS, **fields: Any) -> AnswerSummary:
    """Return the summary of an answer."""
    answer = reader(family, content_type, **fields)
    answer.feed(text.encode())
    return answer.finish()


START, STOP = chunk("hi"), chunk("", "stop")
USAGE = json.dumps({"id": "c", "choices": [], "usage": {"prompt_tokens": 7, "completion_tokens": 2}})
AZURE = json.dumps({"id": "", "model": "", "choices": [], "prompt_filter_results": [{"prompt_index": 0}]})


@pytest.mark.parametrize(
    "text",
    [
        data(START, STOP, "[DONE]"),
        data(START, STOP),
        data(AZURE, START, STOP, "[DONE]"),
        data(START, STOP, USAGE, "[DONE]"),
        data(START, chunk("", "tool_calls"), "[DONE]"),
        data(START, STOP, " [DONE] "),
        data(START, STOP) + "data:[DONE]\n\n",
        ": OPENROUTER PROCESSING\n\n" + data(START) + ": OPENROUTER PROCESSING\n\n" + data(STOP, "[DONE]"),
        data(START, STOP).replace('"choices"', '"error": null, "choices"'),
        data(START, STOP).replace('"index": 0, ', ""),
        data(START).replace('{"id"', '{\ndata: "id"') + data(STOP, "[DONE]"),
        data(START, STOP, "[DONE]", '{"error": "after the end"}', "rubbish"),
        data(START, STOP) + "event: done\nid: 7\nretry: 5\n\n",
        data(START, STOP).replace("\n", "\r\n"),
    ],
)
def test_whole_chats_of_all_servers_are_complete(text: str) -> None:
    """Comments, first chunks without choices, several lines of an event, or no ``[DONE]``."""
    assert summary("openai_chat", text).not_stored == ""
    assert summary("openai_chat", text).verdict == "complete"


@pytest.mark.parametrize(
    ("family", "text", "fields"),
    [
        ("openai_chat", data(START, chunk("", ""), "[DONE]"), {}),
        ("openai_chat", data(START, chunk("", None), "[DONE]"), {}),
        ("openai_chat", data(START), {}),
        ("openai_chat", data(START, STOP, "[DONE]"), {"choices": 2}),
        ("openai_chat", data(START, STOP, STOP.replace('"index": 0', '"index": 1').replace('"stop"', "null")), {}),
        ("openai_chat", data(START, STOP, "keep-alive", "[DONE]"), {}),
        ("openai_chat", data(START, STOP), {"body": {"stream_options": {"include_usage": True}}}),
        ("openai_responses", data('{"type": "response.created", "response": {"status": "in_progress"}}'), {}),
        ("openai_responses", data('{"type": "response.completed"}'), {}),
        ("openai_responses", data('{"type": "response.output_text.delta", "delta": "x"}', "[DONE]"), {}),
        ("anthropic_messages", data('{"type": "message_start", "message": {}}'), {}),
        ("anthropic_messages", data('{"type": "message_stop"}'), {}),
        ("anthropic_messages", data('{"type": "message_delta", "delta": {"stop_reason": "end_turn"}}'), {}),
        (
            "anthropic_messages",
            data('{"type": "message_delta", "delta": {"stop_reason": ""}}', '{"type": "message_stop"}'),
            {},
        ),
    ],
)
def test_streams_that_are_not_known_to_be_whole_are_unproven(family: str, text: str, fields: dict[str, Any]) -> None:
    """The backend did its part; nothing is stored."""
    found = summary(family, text, **fields)
    assert (found.verdict, found.failure, found.answered) == ("unproven", "ignored", True)
    assert found.not_stored in {"incomplete", "dialect"}
    assert found.detail


@pytest.mark.parametrize(
    ("family", "text"),
    [
        ("openai_chat", '{"choices": [{"index": 0, "message": {"content": "x"}, "finish_reason": null}]}'),
        ("openai_chat", '{"choices": []}'),
        ("anthropic_messages", '{"type": "message", "content": [], "stop_reason": null}'),
        ("openai_responses", '{"object": "response", "status": "in_progress", "output": []}'),
        ("ollama_chat", '{"message": {"content": "x"}, "done": false}'),
        ("ollama_chat", '{"message": {"content": "x"}, "done": true, "done_reason": ""}'),
        ("ollama_generate", '{"response": "x", "done": true, "done_reason": null}'),
        ("openai_embeddings", '{"data": [{"embedding": []}]}'),
        ("ollama_embed", '{"embeddings": []}'),
        ("ollama_embed", '{"embedding": []}'),
    ],
)
def test_bodies_that_are_not_known_to_be_whole_are_unproven(family: str, text: str) -> None:
    """As streams are."""
    assert summary(family, text, JSON).verdict == "unproven"


@pytest.mark.parametrize(
    ("family", "text", "content_type"),
    [
        ("openai_chat", data(START, STOP), "text/plain"),
        ("openai_chat", data(START, STOP), "application/octet-stream"),
        ("openai_chat", data(START, STOP), JSON),
        ("openai_chat", START + "\n" + STOP, "application/x-ndjson"),
        ("openai_chat", "<html>Bad gateway</html>", "text/html"),
        ("openai_chat", "<html>Bad gateway</html>", JSON),
        ("openai_chat", '{"answer": "hi"}', JSON),
        ("openai_chat", "[]", JSON),
        ("openai_chat", "", JSON),
        ("openai_chat", "", EVENTS),
        ("openai_chat", data('{"status": "ok"}'), EVENTS),
        ("openai_chat", data("[DONE]"), EVENTS),
        ("openai_chat", data("hello", START, STOP), EVENTS),
        ("openai_chat", data(START, STOP).replace("\n\n", "\n"), EVENTS),  # to an SDK one event, which is not JSON
        ("openai_responses", '{"status": "completed"}', JSON),
        ("anthropic_messages", '{"stop_reason": "end_turn"}', JSON),
        ("anthropic_messages", data('{"type": "token", "text": "hi"}'), EVENTS),
        ("ollama_chat", data('{"done": true}'), EVENTS),
        ("ollama_chat", '{"done": "yes"}', JSON),
        ("ollama_chat", '{"message": {"content": "x"}, "done": tru', "application/x-ndjson"),
    ],
)
def test_answers_that_are_none_of_the_api_are_unclassifiable(family: str, text: str, content_type: str) -> None:
    """They are neutral for the backend."""
    found = summary(family, text, content_type)
    assert (found.verdict, found.failure, found.answered) == ("unclassifiable", "ignored", False)
    assert found.not_stored == "dialect"
    assert found.detail


def test_an_answer_of_another_content_type_is_known_from_its_head() -> None:
    """Its head alone makes it unclassifiable, so other callers get none of it."""
    assert not reader("openai_chat", "text/html").classifiable
    assert reader("openai_chat", JSON).classifiable
    stream = reader("openai_chat")
    stream.feed(b"data: hello\n\n")
    assert not stream.classifiable
    stream = reader("openai_chat")
    stream.feed(f"data: {START}\n\ndata: hello\n\n".encode())
    assert stream.classifiable


@pytest.mark.parametrize(
    ("stream", "text", "verdict"),
    [
        (True, data(START, STOP), "complete"),
        (False, '{"choices": [{"finish_reason": "stop"}]}', "complete"),
        (True, '{"choices": [{"finish_reason": "stop"}]}', "unclassifiable"),
    ],
)
def test_without_a_content_type_the_request_decides_the_form(stream: bool, text: str, verdict: str) -> None:
    """With one, a server may answer with a stream or a whole, whatever was requested."""
    assert summary("openai_chat", text, "", stream=stream).verdict == verdict


def test_a_server_may_ignore_whether_a_stream_was_requested() -> None:
    """The content type tells which one it is."""
    assert summary("openai_chat", data(START, STOP), EVENTS, stream=False).complete
    assert summary("openai_chat", '{"choices": [{"finish_reason": "stop"}]}', JSON, stream=True).complete
    assert summary("ollama_chat", '{"message": {}, "done": true}', JSON, stream=True).complete
    assert summary("ollama_chat", '{"message": {}, "done": false}\n{"done": true}', JSON, stream=True).complete


ANTHROPIC: list[tuple[str, dict[str, Any]]] = [
    ("message_start", {"message": {"model": "m", "usage": {"input_tokens": 7}}}),
    ("content_block_delta", {"delta": {"type": "text_delta", "text": "hi"}}),
    ("message_delta", {"delta": {"stop_reason": "end_turn"}, "usage": {"output_tokens": 2}}),
    ("message_stop", {}),
]


@pytest.mark.parametrize("ping", ["keepalive", "{}", '{"type": "ping"}', "{"])
@pytest.mark.parametrize("named", [True, False])
def test_pings_of_anthropic_may_have_any_data(ping: str, named: bool) -> None:
    """The SDK does not read it. Servers that leave out the names of events are read by type."""
    lines = [
        f"event: {kind}\ndata: {json.dumps({'type': kind, **fields})}\n\n" if named else data(json.dumps({"type": kind, **fields}))
        for kind, fields in ANTHROPIC
    ]  # fmt: skip
    found = summary("anthropic_messages", f"event: ping\ndata: {ping}\n\n".join(lines))
    assert found == AnswerSummary("complete", usage=Usage("m", 7, 2))


@pytest.mark.parametrize(
    ("family", "text", "content_type", "verdict"),
    [
        ("openai_chat", '{"error": {"code": 400, "message": "x"}}', JSON, "request_error"),
        ("openai_chat", '{"error": {"code": "context_length_exceeded"}}', JSON, "request_error"),
        ("openai_chat", '{"object": "error", "message": "x", "type": "BadRequestError", "code": 400}', JSON, "request_error"),
        ("openai_chat", '{"error": {"code": 502, "message": "x"}, "choices": []}', JSON, "server_error"),
        ("openai_chat", '{"choices": [{"error": {"code": 502}, "finish_reason": "error"}]}', JSON, "server_error"),
        ("openai_chat", '{"choices": [{"finish_reason": "error"}]}', JSON, "server_error"),
        ("openai_chat", '{"error": true}', JSON, "server_error"),
        ("openai_chat", '{"code": 400, "message": "x"}', JSON, "request_error"),
        ("openai_chat", '{"status": "502", "message": "x"}', JSON, "server_error"),
        ("openai_chat", data(START, '{"error": {"code": 400}}'), EVENTS, "request_error"),
        ("openai_chat", data(START, STOP, '{"error": {"message": "lost"}}', "[DONE]"), EVENTS, "server_error"),
        ("openai_chat", data(START) + 'event: error\ndata: {"message": "lost", "code": 500}\n\n', EVENTS, "server_error"),
        ("openai_chat", "event: error\ndata: lost\n\n", EVENTS, "server_error"),
        ("anthropic_messages", '{"type": "error", "error": {"type": "request_too_large"}}', JSON, "request_error"),
        ("anthropic_messages", data('{"type": "error", "error": {"type": "overloaded_error"}}'), EVENTS, "server_error"),
        ("anthropic_messages", "event: error\ndata: overloaded\n\n", EVENTS, "server_error"),
        ("openai_responses", data('{"type": "error", "code": "invalid_prompt"}'), EVENTS, "request_error"),
        (
            "openai_responses",
            data('{"type": "response.failed", "response": {"status": "failed", "error": {"code": "rate_limit_exceeded"}}}'),
            EVENTS,
            "server_error",
        ),
        ("openai_responses", data('{"type": "response.failed", "response": {}}'), EVENTS, "server_error"),
        (
            "openai_responses",
            data('{"type": "response.failed", "response": {"status": "failed", "error": {"code": "invalid_prompt"}}}'),
            EVENTS,
            "request_error",
        ),
        ("openai_responses", '{"status": "failed", "output": [], "error": {"code": "invalid_image"}}', JSON, "request_error"),
        ("openai_embeddings", '{"error": {"code": 400}}', JSON, "request_error"),
        ("ollama_chat", '{"error": "model \'x\' not found"}', JSON, "request_error"),
        ("ollama_chat", '{"error": "unexpected EOF"}', "application/x-ndjson", "server_error"),
    ],
)  # fmt: skip
def test_errors_inside_answers_are_classified(family: str, text: str, content_type: str, verdict: str) -> None:
    """An error of the request is ``fatal`` and a success of the backend; other errors are ``transient``."""
    found = summary(family, text, content_type)
    assert (found.verdict, found.not_stored) == (verdict, "error")
    expected = ("fatal", True) if verdict == "request_error" else ("transient", False)
    assert (found.failure, found.answered) == expected


@pytest.mark.parametrize("nothing", ["null", "false", '""', "{}"])
def test_an_empty_error_is_none(nothing: str) -> None:
    """Many servers always send the field."""
    text = f'{{"error": {nothing}, "choices": [{{"finish_reason": "stop"}}]}}'
    assert summary("openai_chat", text, JSON).complete


@pytest.mark.parametrize(
    ("family", "text", "content_type"),
    [
        ("openai_chat", '{"choices": [{"message": {"refusal": "no"}, "finish_reason": "stop"}]}', JSON),
        ("openai_chat", data('{"choices": [{"delta": {"refusal": "no"}}]}', STOP), EVENTS),
        (
            "openai_responses",
            '{"status": "completed", "output": [{"type": "message", "content": [{"type": "refusal", "refusal": "no"}]}]}',
            JSON,
        ),
    ],
)
def test_a_refusal_in_the_models_words_is_not_stored(family: str, text: str, content_type: str) -> None:
    """A refusal with the finish reason of a normal answer is recognized."""
    assert summary(family, text, content_type).not_stored == "refusal"


def test_a_response_with_other_output_is_no_refusal() -> None:
    """Messages with text, calls of tools, and items of any form."""
    parts = [{"type": "output_text", "text": "no"}, "refusal"]
    output = [{"type": "message", "content": parts}, {"type": "function_call"}, {"content": None}, 7]
    text = json.dumps({"object": "response", "status": "completed", "output": output})
    assert summary("openai_responses", text, JSON).not_stored == ""


@pytest.mark.parametrize("refusal", ["null", '""', "[]"])
def test_an_empty_refusal_is_none(refusal: str) -> None:
    """OpenAI always sends the field."""
    text = f'{{"choices": [{{"message": {{"refusal": {refusal}}}, "finish_reason": "stop"}}]}}'
    assert summary("openai_chat", text, JSON).not_stored == ""


def test_the_most_serious_reason_of_several_choices_counts() -> None:
    """An app that stores cut answers does not store filtered ones."""
    choices = [{"index": n, "finish_reason": reason} for n, reason in enumerate(("length", "content_filter", "stop"))]
    found = summary("openai_chat", json.dumps({"choices": choices}), JSON, choices=3)
    assert (found.verdict, found.not_stored) == ("complete", "filter")
    assert summary("openai_chat", json.dumps({"choices": choices[::2]}), JSON).not_stored == "length"


@pytest.mark.parametrize(
    ("family", "text", "content_type"),
    [
        ("openai_chat", data(START, STOP, "[DONE]"), EVENTS),
        ("openai_chat", data(START, '{"error": {}, "choices": []}', '{"error": "x"}'), EVENTS),
        ("anthropic_messages", data('{"type": "message_stop"}'), EVENTS),
        ("openai_responses", data('{"type": "response.completed", "response": {"status": "completed"}}'), EVENTS),
        ("ollama_chat", '{"done": true}\n', "application/x-ndjson"),
    ],
)
def test_the_last_event_ends_a_stream(family: str, text: str, content_type: str) -> None:
    """An app that stops reading there has the whole answer."""
    answer = reader(family, content_type)
    answer.feed(text[:-6].encode())
    assert not answer.terminal
    answer.feed(text[-6:].encode())
    assert answer.terminal


@pytest.mark.parametrize("rest", ["data: {", 'data: {"error": "late"}\n\n', "data: rubbish\n\n"])
def test_nothing_counts_after_the_last_event(rest: str) -> None:
    """Wherever an app stops reading, the summary is the same."""
    end = data('{"type": "message_delta", "delta": {"stop_reason": "end_turn"}}', '{"type": "message_stop"}')
    assert summary("anthropic_messages", end + rest).complete
    assert summary("openai_chat", data(START, STOP, "[DONE]") + rest).complete
    assert summary("ollama_chat", '{"done": true}\n' + rest, "application/x-ndjson").complete


def test_a_finish_reason_does_not_end_a_stream() -> None:
    """Usage may follow."""
    answer = reader("openai_chat")
    answer.feed(data(START, STOP).encode())
    assert not answer.terminal
