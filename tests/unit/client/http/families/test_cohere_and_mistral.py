"""The rules of Cohere's, Mistral's and rerankers' own: versions, finish reasons, agents, counts of results."""

import json
from typing import Any

import pytest

from sidecard_client.http.family import AnswerSummary, ApiFamily, ApiRequest, RequestTarget
from sidecard_client.http.recognition import recognize
from sidecard_client.protocol.wire import Usage
from tests.api_samples import COHERE, EVENTS, JSON, JSON_LINES, MISTRAL, as_events, as_lines

HELLO = [{"role": "user", "content": "hello"}]


def asked_for(path: str, host: str = COHERE, **fields: Any) -> tuple[ApiFamily, ApiRequest]:
    """Recognize a request."""
    target = RequestTarget.of("POST", f"https://{host}{path}", JSON)
    assert target is not None
    found = recognize(target, json.dumps(fields).encode())
    assert found is not None
    return found


def summary(known: tuple[ApiFamily, ApiRequest], answer: Any, content_type: str = JSON) -> AnswerSummary:
    """Read an answer."""
    family, asked = known
    reader = family.reader(asked, content_type=content_type)
    reader.feed(answer if isinstance(answer, bytes) else json.dumps(answer).encode())
    return reader.finish()


@pytest.mark.parametrize(
    ("reason", "verdict", "not_stored"),
    [
        ("COMPLETE", "complete", ""),
        ("STOP_SEQUENCE", "complete", ""),
        ("TOOL_CALL", "complete", ""),
        ("MAX_TOKENS", "complete", "length"),
        ("ERROR_LIMIT", "complete", "length"),
        ("ERROR_TOXIC", "complete", "filter"),
        ("USER_CANCEL", "complete", "incomplete"),
        ("ERROR", "server_error", "error"),
        ("TIMEOUT", "server_error", "error"),
        (None, "unproven", "incomplete"),
    ],
)
def test_finish_reasons_of_cohere(reason: str | None, verdict: str, not_stored: str) -> None:
    """Both versions, whole and streamed, follow the same rules."""
    version_2 = asked_for("/v2/chat", model="command-a", messages=HELLO)
    version_1 = asked_for("/v1/chat", model="command-r", message="hello")
    streamed = asked_for("/v1/chat", model="command-r", message="hello", stream=True)
    end = {"type": "message-end", "delta": {"finish_reason": reason}}
    last = {"is_finished": True, "event_type": "stream-end", "finish_reason": reason, "response": {"text": "x"}}
    for found in (
        summary(version_2, {"id": "c", "finish_reason": reason, "message": {"role": "assistant"}}),
        summary(version_2, as_events({"type": "content-delta"}, end), EVENTS),
        summary(version_1, {"text": "x", "finish_reason": reason}),
        summary(version_1, as_lines({"event_type": "text-generation", "text": "x"}, last), JSON_LINES),
        summary(streamed, as_lines({"event_type": "text-generation", "text": "x"}, last), JSON),
    ):
        assert (found.verdict, found.not_stored) == (verdict, not_stored)


def test_an_error_ends_a_stream_of_cohere() -> None:
    """It is the server's, unless its words are about the request."""
    known = asked_for("/v2/chat", model="command-a", messages=HELLO, stream=True)
    for error, verdict in (
        ("internal", "server_error"),
        ("too long: the maximum context length is 8", "request_error"),
    ):
        end = {"type": "message-end", "delta": {"error": error, "finish_reason": None}}
        assert summary(known, as_events(end), EVENTS).verdict == verdict


def test_tokens_of_cohere_are_those_it_bills() -> None:
    """If it says none, those that it read."""
    known = asked_for("/v2/chat", model="command-a", messages=HELLO)
    answer = {"finish_reason": "COMPLETE", "message": {}, "usage": {"tokens": {"input_tokens": 70, "output_tokens": 4}}}
    assert summary(known, answer).usage == Usage(None, 70, 4)


