"""What of a request makes the key, what stays outside, and which requests change something."""

import json
from typing import Any

import pytest

from sidecard_client.http.family import ApiRequest, RequestTarget
from sidecard_client.http.recognition import recognize
from sidecard_client.http.request import parse_request
from sidecard_client.keys.fingerprint import fingerprint

MESSAGES = [{"role": "user", "content": "hi"}]
FUNCTION = {"type": "function", "function": {"name": "f"}}
APIS: dict[str, tuple[str, dict[str, Any]]] = {
    "chat": ("/v1/chat/completions", {"messages": MESSAGES}),
    "completions": ("/v1/completions", {"prompt": "hi"}),
    "responses": ("/v1/responses", {"input": "hi"}),
    "embeddings": ("/v1/embeddings", {"input": "hi"}),
    "messages": ("/v1/messages", {"messages": MESSAGES, "max_tokens": 9}),
    "generate": ("/api/generate", {"prompt": "hi"}),
    "ollama_chat": ("/api/chat", {"messages": MESSAGES}),
    "embed": ("/api/embed", {"input": "hi"}),
    "old_embed": ("/api/embeddings", {"prompt": "hi"}),
}
"""Path and own fields of a request, by a short name of its API."""


def asked(api: str, **fields: Any) -> ApiRequest:
    """Read a request with these fields."""
    path, own = APIS[api]
    target = RequestTarget.of("POST", f"http://h{path}", "application/json")
    assert target is not None
    found = recognize(target, json.dumps({"model": "m", **own, **fields}).encode())
    assert found is not None
    return found[1]


def key(api: str, **fields: Any) -> str:
    """Return the key of a request with these fields."""
    return fingerprint("t", "m", "n", (), {"body": asked(api, **fields).body})


@pytest.mark.parametrize(
    ("api", "fields"),
    [
        # The provider's own cache.
        *((api, {"prompt_cache_key": "k"}) for api in ("chat", "responses", "completions")),
        *((api, {"prompt_cache_retention": "24h"}) for api in ("chat", "responses")),
        *((api, {"prompt_cache_options": {"mode": "explicit", "ttl": "30m"}}) for api in ("chat", "responses")),
        ("messages", {"cache_control": {"type": "ephemeral"}}),
        ("chat", {"cache_control": {"type": "ephemeral"}}),
        ("chat", {"prompt_cache_isolation_key": "tenant"}),
        # Fields about the caller that the answer does not carry back.
        ("chat", {"user": "u"}),
        ("chat", {"safety_identifier": "s"}),
        ("completions", {"user": "u"}),
        ("embeddings", {"user": "u"}),
        ("messages", {"metadata": {"user_id": "u"}}),
        # How long the model stays loaded.
        *((api, {"keep_alive": "10m"}) for api in ("generate", "ollama_chat", "embed", "old_embed")),
    ],
)
def test_hints_and_callers_are_outside_the_key(api: str, fields: dict[str, Any]) -> None:
    """They are kept for the digest of the context, by which failures are shared."""
    assert key(api, **fields) == key(api)
    assert asked(api, **fields).outside == fields
    assert asked(api).outside == {}


@pytest.mark.parametrize(
    ("api", "fields"),
    [
        ("responses", {"metadata": {"a": "b"}}),
        ("responses", {"user": "u"}),
        ("responses", {"safety_identifier": "s"}),
        ("responses", {"service_tier": "flex"}),
        ("responses", {"store": False}),
        ("chat", {"metadata": {"a": "b"}}),
        ("chat", {"service_tier": "flex"}),
        ("completions", {"service_tier": "flex"}),
        ("messages", {"service_tier": "standard_only"}),
        ("messages", {"inference_geo": "us"}),
        ("messages", {"diagnostics": {"previous_message_id": None}}),
        ("responses", {"prompt_cache_options": {"prewarm": True}}),
        ("generate", {"context": [1]}),
    ],
)
def test_what_the_answer_carries_back_is_in_the_key(api: str, fields: dict[str, Any]) -> None:
    """A field that the answer repeats makes a key of its own."""
    assert key(api, **fields) != key(api)


