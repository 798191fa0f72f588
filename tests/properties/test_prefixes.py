"""Two prompts share exactly the prefixes of their common parts."""

import json
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from sidecard_client.http.request import LlmRequest, parse_request
from sidecard_client.keys.prefixes.recipe import PromptPart, PromptPrefixes, prefixes_of
from sidecard_client.protocol.values import MAX_PREFIXES

VALUES = st.text("ab", max_size=3) | st.integers(0, 3) | st.lists(st.text("ab", max_size=2), max_size=2)
PARTS = st.lists(st.builds(PromptPart, VALUES, st.just(value=True)), max_size=MAX_PREFIXES)


@given(PARTS, PARTS, PARTS)
def test_common_first_parts_decide(beginning: list[PromptPart], one: list[PromptPart], other: list[PromptPart]) -> None:
    """Prompts share as many prefixes as first parts."""
    first, second = (beginning + one)[:MAX_PREFIXES], (beginning + other)[:MAX_PREFIXES]
    common = 0
    while common < min(len(first), len(second)) and first[common] == second[common]:
        common += 1

    of_first, of_second = prefixes_of("k", "m", "a", first), prefixes_of("k", "m", "a", second)

    assert of_first.digests[:common] == of_second.digests[:common]
    assert of_first.lengths[:common] == of_second.lengths[:common]
    assert set(of_first.digests[common:]).isdisjoint(of_second.digests)
    assert set(of_second.digests[common:]).isdisjoint(of_first.digests)


@given(st.lists(st.builds(PromptPart, VALUES, st.booleans()), max_size=60))
def test_prefixes_are_bounded_and_ascend(parts: list[PromptPart]) -> None:
    """The daemon rejects any others."""
    found = prefixes_of("k", "m", "a", parts)

    assert len(found.digests) == len(found.lengths) == min(MAX_PREFIXES, sum(part.is_boundary for part in parts))
    assert list(found.lengths) == sorted(set(found.lengths))
    assert len(set(found.digests)) == len(found.digests)


WORDS = st.text("ab ", max_size=4)
TURNS = st.lists(WORDS, min_size=1, max_size=5)
TOOLS = st.lists(WORDS, max_size=2)


def chat(system: str, tools: list[str], turns: list[str]) -> dict[str, Any]:
    """Return the body of a chat: the roles of ``turns`` alternate."""
    messages = [{"role": "system", "content": system}]
    messages += [{"role": "assistant" if number % 2 else "user", "content": text} for number, text in enumerate(turns)]
    return {"model": "m", "messages": messages, "tools": [{"type": "function", "function": {"name": t}} for t in tools]}


def message(system: str, tools: list[str], turns: list[str]) -> dict[str, Any]:
    """Return the body of the same chat in Anthropic's words."""
    messages = [{"role": "assistant" if number % 2 else "user", "content": text} for number, text in enumerate(turns)]
    return {
        "model": "m", "max_tokens": 5, "system": system, "tools": [{"name": name} for name in tools], "messages": messages
    }  # fmt: skip


def contents(system: str, tools: list[str], turns: list[str]) -> dict[str, Any]:
    """Return the body of the same chat in Gemini's words."""
    messages = [
        {"role": "model" if number % 2 else "user", "parts": [{"text": text}]} for number, text in enumerate(turns)
    ]
    declared = [{"functionDeclarations": [{"name": name}]} for name in tools]
    return {"systemInstruction": {"parts": [{"text": system}]}, "tools": declared, "contents": messages}


def items(system: str, tools: list[str], turns: list[str]) -> dict[str, Any]:
    """Return the body of the same chat in the words of OpenAI's responses."""
    given = [{"role": "assistant" if number % 2 else "user", "content": text} for number, text in enumerate(turns)]
    return {
        "model": "m", "instructions": system, "input": given, "tools": [{"type": "function", "name": name} for name in tools]
    }  # fmt: skip


DIALECTS = (
    ("https://api.openai.com/v1/chat/completions", chat),
    ("http://127.0.0.1:8080/v1/chat/completions", chat),
    ("http://127.0.0.1:8080/v1/messages", message),
    ("https://api.openai.com/v1/responses", items),
    ("https://generativelanguage.googleapis.com/v1beta/models/g:generateContent", contents),
    ("http://127.0.0.1:11434/api/chat", chat),
)


def request_of(url: str, body: dict[str, Any]) -> LlmRequest:
    """Return the intercepted request."""
    found = parse_request("POST", url, [("content-type", "application/json")], json.dumps(body).encode())
    assert found is not None
    return found


def prefixes(url: str, body: dict[str, Any]) -> PromptPrefixes:
    """Return the prefixes of an intercepted request."""
    found = request_of(url, body)
    return prefixes_of(
        found.family.name, found.asked.model, found.caller.account, found.family.prompt(found.asked, found.target)
    )


@given(st.sampled_from(DIALECTS), WORDS, TOOLS, TURNS, WORDS, TOOLS, TURNS)
def test_chats_share_what_they_have_in_common(
    dialect: tuple[str, Any],
    system: str,
    tools: list[str],
    turns: list[str],
    system2: str,
    tools2: list[str],
    turns2: list[str],
) -> None:
    """Of two chats in any API: nothing if tools or system text differ, else as many messages as are equal."""
    url, body = dialect
    one, other = prefixes(url, body(system, tools, turns)), prefixes(url, body(system2, tools2, turns2))
    common = 0
    if (system, tools) == (system2, tools2):
        equal = [first == second for first, second in zip(turns, turns2, strict=False)]
        common = 1 + (equal.index(False) if False in equal else len(equal))

    assert len(one.digests) == 1 + len(turns)
    assert one.digests[:common] == other.digests[:common]
    assert set(one.digests[common:]).isdisjoint(other.digests)


@given(st.sampled_from(DIALECTS), WORDS, TOOLS, TURNS, TURNS)
def test_the_next_turn_begins_with_the_whole_last_one(
    dialect: tuple[str, Any], system: str, tools: list[str], turns: list[str], more: list[str]
) -> None:
    """The end of a prompt is a boundary, so a chat's next turn is found where the last one was processed."""
    url, body = dialect
    whole = prefixes(url, body(system, tools, turns)).digests

    assert prefixes(url, body(system, tools, turns + more)).digests[: len(whole)] == whole


@given(
    WORDS,
    TURNS,
    st.sampled_from([{"temperature": 0.5}, {"max_tokens": 9}, {"stream": True}, {"seed": 3}, {"user": "u"}]),
)
def test_what_the_cache_does_not_see_does_not_count(system: str, turns: list[str], settings: dict[str, Any]) -> None:
    """Parameters of the answer change no prefix."""
    body = chat(system, [], turns)

    assert prefixes(DIALECTS[0][0], body) == prefixes(DIALECTS[0][0], body | settings)
