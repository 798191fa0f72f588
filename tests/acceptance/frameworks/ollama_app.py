"""Ollama's SDK."""

from ollama import AsyncClient, Client
from tasks import MESSAGES, TOOL, URL

from sidecard_client import share  # sidecard

llm = Client(URL)
share(llm)  # sidecard
async_llm = AsyncClient(URL)
share(async_llm)  # sidecard


def plain():
    return llm.chat("m", MESSAGES)


def streamed():
    yield from llm.chat("m", MESSAGES, stream=True)


def tools():
    return llm.chat("m", MESSAGES, tools=[TOOL])


def structured():
    return llm.chat("m", MESSAGES, format="json")


async def async_plain():
    return await async_llm.chat("m", [*MESSAGES, {"role": "user", "content": "!"}])


async def async_streamed():
    async for part in await async_llm.chat("m", [*MESSAGES, {"role": "user", "content": "?"}], stream=True):
        yield part