def part(**fields: Any) -> dict[str, Any]:
    """Return a part of a message."""
    return {"type": "text", "text": "hi", **fields}


MARK = {"type": "ephemeral"}
NESTED: list[tuple[str, Any]] = [
    ("messages", lambda mark: {"system": [part(**mark("cache_control"))]}),
    ("messages", lambda mark: {"messages": [{"role": "user", "content": [part(**mark("cache_control"))]}]}),
    ("messages", lambda mark: {"tools": [{"name": "f", "input_schema": {}, **mark("cache_control")}]}),
    (
        "messages",
        lambda mark: {
            "messages": [
                {
                    "role": "user",
                    "content": [{"type": "tool_result", "tool_use_id": "t", "content": [part(**mark("cache_control"))]}],
                }
            ]
        },
    ),
    (
        "messages",
        lambda mark: {
            "messages": [
                {
                    "role": "user",
                    "content": [{"type": "document", "source": {"type": "content", "content": [part(**mark("cache_control"))]}}],
                }
            ]
        },
    ),
    (
        "messages",
        lambda mark: {
            "messages": [
                {
                    "role": "user",
                    "content": [
                        {
                            "type": "tool_result",
                            "content": [{"type": "document", "source": {"content": [part(**mark("cache_control"))]}}],
                        }
                    ],
                }
            ]
        },
    ),
    ("messages", lambda mark: {"diagnostics": {"x": 1, **mark("previous_message_id")}}),
    ("chat", lambda mark: {"messages": [{"role": "user", "content": [part(**mark("cache_control"))]}]}),
    ("chat", lambda mark: {"messages": [{"role": "user", "content": [part(**mark("prompt_cache_breakpoint"))]}]}),
    ("chat", lambda mark: {"tools": [{**FUNCTION, **mark("cache_control")}]}),
    ("responses", lambda mark: {"input": [{"role": "user", "content": [part(**mark("prompt_cache_breakpoint"))]}]}),
    (
        "responses",
        lambda mark: {
            "input": [
                {"type": "function_call_output", "call_id": "c", "output": [part(**mark("prompt_cache_breakpoint"))]}
            ]
        },
    ),
]  # fmt: skip
"""Bodies with a hint at one of its places."""


@pytest.mark.parametrize(("api", "body"), NESTED)
def test_nested_hints_are_outside_the_key(api: str, body: Any) -> None:
    """Absent, one value and another: one key, and three contexts."""
    without = body(lambda _name: {})
    one, two = body(lambda name: {name: MARK}), body(lambda name: {name: "other"})
    assert key(api, **without) == key(api, **one) == key(api, **two)
    outsides = [asked(api, **fields).outside for fields in (without, one, two)]
    assert outsides[0] == {}
    assert len({json.dumps(outside) for outside in outsides}) == 3


@pytest.mark.parametrize(
    ("api", "body"),
    [
        ("messages", lambda value: {"messages": [{"role": "user", "content": value}]}),
        (
            "messages",
            lambda value: {
                "messages": [
                    {
                        "role": "assistant",
                        "content": [{"type": "tool_use", "id": "t", "name": "f", "input": {"cache_control": value}}],
                    }
                ]
            },
        ),
        ("messages", lambda value: {"tools": [{"name": "f", "input_schema": {"properties": {"cache_control": value}}}]}),
        (
            "chat",
            lambda value: {
                "tools": [
                    {"type": "function", "function": {"name": "f", "parameters": {"properties": {"user": value}}}}
                ]
            },
        ),
        ("responses", lambda value: {"text": {"format": {"type": "json_schema", "schema": {"prompt_cache_key": value}}}}),
        ("generate", lambda value: {"options": {"keep_alive": value}}),
        ("ollama_chat", lambda value: {"messages": [{"role": "user", "content": "x", "keep_alive": value}]}),
    ],
)  # fmt: skip
def test_the_same_names_elsewhere_count(api: str, body: Any) -> None:
    """An argument of a tool, a schema or the user's text changes the answer."""
    assert key(api, **body("cache_control")) != key(api, **body("user"))


