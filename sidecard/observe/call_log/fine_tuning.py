"""A call as an example for OpenAI's fine-tuning (chat, supervised).

An example is one object: ``messages``, the last of them the assistant's, and ``tools`` and ``parallel_tool_calls`` if present.
Messages hold text and images; the arguments of tool calls are JSON in a string.

The prompt is found in the arguments of the app's call: ``messages`` by that name, in a request that is an argument, or as an
argument of its own; else the only string among the arguments, or ``prompt``. ``system`` and ``context`` become a system message.
The answer is text, or the answer of OpenAI's, Anthropic's or Ollama's API.
"""

from typing import Any, Final

import msgspec

NO_PROMPT: Final = "no prompt kept"
NO_ANSWER: Final = "no answer kept"
CUT_SHORT: Final = "cut short when it was kept"
UNKNOWN_PROMPT: Final = "no conversation in the prompt"
UNKNOWN_ANSWER: Final = "no message in the answer"
EMPTY_ANSWER: Final = "an empty answer"
UNFIT: Final = "content that fine-tuning does not accept"

_ROLES: Final = ("system", "developer", "user", "assistant", "tool", "function")
_INSTRUCTIONS: Final = ("system", "context")
_PARTS: Final = {"text": "text", "image_url": "image_url", "refusal": "refusal"}
"""The kinds of message parts, and the field of each that has its content."""

_from_json = msgspec.json.Decoder().decode


class NoExampleError(Exception):
    """A call is no example; the message is the reason."""


def example(prompt: str | None, answer: str | None) -> dict[str, Any]:
    """Return the example of a call's prompt and answer, both JSON as logged. Raises `NoExampleError`."""
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
        raise NoExampleError(absent)

    value = _from_json(text)
    if isinstance(value, dict) and not {"$truncated", "$unreadable"}.isdisjoint(value):
        raise NoExampleError(CUT_SHORT)

    return value


# The prompt ---------------------------------------------------------------------------------------------------------


def _request(asked: Any) -> tuple[dict[str, Any], list[Any]]:
    """Return the named arguments, and those without names."""
    if not isinstance(asked, dict):
        return {}, [asked]

    if not ("args" in asked or "kwargs" in asked):
        return asked, []

    args, kwargs = asked.get("args") or [], asked.get("kwargs") or {}
    if not isinstance(args, list) or not isinstance(kwargs, dict):
        raise NoExampleError(UNKNOWN_PROMPT)

    # call({"local": small, "cloud": big}, request): the request's fields count as named arguments.
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
        raise NoExampleError(UNKNOWN_PROMPT)

    return [{"role": "user", "content": prompts[0]}]


def _is_message(value: Any) -> bool:
    return isinstance(value, dict) and value.get("role") in _ROLES


def _tool(tool: Any) -> dict[str, Any]:
    if not isinstance(tool, dict):
        raise NoExampleError(UNFIT)

    if isinstance(tool.get("function"), dict):
        return {"type": "function", "function": tool["function"]}

    if "name" not in tool or "input_schema" not in tool:
        raise NoExampleError(UNFIT)

    # Anthropic's format.
    described = {"description": tool["description"]} if tool.get("description") else {}
    return {"type": "function", "function": {"name": tool["name"], **described, "parameters": tool["input_schema"]}}


# The answer ---------------------------------------------------------------------------------------------------------


def _answer(answered: Any) -> dict[str, Any]:
    """Return the assistant's message."""
    message = {"role": "assistant", "content": answered} if isinstance(answered, str) else _answered_message(answered)
    if not message.get("content") and not message.get("tool_calls") and not message.get("function_call"):
        raise NoExampleError(EMPTY_ANSWER)

    return message


def _answered_message(answered: Any) -> dict[str, Any]:
    if not isinstance(answered, dict):
        raise NoExampleError(UNKNOWN_ANSWER)

    choices = answered.get("choices")
    choice = choices[0] if isinstance(choices, list) and choices else None
    if isinstance(choice, dict) and isinstance(choice.get("text"), str):
        return {"role": "assistant", "content": choice["text"]}

    # OpenAI's, Ollama's, and a bare message, which Anthropic's also is.
    places = (choice.get("message") if isinstance(choice, dict) else None, answered.get("message"), answered)
    for message in places:
        if isinstance(message, dict) and message.get("role") == "assistant":
            return _with_text(message)

    raise NoExampleError(UNKNOWN_ANSWER)


def _with_text(message: dict[str, Any]) -> dict[str, Any]:
    content = message.get("content")
    if message.get("type") != "message" or not isinstance(content, list):
        return message

    return {"role": "assistant", "content": _text(content)}


# Messages -----------------------------------------------------------------------------------------------------------


def _message(message: dict[str, Any]) -> dict[str, Any]:
    """Return a message with the fields that fine-tuning accepts."""
    kept: dict[str, Any] = {"role": message["role"]}
    content = message.get("content")
    if isinstance(content, str):
        kept["content"] = content
    elif isinstance(content, list):
        kept["content"] = [_part(part) for part in content]
    elif content is not None:
        raise NoExampleError(UNFIT)

    kept |= {
        name: message[name] for name in ("name", "tool_call_id", "refusal", "weight") if message.get(name) is not None
    }
    calls = message.get("tool_calls") or []
    if not isinstance(calls, list):
        raise NoExampleError(UNFIT)

    if calls:
        kept["tool_calls"] = [_tool_call(call) for call in calls]

    if isinstance(message.get("function_call"), dict):
        kept["function_call"] = _function(message["function_call"])

    if "content" not in kept and message["role"] != "assistant":
        raise NoExampleError(UNFIT)

    return kept


def _part(part: Any) -> dict[str, Any]:
    kind = part.get("type") if isinstance(part, dict) else None
    place = _PARTS.get(kind) if isinstance(kind, str) else None
    if place is None or not part.get(place):
        raise NoExampleError(UNFIT)

    return {"type": kind, place: part[place]}


def _tool_call(call: Any) -> dict[str, Any]:
    if not isinstance(call, dict) or not isinstance(call.get("function"), dict):
        raise NoExampleError(UNFIT)

    return {"id": str(call.get("id") or ""), "type": "function", "function": _function(call["function"])}


def _function(function: dict[str, Any]) -> dict[str, Any]:
    arguments = function.get("arguments", "")
    # Ollama's are objects.
    text = arguments if isinstance(arguments, str) else msgspec.json.encode(arguments).decode()
    return {"name": str(function.get("name", "")), "arguments": text}


def _text(content: Any) -> str:
    """Return a text, or the texts of parts; empty for anything else. Raises `NoExampleError` for parts of another kind."""
    if isinstance(content, str):
        return content

    if not isinstance(content, list):
        return ""

    texts = [part.get("text") if isinstance(part, dict) and part.get("type") == "text" else None for part in content]
    if not all(isinstance(text, str) for text in texts):
        raise NoExampleError(UNFIT)

    return "".join(str(text) for text in texts)
