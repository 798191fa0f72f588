"""Amazon Bedrock's own rules: models' own answers, errors in event streams, cache points, names of models."""

import json
from typing import Any

import pytest

from sidecard_client.http.family import AnswerSummary, ApiFamily, ApiRequest, RequestTarget
from sidecard_client.http.recognition import recognize
from sidecard_client.protocol.wire import Usage
from tests.api_samples import BEDROCK, EVENT_STREAM, JSON, as_chunks, as_message

BLOCKS = [{"role": "user", "content": [{"text": "hello"}]}]
METRICS = {"amazon-bedrock-invocationMetrics": {"inputTokenCount": 5, "outputTokenCount": 2}}


def asked_for(
    operation: str, model: str = "meta.llama4-v1%3A0", host: str = BEDROCK, **fields: Any
) -> tuple[ApiFamily, ApiRequest]:
    """Recognize a request."""
    target = RequestTarget.of("POST", f"https://{host}/model/{model}/{operation}")
    assert target is not None
    found = recognize(target, json.dumps(fields or {"prompt": "hello"}).encode())
    assert found is not None
    return found


def summary(known: tuple[ApiFamily, ApiRequest], answer: Any, content_type: str = JSON) -> AnswerSummary:
    """Read an answer."""
    family, asked = known
    reader = family.reader(asked, content_type=content_type)
    reader.feed(answer if isinstance(answer, bytes) else json.dumps(answer).encode())
    return reader.finish()


ANSWERS: dict[str, tuple[dict[str, Any], str, Usage | None]] = {
    "titan": (
        {"inputTextTokenCount": 5, "results": [{"tokenCount": 2, "outputText": "hi", "completionReason": "FINISH"}]},
        "",
        Usage(None, 5, 2),
    ),
    "titan, cut": (
        {"inputTextTokenCount": 5, "results": [{"tokenCount": 2, "outputText": "hi", "completionReason": "LENGTH"}]},
        "length",
        Usage(None, 5, 2),
    ),
    "titan embedding": ({"embedding": [0.1, 0.2], "inputTextTokenCount": 2}, "", Usage(None, 2)),
    "titan, at its end": ({"results": [{"outputText": "hi", "completionReason": "FINISHED"}]}, "", None),
    "nova image, filtered": ({"images": ["AAAA"], "error": "Some images were blocked."}, "filter", None),
    "pegasus": ({"message": "hi", "finishReason": "stop"}, "", None),
    "titan image": ({"images": ["AAAA"], "error": None}, "", None),
    "nova": (
        {
            "output": {"message": {"role": "assistant", "content": [{"text": "hi"}]}},
            "stopReason": "end_turn",
            "usage": {"inputTokens": 5, "outputTokens": 2, "cacheReadInputTokenCount": 0},
        },
        "",
        Usage(None, 5, 2, cached_prompt_tokens=0),
    ),
    "llama": (
        {"generation": "hi", "prompt_token_count": 5, "generation_token_count": 2, "stop_reason": "stop"},
        "",
        Usage(None, 5, 2),
    ),
    "mistral": ({"outputs": [{"text": "hi", "stop_reason": "length"}]}, "length", None),
    "cohere": ({"response_id": "r", "text": "hi", "finish_reason": "COMPLETE"}, "", None),
    "cohere, older": ({"generations": [{"text": "hi", "finish_reason": "COMPLETE"}]}, "", None),
    "cohere embeddings": ({"embeddings": {"float": [[0.1], [0.2]]}, "texts": ["a", "b"]}, "", None),
    "cohere rerank": ({"results": [{"index": 0, "relevance_score": 0.5}]}, "", None),
    "openai": (
        {
            "choices": [{"index": 0, "message": {"content": "hi"}, "finish_reason": "stop"}],
            "model": "gpt",
            "usage": {"prompt_tokens": 5, "completion_tokens": 2},
        },
        "",
        Usage("gpt", 5, 2),
    ),
    "stability": ({"seeds": [1], "finish_reasons": [None], "images": ["AAAA"]}, "", None),
    "stability, filtered": ({"finish_reasons": ["Filter reason: prompt"]}, "filter", None),
    "claude, older": ({"completion": "hi", "stop_reason": "stop_sequence"}, "", None),
}