@pytest.mark.parametrize(
    ("api", "fields", "effect"),
    [
        ("responses", {"conversation": "conv_1"}, "state"),
        ("responses", {"conversation": {"id": "conv_1"}}, "state"),
        ("responses", {"background": True}, "state"),
        ("responses", {"store": True}, "state"),
        ("responses", {"prompt_cache_options": {"prewarm": True}}, "state"),
        ("responses", {"tools": [{"type": "code_interpreter", "container": "cntr_1"}]}, "state"),
        ("responses", {"tools": [{"type": "code_interpreter", "container": {"type": "auto"}}]}, "state"),
        ("responses", {"tools": [{"type": "shell"}]}, "state"),
        ("responses", {"tools": [{"type": "shell", "environment": {"type": "container_auto"}}]}, "state"),
        ("responses", {"tools": [{"type": "mcp", "server_label": "x", "server_url": "https://x"}]}, "tool"),
        ("responses", {"tools": [{"type": "mcp", "connector_id": "connector_gmail"}]}, "tool"),
        ("responses", {"tools": [{"type": "namespace", "name": "n", "tools": [{"type": "mcp"}]}]}, "tool"),
        ("responses", {"tools": [{"type": "programmatic_tool_calling"}]}, "tool"),
        ("responses", {"tools": [{"type": "never_heard_of"}]}, "tool"),
        ("responses", {"tools": [{"name": "f"}]}, "tool"),
        ("responses", {"tools": ["f"]}, "tool"),
        ("responses", {"input": [{"type": "additional_tools", "role": "developer", "tools": [{"type": "mcp"}]}]}, "tool"),
        ("responses", {"input": [{"type": "tool_search_output", "tools": [{"type": "mcp"}]}]}, "tool"),
        ("responses", {"prompt": {"id": "pmpt_1"}}, "tool"),
        ("responses", {"agent": {"type": "agent_reference", "name": "a"}}, "tool"),
        ("responses", {"tools": [{"type": "mcp"}], "store": True}, "tool"),
        ("chat", {"store": True}, "state"),
        ("chat", {"deferred": True}, "state"),
        ("chat", {"tools": [{"type": "code_interpreter"}]}, "state"),
        ("chat", {"tools": [{"type": "mcp"}]}, "tool"),
        ("chat", {"tools": {"type": "mcp"}}, "tool"),
        ("chat", {"tools": [FUNCTION, {"type": "openrouter:anything"}]}, "tool"),
        ("messages", {"container": "container_1"}, "state"),
        ("messages", {"container": {"skills": [{"type": "anthropic", "skill_id": "pptx"}]}}, "state"),
        ("messages", {"thread": {"type": "create"}}, "state"),
        ("messages", {"tools": [{"type": "code_execution_20250522", "name": "code_execution"}]}, "state"),
        ("messages", {"tools": [{"type": "code_execution_20260521", "name": "code_execution"}]}, "state"),
        ("messages", {"mcp_servers": [{"type": "url", "url": "https://x", "name": "x"}]}, "tool"),
        ("messages", {"tools": [{"type": "mcp_toolset", "mcp_server_name": "x"}]}, "tool"),
        ("messages", {"tools": [{"type": "never_heard_of_20270101", "name": "x"}]}, "tool"),
        ("messages", {"tools": [{"type": 5, "name": "x"}]}, "tool"),
        ("messages", {"tools": ["x"]}, "tool"),
        ("messages", {"tools": "x"}, "tool"),
        ("generate", {"prompt": ""}, "state"),
        ("generate", {"prompt": None}, "state"),
        ("generate", {"prompt": None, "keep_alive": 0}, "state"),
        ("generate", {"prompt": "", "images": ["aGk="]}, "state"),
        ("ollama_chat", {"messages": []}, "state"),
        ("ollama_chat", {"messages": None}, "state"),
        ("ollama_chat", {"messages": [], "keep_alive": 0}, "state"),
        ("embed", {"input": []}, "state"),
        ("embed", {"input": ""}, "state"),
        ("old_embed", {"prompt": ""}, "state"),
    ],
)  # fmt: skip
def test_requests_that_change_something_pass(api: str, fields: dict[str, Any], effect: str) -> None:
    """Requests that change the server's state, or the world through a tool, pass."""
    assert asked(api, **fields).passes == effect


