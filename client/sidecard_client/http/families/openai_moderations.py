"""Moderation of texts and images: OpenAI's, and Mistral's, which moderates chats too."""

from typing import Any, ClassVar

from sidecard_client.http.answers.json_answer import JsonAnswer
from sidecard_client.http.answers.results import ResultsAnswer
from sidecard_client.http.request_bodies.json_family import JsonFamily
from sidecard_client.http.request_bodies.openai import HOSTS
from sidecard_client.http.request_bodies.shapes import is_list_of


class _Verdicts(ResultsAnswer):
    """Categories for each input."""

    def read(self, event: dict[str, Any]) -> None:
        """Count the verdicts."""
        results = event.get("results")
        if isinstance(results, list):
            self.find(isinstance(one, dict) and isinstance(one.get("categories"), dict) for one in results)

        self.use(event, event.get("usage"))


class OpenAIModerations(JsonFamily):
    """``POST /moderations`` and ``POST /chat/moderations``."""

    name: ClassVar[str] = "openai_moderations"
    paths: ClassVar[tuple[str, ...]] = ("/moderations", "/chat/moderations")
    hosts: ClassVar[tuple[str, ...]] = HOSTS
    own_fields: ClassVar[frozenset[str]] = frozenset({"input"})
    answer: ClassVar[type[JsonAnswer]] = _Verdicts
    always_deterministic: ClassVar[bool] = True

    def fits(self, fields: dict[str, Any]) -> bool:
        """Return whether it has a text, or a list of texts, parts or messages."""
        given = fields.get("input")
        return isinstance(given, str | dict) or (isinstance(given, list) and bool(given))

    def choices(self, fields: dict[str, Any]) -> int:
        """Return the number of verdicts: one for each text; 0 for chats, because the server decides how many messages it judges."""
        given = fields["input"]
        return len(given) if is_list_of(str, given) else 1 if isinstance(given, str) or _are_parts(given) else 0


def _are_parts(given: Any) -> bool:
    """Return whether an input consists of parts with texts and images, which get one verdict together."""
    return isinstance(given, list) and all(isinstance(one, dict) and "type" in one for one in given)


FAMILY = OpenAIModerations()
