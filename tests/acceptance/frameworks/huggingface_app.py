"""huggingface_hub's InferenceClient."""

from huggingface_hub import AsyncInferenceClient, InferenceClient
from tasks import FORMAT, MESSAGES, TOOL, URL

from sidecard_client import share  # sidecard

llm = InferenceClient(base_url=f"{URL}/v1", api_key="k")
share(llm)  # sidecard
async_llm = AsyncInferenceClient(base_url=f"{URL}/v1", api_key="k")
share(async_llm)  # sidecard


def plain():
    return llm.chat_completion(MESSAGES, model="m")


def streamed():
    yield from llm.chat_completion(MESSAGES, model="m", stream=True)


def tools():
    return llm.chat_completion(MESSAGES, model="m", tools=[TOOL])


def structured():
    return llm.chat_completion(MESSAGES, model="m", response_format=FORMAT)


async def async_plain():
    return await async_llm.chat_completion([*MESSAGES, {"role": "user", "content": "!"}], model="m")


async def async_streamed():
    async for part in await async_llm.chat_completion(
        [*MESSAGES, {"role": "user", "content": "?"}], model="m", stream=True
    ):
        yield part
