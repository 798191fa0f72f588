"""Cohere's SDK, with its second API."""

from cohere import AsyncClientV2, ClientV2
from tasks import MESSAGES, PROMPT, SCHEMA, TOOL, URL

from sidecard_client import share  # sidecard

llm = ClientV2("k", base_url=URL)
share(llm)  # sidecard
async_llm = AsyncClientV2("k", base_url=URL)
share(async_llm)  # sidecard


def plain():
    return llm.chat(model="m", messages=MESSAGES)


def streamed():
    yield from llm.chat_stream(model="m", messages=MESSAGES)


def tools():
    return llm.chat(model="m", messages=MESSAGES, tools=[TOOL])


def structured():
    return llm.chat(model="m", messages=MESSAGES, response_format={"type": "json_object", "json_schema": SCHEMA})


async def async_plain():
    return await async_llm.chat(model="m", messages=[*MESSAGES, {"role": "user", "content": "!"}])


async def async_streamed():
    async for event in async_llm.chat_stream(model="m", messages=[*MESSAGES, {"role": "user", "content": "?"}]):
        yield event


def embeddings():
    return llm.embed(model="m", texts=[PROMPT], input_type="search_query", embedding_types=["float"])


def rerank():
    return llm.rerank(model="m", query=PROMPT, documents=["a", "b"])
