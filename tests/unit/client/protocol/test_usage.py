"""Usage in the field names of the providers."""

import json
import math
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest

from sidecard_client.protocol import wire
from sidecard_client.protocol.usage import MAX_COUNT, Counts, counts_of, fields_of, known_fields

SPELLINGS: dict[str, tuple[dict[str, Any], dict[str, int]]] = {
    # OpenAI's chat API, whose prompt includes what its cache served.
    "chat": (
        {
            "prompt_tokens": 400,
            "completion_tokens": 50,
            "total_tokens": 450,
            "prompt_tokens_details": {"cached_tokens": 300, "audio_tokens": 0},
            "completion_tokens_details": {"reasoning_tokens": 20},
        },
        {"prompt_tokens": 400, "completion_tokens": 50, "cached_prompt_tokens": 300},
    ),
    # Its Responses API.
    "responses": (
        {
            "input_tokens": 400,
            "output_tokens": 50,
            "total_tokens": 450,
            "input_tokens_details": {"cached_tokens": 300},
            "output_tokens_details": {"reasoning_tokens": 20},
        },
        {"prompt_tokens": 400, "completion_tokens": 50, "cached_prompt_tokens": 300},
    ),
    # Anthropic's, whose input is what its cache did not serve.
    "anthropic": (
        {
            "input_tokens": 100,
            "cache_read_input_tokens": 280,
            "cache_creation_input_tokens": 20,
            "cache_creation": {"ephemeral_5m_input_tokens": 20, "ephemeral_1h_input_tokens": 0},
            "output_tokens": 50,
            "service_tier": "standard",
            "server_tool_use": None,
        },
        {
            "prompt_tokens": 400,
            "completion_tokens": 50,
            "cached_prompt_tokens": 280,
            "cache_write_prompt_tokens": 20,
        },
    ),
    "anthropic lifetimes": (
        {"input_tokens": 100, "output_tokens": 5, "cache_creation": {"ephemeral_1h_input_tokens": 7}},
        {"prompt_tokens": 107, "completion_tokens": 5, "cache_write_prompt_tokens": 7},
    ),
    # LiteLLM's of Anthropic: the sum, and its parts.
    "litellm": (
        {
            "prompt_tokens": 400,
            "completion_tokens": 50,
            "cache_read_input_tokens": 280,
            "cache_creation_input_tokens": 20,
        },
        {
            "prompt_tokens": 400,
            "completion_tokens": 50,
            "cached_prompt_tokens": 280,
            "cache_write_prompt_tokens": 20,
        },
    ),
    # Gemini's, in both cases, whose candidates are without its thoughts.
    "gemini": (
        {
            "prompt_token_count": 380,
            "tool_use_prompt_token_count": 20,
            "candidates_token_count": 30,
            "thoughts_token_count": 20,
            "cached_content_token_count": 300,
            "total_token_count": 450,
            "traffic_type": "ON_DEMAND",
        },
        {"prompt_tokens": 400, "completion_tokens": 50, "cached_prompt_tokens": 300},
    ),
    "gemini json": (
        {"promptTokenCount": 400, "candidatesTokenCount": 30, "thoughtsTokenCount": 20, "cachedContentTokenCount": 300},
        {"prompt_tokens": 400, "completion_tokens": 50, "cached_prompt_tokens": 300},
    ),
    # Ollama's.
    "ollama": (
        {"prompt_eval_count": 400, "eval_count": 50, "eval_duration": 12345, "done": True, "response": "Paris"},
        {"prompt_tokens": 400, "completion_tokens": 50},
    ),
    # LangChain's, DeepSeek's, Bedrock's.
    "langchain": (
        {"input_tokens": 400, "output_tokens": 50, "input_token_details": {"cache_read": 300, "cache_creation": 9}},
        {
            "prompt_tokens": 400,
            "completion_tokens": 50,
            "cached_prompt_tokens": 300,
            "cache_write_prompt_tokens": 9,
        },
    ),
    "deepseek": (
        {"prompt_tokens": 400, "prompt_cache_hit_tokens": 300, "prompt_cache_miss_tokens": 100},
        {"prompt_tokens": 400, "cached_prompt_tokens": 300},
    ),
    "bedrock": (
        {"inputTokens": 100, "outputTokens": 50, "cacheReadInputTokens": 280, "cacheWriteInputTokens": 20},
        {
            "prompt_tokens": 400,
            "completion_tokens": 50,
            "cached_prompt_tokens": 280,
            "cache_write_prompt_tokens": 20,
        },
    ),
    "amazon": (
        {"inputTokens": 100, "outputTokens": 50, "cacheReadInputTokenCount": 280, "cacheWriteInputTokenCount": 20},
        {
            "prompt_tokens": 400,
            "completion_tokens": 50,
            "cached_prompt_tokens": 280,
            "cache_write_prompt_tokens": 20,
        },
    ),
    # llama.cpp's, which count what was processed apart from what its cache had.
    "llama.cpp": (
        {
            "prompt_tokens": 400,
            "completion_tokens": 50,
            "timings": {"cache_n": 300, "prompt_n": 100, "prompt_ms": 9.5, "predicted_n": 50},
        },
        {"prompt_tokens": 400, "completion_tokens": 50, "cached_prompt_tokens": 300},
    ),
    "llama.cpp with details": (
        {
            "prompt_tokens": 400,
            "prompt_tokens_details": {"cached_tokens": 300},
            "timings": {"cache_n": 300, "prompt_n": 100},
        },
        {"prompt_tokens": 400, "cached_prompt_tokens": 300},
    ),
    "llama.cpp without usage": (
        {"timings": {"cache_n": 300, "prompt_n": 100, "predicted_n": 50}},
        {"prompt_tokens": 400, "completion_tokens": 50, "cached_prompt_tokens": 300},
    ),
    "old llama.cpp": ({"prompt_tokens": 400, "timings": {"prompt_n": 100, "predicted_n": 50}}, {"prompt_tokens": 400}),
    # Embeddings: a total alone, and one that says how long an answer is.
    "total": ({"total_tokens": 400}, {"prompt_tokens": 400}),
    "total of both": ({"prompt_tokens": 400, "total_tokens": 450}, {"prompt_tokens": 400, "completion_tokens": 50}),
    "total of the prompt": ({"prompt_tokens": 400, "total_tokens": 400}, {"prompt_tokens": 400}),
    "total without the prompt": (
        {"completion_tokens": 50, "total_tokens": 450},
        {"prompt_tokens": 400, "completion_tokens": 50},
    ),
    "none": ({"prompt_tokens": 400.0, "output_tokens": None}, {"prompt_tokens": 400}),
    "nothing": ({}, {}),
}

