"""pydantic-ai."""

from anthropic import AsyncAnthropic
from pydantic import BaseModel
from pydantic_ai import Agent
from pydantic_ai.models.anthropic import AnthropicModel
from pydantic_ai.models.openai import OpenAIChatModel
from pydantic_ai.providers.anthropic import AnthropicProvider
from pydantic_ai.providers.openai import OpenAIProvider
from tasks import PROMPT, URL

from sidecard_client import share  # sidecard

model = OpenAIChatModel("m", provider=OpenAIProvider(base_url=f"{URL}/v1", api_key="k"))
share(model)  # sidecard
claude = AnthropicModel("m", provider=AnthropicProvider(anthropic_client=AsyncAnthropic(base_url=URL, api_key="k")))
share(claude)  # sidecard


class Weather(BaseModel):
    """The weather."""

    city: str
    degrees: int


agent = Agent(model)
noting = Agent(model)


@noting.tool_plain
def weather(city: str, degrees: int) -> str:
    """Note the weather of a city."""
    return f"{city} {degrees}"


def _run(result):
    return {
        "output": result.output,
        "usage": repr(result.usage() if callable(result.usage) else result.usage),
        "messages": len(result.all_messages()),
    }


async def plain():
    return _run(await agent.run(PROMPT))


async def streamed():
    async with agent.run_stream(PROMPT) as result:
        async for text in result.stream_text(debounce_by=None):
            yield text


async def tools():
    return _run(await noting.run(PROMPT))


async def structured():
    return _run(await Agent(model, output_type=Weather).run(PROMPT))


async def anthropic():
    return _run(await Agent(claude).run(PROMPT))
