"""Parsing intercepted requests: what belongs to the key, what does not, and what passes through."""

import json
from typing import Any

import pytest

from sidecard_client.http.family import RequestTarget
from sidecard_client.http.recognition import claimants
from sidecard_client.http.request import MAX_BACKEND_CHARACTERS, LlmRequest, parse_request
from sidecard_client.keys.fingerprint import fingerprint

URL = "https://api.example.com/v1/chat/completions"
BODY: dict[str, Any] = {"model": "m", "messages": [{"role": "user", "content": "hé"}], "temperature": 1.0}
KEY = ("Authorization", "Bearer sk-canary")


OWN: dict[str, dict[str, Any]] = {
    "/v1/completions": {"prompt": "p", "messages": None},
    "/v1/embeddings": {"input": "p"},
    "/v1/messages": {"max_tokens": 5},
    "/api/generate": {"prompt": "p"},
}
"""Fields that an API's requests must have."""


def read(url: str = URL, headers: list[tuple[str, str]] | None = None, **changes: Any) -> LlmRequest:
    """Read a request whose body differs from `BODY` by ``changes``."""
    own = next((own for path, own in OWN.items() if path in url), {})
    fields = {name: value for name, value in (BODY | own | changes).items() if value is not None}
    asked = parse_request("POST", url, [KEY] if headers is None else headers, json.dumps(fields).encode())
    assert asked is not None
    return asked


def first_claimant(method: str, path: str) -> str | None:
    """Return the name of the family that would read a request first."""
    target = RequestTarget.of(method, f"http://h{path}", "application/json")
    assert target is not None
    return next((family.name for family in claimants(target)[1]), None)


def key(asked: LlmRequest) -> str:
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
        ("/v1/messages/count_tokens", "anthropic_count_tokens"),
        ("/v1/threads/t/messages", None),
        ("/api/generate", "ollama_generate"),
        ("/api/chat", "ollama_chat"),
        ("/api/embed", "ollama_embed"),
        ("/api/embeddings", "ollama_embed"),
        ("/v1/models", None),
    ],
)
def test_the_path_names_the_api(path: str, family: str | None) -> None:
    """The longest matching ending of a POST path comes first."""
    assert first_claimant("POST", path) == family
    assert first_claimant("GET", path) is None


def test_what_cannot_change_an_answer_does_not_change_the_key() -> None:
    """Field order, white space, and headers about the caller, the attempt and the transport do not count."""
    same = read()
    body = b' {"temperature":1.0, "messages": [{"content": "h\\u00e9", "role":"user"}],\n"model": "m"}'
    other = parse_request("post", URL, [KEY], body)
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
    assert key(read(user="u", safety_identifier="s")) == key(same)


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
        {"max_tokens": 5},
    ],
)
def test_everything_else_in_the_body_counts(changes: dict[str, Any]) -> None:
    """Every other field of the body changes the key, unknown ones included."""
    assert key(read(**changes)) != key(read())


@pytest.mark.parametrize("body", [b'{"model":"m","messages":[]}', b' {"messages": [], "model": "\\u006d"}'])
def test_a_body_may_be_written_in_any_way(body: bytes) -> None:
    """White space, escapes and the order of names have no meaning."""
    asked = parse_request("POST", URL, [], body)
    assert asked is not None
    assert key(asked) == key(read(headers=[], model="m", messages=[], temperature=None))


def test_the_host_header_of_the_url_has_no_meaning() -> None:
    """HTTP libraries add it."""
    for url, host in ((URL, "api.example.com"), (URL, "API.Example.com"), ("http://h:81/v1/chat/completions", "h:81")):
        assert key(read(url, [KEY, ("host", host)])) == key(read(url, [KEY]))


@pytest.mark.parametrize(
    ("url", "headers"),
    [
        ("https://api.example.com/v2/chat/completions", [KEY]),
        ("https://api.example.com:8443/v1/chat/completions", [KEY]),
        ("http://api.example.com/v1/chat/completions", [KEY]),
        (URL + "?api-version=2", [KEY]),
        (URL, [KEY, ("OpenAI-Organization", "o")]),
        (URL, [KEY, ("x-new-header", "o")]),
        (URL, [KEY, ("Host", "other.example.com")]),
        (URL, [("Authorization", "Bearer sk-other")]),
        (URL, [("x-api-key", "sk-canary")]),
        (URL, []),
    ],
)
def test_url_headers_and_account_change_the_key(url: str, headers: list[tuple[str, str]]) -> None:
    """Another URL, header or credential is another key, so tenants never share."""
    assert key(read(url, headers)) != key(read())


