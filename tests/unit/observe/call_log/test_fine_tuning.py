"""Calls as examples for fine-tuning."""

import json
from typing import Any

import pytest

from sidecard.observe.call_log import fine_tuning
from sidecard.observe.call_log.fine_tuning import NoExampleError, example

USER = {"role": "user", "content": "Hello"}
TOOL = {"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}}}


def made(prompt: Any, answer: Any = "Hi") -> dict[str, Any]:
    """Return the example of a prompt and an answer."""
    return example(json.dumps(prompt), json.dumps(answer))


def called(*args: Any, **kwargs: Any) -> dict[str, Any]:
    """Return the prompt of a call."""
    return {"args": list(args), "kwargs": kwargs}


def assistant(content: str) -> dict[str, str]:
    """Return an answer's message."""
    return {"role": "assistant", "content": content}


@pytest.mark.parametrize(
    "prompt",
    [
        called("Hello"),
        called(prompt="Hello"),
        called(messages=[USER]),
        called([USER]),
        called({"messages": [USER], "model": "m"}),
        called({"model": "m"}, messages=[USER]),
        {"messages": [USER]},
        [USER],
        "Hello",
        {"prompt": "Hello"},
    ],
)
def test_the_prompt_is_found(prompt: Any) -> None:
    """In any form in which an app passes it to its model, or leaves it after its own redaction."""
    assert made(prompt) == {"messages": [USER, assistant("Hi")]}


@pytest.mark.parametrize(
    "prompt",
    [
        called("Hello", system="Be brief."),
        called("Hello", context="Be brief."),
        called(messages=[USER], system=[{"type": "text", "text": "Be brief.", "cache_control": {"type": "ephemeral"}}]),
        {"prompt": "Hello", "system": "Be brief."},
    ],
)
def test_instructions_become_a_system_message(prompt: Any) -> None:
    """As text, or as the blocks of Anthropic's API."""
    assert made(prompt)["messages"] == [{"role": "system", "content": "Be brief."}, USER, assistant("Hi")]


def test_a_system_message_in_the_prompt_is_the_only_one() -> None:
    """An example has one system message, which comes first."""
    messages = [{"role": "developer", "content": "Be kind."}, USER]
    assert made(called(messages=messages, system="Be brief."))["messages"] == [*messages, assistant("Hi")]


@pytest.mark.parametrize(
    "answer",
    [
        "Hi",
        {"object": "chat.completion", "choices": [{"index": 0, "message": assistant("Hi"), "finish_reason": "stop"}]},
        {"object": "text_completion", "choices": [{"text": "Hi"}]},
        {
            "type": "message",
            "role": "assistant",
            "content": [{"type": "text", "text": "H"}, {"type": "text", "text": "i"}],
        },
        {"model": "m", "message": assistant("Hi"), "done": True},
        assistant("Hi"),
        assistant("Hi") | {"annotations": [], "audio": None, "refusal": None, "reasoning_content": "hm"},
    ],
)
def test_the_answer_is_found(answer: Any) -> None:
    """From any of the APIs, without fields that fine-tuning does not accept."""
    assert made(called("Hello"), answer)["messages"][-1] == assistant("Hi")


def test_tools_and_their_calls_are_kept() -> None:
    """In OpenAI's format: arguments are JSON in a string, and there is no index."""
    call = {
        "index": 0,
        "id": "c1",
        "type": "function",
        "function": {"name": "weather", "arguments": '{"city": "Bonn"}'},
    }
    answer = {"choices": [{"message": {"role": "assistant", "content": None, "tool_calls": [call]}}]}
    one = made(called(messages=[USER], tools=[TOOL], parallel_tool_calls=False, temperature=0), answer)
    kept = {name: call[name] for name in ("id", "type", "function")}
    assert one == {
        "messages": [USER, {"role": "assistant", "tool_calls": [kept]}],
        "tools": [TOOL],
        "parallel_tool_calls": False,
    }


def test_a_conversation_with_tools_is_kept_whole() -> None:
    """It has the tool call, the tool's result, and the answer."""
    call = {"id": "c1", "type": "function", "function": {"name": "weather", "arguments": {"city": "Bonn"}}}
    messages = [
        USER,
        {"role": "assistant", "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "c1", "content": "rain"},
    ]
    one = made(called(messages=messages, tools=[TOOL]))["messages"]
    assert one[1]["tool_calls"][0]["function"]["arguments"] == '{"city":"Bonn"}'
    assert one[2:] == [messages[2], assistant("Hi")]


def test_anthropics_tools_become_openais() -> None:
    """Their schema has another name."""
    tool = {"name": "weather", "description": "d", "input_schema": {"type": "object"}}
    assert made(called(messages=[USER], tools=[tool]))["tools"] == [
        {"type": "function", "function": {"name": "weather", "description": "d", "parameters": {"type": "object"}}}
    ]


def test_images_are_kept() -> None:
    """Fine-tuning accepts them."""
    image = {"type": "image_url", "image_url": {"url": "https://example.org/a.png"}}
    message = {"role": "user", "content": [{"type": "text", "text": "What is it?"}, image]}
    assert made(called(messages=[message]))["messages"][0] == message


@pytest.mark.parametrize(
    ("prompt", "answer", "why"),
    [
        (None, '"Hi"', fine_tuning.NO_PROMPT),
        ('"Hello"', None, fine_tuning.NO_ANSWER),
        ('{"$truncated": "...", "bytes": 9}', '"Hi"', fine_tuning.CUT_SHORT),
        ('"Hello"', '{"$unreadable": 9}', fine_tuning.CUT_SHORT),
        ('{"args": ["a", "b"], "kwargs": {}}', '"Hi"', fine_tuning.UNKNOWN_PROMPT),
        ('{"args": [], "kwargs": {"n": 1}}', '"Hi"', fine_tuning.UNKNOWN_PROMPT),
        ('{"args": {"$bytes": ""}, "kwargs": {}}', '"Hi"', fine_tuning.UNKNOWN_PROMPT),
        ('{"args": [[{"role": "human", "content": "a"}]]}', '"Hi"', fine_tuning.UNKNOWN_PROMPT),
        ('""', '"Hi"', fine_tuning.UNKNOWN_PROMPT),
        ("[]", '"Hi"', fine_tuning.UNKNOWN_PROMPT),
        ("1", '"Hi"', fine_tuning.UNKNOWN_PROMPT),
        ('"Hello"', "[0.25, 0.5]", fine_tuning.UNKNOWN_ANSWER),
        ('"Hello"', '{"choices": []}', fine_tuning.UNKNOWN_ANSWER),
        ('"Hello"', '{"choices": [1], "message": "x"}', fine_tuning.UNKNOWN_ANSWER),
        ('"Hello"', '""', fine_tuning.EMPTY_ANSWER),
        ('"Hello"', '{"role": "assistant", "content": null}', fine_tuning.EMPTY_ANSWER),
        ('"Hello"', '{"type": "message", "role": "assistant", "content": [{"type": "tool_use"}]}', fine_tuning.UNFIT),
        ('"Hello"', '{"role": "assistant", "tool_calls": [1]}', fine_tuning.UNFIT),
        ('"Hello"', '{"role": "assistant", "tool_calls": 1}', fine_tuning.UNFIT),
        ('{"messages": [{"role": "user", "content": [{"type": "input_audio"}]}]}', '"Hi"', fine_tuning.UNFIT),
        ('{"messages": [{"role": "user", "content": ["a"]}]}', '"Hi"', fine_tuning.UNFIT),
        ('{"messages": [{"role": "user", "content": {"$bytes": ""}}]}', '"Hi"', fine_tuning.UNFIT),
        ('{"messages": [{"role": "user"}]}', '"Hi"', fine_tuning.UNFIT),
        ('{"messages": [{"role": ["x"], "content": "a"}]}', '"Hi"', fine_tuning.UNKNOWN_PROMPT),
        ('{"prompt": "a", "tools": [1]}', '"Hi"', fine_tuning.UNFIT),
        ('{"prompt": "a", "tools": [{"type": "web_search"}]}', '"Hi"', fine_tuning.UNFIT),
    ],
)
def test_a_call_that_is_no_conversation_is_left_out(prompt: str | None, answer: str | None, why: str) -> None:
    """No other exception is raised, whatever it contains."""
    with pytest.raises(NoExampleError) as raised:
        example(prompt, answer)

    assert str(raised.value) == why
