"""OpenAI's Agents SDK."""

from agents import Agent, OpenAIChatCompletionsModel, OpenAIResponsesModel, Runner, function_tool, set_tracing_disabled
from openai import AsyncOpenAI
from pydantic import BaseModel
from tasks import PROMPT, URL

from sidecard_client import share  # sidecard

set_tracing_disabled(True)
client = AsyncOpenAI(base_url=f"{URL}/v1", api_key="k")
share(client)  # sidecard
responses_model = OpenAIResponsesModel("m", client)
chat_model = OpenAIChatCompletionsModel("m", client)


class Weather(BaseModel):
    """The weather."""

    city: str
    degrees: int


@function_tool
def weather(city: str, degrees: int) -> str:
    """Note the weather of a city."""
    return f"{city} {degrees}"


async def async_plain():
    return (await Runner.run(Agent(name="a", model=responses_model), PROMPT)).final_output


async def async_streamed():
    result = Runner.run_streamed(Agent(name="a", model=responses_model), PROMPT)
    async for event in result.stream_events():
        if event.type == "raw_response_event":
            yield event.data


async def tools():
    return (await Runner.run(Agent(name="a", model=responses_model, tools=[weather]), PROMPT)).final_output


async def structured():
    return (await Runner.run(Agent(name="a", model=responses_model, output_type=Weather), PROMPT)).final_output


async def chat():
    return (await Runner.run(Agent(name="a", model=chat_model), PROMPT)).final_output
