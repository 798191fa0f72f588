"""instructor."""

import instructor
from openai import AsyncOpenAI, OpenAI
from pydantic import BaseModel
from tasks import MESSAGES, URL

from sidecard_client import share  # sidecard

llm = instructor.from_openai(OpenAI(base_url=f"{URL}/v1", api_key="k"))
share(llm)  # sidecard
async_llm = instructor.from_openai(AsyncOpenAI(base_url=f"{URL}/v1", api_key="k"))
share(async_llm)  # sidecard


class Weather(BaseModel):
    """The weather."""

    city: str
    degrees: int


def structured():
    weather, completion = llm.chat.completions.create_with_completion(
        model="m", messages=MESSAGES, response_model=Weather
    )
    return [weather, completion]


def streamed():
    yield from llm.chat.completions.create_partial(model="m", messages=MESSAGES, response_model=Weather)


async def async_plain():
    messages = [*MESSAGES, {"role": "user", "content": "!"}]
    return await async_llm.chat.completions.create(model="m", messages=messages, response_model=Weather)
