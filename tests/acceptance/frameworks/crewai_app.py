"""CrewAI's own client of OpenAI's kind."""

from crewai import LLM
from tasks import MESSAGES, TOOL, URL

from sidecard_client import share  # sidecard

llm = LLM(model="openai/gpt-4o-mini", base_url=f"{URL}/v1", api_key="k", temperature=0)
share(llm)  # sidecard


def plain():
    return llm.call(MESSAGES)


def tools():
    return llm.call(MESSAGES, tools=[TOOL], available_functions={"weather": lambda city, degrees: f"{city} {degrees}"})


async def async_plain():
    return await llm.acall([*MESSAGES, {"role": "user", "content": "!"}])
