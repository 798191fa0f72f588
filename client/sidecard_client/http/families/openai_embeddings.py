"""OpenAI's embeddings."""

from typing import Any, ClassVar

from sidecard_client.http.answers.json_answer import JsonAnswer
from sidecard_client.http.answers.vectors import VectorsAnswer
from sidecard_client.http.family import EmbeddingLayout
from sidecard_client.http.request_bodies.json_family import JsonFamily
from sidecard_client.http.request_bodies.openai import HOSTS
from sidecard_client.http.request_bodies.shapes import are_texts_or_tokens


class _OpenAIVectors(VectorsAnswer):
    field: ClassVar[str] = "data"

    def is_vector(self, item: Any) -> bool:
        """Return whether an item has a vector: numbers, or base64."""
        return isinstance(item, dict) and isinstance(item.get("embedding"), list | str) and bool(item["embedding"])


class OpenAIEmbeddings(JsonFamily):
    """``POST /embeddings``."""

    name: ClassVar[str] = "openai_embeddings"
    paths: ClassVar[tuple[str, ...]] = ("/embeddings",)
    hosts: ClassVar[tuple[str, ...]] = HOSTS
    outside: ClassVar[tuple[str, ...]] = ("user",)
    answer: ClassVar[type[JsonAnswer]] = _OpenAIVectors
    always_deterministic: ClassVar[bool] = True
    layout: ClassVar[EmbeddingLayout | None] = EmbeddingLayout(
        "data", frozenset({"usage"}), member="embedding", token_lists=True
    )

    def fits(self, fields: dict[str, Any]) -> bool:
        """Return whether it has an input: texts, token ids, or what else a server takes in a list, such as images."""
        return isinstance(fields.get("input"), str | list)

    def choices(self, fields: dict[str, Any]) -> int:
        """Return the number of texts; 1 for a list of anything else."""
        given = fields["input"]
        one = isinstance(given, str) or not are_texts_or_tokens(given) or isinstance(given[0], int)
        return 1 if one else len(given)


FAMILY = OpenAIEmbeddings()