def test_conversations_and_connectors_of_cohere_pass_through() -> None:
    """The search of the web only reads."""
    for fields, passes in (
        ({"conversation_id": "c"}, "state"),
        ({"connectors": [{"id": "web-search"}]}, ""),
        ({"connectors": [{"id": "my-crm"}]}, "tool"),
    ):
        assert asked_for("/v1/chat", model="m", message="hello", **fields)[1].passes == passes


def test_the_priority_of_cohere_is_outside_the_key() -> None:
    """It changes when an answer comes, and nothing of it."""
    for path, fields in (
        ("/v2/chat", {"messages": HELLO}),
        ("/v2/embed", {"texts": ["a"], "input_type": "search_query"}),
        ("/v2/rerank", {"query": "q", "documents": ["a"]}),
    ):
        assert asked_for(path, model="m", priority=1, **fields)[1].body == {"model": "m", **fields}


@pytest.mark.parametrize(
    ("embeddings", "verdict"),
    [
        ({"float": [[0.1], [0.2]]}, "complete"),
        ({"float": [[0.1], [0.2]], "base64": ["AA", "AA"], "int8": None}, "complete"),
        ({"float": [[0.1], [0.2]], "int8": [[1]]}, "unproven"),
        ([[0.1], []], "unproven"),
        ({}, "unclassifiable"),
    ],
)
def test_each_type_of_vectors_is_whole(embeddings: Any, verdict: str) -> None:
    """Two texts were embedded."""
    known = asked_for("/v2/embed", model="m", texts=["a", "b"], input_type="search_query")
    assert summary(known, {"id": "e", "embeddings": embeddings}).verdict == verdict


@pytest.mark.parametrize(
    ("answer", "verdict"),
    [
        ({"results": [{"index": 1, "relevance_score": 0.5}]}, "complete"),
        ({"object": "list", "data": [{"index": 1, "relevance_score": 1}], "usage": {"total_tokens": 9}}, "complete"),
        ({"results": [{"index": 2, "relevance_score": 0.5}]}, "unproven"),
        ({"results": [{"index": 0}]}, "unproven"),
        ({"results": [{"index": 0, "relevance_score": 0.5}, {"index": 1}]}, "unproven"),
        ({"results": []}, "unproven"),
        ({"status": "completed"}, "unclassifiable"),
    ],
)
def test_a_ranking_has_scores_of_the_documents(answer: Any, verdict: str) -> None:
    """Two documents were ranked, by Cohere or a server that speaks its form."""
    known = asked_for("/v1/rerank", host="api.jina.ai", model="m", query="q", documents=["a", {"text": "b"}])
    assert summary(known, answer).verdict == verdict


def test_agents_and_conversations_of_mistral_pass_through() -> None:
    """What an agent is, and what was said, is the server's."""
    for path, fields in (
        ("/v1/agents/completions", {"agent_id": "a", "messages": HELLO}),
        ("/v1/conversations", {"agent_id": "a", "inputs": "hello"}),
        ("/v1/conversations", {"model": "m", "inputs": HELLO}),
    ):
        family, asked = asked_for(path, MISTRAL, **fields)
        assert (family.name, asked.passes) == ("mistral_agents", "state")
        assert asked.model == fields.get("agent_id", "m")


def test_the_seed_of_mistral_asks_for_one_answer() -> None:
    """Its name is ``random_seed``."""
    assert asked_for("/v1/chat/completions", MISTRAL, model="m", messages=HELLO, random_seed=1)[1].deterministic
    assert not asked_for("/v1/fim/completions", MISTRAL, model="m", prompt="x")[1].deterministic


@pytest.mark.parametrize(("reason", "not_stored"), [("stop", ""), ("model_length", "length"), ("length", "length")])
def test_finish_reasons_of_mistral(reason: str, not_stored: str) -> None:
    """They are OpenAI's, with one more."""
    known = asked_for("/v1/fim/completions", MISTRAL, model="m", prompt="x")
    found = summary(known, {"choices": [{"index": 0, "message": {"content": "y"}, "finish_reason": reason}]})
    assert (found.verdict, found.not_stored) == ("complete", not_stored)
