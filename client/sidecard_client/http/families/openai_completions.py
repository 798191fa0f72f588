"""OpenAI's plain completions."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, ClassVar

from sidecard_client.http.answers.json_answer import JsonAnswer
from sidecard_client.http.answers.openai_choices import ChoicesAnswer
from sidecard_client.http.family import ApiRequest, RequestTarget
from sidecard_client.http.request_bodies.json_family import JsonFamily
from sidecard_client.http.request_bodies.openai import (
    CACHE_HINTS,
    FIREWORKS_HINTS,
    HOSTS,
    ROUTING_HINTS,
    asks_for_usage,
    number_of_choices,
)
from sidecard_client.http.request_bodies.prompts import text_prompt
from sidecard_client.http.request_bodies.shapes import are_texts_or_tokens
from sidecard_client.keys.prefixes.recipe import PromptPart


class OpenAICompletions(JsonFamily):
    """``POST /completions``."""

    name: ClassVar[str] = "openai_completions"
    paths: ClassVar[tuple[str, ...]] = ("/completions",)
    hosts: ClassVar[tuple[str, ...]] = HOSTS
    outside: ClassVar[tuple[str, ...]] = ("user", "safety_identifier", *CACHE_HINTS, *FIREWORKS_HINTS)
    answer: ClassVar[type[JsonAnswer]] = ChoicesAnswer
    text_field: ClassVar[str] = "prompt"

    def fits(self, fields: dict[str, Any]) -> bool:
        """Return whether it has a prompt: texts or token ids."""
        return are_texts_or_tokens(fields.get("prompt"))

    def answer_maker(self, asked: ApiRequest) -> Callable[..., JsonAnswer]:
        """As `JsonFamily.answer_maker`."""
        return partial(ChoicesAnswer, usage_asked=asks_for_usage(asked.body))

    def prompt(self, asked: ApiRequest, target: RequestTarget) -> Sequence[PromptPart]:  # noqa: ARG002 - as in `ApiFamily`
        """As `ApiFamily.prompt`. Several prompts, and prompts of token ids, have none."""
        return text_prompt(asked.body | asked.outside, "prompt", *ROUTING_HINTS, "cache_salt")

    def choices(self, fields: dict[str, Any]) -> int:
        """Return ``n`` for each prompt."""
        prompt = fields["prompt"]
        several = isinstance(prompt, list) and isinstance(prompt[0], str | list)
        return number_of_choices(fields) * (len(prompt) if several else 1)


FAMILY = OpenAICompletions()
