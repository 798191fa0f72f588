"""Mistral's SDK, one client for both kinds."""

try:
    from mistralai import Mistral
except ImportError:  # from version 2 on
    from mistralai.client import Mistral
from tasks import MESSAGES, TOOL, URL

from sidecard_client import share  # sidecard

llm = Mistral(server_url=URL, api_key="k")
share(llm)  # sidecard


def plain():
    return llm.chat.complete(model="m", messages=MESSAGES)


def streamed():
    yield from llm.chat.stream(model="m", messages=MESSAGES)


def tools():
    return llm.chat.complete(model="m", messages=MESSAGES, tools=[TOOL])


def structured():
    return llm.chat.complete(model="m", messages=MESSAGES, response_format={"type": "json_object"})


async def async_plain():
    return await llm.chat.complete_async(model="m", messages=[*MESSAGES, {"role": "user", "content": "!"}])


async def async_streamed():
    async for event in await llm.chat.stream_async(model="m", messages=[*MESSAGES, {"role": "user", "content": "?"}]):
        yield event
