"""Ollama's completions."""

from typing import Any, ClassVar

from sidecard_client.http.answers.json_answer import JsonAnswer
from sidecard_client.http.answers.ollama import OllamaAnswer
from sidecard_client.http.answers.readers import StreamForm
from sidecard_client.http.family import SideEffect
from sidecard_client.http.request_bodies.json_family import JsonFamily
from sidecard_client.http.request_bodies.shapes import has_only


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

    def effect(self, fields: dict[str, Any]) -> SideEffect:
        """Without a prompt, it loads or unloads the model."""
        return "" if fields.get("prompt") else "state"


FAMILY = OllamaGenerate()
