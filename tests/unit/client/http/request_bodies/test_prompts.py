"""The parts of prompts, and their boundaries."""

import json
from collections.abc import Iterator
from copy import deepcopy
from typing import Any

import pytest

from sidecard_client.http.recognition import families
from sidecard_client.http.request import LlmRequest, parse_request, prefixes_of_request
from sidecard_client.keys.prefixes.recipe import PromptPart
from tests.api_samples import ANTHROPIC, BEDROCK, COHERE, GOOGLE, MISTRAL, OPENAI, SAMPLES

CHAT = f"https://{OPENAI}/v1/chat/completions"
RESPONSES = f"https://{OPENAI}/v1/responses"
MESSAGES = f"https://{ANTHROPIC}/v1/messages"
VERTEX = "https://us-east5-aiplatform.googleapis.com/v1/projects/p/locations/l/publishers/anthropic/models/c:rawPredict"
CONVERSE = f"https://{BEDROCK}/model/anthropic.claude-5-v1%3A0/converse"
NOVA = f"https://{BEDROCK}/model/amazon.nova-pro-v1%3A0/converse"
INVOKE = f"https://{BEDROCK}/model/anthropic.claude-5-v1%3A0/invoke"
GEMINI = f"https://{GOOGLE}/v1beta/models/g:generateContent"
MARK = {"cache_control": {"type": "ephemeral"}}


def parsed(url: str, body: dict[str, Any]) -> LlmRequest:
    """Return an intercepted request."""
    found = parse_request("POST", url, [("content-type", "application/json")], json.dumps(body).encode())
    assert found is not None
    return found


def parts(url: str, body: dict[str, Any]) -> list[PromptPart]:
    """Return the parts of a request's prompt."""
    found = parsed(url, body)
    return list(found.family.prompt(found.asked, found.target))


def boundaries(url: str, body: dict[str, Any]) -> list[Any]:
    """Return the last value before each boundary."""
    return [part.value[1] for part in parts(url, body) if part.is_boundary]


def block(text: str, *, kind: str = "text", marked: bool = False) -> dict[str, Any]:
    """Return a block of content."""
    return {"type": kind, "text": text, **(MARK if marked else {})}


def said(role: str, *content: Any) -> dict[str, Any]:
    """Return a message."""
    return {"role": role, "content": list(content) if len(content) > 1 or isinstance(content[0], dict) else content[0]}


# What the cache sees ----------------------------------------------------------------------------------------------


TOOL = {"type": "function", "function": {"name": "f", "parameters": {"type": "object", "properties": {"a": {"type": "string"}}}}}  # fmt: skip
CALL = {"id": "c1", "type": "function", "function": {"name": "f", "arguments": "{}"}}
IMAGE = {"type": "image_url", "image_url": {"url": "data:image/png;base64,aGk="}}

