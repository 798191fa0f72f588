"""Recognizing requests: a known host, or the strict shape of an API; a path alone never suffices."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from sidecard_client.http import families as package
from sidecard_client.http import recognition
from sidecard_client.http.family import RequestTarget
from sidecard_client.http.recognition import claimants, families, recognize

MESSAGES = [{"role": "user", "content": "hi"}]


def family_of(url: str, fields: object, endpoints: dict[str, str] | None = None, **head: Any) -> str | None:
    """Return the name of the family of a request, which has JSON as its body unless ``fields`` are bytes."""
    target = RequestTarget.of(head.get("method", "POST"), url, head.get("content_type", "application/json"))
    assert target is not None
    body = fields if isinstance(fields, bytes) else json.dumps(fields).encode()
    found = recognize(target, body, endpoints)
    return None if found is None else found[0].name


@pytest.mark.parametrize(
    ("url", "fields", "family"),
    [
        ("http://127.0.0.1:8080/v1/chat/completions", {"model": "m", "messages": MESSAGES}, "openai_chat"),
        ("http://llm.corp/any/prefix/chat/completions/", {"model": "m", "messages": MESSAGES}, "openai_chat"),
        ("http://h/v1/endpoints/1234567890/chat/completions", {"model": "m", "messages": MESSAGES}, "openai_chat"),
        ("https://h/openai/deployments/gpt-4/chat/completions", {"messages": MESSAGES}, "openai_chat"),
        ("https://h/openai/deployments/12345678/embeddings", {"input": "a"}, "openai_embeddings"),
        ("https://x.openai.azure.com/openai/v1/chat/completions", {"messages": MESSAGES}, "openai_chat"),
        ("http://h/v1/completions", {"model": "m", "prompt": ["a", "b"]}, "openai_completions"),
        ("http://h/v1/fim/completions", {"model": "m", "prompt": "a", "suffix": "b"}, "mistral_fim"),
        ("http://h/v1/responses", {"model": "m", "input": "a"}, "openai_responses"),
        ("http://h/responses", {"model": "m", "input": [{"role": "user", "content": "a"}]}, "openai_responses"),
        ("https://api.openai.com/v1/responses", {"prompt": {"id": "pmpt_1"}}, "openai_responses"),
        ("http://h/v1/embeddings", {"model": "m", "input": [[1, 2], [3]]}, "openai_embeddings"),
        ("http://h/v1/messages", {"model": "m", "max_tokens": 5, "messages": MESSAGES}, "anthropic_messages"),
        ("http://h:11434/api/chat", {"model": "m", "messages": MESSAGES}, "ollama_chat"),
        ("http://h:11434/api/generate", {"model": "m", "keep_alive": 0}, "ollama_generate"),
        ("http://h:11434/api/embed", {"model": "m", "input": ["a"]}, "ollama_embed"),
        ("http://h:11434/api/embeddings", {"model": "m", "prompt": "a"}, "ollama_embed"),
    ],
)
def test_requests_of_an_api_are_recognized(url: str, fields: object, family: str) -> None:
    """By the shape on any host; on the provider's own hosts and in Azure's paths the model may be missing."""
    assert family_of(url, fields) == family


@pytest.mark.parametrize(
    ("url", "fields"),
    [
        # Other applications with the same words in their paths.
        ("https://survey.example/surveys/7/responses", {"answers": [1, 2]}),
        ("https://survey.example/surveys/7/responses", {"model": "S-2000", "input": "very good"}),
        ("https://survey.example/v1/responses", {"model": 7, "input": "very good"}),
        ("https://survey.example/v1/responses", {"model": "m", "input": [{"question": 1}]}),
        ("https://survey.example/v1/responses", {"model": "m", "input": "a", "text": "a"}),
        ("https://chat.example/v1/messages", {"to": "bob", "text": "hi"}),
        ("https://chat.example/v1/messages", {"model": "phone", "messages": ["hi"], "max_tokens": 5}),
        ("https://chat.example/v1/messages", {"model": "phone", "messages": MESSAGES}),
        ("https://chat.example/v1/messages", {"model": "m", "messages": [{"role": "driver"}], "max_tokens": 5}),
        ("https://shop.example/items/0f3a9c1b-5b1e-4b1e-9c1b-5b1e4b1e9c1b/embeddings", {"model": "m", "input": "a"}),
        ("https://shop.example/embeddings", {"embedding": [1.0], "id": 5}),
        ("https://shop.example/embeddings", {"model": "m", "input": {"id": 5}}),
        ("https://todo.example/completions", {"task": 5}),
        ("https://todo.example/completions", {"model": "m", "prompt": {"id": 1}}),
        ("https://app.example/api/chat", {"model": 1, "messages": MESSAGES}),
        ("https://app.example/api/chat", {"model": "m", "messages": "hi"}),
        ("https://app.example/api/generate", {"model": "m", "prompt": ["hi"]}),
        ("https://app.example/api/generate", {"report": 5}),
        ("https://app.example/chat/completions", {"messages": MESSAGES}),
        ("https://api.openai.com/v1/chat/completions", {"model": "m"}),
        # Not these APIs' requests.
        ("https://api.openai.com/v1/responses/resp_1/cancel", {}),
        ("https://api.openai.com/v1/moderation", {"model": "m", "input": "a"}),
        ("https://api.openai.com/v1/chat/completions", [1]),
        ("https://api.openai.com/v1/chat/completions", b"{"),
    ],
)
def test_other_requests_are_not_recognized(url: str, fields: object) -> None:
    """A matching path ending does not suffice."""
    assert family_of(url, fields) is None


@pytest.mark.parametrize(
    "head",
    [
        {"method": "GET"},
        {"method": "PUT"},
        {"content_type": "multipart/form-data; boundary=x"},
        {"content_type": "application/x-www-form-urlencoded"},
        {"content_type": "application/octet-stream"},
    ],
)
def test_other_methods_and_content_types_are_not_claimed(head: dict[str, str]) -> None:
    """The bodies of such requests are not read."""
    url, method = "https://api.openai.com/v1/chat/completions", head.get("method", "POST")
    content_type = head.get("content_type", "application/json")
    fields = {"model": "m", "messages": MESSAGES}
    assert family_of(url, fields, method=method, content_type=content_type) is None
    target = RequestTarget.of(method, url, content_type)
    assert target is not None
    assert claimants(target)[1] == ()


@pytest.mark.parametrize(
    "content_type", ["", "text/plain", "application/json; charset=utf-8", "application/vnd.x+json"]
)
def test_json_is_read_under_its_usual_content_types(content_type: str) -> None:
    """Also without one."""
    fields = {"model": "m", "messages": MESSAGES}
    assert family_of("http://h/v1/chat/completions", fields, content_type=content_type) == "openai_chat"


def test_declared_endpoints_replace_the_recognition_by_host() -> None:
    """A declared path needs no model, and the shape counts all the same; no other path is claimed."""
    endpoints = {"/ask": "openai_chat", "/deep/ask": "ollama_chat"}
    assert family_of("http://h/x/ask", {"messages": MESSAGES}, endpoints) == "openai_chat"
    assert family_of("http://h/deep/ask/", {"messages": MESSAGES}, endpoints) == "ollama_chat"
    assert family_of("http://h/x/ask", {"question": 1}, endpoints) is None
    assert family_of("https://api.openai.com/v1/chat/completions", {"messages": MESSAGES}, endpoints) is None
    assert family_of("http://h/surveys/7/responses", {"input": "a"}, {"/responses": "openai_responses"})


@pytest.fixture
def added_family(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Add a file to the package of families."""
    source = """
from sidecard_client.http.answers.openai_choices import ChoicesAnswer
from sidecard_client.http.request_bodies.json_family import JsonFamily

class Haiku(JsonFamily):
    name = "haiku"
    paths = ("/v1/haiku/completions",)
    answer = ChoicesAnswer

    def fits(self, fields):
        return isinstance(fields.get("season"), str)

FAMILY = Haiku()
"""
    (tmp_path / "added_haiku.py").write_text(source, encoding="utf-8")
    monkeypatch.setattr(package, "__path__", [*package.__path__, str(tmp_path)])
    families.cache_clear()
    recognition._by_end.cache_clear()
    yield
    monkeypatch.undo()
    families.cache_clear()
    recognition._by_end.cache_clear()


@pytest.mark.usefixtures("added_family")
def test_adding_a_family_means_adding_a_file() -> None:
    """Its longer path comes before that of another family, which reads what the new one does not."""
    assert family_of("http://h/v1/haiku/completions", {"model": "m", "season": "fall"}) == "haiku"
    assert family_of("http://h/v1/haiku/completions", {"model": "m", "prompt": "fall"}) == "openai_completions"


def test_each_family_is_named_as_its_file() -> None:
    """So that ``endpoints=`` and reports lead to the file."""
    assert {name: type(family).__module__.rpartition(".")[2] for name, family in families().items()} == {
        name: name for name in families()
    }
