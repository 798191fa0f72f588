"""Mistral's completion of code between a prompt and a suffix. Its other APIs speak OpenAI's."""

from collections.abc import Sequence
from typing import Any, ClassVar

from sidecard_client.http.answers.json_answer import JsonAnswer
from sidecard_client.http.answers.openai_choices import ChoicesAnswer
from sidecard_client.http.family import ApiRequest, RequestTarget
from sidecard_client.http.request_bodies.json_family import JsonFamily
from sidecard_client.http.request_bodies.prompts import text_prompt
from sidecard_client.keys.prefixes.recipe import PromptPart


class MistralFim(JsonFamily):
    """``POST /v1/fim/completions``."""

    name: ClassVar[str] = "mistral_fim"
    paths: ClassVar[tuple[str, ...]] = ("/fim/completions",)
    hosts: ClassVar[tuple[str, ...]] = ("api.mistral.ai", "codestral.mistral.ai")
    outside: ClassVar[tuple[str, ...]] = ("prompt_cache_key", "metadata")
    answer: ClassVar[type[JsonAnswer]] = ChoicesAnswer

    def fits(self, fields: dict[str, Any]) -> bool:
        """Return whether it has a prompt."""
        return isinstance(fields.get("prompt"), str)

    def prompt(self, asked: ApiRequest, target: RequestTarget) -> Sequence[PromptPart]:  # noqa: ARG002 - as in `ApiFamily`
        """As `ApiFamily.prompt`. The suffix may be before the prompt."""
        return text_prompt(asked.body | asked.outside, "prompt", "prompt_cache_key", "suffix")


FAMILY = MistralFim()
