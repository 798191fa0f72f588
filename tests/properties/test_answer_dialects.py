"""Answers of any dialect, cut anywhere: one summary, no exception, and never a failure of the backend.

Streams are made from a valid one by mutations that servers and proxies do: reasons that are empty or unknown, events left out,
repeated, reordered or added, comments, pings, several lines of an event, other line ends, a byte order mark, a cut end.
"""

import json
from collections.abc import Callable
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from sidecard_client.http.family import AnswerSummary, ApiRequest, RequestTarget
from sidecard_client.http.recognition import families
from tests.thoroughness import cases

Events = list[tuple[str, dict[str, Any]]]


def chat(reason: Any, choices: int) -> Events:
    """Return the events of a chat with so many choices that end for this reason."""
    events: Events = [("", {"id": "c", "model": "m", "choices": []})]
    for index in range(choices):
        events.append(("", {"choices": [{"index": index, "delta": {"content": "hé"}, "finish_reason": None}]}))
        events.append(("", {"choices": [{"index": index, "delta": {}, "finish_reason": reason}]}))

    return events


def messages(reason: Any, _choices: int) -> Events:
    """Return the events of Anthropic's message that ends for this reason."""
    events: list[dict[str, Any]] = [
        {"type": "message_start", "message": {"model": "m", "usage": {"input_tokens": 3}}},
        {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "hé"}},
        {"type": "message_delta", "delta": {"stop_reason": reason}, "usage": {"output_tokens": 2}},
        {"type": "message_stop"},
    ]
    return [(event["type"], event) for event in events]


def responses(reason: Any, _choices: int) -> Events:
    """Return the events of a response with this status."""
    return [
        ("response.created", {"type": "response.created", "response": {"status": "in_progress", "model": "m"}}),
        ("response.output_text.delta", {"type": "response.output_text.delta", "delta": "hé"}),
        ("response.completed", {"type": "response.completed", "response": {"status": reason, "output": []}}),
    ]


def ollama(reason: Any, _choices: int) -> Events:
    """Return the lines of Ollama's answer that ends for this reason."""
    return [("", {"message": {"content": "hé"}, "done": False}), ("", {"done": True, "done_reason": reason})]


FORMS: dict[str, Callable[[Any, int], Events]] = {
    "openai_chat": chat,
    "openai_completions": chat,
    "openai_responses": responses,
    "anthropic_messages": messages,
    "ollama_chat": ollama,
    "ollama_generate": ollama,
}
NOISE = st.sampled_from(
    [": comment", "event: ping\ndata: keepalive", "event: x", "id: 7", "retry: 5", "data:", "data: ", "foo"]
)
REASONS: st.SearchStrategy[Any] = st.sampled_from(
    [
        "stop",
        "end_turn",
        "completed",
        "length",
        "refusal",
        "",
        None,
        7,
        [],
        {},
        "unheard_of",
        "in_progress",
        "cancelled",
    ]
)


def written(draw: st.DrawFn, name: str, event: dict[str, Any], *, lines: bool) -> str:
    """Write an event, perhaps over several lines."""
    text = json.dumps(event, ensure_ascii=draw(st.booleans()))
    if lines:
        return f"{text}\n"

    if draw(st.booleans()):
        text = text.replace(", ", ",\ndata: ")

    named = f"event: {name}\n" if name and draw(st.booleans()) else ""
    return f"{named}data: {text}\n\n"


def summary(family: str, pieces: list[bytes], content_type: str, choices: int) -> AnswerSummary:
    """Read an answer in these pieces. Output that has begun does not end."""
    asked = ApiRequest("m", {}, stream=True, choices=choices)
    reader = families()[family].reader(asked, content_type=content_type)
    for piece in pieces:
        had_output = reader.has_output
        reader.feed(piece)
        assert reader.has_output or not had_output
        _ = reader.terminal, reader.classifiable

    return reader.finish()


@st.composite
def bodies(draw: st.DrawFn, family: str, reason: Any, choices: int) -> bytes:
    """Return an answer's body in some dialect."""
    lines = family.startswith("ollama")
    events = changed(draw, FORMS[family](reason, draw(st.sampled_from([choices, choices, 1]))))
    parts = [written(draw, name, event, lines=lines) for name, event in events]
    if not lines:
        for noise in draw(st.lists(NOISE, max_size=3)):
            parts.insert(draw(st.integers(0, len(parts))), f"{noise}\n\n")

        parts.append(draw(st.sampled_from(["", "data: [DONE]\n\n"])))

    body = draw(st.sampled_from([b"", b"", b"\xef\xbb\xbf"])) + "".join(parts).encode()
    body = body.replace(b"\n", draw(st.sampled_from([b"\n", b"\r\n", b"\r"])))
    return body[: draw(st.just(len(body)) | st.integers(0, len(body)))]