SEEN: dict[str, tuple[str, dict[str, Any], set[str]]] = {
    "openai_chat": (
        CHAT,
        {
            "model": "m",
            "messages": [
                said("system", "s"),
                {"role": "user", "name": "ann", "content": [block("u"), IMAGE]},
                {"role": "assistant", "content": None, "tool_calls": [CALL]},
                {"role": "tool", "tool_call_id": "c1", "content": "r"},
            ],
            "tools": [TOOL],
            "response_format": {"type": "json_schema", "json_schema": {"name": "n", "schema": {"type": "object"}}},
            "reasoning_effort": "low",
            "prompt_cache_key": "k",
            "temperature": 0.5,
            "max_tokens": 9,
            "seed": 3,
            "user": "u",
            "tool_choice": "auto",
        },
        {"temperature", "max_tokens", "seed", "user", "tool_choice"},
    ),
    "openai_responses": (
        RESPONSES,
        {
            "model": "m",
            "instructions": "i",
            "tools": [{"type": "function", "name": "f"}],
            "input": [said("user", block("u", kind="input_text")), {"type": "function_call_output", "output": "o"}],
            "text": {"format": {"type": "text"}},
            "previous_response_id": "r1",
            "max_output_tokens": 9,
        },
        {"max_output_tokens"},
    ),
    "openai_completions": (
        f"https://{OPENAI}/v1/completions",
        {"model": "m", "prompt": "p", "prompt_cache_key": "k", "max_tokens": 3},
        {"max_tokens"},
    ),
    "anthropic_messages": (
        MESSAGES,
        {
            "model": "m",
            "max_tokens": 9,
            "system": [block("s"), block("t", marked=True)],
            "tools": [{"name": "f", "input_schema": {"type": "object"}}],
            "messages": [said("user", block("u"), block("v", marked=True))],
            "tool_choice": {"type": "auto"},
            "thinking": {"type": "enabled", "budget_tokens": 1024},
            "temperature": 0.5,
            "metadata": {"user_id": "u"},
        },
        {"max_tokens", "temperature", "metadata", "cache_control"},
    ),
    "bedrock_converse": (
        CONVERSE,
        {
            "system": [{"text": "s"}],
            "toolConfig": {"tools": [{"toolSpec": {"name": "f"}}]},
            "messages": [said("user", {"text": "u"}, {"cachePoint": {"type": "default"}})],
            "inferenceConfig": {"maxTokens": 9},
        },
        {"inferenceConfig", "cachePoint"},
    ),
    "gemini_generate": (
        GEMINI,
        {
            "systemInstruction": {"parts": [{"text": "s"}]},
            "tools": [{"functionDeclarations": [{"name": "f"}]}],
            "contents": [{"role": "user", "parts": [{"text": "u"}, {"inlineData": {"data": "aGk="}}]}],
            "cachedContent": "c",
            "generationConfig": {"temperature": 0.5},
        },
        {"generationConfig"},
    ),
    "ollama_chat": (
        "http://127.0.0.1:11434/api/chat",
        {
            "model": "m",
            "messages": [said("system", "s"), {"role": "user", "content": "u", "images": ["aGk="]}],
            "tools": [TOOL],
            "think": "low",
            "options": {"temperature": 1},
            "keep_alive": "5m",
        },
        {"options", "keep_alive"},
    ),
    "ollama_generate": (
        "http://127.0.0.1:11434/api/generate",
        {"model": "m", "prompt": "p", "system": "s", "suffix": "x", "images": ["aGk="], "options": {"seed": 1}},
        {"options"},
    ),
    "cohere_chat": (
        f"https://{COHERE}/v2/chat",
        {
            "model": "m",
            "messages": [said("system", "s"), said("user", "u")],
            "tools": [TOOL],
            "documents": ["d"],
            "temperature": 0.5,
        },
        {"temperature"},
    ),
    "mistral_fim": (
        f"https://{MISTRAL}/v1/fim/completions",
        {"model": "m", "prompt": "p", "suffix": "x", "max_tokens": 3},
        {"max_tokens"},
    ),
}  # fmt: skip


