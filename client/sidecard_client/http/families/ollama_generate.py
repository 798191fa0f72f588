"""Ollama's completions."""

from collections.abc import Sequence
from typing import Any, ClassVar

from sidecard_client.http.answers.json_answer import JsonAnswer
from sidecard_client.http.answers.ollama import OllamaAnswer
from sidecard_client.http.answers.readers import StreamForm
from sidecard_client.http.family import ApiRequest, RequestTarget, SideEffect
from sidecard_client.http.request_bodies.json_family import JsonFamily
from sidecard_client.http.request_bodies.prompts import text_prompt
from sidecard_client.http.request_bodies.shapes import has_only
from sidecard_client.keys.prefixes.recipe import PromptPart


class OllamaGenerate(JsonFamily):
    """``POST /api/generate``."""

    name: ClassVar[str] = "ollama_generate"
    paths: ClassVar[tuple[str, ...]] = ("/api/generate",)
    outside: ClassVar[tuple[str, ...]] = ("keep_alive",)
    answer: ClassVar[type[JsonAnswer]] = OllamaAnswer
    form: ClassVar[StreamForm] = "lines"
    streams_by_default: ClassVar[bool] = True
    text_field: ClassVar[str] = "prompt"

    def fits(self, fields: dict[str, Any]) -> bool:
        """Return whether its fields have their types; all but the model may be absent."""
        return has_only(fields, prompt=str, suffix=str, system=str, images=list, options=dict, stream=bool)

    def prompt(self, asked: ApiRequest, target: RequestTarget) -> Sequence[PromptPart]:  # noqa: ARG002 - as in `ApiFamily`
        """As `ApiFamily.prompt`: what the template writes before the prompt, then that."""
        return text_prompt(asked.body, "prompt", "context", "images", "raw", "suffix", "system", "template", "think")

    def effect(self, fields: dict[str, Any]) -> SideEffect:
        """Without a prompt, it loads or unloads the model."""
        return "" if fields.get("prompt") else "state"


FAMILY = OllamaGenerate()