@pytest.mark.parametrize(
    ("api", "fields"),
    [
        *((api, {}) for api in APIS),
        ("responses", {"store": False}),
        ("responses", {"store": None, "conversation": None, "background": False, "tools": []}),
        ("responses", {"previous_response_id": "resp_1"}),
        ("responses", {"tools": [{"type": "function", "name": "f"}, {"type": "custom", "name": "g"}]}),
        ("responses", {"tools": [{"type": "web_search"}, {"type": "web_search_preview_2025_03_11"}]}),
        ("responses", {"tools": [{"type": "file_search", "vector_store_ids": ["vs_1"]}]}),
        ("responses", {"tools": [{"type": "image_generation"}, {"type": "tool_search"}]}),
        ("responses", {"tools": [{"type": "computer"}, {"type": "local_shell"}, {"type": "apply_patch"}]}),
        ("responses", {"tools": [{"type": "shell", "environment": {"type": "local"}}]}),
        ("responses", {"tools": [{"type": "namespace", "name": "n", "tools": [{"type": "function", "name": "f"}]}]}),
        ("responses", {"prompt": {"id": "pmpt_1"}, "tools": []}),
        ("responses", {"input": [{"type": "mcp_list_tools", "tools": [{"name": "f"}]}]}),
        ("chat", {"tools": [FUNCTION, {"type": "custom", "custom": {"name": "g"}}]}),
        ("chat", {"tools": [{"function": {"name": "f"}}], "web_search_options": {}}),
        ("chat", {"tools": None, "functions": [{"name": "f"}]}),
        ("messages", {"tools": [{"name": "f", "input_schema": {}}, {"type": None, "name": "g", "input_schema": {}}]}),
        ("messages", {"tools": [{"type": "custom", "name": "f", "input_schema": {}}], "mcp_servers": []}),
        ("messages", {"tools": [{"type": "web_search_20260318", "name": "web_search"}]}),
        ("messages", {"tools": [{"type": "web_fetch_20250910", "name": "web_fetch"}]}),
        ("messages", {"tools": [{"type": "bash_20250124", "name": "bash"}, {"type": "memory_20250818", "name": "m"}]}),
        ("messages", {"tools": [{"type": "text_editor_20250728", "name": "t"}, {"type": "computer_20251124"}]}),
        ("messages", {"tools": [{"type": "computer_toolset_20260801"}, {"type": "tool_search_tool_bm25"}]}),
        ("messages", {"container": None, "tools": None}),
        ("generate", {"keep_alive": 0}),
        ("ollama_chat", {"keep_alive": 0, "tools": [FUNCTION]}),
    ],
)
def test_other_requests_are_shared(api: str, fields: dict[str, Any]) -> None:
    """Tools that the app carries out, and tools that only read, are shared."""
    assert asked(api, **fields).passes == ""


@pytest.mark.parametrize(
    ("api", "fields", "choices"),
    [
        ("chat", {"n": 3}, 3),
        ("chat", {"n": 0}, 1),
        ("chat", {"n": True}, 1),
        ("completions", {"n": 2, "prompt": ["a", "b"]}, 4),
        ("completions", {"n": 2, "prompt": [1, 2]}, 2),
        ("completions", {"prompt": [[1, 2], [3]]}, 2),
        ("embeddings", {"input": ["a", "b"]}, 2),
        ("embeddings", {"input": [1, 2]}, 1),
        ("embeddings", {"input": [[1, 2], [3]]}, 2),
        ("embeddings", {"input": [{"image": "x"}, {"image": "y"}]}, 1),
        ("embeddings", {"input": []}, 1),
        ("embed", {"input": ["a", "b"]}, 2),
        ("embed", {"input": []}, 1),
        ("embed", {"input": "ab"}, 1),
        ("old_embed", {}, 1),
    ],
)
def test_the_number_of_answers_is_read(api: str, fields: dict[str, Any], choices: int) -> None:
    """An answer with fewer is not whole."""
    assert asked(api, **fields).choices == choices


