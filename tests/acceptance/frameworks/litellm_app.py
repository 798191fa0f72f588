"""LiteLLM, with providers of OpenAI's kind and others."""

import litellm
from tasks import MESSAGES, TOOL, URL

from sidecard_client import share  # sidecard

share(litellm)  # sidecard
OPENAI = {"model": "openai/m", "api_base": f"{URL}/v1", "api_key": "k", "temperature": 0}
ANTHROPIC = {"model": "anthropic/claude-3-haiku-20240307", "api_base": URL, "api_key": "k", "max_tokens": 90}


def _answer(answer):
    """Leave out what LiteLLM makes itself for each answer."""
    return answer.model_dump(exclude={"created", "id"})


def plain():
    return _answer(litellm.completion(messages=MESSAGES, **OPENAI))


def streamed():
    for chunk in litellm.completion(messages=MESSAGES, stream=True, **OPENAI):
        yield _answer(chunk)


def tools():
    return _answer(litellm.completion(messages=MESSAGES, tools=[TOOL], **OPENAI))


def structured():
    return _answer(litellm.completion(messages=MESSAGES, response_format={"type": "json_object"}, **OPENAI))


async def async_plain():
    return _answer(await litellm.acompletion(messages=[*MESSAGES, {"role": "user", "content": "!"}], **OPENAI))


async def async_streamed():
    messages = [*MESSAGES, {"role": "user", "content": "?"}]
    async for chunk in await litellm.acompletion(messages=messages, stream=True, **OPENAI):
        yield _answer(chunk)


def anthropic():
    return _answer(litellm.completion(messages=MESSAGES, **ANTHROPIC))


async def async_anthropic():
    messages = [*MESSAGES, {"role": "user", "content": "!"}]
    return _answer(await litellm.acompletion(messages=messages, **ANTHROPIC))
