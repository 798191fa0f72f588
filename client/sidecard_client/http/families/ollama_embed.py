"""Ollama's embeddings: of several texts, and the older form for one."""

from typing import Any, ClassVar

from sidecard_client.http.answers.json_answer import JsonAnswer
from sidecard_client.http.answers.vectors import VectorsAnswer
from sidecard_client.http.family import EmbeddingLayout, SideEffect
from sidecard_client.http.request_bodies.json_family import JsonFamily
from sidecard_client.http.request_bodies.shapes import has_only, is_list_of


class _OllamaVectors(VectorsAnswer):
    field: ClassVar[str] = "embeddings"

    def read(self, event: dict[str, Any]) -> None:
        """As `VectorsAnswer.read`; the older form has one vector. Counts are not in an object of their own."""
        one = event.get("embedding")
        super().read({"embeddings": [one]} if isinstance(one, list) else event)
        self.use(event, event)


class OllamaEmbed(JsonFamily):
    """``POST /api/embed`` and ``POST /api/embeddings``."""

    name: ClassVar[str] = "ollama_embed"
    paths: ClassVar[tuple[str, ...]] = ("/api/embed", "/api/embeddings")
    outside: ClassVar[tuple[str, ...]] = ("keep_alive",)
    answer: ClassVar[type[JsonAnswer]] = _OllamaVectors
    always_deterministic: ClassVar[bool] = True
    layout: ClassVar[EmbeddingLayout | None] = EmbeddingLayout(
        "embeddings", frozenset({"prompt_eval_count", "total_duration", "load_duration"})
    )

    def fits(self, fields: dict[str, Any]) -> bool:
        """Return whether its fields have their types; all but the model may be absent."""
        given = fields.get("input")
        typed = given is None or isinstance(given, str) or given == [] or is_list_of(str, given)
        return typed and has_only(fields, prompt=str, options=dict, truncate=bool, dimensions=int)

    def choices(self, fields: dict[str, Any]) -> int:
        """Return the number of texts."""
        given = fields.get("input")
        return len(given) if isinstance(given, list) and given else 1

    def effect(self, fields: dict[str, Any]) -> SideEffect:
        """Without a text, it loads or unloads the model."""
        return "" if fields.get("input") or fields.get("prompt") else "state"


FAMILY = OllamaEmbed()
