"""Embeddings of Google AI (``:embedContent``, ``:batchEmbedContents``) and of Vertex AI (``:predict`` of Google's own models)."""

from typing import Any, ClassVar, Final

from sidecard_client.http.answers.json_answer import JsonAnswer
from sidecard_client.http.answers.results import ResultsAnswer, is_vector
from sidecard_client.http.family import EmbeddingLayout, RequestTarget
from sidecard_client.http.request_bodies.google import GoogleFamily, are_contents

_PREDICT: Final = ":predict"
_OWN_MODELS: Final = "/publishers/google/models/"
"""Other models of Vertex AI that predict may be an app's own, and do anything."""


class _GeminiVectors(ResultsAnswer):
    """One vector for each text. Vertex AI's ``:predict`` counts the tokens of each."""

    def read(self, event: dict[str, Any]) -> None:
        """Count the vectors."""
        self.use({}, event.get("usageMetadata"))
        if isinstance(event.get("embedding"), dict):
            self.find([_has_values(event["embedding"])])
        elif isinstance(event.get("embeddings"), list):
            self.find(map(_has_values, event["embeddings"]))
        elif isinstance(event.get("predictions"), list):
            embedded = [one.get("embeddings") if isinstance(one, dict) else None for one in event["predictions"]]
            self.find(map(_has_values, embedded))
            self.use({}, {"promptTokenCount": sum(map(_tokens_of, embedded))})


class GeminiEmbed(GoogleFamily):
    """Embeddings of Google's models."""

    name: ClassVar[str] = "gemini_embed"
    paths: ClassVar[tuple[str, ...]] = (":embedContent", ":batchEmbedContents", _PREDICT)
    answer: ClassVar[type[JsonAnswer]] = _GeminiVectors
    always_deterministic: ClassVar[bool] = True
    layout: ClassVar[EmbeddingLayout | None] = EmbeddingLayout(
        "embeddings", frozenset({"usageMetadata"}), inputs="requests", member="values", objects=True
    )

    def claims(self, target: RequestTarget) -> bool:
        """As `GoogleFamily.claims`."""
        return super().claims(target) and (self.ending(target) != _PREDICT or _OWN_MODELS in target.path)

    def fits(self, fields: dict[str, Any]) -> bool:
        """Return whether it has texts in one of the three forms."""
        return bool(_contents_of(fields))

    def choices(self, fields: dict[str, Any]) -> int:
        """Return the number of texts."""
        return len(_contents_of(fields))


def _contents_of(fields: dict[str, Any]) -> list[Any]:
    """Return what is to be embedded; nothing if it is not in the API's form."""
    if "content" in fields:
        return [fields["content"]] if are_contents(fields["content"]) else []

    many, fits = (fields.get("requests"), are_contents) if "requests" in fields else (fields.get("instances"), _is_text)
    contents = [one.get("content") if isinstance(one, dict) else None for one in many] if isinstance(many, list) else []
    return contents if all(map(fits, contents)) else []


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _has_values(embedding: Any) -> bool:
    return isinstance(embedding, dict) and is_vector(embedding.get("values"))


def _tokens_of(embedding: Any) -> int:
    statistics = embedding.get("statistics") if isinstance(embedding, dict) else None
    tokens = statistics.get("token_count") if isinstance(statistics, dict) else None
    return int(tokens) if isinstance(tokens, int | float) and tokens > 0 else 0


FAMILY = GeminiEmbed()
