"""Targets in HTTP: what is posted, what SDKs ask and are answered, what a target of metrics answers, which hosts requests name."""

from contextlib import suppress

import msgspec
from msgspec import structs

from sidecard.observe.call_log import fine_tuning
from sidecard.observe.call_log.redaction_process import redacted_json
from sidecard.observe.http import posted as http_posted
from sidecard.observe.http.guard import HostNames
from sidecard.observe.push.target import Postponed, Refused, Sent, result_of
from sidecard_client.http.embeddings import embedding_request, parts_of_text
from sidecard_client.http.family import ApiRequest
from sidecard_client.http.question import question_of
from sidecard_client.http.recognition import families
from sidecard_client.http.request import parse_request
from sidecard_client.keys.fingerprint import fingerprint
from sidecard_client.protocol import wire
from sidecard_client.protocol.frames import frame
from tests.fuzz.target import Target, fields, pieces
from tests.readers import WholeReader

FAMILIES = families()
URL = b"https://api.openai.com/v1/chat/completions"
BODY = b'{"model":"m","messages":[{"role":"user","content":"hi"}],"temperature":0,"n":2,"stream":true,"user":"u"}'


def posted(data: bytes) -> None:
    """One call, or a sentence that does not repeat it; what comes of it the daemon takes as it takes a peer's."""
    try:
        call = http_posted.parse(data)
    except ValueError:
        return

    request = http_posted.measurements(call)
    assert WholeReader().feed(frame(wire.pack(request))) == [request]


def asked(data: bytes) -> None:
    """A request that is to be intercepted has a key and a backend that the daemon takes; any other is let pass."""
    url, header, body = fields(data, 3)
    name, _, value = header.decode("latin-1").partition(":")
    request = parse_request("POST", url.decode("latin-1"), [(name, value)], body)
    if request is None:
        return

    key = fingerprint("general", request.asked.model or None, request.key_name, (), request.parts, ())
    begin = wire.Begin(key, id=1, backends=(request.backend,), context=request.context)
    assert WholeReader().feed(frame(wire.pack(begin))) == [begin]
    question_of(request)
    embedding = embedding_request(request.family.layout, body)
    if embedding is not None:
        for text in embedding.inputs:
            part, parts = parts_of_text(request, embedding.layout, text)
            fingerprint("general", None, part, (), parts, ())


def answered(data: bytes) -> None:
    """Whatever a model's server sends: nothing is raised, however it is cut, and what was used the daemon takes."""
    name, content_type, body = fields(data, 3)
    family = FAMILIES.get(name.decode("latin-1"), FAMILIES["openai_chat"])
    number = body[0] if body else 0
    read = []
    wanted = ApiRequest("m", {}, stream=number >= 128, choices=1 + number % 2)
    for parts in ([body[1:]], pieces(body[1:], number % 128)):
        reader = family.reader(wanted, content_type=content_type.decode("latin-1"))
        for part in parts:
            reader.feed(part)

        read.append(reader.finish())

    whole, cut_up = read
    assert whole == cut_up
    assert whole.complete or whole.not_stored
    assert whole.detail or whole == structs.replace(whole, verdict="complete", not_stored="")
    complete = wire.Complete("boot-1", msgspec.Raw(b"\xc0"), id=1, usage=whole.usage, not_stored=whole.not_stored)
    assert WholeReader().feed(frame(wire.pack(complete))) == [complete]


def push_answers(data: bytes) -> None:
    """Whatever a target of metrics answers: it has arrived, it is refused, or it waits, for an hour at most."""
    status, retry, location, text = fields(data, 4)
    headers = {"Retry-After": retry.decode("latin-1"), "Location": location.decode("latin-1")}
    number = int.from_bytes(status, "big") % 1000
    outcome = result_of(number, headers, text.decode("utf-8", "replace"), 1.7e9)
    assert isinstance(outcome, Sent | Refused | Postponed)
    if isinstance(outcome, Postponed) and outcome.retry_after_seconds is not None:
        assert 0 <= outcome.retry_after_seconds <= 3600


def hosts(data: bytes) -> None:
    """A browser's page from elsewhere is never admitted, however its name is written."""
    text = data.decode("latin-1")
    if HostNames(["known.example"]).admit(text):
        name = text[1:].partition("]")[0] if text.startswith("[") else text.partition(":")[0]
        # Python's addresses have a zone, which may be anything.
        assert all(letter in "0123456789abcdef.:" for letter in name.lower().partition("%")[0]) or name.lower().rstrip(
            "."
        ) in {"localhost", "known.example"}


def texts(data: bytes) -> None:
    """What was said, as JSON to be kept; and what is kept, as an example, or left out."""
    text = redacted_json(data, [])
    assert msgspec.json.decode(text) is not None or text == "null"
    answer = redacted_json(msgspec.msgpack.encode("an answer"), [])
    for prompt, said in ((text, answer), (answer, text)):
        with suppress(fine_tuning.NoExampleError):
            fine_tuning.example(prompt, said)


