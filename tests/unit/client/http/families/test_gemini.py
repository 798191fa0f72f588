"""Gemini's own rules: finish reasons, blocked prompts, errors in answers, tools, candidates."""

import json
from typing import Any

import pytest

from sidecard_client.http.family import AnswerSummary, ApiFamily, ApiRequest, RequestTarget
from sidecard_client.http.recognition import recognize
from tests.api_samples import EVENTS, GOOGLE, JSON, VERTEX, as_events, candidate

CONTENTS = [{"role": "user", "parts": [{"text": "hello"}]}]


def asked_for(
    method: str = "generateContent",
    *,
    host: str = GOOGLE,
    model: str = "models/gemini-3-pro",
    query: str = "",
    **fields: Any,
) -> tuple[ApiFamily, ApiRequest]:
    """Recognize a request of Gemini's."""
    target = RequestTarget.of("POST", f"https://{host}/v1beta/{model}:{method}?{query}", JSON)
    assert target is not None
    found = recognize(target, json.dumps({"contents": CONTENTS, **fields}).encode())
    assert found is not None
    return found


def summary(answer: Any, content_type: str = JSON, **fields: Any) -> AnswerSummary:
    """Read an answer."""
    family, asked = asked_for(**fields)
    reader = family.reader(asked, content_type=content_type)
    reader.feed(answer if isinstance(answer, bytes) else json.dumps(answer).encode())
    return reader.finish()


@pytest.mark.parametrize(
    ("reason", "not_stored"),
    [
        ("STOP", ""),
        ("MAX_TOKENS", "length"),
        ("SAFETY", "filter"),
        ("RECITATION", "filter"),
        ("IMAGE_PROHIBITED_CONTENT", "filter"),
        ("MODEL_ARMOR", "filter"),
        ("CONTINUATION", "pause"),
        ("MALFORMED_FUNCTION_CALL", "error"),
        ("SOMETHING_NEW", "dialect"),
    ],
)
def test_a_finish_reason_says_whether_an_answer_is_stored(reason: str, not_stored: str) -> None:
    """Answers with any finish reason are whole; only a natural end is stored."""
    found = summary({"candidates": [candidate("x", finishReason=reason)]})
    assert (found.verdict, found.not_stored) == ("complete", not_stored)


@pytest.mark.parametrize("reason", ["SAFETY", "OTHER", "JAILBREAK"])
def test_a_blocked_prompt_is_a_whole_answer(reason: str) -> None:
    """It has no candidates, whatever number was requested."""
    answer = {"promptFeedback": {"blockReason": reason}, "usageMetadata": {"promptTokenCount": 5, "totalTokenCount": 5}}
    found = summary(answer, generationConfig={"candidateCount": 2})
    assert (found.verdict, found.not_stored) == ("complete", "filter")
    assert summary(as_events(answer), EVENTS, method="streamGenerateContent").not_stored == "filter"


@pytest.mark.parametrize(
    ("answer", "verdict"),
    [
        ({"candidates": [candidate("x", finishReason="STOP")]}, "unproven"),
        ({"candidates": [candidate("x", finishReason="STOP"), candidate("y", index=1)]}, "unproven"),
        (
            {"candidates": [candidate("x", finishReason="STOP"), candidate("y", finishReason="STOP", index=1)]},
            "complete",
        ),
        ({"candidates": [candidate("x", finishReason="STOP"), candidate("y", finishReason="STOP")]}, "complete"),
        ({"candidates": [candidate("x", finishReason="FINISH_REASON_UNSPECIFIED")]}, "unproven"),
        ({"candidates": []}, "unclassifiable"),
        ({"status": "completed"}, "unclassifiable"),
        ([1], "unclassifiable"),
    ],
)
def test_each_candidate_needs_a_finish_reason(answer: Any, verdict: str) -> None:
    """Two candidates were requested."""
    assert summary(answer, generationConfig={"candidateCount": 2}).verdict == verdict
    assert summary(answer, generation_config={"candidate_count": 2}).verdict == verdict


@pytest.mark.parametrize(
    ("error", "verdict"),
    [
        ({"code": 400, "status": "INVALID_ARGUMENT", "message": "API key not valid"}, "request_error"),
        ({"code": 404, "status": "NOT_FOUND"}, "request_error"),
        ({"code": 429, "status": "RESOURCE_EXHAUSTED"}, "server_error"),
        ({"code": 503, "status": "UNAVAILABLE", "message": "The model is overloaded."}, "server_error"),
        ({"status": "FAILED_PRECONDITION"}, "request_error"),
        ({"status": "DEADLINE_EXCEEDED"}, "server_error"),
    ],
)
def test_an_error_in_an_answer_is_classified(error: Any, verdict: str) -> None:
    """In an object, in a list, and as the last event of a stream."""
    assert summary({"error": error}).verdict == verdict
    assert (
        summary([{"candidates": [candidate("x")]}, {"error": error}], method="streamGenerateContent").verdict == verdict
    )
    stream = as_events({"candidates": [candidate("x")]}, {"error": error})
    assert summary(stream, EVENTS, method="streamGenerateContent", query="alt=sse").verdict == verdict


