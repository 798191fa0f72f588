"""Anthropic's SDK."""

from anthropic import Anthropic, AsyncAnthropic
from tasks import MESSAGES, SCHEMA, URL

from sidecard_client import share  # sidecard

llm = Anthropic(base_url=URL, api_key="k")
share(llm)  # sidecard
async_llm = AsyncAnthropic(base_url=URL, api_key="k")
share(async_llm)  # sidecard
TOOL = {"name": "weather", "description": "Note the weather.", "input_schema": SCHEMA}


def plain():
    return llm.messages.create(model="m", max_tokens=90, messages=MESSAGES)


def streamed():
    with llm.messages.stream(model="m", max_tokens=91, messages=MESSAGES) as stream:
        yield from stream.text_stream
        yield stream.get_final_message()


def tools():
    return llm.messages.create(model="m", max_tokens=90, messages=MESSAGES, tools=[TOOL])


def structured():
    format_ = {"format": {"type": "json_schema", "schema": SCHEMA}}
    return llm.messages.create(model="m", max_tokens=90, messages=MESSAGES, extra_body={"output_config": format_})


async def async_plain():
    return await async_llm.messages.create(model="m", max_tokens=92, messages=MESSAGES)


async def async_streamed():
    async for event in await async_llm.messages.create(model="m", max_tokens=93, messages=MESSAGES, stream=True):
        yield event
