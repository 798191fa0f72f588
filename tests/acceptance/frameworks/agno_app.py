"""agno's agent with OpenAIChat."""

from agno.agent import Agent
from agno.models.openai import OpenAIChat
from tasks import PROMPT, URL

from sidecard_client import share  # sidecard

model = OpenAIChat(id="m", base_url=f"{URL}/v1", api_key="k")
share(model)  # sidecard


def weather(city: str, degrees: int) -> str:
    """Note the weather of a city."""
    return f"{city} {degrees}"


def plain():
    return Agent(model=model, telemetry=False).run(PROMPT).content


def streamed():
    for event in Agent(model=model, telemetry=False).run(PROMPT, stream=True):
        yield event.content


def tools():
    return Agent(model=model, tools=[weather], telemetry=False).run(PROMPT).content


async def async_plain():
    return (await Agent(model=model, telemetry=False).arun(f"{PROMPT}!")).content
