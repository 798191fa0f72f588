"""Cohere's embeddings of texts and images, of both versions."""

from typing import Any, ClassVar, Final

from sidecard_client.http.answers.json_answer import JsonAnswer
from sidecard_client.http.answers.results import ResultsAnswer, is_vector
from sidecard_client.http.request_bodies.cohere import HOSTS, usage_of
from sidecard_client.http.request_bodies.json_family import JsonFamily

_INPUTS: Final = ("texts", "images", "inputs")


class _CohereVectors(ResultsAnswer):
    """A vector for each input, in one list for each requested type of number, or in one list."""

    def read(self, event: dict[str, Any]) -> None:
        """Count the vectors: each list must have all of them."""
        found = event.get("embeddings")
        lists = list(found.values()) if isinstance(found, dict) else [found]
        lists = [vectors for vectors in lists if isinstance(vectors, list)]
        if lists:
            self.find(all(map(is_vector, vectors)) for vectors in zip(*lists, strict=False))

        self.use({}, usage_of(event.get("meta")))


class CohereEmbed(JsonFamily):
    """``POST /v2/embed`` and ``POST /v1/embed``. Each request is shared as a whole."""

    name: ClassVar[str] = "cohere_embed"
    paths: ClassVar[tuple[str, ...]] = ("/v2/embed", "/v1/embed")
    hosts: ClassVar[tuple[str, ...]] = HOSTS
    outside: ClassVar[tuple[str, ...]] = ("priority",)
    answer: ClassVar[type[JsonAnswer]] = _CohereVectors
    always_deterministic: ClassVar[bool] = True

    def fits(self, fields: dict[str, Any]) -> bool:
        """Return whether it has inputs of one kind."""
        given = [fields[name] for name in _INPUTS if fields.get(name) is not None]
        return len(given) == 1 and isinstance(given[0], list) and bool(given[0])

    def choices(self, fields: dict[str, Any]) -> int:
        """Return the number of inputs."""
        return next(len(fields[name]) for name in _INPUTS if fields.get(name) is not None)


FAMILY = CohereEmbed()
