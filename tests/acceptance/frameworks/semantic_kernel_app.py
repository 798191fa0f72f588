"""Semantic Kernel's OpenAIChatCompletion."""

from openai import AsyncOpenAI
from semantic_kernel.connectors.ai.open_ai import OpenAIChatCompletion, OpenAIChatPromptExecutionSettings
from semantic_kernel.contents import ChatHistory
from tasks import PROMPT, URL

from sidecard_client import share  # sidecard

service = OpenAIChatCompletion(
    ai_model_id="m", service_id="s", async_client=AsyncOpenAI(base_url=f"{URL}/v1", api_key="k")
)
share(service)  # sidecard


def _history(prompt):
    history = ChatHistory()
    history.add_user_message(prompt)
    return history


async def async_plain():
    answers = await service.get_chat_message_contents(_history(PROMPT), OpenAIChatPromptExecutionSettings())
    return [[answer.content, answer.metadata, repr(answer.finish_reason)] for answer in answers]


async def async_streamed():
    settings = OpenAIChatPromptExecutionSettings()
    async for parts in service.get_streaming_chat_message_contents(_history(PROMPT), settings):
        yield [part.content for part in parts]