JSON_ALONE = {"gemini json", "bedrock", "amazon"}
"""Names in camel case: no SDK's object has them."""

NOT_ON_THE_WIRE = {"none", "anthropic lifetimes", "gemini", "langchain", "deepseek", "bedrock", "amazon"} | {
    name for name in SPELLINGS if "llama.cpp" in name
}
"""What no provider writes in JSON, and providers beyond the four."""


@pytest.mark.parametrize(("reported", "fields"), SPELLINGS.values(), ids=SPELLINGS)
def test_every_providers_usage_is_read(reported: dict[str, Any], fields: dict[str, int]) -> None:
    """Whatever it is called."""
    assert counts_of(reported) == Counts(fields)


@pytest.mark.parametrize("provider", [name for name in SPELLINGS if name not in JSON_ALONE])
def test_the_objects_of_sdks_are_read(provider: str) -> None:
    """With objects within."""
    reported, fields = SPELLINGS[provider]
    attributes = {
        name: SimpleNamespace(**value) if isinstance(value, dict) else value for name, value in reported.items()
    }
    assert counts_of(fields_of(SimpleNamespace(**attributes))) == Counts(fields)


def test_a_field_without_a_meaning_is_named() -> None:
    """With those that have one."""
    counts = counts_of({"tokens_in": 400, "output_tokens": 50, "": 1, 3: 4})
    assert counts == Counts({"completion_tokens": 50}, unknown=("tokens_in", "", "3"))
    assert {"prompt_tokens", "input_tokens", "promptTokenCount"} & set(known_fields().replace(";", ",").split(", "))
    assert counts_of({"usage_tokens": 1}).unknown == ("usage_tokens",)


@pytest.mark.parametrize("value", [-1, 1.5, math.nan, math.inf, MAX_COUNT + 1, "400", True, [400], object()])
def test_a_value_that_is_no_count_is_invalid(value: Any) -> None:
    """The sentence names the field as it was written."""
    counts = counts_of({"inputTokens": value, "output_tokens": 50})
    assert counts.fields == {"completion_tokens": 50}
    (sentence,) = counts.invalid
    assert sentence.startswith("inputTokens is ")


def test_names_that_contradict_each_other() -> None:
    """The larger value counts: no budget is spent unseen."""
    counts = counts_of({"prompt_tokens": 300, "input_tokens": 400, "completion_tokens": 50, "output_tokens": 50})
    assert counts.fields == {"prompt_tokens": 400, "completion_tokens": 50}
    assert counts.contradictions == ("prompt_tokens is 300, but input_tokens is 400",)
    both = {"prompt_tokens": 400, "input_tokens": 400, "cache_read_input_tokens": 300}
    assert counts_of(both) == Counts({"prompt_tokens": 400, "cached_prompt_tokens": 300})


def test_a_sum_above_the_limit_is_left_out() -> None:
    """The daemon would refuse the whole answer for it."""
    assert counts_of({"input_tokens": MAX_COUNT, "cache_read_input_tokens": 1}).fields == {"cached_prompt_tokens": 1}


@pytest.mark.parametrize("provider", [name for name in SPELLINGS if name not in NOT_ON_THE_WIRE])
def test_the_daemon_reads_the_providers_json(provider: str) -> None:
    """Programs without this client send it as it is."""
    reported, fields = SPELLINGS[provider]
    message = {"op": "complete", "lease": "l", "value": "v", "usage": json.loads(json.dumps(reported))}
    complete = wire.unpack_request(msgspec.msgpack.encode(message))
    assert isinstance(complete, wire.Complete)
    assert complete.usage is not None
    assert wire.in_own_words(complete.usage) == wire.Usage(**fields)  # type: ignore[arg-type]  # none of them is the model