def test_accounts_share_only_with_share_credentials() -> None:
    """With ``share_credentials`` two accounts have one key, and still two backends."""
    body = json.dumps(BODY).encode()
    one = parse_request("POST", URL, [KEY], body, share_credentials=True)
    two = parse_request("POST", URL, [("api-key", "x")], body, share_credentials=True)
    assert one is not None
    assert two is not None
    assert key(one) == key(two)
    assert one.backend != two.backend


def test_an_identity_of_the_app_replaces_the_credentials() -> None:
    """A token may be renewed, and the key stays."""

    def of(token: str, identity: str | None) -> str:
        headers = [("Authorization", f"Bearer {token}")]
        asked = parse_request("POST", URL, headers, json.dumps(BODY).encode(), identity=identity)
        assert asked is not None
        return key(asked)

    assert of("1", "alice") == of("2", "alice") != of("1", "bob")
    assert of("1", None) != of("2", None)


def test_a_credential_in_the_query_is_part_of_the_identity_only() -> None:
    """Gemini's ``key=`` distinguishes accounts, and is shared like any other with ``share_credentials``."""
    urls = (f"{URL}?alt=1&key=canary", f"{URL}?key=other&alt=1")
    one, two = (read(url, []) for url in urls)
    assert key(one) != key(two)
    assert "canary" not in repr(one)
    shared = [parse_request("POST", url, [], json.dumps(BODY).encode(), share_credentials=True) for url in urls]
    assert shared[0] is not None
    assert shared[1] is not None
    assert key(shared[0]) == key(shared[1])


def test_organization_and_project_have_backends_of_their_own() -> None:
    """A limit of one is not a limit of another."""
    names = {
        read(headers=[KEY, *selected]).backend
        for selected in ([], [("OpenAI-Organization", "a")], [("OpenAI-Organization", "b")], [("OpenAI-Project", "a")])
    }
    assert len(names) == 4


def test_headers_that_describe_the_caller_are_part_of_the_context() -> None:
    """A refusal may be due to them, so it is not shared with callers that have others."""
    one, two = (read(headers=[KEY, ("User-Agent", agent)]) for agent in ("a", "b"))
    assert key(one) == key(two)
    assert one.context != two.context
    traced = read(headers=[KEY, ("User-Agent", "a"), ("traceparent", "00-1-2-03"), ("newrelic", "x")])
    assert traced.context == one.context
    assert key(traced) == key(one)


def test_a_parsed_request_contains_no_credential() -> None:
    """It has 12 digits of the credentials' hash, too few to find a key by trying."""
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
        ("https://api.openai.com/v1/chat/completions", None, "api.openai.com"),
        ("https://api.openai.com/v1/chat/completions", 5, "api.openai.com"),
    ],
)
def test_the_backend_is_named_by_host_model_and_account(url: str, model: Any, name: str) -> None:
    """The backend is ``host:port/model``, with ``#identity`` if there are credentials."""
    assert read(url, [], model=model).backend == name
    assert read(url, model=model).backend.startswith(f"{name}#")


def test_long_model_names_are_shortened_and_stay_distinct() -> None:
    """A backend's name has at most 128 characters, and a hash of what was cut."""
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
    """Each API has its own fields for them."""
    asked = read(family_url, **changes)
    read_body = asked.asked
    assert (read_body.stream, read_body.deterministic, read_body.choices) == (stream, deterministic, choices)


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
        b'{"model": "m", "messages": [], "n": 1, "n": 1}',
        b'{"model": "m", "messages": [{"role": "user", "r\\u006fle": "user"}]}',
    ],
)
def test_bodies_without_a_stable_form_pass_through(body: bytes) -> None:
    """A body that is not a JSON object, has numbers beyond msgpack, or has a name twice, is not intercepted."""
    assert parse_request("POST", URL, [], body) is None


@pytest.mark.parametrize(
    "url", ["http://[::1/v1/messages", "http://h:99999/v1/messages", "http:/v1/messages", "/v1/messages"]
)
def test_an_invalid_url_passes_through(url: str) -> None:
    """The inner transport raises the error that the app expects."""
    assert parse_request("POST", url, [KEY], b"{}") is None
