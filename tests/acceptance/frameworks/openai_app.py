"""OpenAI's SDK."""

from openai import AsyncOpenAI, OpenAI
from tasks import FORMAT, MESSAGES, PROMPT, TOOL, URL

from sidecard_client import share  # sidecard

llm = OpenAI(base_url=f"{URL}/v1", api_key="k")
share(llm)  # sidecard
async_llm = AsyncOpenAI(base_url=f"{URL}/v1", api_key="k")
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


def responses():
    return llm.responses.create(model="m", input=PROMPT)


def responses_streamed():
    yield from llm.responses.create(model="m", input=PROMPT, stream=True)
