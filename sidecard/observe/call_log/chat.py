"""A call as an example of a conversation, in the format that OpenAI's fine-tuning takes (chat, supervised).

One object a line: ``messages``, the last of them the assistant's, and where there were any, ``tools`` and
``parallel_tool_calls``. Messages hold text and images; the arguments of tool calls are JSON in a string.

What is asked is looked for in what an app hands to its model: ``messages`` by that name, in a request that is an argument, or as
an argument of its own; else the one string that is an argument, or ``prompt``. ``system`` and ``context`` become a system message.
What is answered is text, or the answer of OpenAI's, Anthropic's or Ollama's API.
"""

from typing import Any, Final

import msgspec

NO_PROMPT: Final = "no prompt kept"
NO_ANSWER: Final = "no answer kept"
CUT_SHORT: Final = "cut short when it was kept"
UNKNOWN_PROMPT: Final = "no conversation in the prompt"
UNKNOWN_ANSWER: Final = "no message in the answer"
EMPTY_ANSWER: Final = "an empty answer"
UNFIT: Final = "content that fine-tuning does not take"

_ROLES: Final = ("system", "developer", "user", "assistant", "tool", "function")
_INSTRUCTIONS: Final = ("system", "context")
_PARTS: Final = {"text": "text", "image_url": "image_url", "refusal": "refusal"}
"""The kinds of parts that messages may have, and where each has its content."""

_from_json = msgspec.json.Decoder().decode


class LeftOutError(Exception):
    """A call is no example, as the message says."""


def example(prompt: str | None, answer: str | None) -> dict[str, Any]:
    """Return the example that a call's prompt and answer are, each of them JSON as kept. Raises `LeftOutError`."""
    asked, answered = _kept(prompt, NO_PROMPT), _kept(answer, NO_ANSWER)
    request, args = _request(asked)
    messages = [_message(message) for message in _messages(request, args)]
    instructions = [text for name in _INSTRUCTIONS if (text := _text(request.get(name)))]
    if instructions and messages[0]["role"] not in {"system", "developer"}:
        messages.insert(0, {"role": "system", "content": "\n\n".join(instructions)})

    made: dict[str, Any] = {"messages": [*messages, _message(_answer(answered))]}
    tools = request.get("tools")
    if isinstance(tools, list) and tools:
        made["tools"] = [_tool(tool) for tool in tools]
        if isinstance(request.get("parallel_tool_calls"), bool):
            made["parallel_tool_calls"] = request["parallel_tool_calls"]

    return made


def _kept(text: str | None, absent: str) -> Any:
    if text is None:
        raise LeftOutError(absent)

    value = _from_json(text)
    if isinstance(value, dict) and not {"$truncated", "$unreadable"}.isdisjoint(value):
        raise LeftOutError(CUT_SHORT)

    return value


# What was asked -----------------------------------------------------------------------------------------------------


def _request(asked: Any) -> tuple[dict[str, Any], list[Any]]:
    """Return what was asked by name, and the arguments without names."""
    if not isinstance(asked, dict):
        return {}, [asked]

    if not ("args" in asked or "kwargs" in asked):
        return asked, []

    args, kwargs = asked.get("args") or [], asked.get("kwargs") or {}
    if not isinstance(args, list) or not isinstance(kwargs, dict):
        raise LeftOutError(UNKNOWN_PROMPT)

    # call({"local": small, "cloud": big}, request): what a request says is said by name.
    for value in args:
        if isinstance(value, dict) and "messages" in value:
            return value | kwargs, []

    return kwargs, args


def _messages(request: dict[str, Any], args: list[Any]) -> list[Any]:
    lists = [request.get("messages"), *(value for value in args if isinstance(value, list))]
    for messages in lists:
        if isinstance(messages, list) and messages and all(_is_message(message) for message in messages):
            return messages

    prompts = [value for value in (request.get("prompt"), *args) if isinstance(value, str) and value]
    if len(prompts) != 1:
        raise LeftOutError(UNKNOWN_PROMPT)

    return [{"role": "user", "content": prompts[0]}]


def _is_message(value: Any) -> bool:
    return isinstance(value, dict) and value.get("role") in _ROLES


