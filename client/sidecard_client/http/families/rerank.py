"""Reranking: Cohere's form, which Jina, Voyage, vLLM and others speak too."""

from typing import Any, ClassVar

from sidecard_client.http.answers.json_answer import JsonAnswer
from sidecard_client.http.answers.results import ResultsAnswer
from sidecard_client.http.request_bodies.cohere import HOSTS, usage_of
from sidecard_client.http.request_bodies.json_family import JsonFamily


class _Ranking(ResultsAnswer):
    """A score for each document, or for the best of them: servers decide how many."""

    def __init__(self, choices: int = 0, *, streamed: bool = False) -> None:
        super().__init__(0, streamed=streamed)
        self._documents = choices

    def read(self, event: dict[str, Any]) -> None:
        """Read the results, which Voyage calls ``data``."""
        results = event.get("results", event.get("data"))
        if isinstance(results, list):
            self.find(map(self._is_score, results))

        self.use(event, usage_of(event.get("meta")) or event.get("usage"))

    def _is_score(self, result: Any) -> bool:
        if not isinstance(result, dict):
            return False

        index, score = result.get("index"), result.get("relevance_score")
        return type(index) is int and 0 <= index < self._documents and isinstance(score, int | float)


class Rerank(JsonFamily):
    """``POST /v2/rerank``, and the same below other versions."""

    name: ClassVar[str] = "rerank"
    paths: ClassVar[tuple[str, ...]] = ("/rerank",)
    hosts: ClassVar[tuple[str, ...]] = HOSTS
    outside: ClassVar[tuple[str, ...]] = ("priority",)
    answer: ClassVar[type[JsonAnswer]] = _Ranking
    always_deterministic: ClassVar[bool] = True

    def fits(self, fields: dict[str, Any]) -> bool:
        """Return whether it has a query and documents."""
        documents = fields.get("documents")
        return (
            isinstance(fields.get("query"), str)
            and isinstance(documents, list)
            and bool(documents)
            and all(isinstance(one, str | dict) for one in documents)
        )

    def choices(self, fields: dict[str, Any]) -> int:
        """Return the number of documents, which bounds that of the scores."""
        return len(fields["documents"])


FAMILY = Rerank()
