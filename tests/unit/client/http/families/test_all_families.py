"""Every API: its requests are recognized, and a truncated or damaged answer is never taken for a whole one."""

import json
from functools import cache
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import structs

from sidecard_client.http.family import AnswerSummary, ApiFamily, ApiRequest, RequestTarget
from sidecard_client.http.recognition import families, recognize
from tests.api_samples import EVENT_STREAM, EVENTS, JSON, JSON_LINES, SAMPLES, Sample, as_events
from tests.thoroughness import cases

HEADERS = {"content-length": "1"}
ENDLESS = ("audio/", "text/plain")
"""Types of answers that are whole wherever their body ends."""

each_sample = pytest.mark.parametrize("name", SAMPLES)


def recognized(sample: Sample, **changes: Any) -> tuple[ApiFamily, ApiRequest]:
    """Recognize a request that must be known."""
    sample = structs.replace(sample, **changes)
    target = RequestTarget.of("POST", f"https://{sample.host}{sample.path}?{sample.query}", sample.asked_type)
    assert target is not None
    found = recognize(target, sample.body)
    assert found is not None
    return found


@cache
def recognized_sample(name: str) -> tuple[ApiFamily, ApiRequest]:
    """Recognize a sample's request."""
    return recognized(SAMPLES[name])


def read(name: str, *pieces: bytes, content_type: str = "") -> AnswerSummary:
    """Read an answer to a sample's request in these pieces."""
    family, asked = recognized_sample(name)
    reader = family.reader(asked, content_type=content_type or SAMPLES[name].answer_type, headers=HEADERS)
    for piece in pieces:
        reader.feed(piece)

    return reader.finish()


@each_sample
def test_a_request_is_recognized_by_its_shape_on_any_host(name: str) -> None:
    """The family, the model and whether a stream is asked for do not depend on the host."""
    sample = SAMPLES[name]
    streamed = sample.answer_type in {EVENTS, JSON_LINES, EVENT_STREAM} or name == "gemini array"
    for host in (sample.host, "127.0.0.1:8000", "llm.example.com"):
        family, asked = recognized(sample, host=host)
        assert (family.name, asked.model, asked.passes) == (sample.family, sample.model, "")
        assert asked.stream == streamed


@each_sample
def test_a_path_alone_is_no_request_of_an_api(name: str) -> None:
    """A body of another shape passes through, on a host that is not the API's own."""
    sample = SAMPLES[name]
    target = RequestTarget.of("POST", f"https://app.example.com/surveys/7{sample.path}", sample.asked_type)
    assert target is not None
    bodies = [{}, {"answers": [1, 2]}, {"model": "m"}, [], None, {"status": "completed", "model": 7}]
    if sample.family != "bedrock_invoke":
        assert [recognize(target, json.dumps(body).encode()) for body in bodies] == [None] * len(bodies)

    assert recognize(target, b"") is None
    assert recognize(structs.replace(target, method="GET"), sample.body) is None


@each_sample
def test_an_answer_is_read_however_it_is_split(name: str) -> None:
    """The summary is the same for every split."""
    sample = SAMPLES[name]
    answer = sample.answer
    whole = AnswerSummary("complete", usage=sample.used)
    assert read(name, answer) == whole
    assert read(name, *(answer[at : at + 1] for at in range(len(answer)))) == whole
    for cut in range(0, len(answer), 7):
        assert read(name, answer[:cut], answer[cut:]) == whole


@each_sample
def test_output_begins_in_every_whole_answer(name: str) -> None:
    """At the same byte for every split, and with the first one of a body that is no stream."""
    family, asked = recognized_sample(name)
    sample = SAMPLES[name]
    reader = family.reader(asked, content_type=sample.answer_type, headers=HEADERS)
    assert not reader.has_output
    place = 0
    while not reader.has_output:
        reader.feed(sample.answer[place : place + 1])
        place += 1

    if sample.answer_type not in {EVENTS, EVENT_STREAM}:
        assert place == 1

    for size, expected in ((place - 1, False), (place, True), (len(sample.answer), True)):
        reader = family.reader(asked, content_type=sample.answer_type, headers=HEADERS)
        reader.feed(sample.answer[:size])
        assert reader.has_output == expected


@each_sample
def test_an_answer_cut_anywhere_is_not_whole(name: str) -> None:
    """Only what has no meaning may be missing: white space, ``[DONE]``, the usage after a stream's end."""
    sample = SAMPLES[name]
    if sample.answer_type.startswith(ENDLESS):
        return

    last = len(sample.answer.removesuffix(b"data: [DONE]\n\n").rstrip())
    if name == "bedrock converse stream":
        last = sample.answer.rfind(b"\x0d:message-type") - 12

    for end in range(last):
        assert not read(name, sample.answer[:end]).complete, sample.answer[:end]

    assert read(name, sample.answer[:last]).complete