def context(headers: list[tuple[str, str]], *, share_credentials: bool = False, **fields: Any) -> str:
    """Return the context of a chat request."""
    body = json.dumps({"model": "m", "messages": MESSAGES, **fields}).encode()
    request = parse_request("POST", "http://h/v1/chat/completions", headers, body, share_credentials=share_credentials)
    assert request is not None
    return request.context


def test_the_context_tells_apart_what_is_outside_the_key() -> None:
    """Values outside the key, their absence, and a shared account make different contexts."""
    one, two = [("authorization", "Bearer a")], [("authorization", "Bearer b")]
    assert context(one) == context(two)
    assert context(one, user="u") == context(one, user="u")
    assert len({context(one, user="u"), context(one, user="v"), context(one, user=None), context(one)}) == 4
    assert context(one, share_credentials=True) != context(two, share_credentials=True)


@pytest.mark.parametrize(
    ("api", "fields", "place", "text"),
    [
        ("chat", {}, "messages[-1].content", "hi"),
        ("chat", {"messages": [{"role": "user", "content": [part(), {"type": "image_url"}]}]}, "messages[-1].content[0].text", "hi"),
        ("responses", {}, "input", "hi"),
        ("responses", {"input": [{"role": "user", "content": [{"type": "input_text", "text": "zebra"}]}]}, "input[-1].content[0].text", "zebra"),
        ("completions", {}, "prompt", "hi"),
        ("messages", {}, "messages[-1].content", "hi"),
        ("generate", {}, "prompt", "hi"),
        ("ollama_chat", {}, "messages[-1].content", "hi"),
    ],
)  # fmt: skip
def test_the_last_text_may_differ_in_similar_requests(api: str, fields: dict[str, Any], place: str, text: str) -> None:
    """The varying text is the user's last message, or the prompt."""
    path, own = APIS[api]
    target = RequestTarget.of("POST", f"http://h{path}", "application/json")
    assert target is not None
    found = recognize(target, json.dumps({"model": "m", **own, **fields}).encode())
    assert found is not None
    question = found[0].question(found[1])
    assert question is not None
    assert (question.place, question.text) == (place, text)
    assert text not in json.dumps(question.rest.get(place.partition("[")[0]))


@pytest.mark.parametrize(
    ("api", "fields"),
    [
        ("chat", {"messages": []}),
        ("chat", {"messages": [*MESSAGES, {"role": "tool", "content": "hi"}]}),
        ("chat", {"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}),
        ("completions", {"prompt": ["hi"]}),
        ("embeddings", {}),
        ("embed", {}),
    ],
)
def test_requests_without_such_a_text_have_no_similar_ones(api: str, fields: dict[str, Any]) -> None:
    """Tool results, images alone, several prompts and embeddings have no varying text."""
    path, own = APIS[api]
    target = RequestTarget.of("POST", f"http://h{path}", "application/json")
    assert target is not None
    found = recognize(target, json.dumps({"model": "m", **own, **fields}).encode())
    assert found is not None
    assert found[0].question(found[1]) is None


@pytest.mark.parametrize("stream", [["true"], {"a": 1}])
def test_a_stream_of_any_json_type_raises_nothing(stream: object) -> None:
    """Also for APIs that take forms, in which it is a text."""
    target = RequestTarget.of("POST", "http://h/v1/images/generations", "application/json")
    assert target is not None
    found = recognize(target, json.dumps({"model": "m", "prompt": "p", "stream": stream}).encode())
    assert found is not None
    assert not found[1].stream


def test_a_hint_whose_name_is_escaped_stays_in_the_key() -> None:
    """A body is searched for the names of hints as they are usually written; a miss costs less than a wrong answer."""
    target = RequestTarget.of("POST", "http://h/v1/chat/completions", "application/json")
    assert target is not None
    body = json.dumps({"model": "m", "messages": [{"role": "user", "content": [part(cache_control=MARK)]}]})
    found = recognize(target, body.replace("cache_control", "cache\\u005fcontrol").encode())
    assert found is not None
    assert found[1].body["messages"][0]["content"][0]["cache_control"] == MARK