def changes(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[tuple[Any, ...], Any]]:
    """Yield the place of each text and number within a value, with another value of the same type."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for name, item in items:
        yield from changes(item, (*path, name))

    if isinstance(value, str):
        yield path, f"{value}2"
    elif isinstance(value, int | float):
        yield path, value + 1


def changed(body: dict[str, Any], path: tuple[Any, ...], value: Any) -> dict[str, Any]:
    """Return a body with another value at this place."""
    copy: Any = deepcopy(body)
    place = copy
    for step in path[:-1]:
        place = place[step]

    place[path[-1]] = value
    return dict(copy)


@pytest.mark.parametrize("family", SEEN)
def test_a_change_of_anything_that_the_cache_sees_changes_the_prefix(family: str) -> None:
    """And a change of anything else does not."""
    url, body, unseen = SEEN[family]
    before = prefixes_of_request(parsed(url, body))
    assert before.digests
    for path, value in changes(body):
        if path[-1] in {"role", "type"}:
            continue  # other words would make it another API's request

        after = prefixes_of_request(parsed(url, changed(body, path, value)))
        if unseen.isdisjoint(path):
            assert after.digests[-1] != before.digests[-1], path
        else:
            assert after == before, path


def test_every_api_of_prompts_has_prefixes() -> None:
    """All but those whose answers are vectors, scores, counts, sounds and pictures, or depend on what a server keeps."""
    without = {
        "anthropic_count_tokens", "bedrock_count_tokens", "cohere_embed", "gemini_count_tokens", "gemini_embed", "mistral_agents",
        "ollama_embed", "openai_embeddings", "openai_images", "openai_moderations", "openai_speech", "openai_transcriptions",
        "rerank",
    }  # fmt: skip
    assert {name for name, family in families().items() if not family.has_prompts} == without - {
        "anthropic_count_tokens"
    }
    assert SEEN.keys() | {"anthropic_vertex", "bedrock_invoke"} | without == families().keys()


def test_counting_tokens_is_no_prompt() -> None:
    """No call waits for it, and it warms nothing."""
    assert parts(f"{MESSAGES}/count_tokens", MARKED) == []


def test_a_request_that_lets_its_server_use_no_processed_prompt_has_no_prefixes() -> None:
    """It would wait for nothing."""
    body = {"model": "m", "messages": [{"role": "user", "content": "hi"}]}
    for value, digests in ((True, 1), (False, 0)):
        asked = parsed("http://127.0.0.1:8080/v1/chat/completions", body | {"cache_prompt": value})
        assert len(prefixes_of_request(asked).digests) == digests


@pytest.mark.parametrize("name", SAMPLES)
def test_the_prompts_of_all_known_requests_are_read(name: str) -> None:
    """Whatever their form."""
    sample = SAMPLES[name]
    url = f"https://{sample.host}{sample.path}?{sample.query}"
    found = parse_request("POST", url, [("content-type", sample.asked_type)], sample.body)
    assert found is not None
    prefixes_of_request(found)


# Where it can be cut ----------------------------------------------------------------------------------------------


def test_a_chat_is_cut_after_its_beginning_and_after_each_message() -> None:
    """Tools are part of the first prefix; without a system text they are all of it."""
    system, user = said("system", "s"), said("user", block("u"), IMAGE)
    body: dict[str, Any] = {"model": "m", "messages": [system, user], "tools": [TOOL]}
    assert boundaries(CHAT, body) == [block("s"), IMAGE]
    assert boundaries(CHAT, body | {"messages": [user]}) == [TOOL, IMAGE]
    assert boundaries(CHAT, {"model": "m", "messages": [user]}) == [IMAGE]


def test_a_text_is_a_list_of_one_block() -> None:
    """As providers say."""
    one: dict[str, Any]
    other: dict[str, Any]
    for url, kind in ((CHAT, "text"), ("http://127.0.0.1/v1/messages", "text")):
        one, other = (
            {"model": "m", "max_tokens": 5, "messages": [said("user", content)]}
            for content in ("u", block("u", kind=kind))
        )
        assert parts(url, one) == parts(url, other)

    one, other = ({"model": "m", "input": given} for given in ("u", [said("user", block("u", kind="input_text"))]))
    assert parts(RESPONSES, one) == parts(RESPONSES, other)


def test_a_text_prompt_is_cut_at_lengths_that_double() -> None:
    """So prompts that share a text share its prefixes, wherever the text ends."""
    url = f"https://{OPENAI}/v1/completions"
    lengths = [len(piece) for piece in boundaries(url, {"model": "m", "prompt": "x" * 3000})]
    assert lengths == [512, 512, 1024, 952]
    assert boundaries(url, {"model": "m", "prompt": ["a", "b"]}) == []
    assert boundaries(url, {"model": "m", "prompt": [1, 2]}) == []


MARKED = {
    "model": "m",
    "max_tokens": 5,
    "tools": [{"name": "f", **MARK}, {"name": "g"}],
    "system": [block("s", marked=True), block("t")],
    "messages": [
        said("user", block("u1", marked=True), block("u2")),
        said("assistant", "a"),
        said("user", block("u3"), {"type": "tool_result", "content": [block("r", marked=True)]}),
        said("user", "u4"),
    ],
}


def test_marks_are_the_only_cuts_but_for_earlier_ends_of_the_conversation() -> None:
    """The provider caches there. A mark within a block is at its end, and nothing after the last mark is cached."""
    unmarked = {"type": "tool_result", "content": [block("r")]}
    expected = [{"name": "f"}, block("s"), block("u1"), block("u2"), unmarked]
    assert boundaries(MESSAGES, MARKED) == expected
    assert boundaries("http://127.0.0.1/v1/messages", MARKED) == expected
    version = {"anthropic_version": "v1"}
    assert boundaries(VERTEX, MARKED | version) == boundaries(INVOKE, MARKED | version) == expected


def test_a_mark_is_no_part_of_the_prompt() -> None:
    """It may move between turns: what is before it stays the same."""
    bare = json.loads(json.dumps(MARKED).replace(f", {json.dumps(MARK)[1:-1]}", ""))
    assert "cache_control" not in json.dumps(bare)
    assert [part.value for part in parts("http://127.0.0.1/v1/messages", bare)] == [
        part.value for part in parts(MESSAGES, MARKED)
    ]


def test_a_mark_of_the_whole_request_is_at_its_end() -> None:
    """With Anthropic, and where OpenAI's API is spoken for it."""
    body = {"model": "m", "max_tokens": 5, "system": "s", "messages": [said("user", "u")], **MARK}
    assert boundaries(MESSAGES, body) == [block("u")]
    chat = {"model": "m", "messages": [said("system", "s"), said("user", "u")], **MARK}
    assert boundaries("https://openrouter.ai/api/v1/chat/completions", chat) == [block("u")]


