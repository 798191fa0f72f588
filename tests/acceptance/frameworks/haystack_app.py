"""Haystack's OpenAIChatGenerator."""

from haystack.components.generators.chat import OpenAIChatGenerator
from haystack.dataclasses import ChatMessage
from haystack.utils import Secret
from tasks import PROMPT, URL

from sidecard_client import share  # sidecard

generator = OpenAIChatGenerator(Secret.from_token("k"), "m", api_base_url=f"{URL}/v1")
generator.warm_up() if hasattr(generator, "warm_up") else None
share(generator)  # sidecard


def _replies(result):
    replies = [reply.to_dict() for reply in result["replies"]]
    for reply in replies:
        reply["meta"].pop("completion_start_time", None)  # of this run

    return replies


def plain():
    return _replies(generator.run([ChatMessage.from_user(PROMPT)]))


def streamed():
    parts = []
    result = generator.run(
        [ChatMessage.from_user(PROMPT)], streaming_callback=lambda chunk: parts.append(chunk.content)
    )
    return [parts, _replies(result)]


async def async_plain():
    return _replies(await generator.run_async([ChatMessage.from_user(f"{PROMPT}!")]))
