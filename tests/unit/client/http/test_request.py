"""What intercepted requests ask for: what counts, what does not, and what is none of ours."""

import json
from typing import Any

import pytest

from sidecard_client.http.request import MAX_BACKEND_CHARACTERS, Asked, family_of, read_request
from sidecard_client.keys.fingerprint import fingerprint

URL = "https://api.example.com/v1/chat/completions"
BODY: dict[str, Any] = {"model": "m", "messages": [{"role": "user", "content": "hé"}], "temperature": 1.0}
KEY = ("Authorization", "Bearer sk-canary")


def read(url: str = URL, headers: list[tuple[str, str]] | None = None, **changes: Any) -> Asked:
    """Read a request whose body differs from `BODY` by ``changes``."""
    asked = read_request("POST", url, [KEY] if headers is None else headers, json.dumps(BODY | changes).encode())
    assert asked is not None
    return asked


def key(asked: Asked) -> str:
    """Return the key that its parts make."""
    return fingerprint("t", None, "n", (), asked.parts)


@pytest.mark.parametrize(
    ("path", "family"),
    [
        ("/v1/chat/completions", "openai_chat"),
        ("/v1/chat/completions/", "openai_chat"),
        ("/openai/deployments/d/chat/completions", "openai_chat"),
        ("/v1/completions", "openai_completions"),
        ("/v1/responses", "openai_responses"),
        ("/v1/responses/r-1", None),
        ("/v1/embeddings", "openai_embeddings"),
        ("/v1/messages", "anthropic_messages"),
        ("/v1/messages/count_tokens", None),
        ("/v1/threads/t/messages", None),
        ("/api/generate", "ollama_generate"),
        ("/api/chat", "ollama_chat"),
        ("/api/embed", "ollama_embed"),
        ("/api/embeddings", "ollama_embed"),
        ("/v1/models", None),
    ],
)
def test_paths_name_the_interface(path: str, family: str | None) -> None:
    """By their ends, the longest that fits."""
    assert family_of("POST", path) == family
    assert family_of("GET", path) is None


def test_what_changes_no_answer_changes_no_key() -> None:
    """Order and white space of the body, who asks, how often, and how the bytes travel."""
    same = read()
    body = b' {"temperature":1.0, "messages": [{"content": "h\\u00e9", "role":"user"}],\n"model": "m"}'
    other = read_request("post", URL, [KEY], body)
    assert other is not None
    assert key(other) == key(same)
    headers = [
        ("AUTHORIZATION", "Bearer sk-canary"),
        ("User-Agent", "x"),
        ("X-Request-ID", "1"),
        ("x-stainless-retry-count", "2"),
        ("x-sidecard-cache", "refresh"),
        ("Accept-Encoding", "gzip"),
        ("traceparent", "00-1-2-03"),
        ("Idempotency-Key", "i"),
    ]
    assert key(read(headers=headers)) == key(same)
    assert key(read(user="u", metadata={"a": "b"})) == key(same)


@pytest.mark.parametrize(
    "changes",
    [
        {"model": "m2"},
        {"temperature": 0.5},
        {"stream": True},
        {"n": 2},
        {"tools": []},
        {"messages": [{"role": "user", "content": "h"}]},
        {"unheard_of": 1},
        {"max_tokens": None},
    ],
)
def test_everything_else_in_the_body_counts(changes: dict[str, Any]) -> None:
    """What nobody has thought of as well."""
    assert key(read(**changes)) != key(read())


@pytest.mark.parametrize(
    ("url", "headers"),
    [
        ("https://api.example.com/v2/chat/completions", [KEY]),
        ("https://api.example.com:8443/v1/chat/completions", [KEY]),
        ("http://api.example.com/v1/chat/completions", [KEY]),
        (URL + "?api-version=2", [KEY]),
        (URL, [KEY, ("OpenAI-Organization", "o")]),
        (URL, [KEY, ("x-new-header", "o")]),
        (URL, [("Authorization", "Bearer sk-other")]),
        (URL, [("x-api-key", "sk-canary")]),
        (URL, []),
    ],
)
def test_place_headers_and_account_count(url: str, headers: list[tuple[str, str]]) -> None:
    """Tenants never share."""
    assert key(read(url, headers)) != key(read())