@pytest.mark.parametrize("name", ANSWERS)
def test_a_models_own_answer_is_read(name: str) -> None:
    """Each maker has a form of its own; a streamed answer has the same forms in its chunks, and counts at the end."""
    answer, not_stored, usage = ANSWERS[name]
    found = summary(asked_for("invoke"), answer)
    assert (found.verdict, found.not_stored, found.usage) == ("complete", not_stored, usage)
    stream = as_chunks({"outputText": "h", "completionReason": None}, answer | METRICS)
    found = summary(asked_for("invoke-with-response-stream"), stream, EVENT_STREAM)
    assert (found.verdict, found.not_stored) == ("complete", not_stored)
    assert found.usage is not None
    assert (found.usage.prompt_tokens, found.usage.completion_tokens) == (5, 2)


@pytest.mark.parametrize(
    "answer",
    [
        {"generation": "hi", "stop_reason": None},
        {"outputs": [{"text": "a", "stop_reason": "stop"}, {"text": "b", "stop_reason": None}]},
        {"status": "completed"},
        {"embedding": []},
        {"images": [""]},
        {},
    ],
)
def test_an_answer_without_a_reason_to_end_is_not_shared(answer: Any) -> None:
    """Not known to be whole, or none of the known forms."""
    assert summary(asked_for("invoke"), answer).verdict in {"unproven", "unclassifiable"}


@pytest.mark.parametrize(
    ("name", "verdict"),
    [
        ("validationException", "request_error"),
        ("accessDeniedException", "request_error"),
        ("throttlingException", "server_error"),
        ("internalServerException", "server_error"),
        ("modelStreamErrorException", "server_error"),
        ("modelTimeoutException", "server_error"),
        ("serviceUnavailableException", "server_error"),
        ("somethingNewException", "server_error"),
    ],
)
def test_an_exception_ends_a_stream(name: str, verdict: str) -> None:
    """It is classified by its name, after any other event, and wherever an app stops."""
    failed = as_message({"message": "Too long, invalid, not found"}, name, exception=True)
    known = asked_for("converse-stream", messages=BLOCKS)
    assert summary(known, as_message({"role": "assistant"}, "messageStart") + failed, EVENT_STREAM).verdict == verdict
    assert summary(asked_for("invoke-with-response-stream"), failed, EVENT_STREAM).verdict == verdict
    family, asked = known
    reader = family.reader(asked, content_type=EVENT_STREAM)
    assert not reader.terminal
    reader.feed(failed)
    assert reader.terminal


@pytest.mark.parametrize(
    ("reason", "not_stored"),
    [
        ("tool_use", ""),
        ("max_tokens", "length"),
        ("model_context_window_exceeded", "length"),
        ("guardrail_intervened", "filter"),
        ("content_filtered", "filter"),
        ("malformed_tool_use", "error"),
    ],
)
def test_stop_reasons_of_converse(reason: str, not_stored: str) -> None:
    """Whole and streamed answers have the same verdict."""
    whole = summary(asked_for("converse", messages=BLOCKS), {"output": {}, "stopReason": reason})
    stream = as_message({"stopReason": reason}, "messageStop")
    streamed = summary(asked_for("converse-stream", messages=BLOCKS), stream, EVENT_STREAM)
    for found in (whole, streamed):
        assert (found.verdict, found.not_stored) == ("complete", not_stored)


def test_a_stream_that_is_cut_after_its_stop_reason_is_not_whole() -> None:
    """What botocore has of the last message when the connection ends is not what the model sent."""
    known = asked_for("converse-stream", messages=BLOCKS)
    stop, usage = as_message({"stopReason": "end_turn"}, "messageStop"), as_message({"usage": {}}, "metadata")
    assert summary(known, stop + usage, EVENT_STREAM).complete
    for end in range(1, len(usage)):
        assert not summary(known, stop + usage[:end], EVENT_STREAM).complete


def test_tokens_from_the_providers_cache_are_counted() -> None:
    """Bedrock counts them apart from the others, as Anthropic does."""
    usage = {"inputTokens": 5, "outputTokens": 2, "cacheReadInputTokens": 3, "cacheWriteInputTokens": 4}
    found = summary(asked_for("converse", messages=BLOCKS), {"stopReason": "end_turn", "usage": usage})
    assert found.usage == Usage(None, 12, 2, cached_prompt_tokens=3, cache_write_prompt_tokens=4)


