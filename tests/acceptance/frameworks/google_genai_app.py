"""Google's SDK, one client for both kinds."""

from google import genai
from tasks import FUNCTION, PROMPT, SCHEMA, URL

from sidecard_client import share  # sidecard

llm = genai.Client(api_key="k", http_options={"base_url": URL})
share(llm)  # sidecard
PARAMETERS = {name: value for name, value in SCHEMA.items() if name != "additionalProperties"}


def plain():
    return llm.models.generate_content(model="m", contents=PROMPT)


def streamed():
    yield from llm.models.generate_content_stream(model="m", contents=PROMPT)


def tools():
    declared = [{"function_declarations": [FUNCTION | {"parameters": PARAMETERS}]}]
    return llm.models.generate_content(model="m", contents=PROMPT, config={"tools": declared})


def structured():
    config = {"response_mime_type": "application/json", "response_schema": PARAMETERS}
    return llm.models.generate_content(model="m", contents=PROMPT, config=config)


async def async_plain():
    return await llm.aio.models.generate_content(model="m", contents=f"{PROMPT}!")


async def async_streamed():
    async for chunk in await llm.aio.models.generate_content_stream(model="m", contents=f"{PROMPT}?"):
        yield chunk