def test_accounts_share_only_where_they_are_told_to() -> None:
    """Their backends stay apart."""
    body = json.dumps(BODY).encode()
    one = read_request("POST", URL, [KEY], body, share_credentials=True)
    two = read_request("POST", URL, [("api-key", "x")], body, share_credentials=True)
    assert one is not None
    assert two is not None
    assert key(one) == key(two)
    assert one.backend != two.backend


def test_no_credential_is_in_anything_that_leaves() -> None:
    """Nor enough of its hash to try keys by."""
    asked = read(headers=[KEY, ("Cookie", "c=canary"), ("X-Api-Key", "canary")])
    assert "canary" not in repr(asked)
    assert len(asked.backend.partition("#")[2]) == 12


@pytest.mark.parametrize(
    ("url", "model", "name"),
    [
        (URL, "m", "api.example.com/m"),
        ("https://API.example.com:443/v1/chat/completions", "m", "api.example.com/m"),
        ("http://127.0.0.1:8080/v1/chat/completions", "m", "127.0.0.1:8080/m"),
        ("http://[::1]:8080/v1/chat/completions", "m", "[::1]:8080/m"),
        ("https://x.azure.com/openai/deployments/gpt/chat/completions", None, "x.azure.com/gpt"),
        (URL, None, "api.example.com"),
        (URL, 5, "api.example.com"),
    ],
)
def test_the_backend_is_place_and_model_and_account(url: str, model: Any, name: str) -> None:
    """So one's outage is nobody else's."""
    assert read(url, [], model=model).backend == name
    assert read(url, model=model).backend.startswith(f"{name}#")


def test_long_models_make_names_that_fit_and_differ() -> None:
    """A name has 128 characters at most."""
    one, two = read(model="m" * 300 + "1").backend, read(model="m" * 300 + "2").backend
    assert one != two
    assert len(one) <= MAX_BACKEND_CHARACTERS


@pytest.mark.parametrize(
    ("family_url", "changes", "stream", "deterministic", "choices"),
    [
        (URL, {}, False, False, 1),
        (URL, {"stream": True, "temperature": 0, "n": 3}, True, True, 3),
        (URL, {"seed": 0}, False, True, 1),
        (URL, {"seed": None, "temperature": False, "n": True}, False, False, 1),
        ("http://h/v1/completions", {"prompt": ["a", "b"], "n": 2}, False, False, 4),
        ("http://h/v1/completions", {"prompt": [1, 2, 3]}, False, False, 1),
        ("http://h/v1/embeddings", {}, False, True, 1),
        ("http://h/api/chat", {}, True, False, 1),
        ("http://h/api/chat", {"stream": False, "options": {"temperature": 0}}, False, True, 1),
        ("http://h/api/generate", {"options": {"seed": 5}}, True, True, 1),
        ("http://h/v1/messages", {"stream": True}, True, False, 1),
    ],
)
def test_streams_determinism_and_choices_are_read(
    family_url: str, changes: dict[str, Any], stream: bool, deterministic: bool, choices: int
) -> None:
    """Each where its interface says it."""
    asked = read(family_url, **changes)
    assert (asked.stream, asked.deterministic, asked.choices) == (stream, deterministic, choices)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[]",
        b"null",
        b"{",
        b'{"a": \xff}',
        b'{"n": 1e999}',
        b'{"n": 99999999999999999999999}',
        b"[" * 5000,
        b"--x",
    ],
)
def test_bodies_that_mean_nothing_here_go_straight_on(body: bytes) -> None:
    """Nobody knows what their answers would depend on."""
    assert read_request("POST", URL, [], body) is None


@pytest.mark.parametrize(
    "url", ["http://[::1/v1/messages", "http://h:99999/v1/messages", "http:/v1/messages", "/v1/messages"]
)
def test_a_url_that_leads_nowhere_is_let_pass(url: str) -> None:
    """Whoever is to send it says what is wrong with it, in the words that the app expects."""
    assert read_request("POST", url, [KEY], b"{}") is None