def test_cache_points_are_outside_the_key() -> None:
    """They mark what the provider is to cache, where the API defines them; a tool's input may have the name too."""
    point = {"cachePoint": {"type": "default"}}
    use = {"toolUse": {"name": "f", "input": {"cachePoint": 1}}}
    plain: dict[str, Any] = {
        "messages": [{"role": "user", "content": [{"text": "hello"}, use]}],
        "system": [{"text": "be kind"}],
        "toolConfig": {"tools": [{"toolSpec": {"name": "f"}}]},
    }
    marked: dict[str, Any] = {
        "messages": [{"role": "user", "content": [{"text": "hello"}, point, use]}],
        "system": [{"text": "be kind"}, point],
        "toolConfig": {"tools": [{"toolSpec": {"name": "f"}}, point]},
        "requestMetadata": {"user": "alice"},
    }
    asked = asked_for("converse", **marked)[1]
    assert asked.body == asked_for("converse", **plain)[1].body == plain
    assert asked.outside == {
        "messages[0].content[1]": point,
        "system[1]": point,
        "toolConfig.tools[1]": point,
        "requestMetadata": {"user": "alice"},
    }


@pytest.mark.parametrize(
    ("fields", "passes"),
    [
        ({"toolConfig": {"tools": [{"toolSpec": {"name": "f"}}]}}, ""),
        ({"toolConfig": {"tools": [{"systemTool": {"name": "nova_grounding"}}]}}, ""),
        ({"toolConfig": {"tools": [{"systemTool": {"name": "nova_code_interpreter"}}]}}, "tool"),
        ({"additionalModelRequestFields": {"top_k": 1}}, ""),
        ({"additionalModelRequestFields": {"mcp_servers": [{"url": "u"}]}}, "tool"),
    ],
)
def test_tools_of_the_server_pass_through(fields: Any, passes: str) -> None:
    """Requests with tools of the server pass; tools that the app carries out do not."""
    assert asked_for("converse", messages=BLOCKS, **fields)[1].passes == passes


@pytest.mark.parametrize(
    ("model", "name"),
    [
        ("anthropic.claude-5-v1:0", "anthropic.claude-5-v1:0"),
        ("us.anthropic.claude-5-v1%3A0", "us.anthropic.claude-5-v1:0"),
        (
            "arn%3Aaws%3Abedrock%3Aus-east-1%3A123%3Ainference-profile%2Fus.meta.llama4",
            "arn:aws:bedrock:us-east-1:123:inference-profile/us.meta.llama4",
        ),
    ],
)
def test_the_path_names_the_model(model: str, name: str) -> None:
    """The model is read from the path, percent-encoded or not, on any host."""
    for host in (
        BEDROCK,
        "bedrock-runtime-fips.us-gov-west-1.amazonaws.com",
        "127.0.0.1",
        "vpce-1-2.bedrock-runtime.us-east-1.vpce.amazonaws.com",
    ):
        assert asked_for("converse", model, host, messages=BLOCKS)[1].model == name


def test_other_operations_pass_through() -> None:
    """Jobs, guardrails, and other paths with Bedrock's endings pass."""
    for host, path in (
        (BEDROCK, "/async-invoke"),
        (BEDROCK, "/guardrail-checks/invoke"),
        ("app.example.com", "/functions/7/invoke"),
        ("app.example.com", "/model/latest/invoke"),
    ):
        target = RequestTarget.of("POST", f"https://{host}{path}", JSON)
        assert target is not None
        assert recognize(target, b'{"prompt": "hello"}') is None


def test_what_anthropics_models_change_passes_through() -> None:
    """Side effects are those of Anthropic's own API."""
    fields: dict[str, Any] = {
        "anthropic_version": "bedrock-2023-05-31",
        "max_tokens": 9,
        "messages": [{"role": "user", "content": "x"}],
    }
    assert asked_for("invoke", **fields)[1].passes == ""
    assert asked_for("invoke", **fields, mcp_servers=[{"url": "u"}])[1].passes == "tool"


def test_hints_of_anthropic_are_outside_the_key_of_its_models_only() -> None:
    """In another model's request, a field of the same name may mean anything."""
    fields: dict[str, Any] = {"cache_control": {"type": "ephemeral"}, "prompt": "x"}
    assert asked_for("invoke", **fields)[1].body == fields
    claude: dict[str, Any] = {**fields, "anthropic_version": "bedrock-2023-05-31"}
    assert "cache_control" not in asked_for("invoke", **claude)[1].body