def _answers() -> list[bytes]:
    whole, events, lines = b"application/json", b"text/event-stream", b"application/x-ndjson"
    answers = [
        ("openai_chat", whole, b'{"model":"m","choices":[{"index":0,"finish_reason":"stop"}],"usage":{"prompt_tokens":1}}'),
        ("openai_chat", events, b'data: {"choices":[{"index":0,"finish_reason":"stop"}]}\r\n\r\ndata: [DONE]\n\n'),
        ("openai_chat", whole, b'{"error":{"type":"invalid_request_error","code":400}}'),
        ("openai_completions", b"", b'{"choices":[{"text":"x","finish_reason":"length"}]}'),
        (
            "openai_responses",
            events,
            b'data: {"type":"response.completed","response":{"status":"completed","usage":{"input_tokens":1}}}\n\n',
        ),
        (
            "anthropic_messages",
            events,
            (b'event: ping\ndata: x\n\ndata: {"type":"message_delta","delta":{"stop_reason":"end_turn"},"usage":{"output_tokens":1}}'
            b'\n\ndata: {"type":"message_stop"}\n\n'),
        ),
        ("anthropic_messages", whole, b'{"content":[],"usage":{"input_tokens":5,"cache_read_input_tokens":6}}'),
        (
            "ollama_chat",
            lines,
            b'{"model":"m","message":{"content":"hi"},"done":false}\n{"done":true,"done_reason":"stop","eval_count":5}\n',
        ),
        ("openai_embeddings", whole, b'{"data":[{"embedding":[1.0]}]}'),
        ("gemini_generate", events, b'data: {"candidates":[{"finishReason":"STOP"}],"usageMetadata":{"promptTokenCount":1}}\n\n'),
        ("cohere_chat", events, b'data: {"type":"message-end","delta":{"finish_reason":"COMPLETE"}}\n\n'),
    ]  # fmt: skip
    seeds = [
        b"\0".join((name.encode(), content_type, bytes((number,)) + body))
        for name, content_type, body in answers
        for number in (0, 3, 129)
    ]
    return seeds + [name.encode() + b"\0\0\x01{}" for name in FAMILIES]


def _texts() -> list[bytes]:
    said = [
        {"args": ["a prompt"], "kwargs": {"system": "be brief"}},
        {"args": [], "kwargs": {"messages": [{"role": "user", "content": [{"type": "text", "text": "hi"}]}], "tools": [{}]}},
        {"choices": [{"message": {"role": "assistant", "content": "hi", "tool_calls": [{"function": {}}]}}]},
        {"content": [{"type": "text", "text": "hi"}], "role": "assistant"}, {"message": {"content": "hi"}}, b"bytes",
    ]  # fmt: skip
    return [msgspec.msgpack.encode(one) for one in said]


_DATE = b"Wed, 21 Oct 2026 07:28:00 GMT"
_FIELDS = tuple(
    f'"{name}":'.encode()
    for name in (
        "model", "choices", "index", "finish_reason", "usage", "prompt_tokens", "completion_tokens", "error", "type", "delta",
        "stop_reason", "message", "done", "done_reason", "response", "status", "input_tokens", "cache_read_input_tokens",
    )
)  # fmt: skip

HTTP_TARGETS = (
    Target(
        "posted",
        posted,
        lambda: [b'{"task_type":"rag","success":true,"latency_ms":12.5,"cost":"0.1","response_length":9}'],
        (b'"task_type":', b'"success":', b'"latency_ms":', b"1e308", b"NaN"),
    ),
    Target(
        "asked",
        asked,
        lambda: [
            URL + b"\0authorization: Bearer x\0" + BODY,
            b"http://h:1/api/chat\0a: b\0{}",
            b"https://[::1]:99/v1/messages\0\0" + BODY[:-1] + b',"max_tokens":5,"cache_control":{}}',
            b'http://h/v1/embeddings\0\0{"model":"m","input":["a",[1]]}',
            b'http://h/v1/embeddings\0\0{"model":"m","input":["a","b"]}',
            b'http://h/v1/responses\0\0{"model":"m","input":[{"role":"user","content":[{"type":"input_text","text":"hi"}]}],"tools":[{}]}',
            b'http://h/v1beta/models/m:generateContent\0\0{"contents":[{"parts":[{"text":"hi"}]}]}',
            (
                b"https://api.openai.com/v1/audio/transcriptions\0content-type: multipart/form-data; boundary=b\0--b\r\n"
                b'Content-Disposition: form-data; name="file"; filename="a"\r\n\r\nx\r\n--b--\r\n'
            ),
        ],
        (b"/deployments/", b"/chat/completions", b"/api/chat", b"[::1]", b":99999", b"\0"),
    ),
    Target(
        "answered",
        answered,
        _answers,
        (
            *_FIELDS,
            *(name.encode() + b"\0" for name in FAMILIES),
            b"data: ",
            b"event: ",
            b"[DONE]",
            b"9007199254740992",
        ),
    ),
    Target(
        "push_answers",
        push_answers,
        lambda: [b"\xc8", b"\x01\xad\x0030\0\0slow down", b"\x01\xf7\0" + _DATE, b"\x01\x2e\0\0http://u:p@h/?q"],
        (_DATE, b"http://u:p@h/", b"[", b"+0000"),
    ),
    Target(
        "hosts",
        hosts,
        lambda: [b"localhost:80", b"127.0.0.1:80", b"[::1]:80", b"known.example.", b"evil.example"],
        (b"localhost", b"127.0.0.1", b"known.example"),
    ),
    Target("texts", texts, _texts),
)
