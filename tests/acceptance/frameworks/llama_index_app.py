"""LlamaIndex's OpenAI."""

from llama_index.core.tools import FunctionTool
from llama_index.llms.openai import OpenAI
from tasks import PROMPT, URL

from sidecard_client import share  # sidecard

llm = OpenAI(model="gpt-4o", api_base=f"{URL}/v1", api_key="k", temperature=0)
share(llm)  # sidecard


def weather(city: str, degrees: int) -> str:
    """Note the weather of a city."""
    return f"{city} {degrees}"


def plain():
    return llm.complete(PROMPT)


def streamed():
    yield from llm.stream_complete(PROMPT)


def tools():
    answer = llm.chat_with_tools([FunctionTool.from_defaults(weather)], user_msg=PROMPT)
    return answer.raw


async def async_plain():
    return await llm.acomplete(f"{PROMPT}!")


async def async_streamed():
    async for part in await llm.astream_complete(f"{PROMPT}?"):
        yield part