def changed(draw: st.DrawFn, events: Events) -> Events:
    """Return the events, one of them dropped or repeated, all reversed, or one of another kind among them."""
    place = draw(st.integers(0, len(events) - 1))
    match draw(st.sampled_from(["none", "drop", "repeat", "reverse", "unknown"])):
        case "drop":
            return events[:place] + events[place + 1 :]
        case "repeat":
            return [*events[:place], events[place], *events[place:]]
        case "reverse":
            return events[::-1]
        case "unknown":
            return [*events[:place], ("heartbeat", {"type": "heartbeat", "status": "working"}), *events[place:]]
        case _:
            return events


@settings(max_examples=cases(80), deadline=None)
@given(st.data(), st.sampled_from(sorted(FORMS)), REASONS, st.integers(1, 3))
def test_a_dialect_never_counts_against_a_backend(data: st.DataObject, family: str, reason: Any, choices: int) -> None:
    """Without an error in it, an answer is complete, unproven or unclassifiable; only a known end can complete it."""
    body = data.draw(bodies(family, reason, choices))
    own = "application/x-ndjson" if family.startswith("ollama") else "text/event-stream; charset=utf-8"
    content_type = data.draw(st.sampled_from([own, own, own, "", "text/html", "application/json"]))
    cuts = sorted(data.draw(st.lists(st.integers(0, len(body)), max_size=6)))
    pieces = [body[start:end] for start, end in zip([0, *cuts], [*cuts, len(body)], strict=True)]

    found = summary(family, [body], content_type, choices)
    assert summary(family, pieces, content_type, choices) == found
    assert summary(family, [body[at : at + 1] for at in range(len(body))], content_type, choices) == found
    assert found.failure in {None, "ignored"}
    assert found.complete or found.not_stored
    if found.complete:
        assert isinstance(reason, str)
        assert reason
        assert content_type != "text/html"
        assert family != "openai_responses" or reason == "completed"


@settings(max_examples=cases(60), deadline=None)
@given(
    st.sampled_from(sorted(families())),
    st.lists(
        st.binary(max_size=80) | st.sampled_from([b"data: ", b"\n\n", b"\r", b"{}", b"[DONE]", b'{"choices":']),
        max_size=8,
    ),
    st.sampled_from(["", "text/event-stream", "application/json", "application/x-ndjson", "image/png", "\xff;"]),
    st.booleans(),
)
def test_no_bytes_raise(family: str, pieces: list[bytes], content_type: str, stream: bool) -> None:
    """And what has none of an API's form fails no call of others."""
    asked = ApiRequest("m", {}, stream=stream)
    readers = [families()[family].reader(asked, content_type=content_type) for _ in range(2)]
    for piece in pieces:
        readers[0].feed(piece)

    readers[1].feed(b"".join(pieces))
    assert readers[0].has_output == readers[1].has_output
    first, second = (reader.finish() for reader in readers)
    assert first == second


@settings(max_examples=cases(60), deadline=None)
@given(
    st.sampled_from(sorted(families())),
    st.dictionaries(
        st.sampled_from(
            [
                "model",
                "messages",
                "input",
                "prompt",
                "tools",
                "stream",
                "max_tokens",
                "store",
                "n",
                "contents",
                "texts",
                "options",
            ]
        ),
        st.recursive(
            st.none() | st.booleans() | st.integers(-3, 3) | st.floats(allow_nan=False) | st.text(max_size=3),
            lambda inner: (
                st.lists(inner, max_size=3)
                | st.dictionaries(st.sampled_from(["role", "content", "type", "text", "tools"]), inner, max_size=3)
            ),
            max_leaves=8,
        ),
    ),
)
def test_no_request_raises(name: str, fields: dict[str, Any]) -> None:
    """Whatever the fields hold, it is read, or it is none of the API's."""
    family = families()[name]
    for path in family.paths:
        target = RequestTarget.of("POST", f"https://api.openai.com/x{path}", "application/json")
        assert target is not None
        asked = family.read(target, json.dumps(fields).encode())
        if asked is not None:
            assert asked.choices >= 0
            family.question(asked)