@settings(max_examples=cases(200), deadline=None)
@given(
    name=st.sampled_from(sorted(SAMPLES)),
    damage=st.lists(st.tuples(st.integers(0, 2000), st.integers(0, 255)), min_size=1, max_size=4),
    cut=st.integers(0, 2000),
)
def test_a_damaged_answer_raises_nothing(name: str, damage: list[tuple[int, int]], cut: int) -> None:
    """No bytes make a reader raise, and every split gives the same summary."""
    answer = bytearray(SAMPLES[name].answer)
    for place, byte in damage:
        answer[place % len(answer)] = byte

    assert read(name, bytes(answer)) == read(name, bytes(answer[:cut]), bytes(answer[cut:]))


_WORDS = sorted({
    "candidates", "content", "finishReason", "index", "promptFeedback", "blockReason", "usageMetadata", "embedding", "values",
    "embeddings", "predictions", "statistics", "token_count", "totalTokens", "type", "message-end", "delta", "finish_reason",
    "usage", "meta", "billed_units", "input_tokens", "event_type", "stream-end", "response", "results", "relevance_score",
    "data", "b64_json", "url", "categories", "audio_data", "text", "stopReason", "messageStop", "metadata", "outputs",
    "generations", "choices", "images", "finish_reasons", "amazon-bedrock-invocationMetrics", "error", "code",
})  # fmt: skip
_ANSWERS: tuple[dict[str, Any], ...] = (
    {"type": "message-end", "delta": {"finish_reason": []}},
    {"finish_reason": {}, "message": {}, "usage": {"billed_units": []}},
    {"candidates": [{"finishReason": [], "index": {}}], "promptFeedback": {"blockReason": {}}},
    {"stopReason": {}, "usage": [], "messageStop": [], "metadata": {"usage": 1}},
    {"choices": [{"finish_reason": []}], "results": [[]], "embeddings": {"float": {}}, "images": [{}]},
    {"type": [], "event_type": {}, "data": [[]], "results": [{"index": [], "relevance_score": "x"}], "error": []},
)
_REQUESTS: tuple[dict[str, Any], ...] = (
    {"toolConfig": {"tools": [{"systemTool": {"name": []}}, 7]}, "messages": [{"role": "user", "content": 7}]},
    {"contents": [{"parts": {}}], "tools": [{"x": 1}, []], "generationConfig": {"candidateCount": [], "seed": {}}},
    {"model": "m", "messages": [{"role": "user"}], "connectors": [{"id": []}], "tools": {}, "n": [], "stream": {}},
    {"model": "m", "input": [[]], "voice": "v", "stream_format": [], "response_format": {}, "prompt": "p", "n": {}},
    {"model": "m", "texts": [{}], "query": "q", "documents": [{}], "requests": [{}], "content": {}, "instances": [[]]},
)


@each_sample
def test_values_of_the_wrong_type_raise_nothing(name: str) -> None:
    """Lists and objects cannot be looked up in tables."""
    for answer in _ANSWERS:
        assert read(name, json.dumps(answer).encode(), content_type=JSON).verdict
        assert read(name, as_events(answer), content_type=EVENTS).verdict

    sample = SAMPLES[name]
    target = RequestTarget.of("POST", f"https://{sample.host}{sample.path}")
    assert target is not None
    for fields in _REQUESTS:
        found = recognize(target, json.dumps(fields).encode())
        if found is not None:
            family, asked = found
            family.question(asked)


_VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False)
    | st.sampled_from(_WORDS)
    | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(_WORDS), inner, max_size=4),
    max_leaves=12,
)


@settings(max_examples=cases(200), deadline=None)
@given(value=_VALUES, name=st.sampled_from(sorted(SAMPLES)))
def test_a_hostile_answer_raises_nothing(value: Any, name: str) -> None:
    """Fields of an answer may have any type."""
    assert read(name, json.dumps(value).encode(), content_type=JSON).verdict


@settings(max_examples=cases(200), deadline=None)
@given(
    value=st.dictionaries(
        st.sampled_from(
            sorted({key for sample in SAMPLES.values() if isinstance(sample.asked, dict) for key in sample.asked})
        ),
        _VALUES,
        max_size=5,
    ),
    name=st.sampled_from(sorted(SAMPLES)),
)
def test_a_hostile_request_raises_nothing(value: Any, name: str) -> None:
    """Fields of a request may have any type, on the API's own host too."""
    sample = SAMPLES[name]
    target = RequestTarget.of("POST", f"https://{sample.host}{sample.path}")
    assert target is not None
    found = recognize(target, json.dumps(value).encode())
    if found is not None:
        family, asked = found
        family.question(asked)


def test_samples_cover_every_family_without_one_of_its_own() -> None:
    """A family has a sample here, or tests of its own."""
    tested_elsewhere = {
        name for name in families() if name.startswith(("ollama_", "openai_chat", "openai_completions"))
    }
    tested_elsewhere |= {"anthropic_messages", "openai_embeddings", "openai_responses", "mistral_agents"}
    assert families().keys() == {sample.family for sample in SAMPLES.values()} | tested_elsewhere
