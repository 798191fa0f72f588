"""OpenAI's plain completions."""

from typing import Any, ClassVar

from sidecard_client.http.answers.json_answer import JsonAnswer
from sidecard_client.http.answers.openai_choices import ChoicesAnswer
from sidecard_client.http.request_bodies.json_family import JsonFamily
from sidecard_client.http.request_bodies.openai import CACHE_HINTS, HOSTS, number_of_choices
from sidecard_client.http.request_bodies.shapes import are_texts_or_tokens


class OpenAICompletions(JsonFamily):
    """``POST /completions``."""

    name: ClassVar[str] = "openai_completions"
    paths: ClassVar[tuple[str, ...]] = ("/completions",)
    hosts: ClassVar[tuple[str, ...]] = HOSTS
    outside: ClassVar[tuple[str, ...]] = ("user", "safety_identifier", *CACHE_HINTS)
    answer: ClassVar[type[JsonAnswer]] = ChoicesAnswer
    text_field: ClassVar[str] = "prompt"

    def fits(self, fields: dict[str, Any]) -> bool:
        """Return whether it has a prompt: texts or token ids."""
        return are_texts_or_tokens(fields.get("prompt")) and "messages" not in fields

    def choices(self, fields: dict[str, Any]) -> int:
        """Return ``n`` for each prompt."""
        prompt = fields["prompt"]
        several = isinstance(prompt, list) and isinstance(prompt[0], str | list)
        return number_of_choices(fields) * (len(prompt) if several else 1)


FAMILY = OpenAICompletions()