@pytest.mark.parametrize(
    ("tool", "passes"),
    [
        ({"functionDeclarations": [{"name": "f"}]}, ""),
        ({"function_declarations": [{"name": "f"}]}, ""),
        ({"googleSearch": {}}, ""),
        ({"url_context": {}}, ""),
        ({"codeExecution": {}}, ""),
        ({"mcpServers": [{"name": "mail"}]}, "tool"),
        ({"googleSearch": {}, "sendMail": {}}, "tool"),
        ("googleSearch", "tool"),
    ],
)
def test_tools_that_are_not_known_to_read_pass_through(tool: Any, passes: str) -> None:
    """Functions are the app's; a tool of the server that is unknown may act."""
    assert asked_for(tools=[tool])[1].passes == passes


def test_a_request_that_the_server_is_to_keep_passes_through() -> None:
    """As for OpenAI's, an explicit ``store`` is the server's state."""
    assert asked_for(store=True)[1].passes == "state"
    assert asked_for(store=False)[1].passes == ""


def test_settings_are_found_in_both_spellings() -> None:
    """Whether one answer is meant depends on ``generationConfig``."""
    assert asked_for(generationConfig={"temperature": 0})[1].deterministic
    assert asked_for(generation_config={"seed": 3})[1].deterministic
    assert not asked_for(temperature=0)[1].deterministic
    assert asked_for(generationConfig={"candidateCount": 3})[1].choices == 3


def test_labels_of_bills_are_outside_the_key() -> None:
    """They come back in no answer."""
    _, asked = asked_for(labels={"team": "a"}, host=VERTEX, model="projects/p/locations/l/publishers/google/models/m")
    assert asked.model == "m"
    assert asked.outside == {"labels": {"team": "a"}}
    assert "labels" not in asked.body


@pytest.mark.parametrize(
    "model", ["models/gemini-3", "tunedModels/mine-1", "dynamic/7", "projects/p/locations/l/endpoints/42"]
)
def test_a_model_may_be_anything_in_the_path(model: str) -> None:
    """Also a name that looks like an item's id."""
    assert asked_for(model=model, host="127.0.0.1")[1].model == model.rpartition("/")[2]


def test_the_last_text_of_the_user_may_differ_in_similar_requests() -> None:
    """Everything before it must be equal."""
    family, asked = asked_for()
    question = family.question(asked)
    assert question is not None
    assert (question.text, question.place) == ("hello", "contents[-1].parts[0].text")
    assert question.rest["contents"] == [{"role": "user", "parts": [{"text": None}]}]
    assert asked.body["contents"] == CONTENTS
    answered = [*CONTENTS, {"role": "model", "parts": [{"text": "hi"}]}]
    family, asked = asked_for(contents=answered)
    assert family.question(asked) is None


def test_other_predictions_of_vertex_pass_through() -> None:
    """A model of one's own may do anything, and images are made by another form."""
    for path, body in (
        ("/v1/projects/p/locations/l/endpoints/7:predict", {"instances": [{"content": "a"}]}),
        ("/v1/projects/p/locations/l/publishers/google/models/imagen:predict", {"instances": [{"prompt": "a"}]}),
        ("/v1beta/cachedContents", {"model": "models/gemini-3", "contents": CONTENTS}),
        ("/v1beta/models/gemini-3:batchGenerateContent", {"batch": {}}),
    ):
        target = RequestTarget.of("POST", f"https://{VERTEX}{path}", JSON)
        assert target is not None
        assert recognize(target, json.dumps(body).encode()) is None


def test_an_answer_has_a_vector_for_each_text() -> None:
    """One of two, or an empty one, is not whole."""
    target = RequestTarget.of("POST", f"https://{GOOGLE}/v1beta/models/e:batchEmbedContents", JSON)
    assert target is not None
    requests = [{"model": "models/e", "content": {"parts": [{"text": text}]}} for text in "ab"]
    found = recognize(target, json.dumps({"requests": requests}).encode())
    assert found is not None
    family, asked = found
    assert asked.deterministic
    for vectors, verdict in (
        ([[1.0], [2]], "complete"),
        ([[1.0]], "unproven"),
        ([[1.0], []], "unproven"),
        ([[1], [1], [1]], "unproven"),
    ):
        reader = family.reader(asked, content_type=JSON)
        reader.feed(json.dumps({"embeddings": [{"values": vector} for vector in vectors]}).encode())
        assert reader.finish().verdict == verdict
