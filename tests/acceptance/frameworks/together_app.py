"""Together's SDK."""

from tasks import FORMAT, MESSAGES, TOOL, URL
from together import AsyncTogether, Together

from sidecard_client import share  # sidecard

llm = Together(base_url=f"{URL}/v1", api_key="k")
share(llm)  # sidecard
async_llm = AsyncTogether(base_url=f"{URL}/v1", api_key="k")
share(async_llm)  # sidecard


def plain():
    return llm.chat.completions.create(model="m", messages=MESSAGES)


def streamed():
    yield from llm.chat.completions.create(model="m", messages=MESSAGES, stream=True)


def tools():
    return llm.chat.completions.create(model="m", messages=MESSAGES, tools=[TOOL])


def structured():
    return llm.chat.completions.create(model="m", messages=MESSAGES, response_format=FORMAT)


async def async_plain():
    return await async_llm.chat.completions.create(model="m", messages=[*MESSAGES, {"role": "user", "content": "!"}])


async def async_streamed():
    messages = [*MESSAGES, {"role": "user", "content": "?"}]
    async for chunk in await async_llm.chat.completions.create(model="m", messages=messages, stream=True):
        yield chunk