def _tool(tool: Any) -> dict[str, Any]:
    if not isinstance(tool, dict):
        raise LeftOutError(UNFIT)

    if isinstance(tool.get("function"), dict):
        return {"type": "function", "function": tool["function"]}

    if "name" not in tool or "input_schema" not in tool:
        raise LeftOutError(UNFIT)

    # As Anthropic's API has them.
    described = {"description": tool["description"]} if tool.get("description") else {}
    return {"type": "function", "function": {"name": tool["name"], **described, "parameters": tool["input_schema"]}}


# What was answered --------------------------------------------------------------------------------------------------


def _answer(answered: Any) -> dict[str, Any]:
    """Return the assistant's message."""
    message = {"role": "assistant", "content": answered} if isinstance(answered, str) else _answered_message(answered)
    if not message.get("content") and not message.get("tool_calls") and not message.get("function_call"):
        raise LeftOutError(EMPTY_ANSWER)

    return message


def _answered_message(answered: Any) -> dict[str, Any]:
    if not isinstance(answered, dict):
        raise LeftOutError(UNKNOWN_ANSWER)

    choices = answered.get("choices")
    choice = choices[0] if isinstance(choices, list) and choices else None
    if isinstance(choice, dict) and isinstance(choice.get("text"), str):
        return {"role": "assistant", "content": choice["text"]}

    # OpenAI's, Ollama's, and a message by itself; Anthropic's is one as well.
    places = (choice.get("message") if isinstance(choice, dict) else None, answered.get("message"), answered)
    for message in places:
        if isinstance(message, dict) and message.get("role") == "assistant":
            return _with_text(message)

    raise LeftOutError(UNKNOWN_ANSWER)


def _with_text(message: dict[str, Any]) -> dict[str, Any]:
    content = message.get("content")
    if message.get("type") != "message" or not isinstance(content, list):
        return message

    return {"role": "assistant", "content": _text(content)}


# Messages -----------------------------------------------------------------------------------------------------------


def _message(message: dict[str, Any]) -> dict[str, Any]:
    """Return a message with what fine-tuning takes of it."""
    kept: dict[str, Any] = {"role": message["role"]}
    content = message.get("content")
    if isinstance(content, str):
        kept["content"] = content
    elif isinstance(content, list):
        kept["content"] = [_part(part) for part in content]
    elif content is not None:
        raise LeftOutError(UNFIT)

    kept |= {
        name: message[name] for name in ("name", "tool_call_id", "refusal", "weight") if message.get(name) is not None
    }
    calls = message.get("tool_calls") or []
    if not isinstance(calls, list):
        raise LeftOutError(UNFIT)

    if calls:
        kept["tool_calls"] = [_tool_call(call) for call in calls]

    if isinstance(message.get("function_call"), dict):
        kept["function_call"] = _function(message["function_call"])

    if "content" not in kept and message["role"] != "assistant":
        raise LeftOutError(UNFIT)

    return kept


def _part(part: Any) -> dict[str, Any]:
    kind = part.get("type") if isinstance(part, dict) else None
    place = _PARTS.get(kind) if isinstance(kind, str) else None
    if place is None or not part.get(place):
        raise LeftOutError(UNFIT)

    return {"type": kind, place: part[place]}


def _tool_call(call: Any) -> dict[str, Any]:
    if not isinstance(call, dict) or not isinstance(call.get("function"), dict):
        raise LeftOutError(UNFIT)

    return {"id": str(call.get("id") or ""), "type": "function", "function": _function(call["function"])}


def _function(function: dict[str, Any]) -> dict[str, Any]:
    arguments = function.get("arguments", "")
    # Ollama's are no text yet.
    text = arguments if isinstance(arguments, str) else msgspec.json.encode(arguments).decode()
    return {"name": str(function.get("name", "")), "arguments": text}


def _text(content: Any) -> str:
    """Return a text, or the texts of parts; empty where it is anything else. Raises `LeftOutError` for parts that are none."""
    if isinstance(content, str):
        return content

    if not isinstance(content, list):
        return ""

    texts = [part.get("text") if isinstance(part, dict) and part.get("type") == "text" else None for part in content]
    if not all(isinstance(text, str) for text in texts):
        raise LeftOutError(UNFIT)

    return "".join(str(text) for text in texts)