@pytest.mark.parametrize(
    ("url", "cached"), [(MESSAGES, False), (VERTEX, False), (INVOKE, False), ("http://h/v1/messages", True)]
)
def test_anthropic_caches_nothing_without_a_mark(url: str, cached: bool) -> None:
    """Other servers of its API cache by themselves. A null mark is none."""
    body = {
        "anthropic_version": "v1",
        "model": "m",
        "max_tokens": 5,
        "system": [{**block("s"), "cache_control": None}],
        "messages": [said("user", "u")],
    }
    assert boundaries(url, body) == ([block("s"), block("u")] if cached else [])


def test_anthropics_models_need_marks_on_any_host() -> None:
    """Whoever serves them, and in whatever API."""
    chat = {"model": "anthropic/claude-5", "messages": [said("system", "s"), said("user", "u")]}
    assert boundaries("https://openrouter.ai/api/v1/chat/completions", chat) == []
    assert boundaries("https://openrouter.ai/api/v1/chat/completions", chat | MARK) == [block("u")]
    body = {"model": "Claude-5", "max_tokens": 5, "system": "s", "messages": [said("user", "u")]}
    assert boundaries("https://r.services.ai.azure.com/anthropic/v1/messages", body) == []


def test_the_cache_points_of_bedrock_are_marks() -> None:
    """At their places among tools, system text and messages. Only Anthropic's models need them."""
    point = {"cachePoint": {"type": "default"}}
    tool = {"toolSpec": {"name": "f"}}
    body = {
        "toolConfig": {"tools": [tool, point]},
        "system": [{"text": "s"}, point, {"text": "t"}],
        "messages": [said("user", {"text": "u"}, point, {"text": "v"})],
    }
    assert boundaries(CONVERSE, body) == [tool, {"text": "s"}, {"text": "u"}]
    plain = {"system": [{"text": "s"}], "messages": [said("user", {"text": "u"})]}
    assert boundaries(CONVERSE, plain) == []
    assert boundaries(NOVA, plain) == [{"text": "s"}, {"text": "u"}]


@pytest.mark.parametrize(
    ("options", "marks", "expected"),
    [
        ({}, False, ["s", "a", "b", "c"]),
        ({}, True, ["a", "c"]),
        ({"mode": "explicit"}, True, ["a"]),
        ({"mode": "explicit"}, False, []),
    ],
)
def test_the_breakpoints_of_openai_are_marks(options: dict[str, str], marks: bool, expected: list[str]) -> None:
    """OpenAI adds one at the end, unless the app wants only its own."""
    own = {"prompt_cache_breakpoint": {"mode": "explicit"}} if marks else {}
    content = [{**block("a"), **own}]
    chat = {
        "model": "m",
        "messages": [said("system", "s"), {"role": "user", "content": content}, said("user", "b"), said("user", "c")],
        "prompt_cache_options": options,
    }
    assert [one["text"] for one in boundaries(CHAT, chat)] == expected


@pytest.mark.parametrize(
    "odd",
    [None, 5, "x", [], {}, [None], [[]], [{"content": 5}], [{"role": []}], [{"role": "user", "content": [None, 5]}]],
)
def test_odd_requests_raise_nothing(odd: Any) -> None:
    """A family that reads a request at all finds some prompt in it."""
    for url, field in (
        (CHAT, "tools"),
        (MESSAGES, "system"),
        (RESPONSES, "input"),
        (GEMINI, "tools"),
        (CONVERSE, "system"),
    ):
        _, body, _ = next(seen for seen in SEEN.values() if seen[0] == url)
        found = parse_request("POST", url, [], json.dumps(body | {field: odd}).encode())
        if found is not None:
            prefixes_of_request(found)
