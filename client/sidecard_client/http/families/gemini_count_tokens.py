"""The tokens of a prompt, of Google AI and of Vertex AI: ``models/NAME:countTokens`` and ``:computeTokens``."""

from typing import Any, ClassVar

from sidecard_client.http.answers.json_answer import JsonAnswer
from sidecard_client.http.answers.results import ResultsAnswer
from sidecard_client.http.request_bodies.google import GoogleFamily, are_contents, either


class _GeminiTokens(ResultsAnswer):
    """A number, or the tokens themselves. They are the answer, and not what it used."""

    def read(self, event: dict[str, Any]) -> None:
        """Find the number or the tokens."""
        if type(event.get("totalTokens")) is int or isinstance(event.get("tokensInfo"), list):
            self.find([True])


class GeminiCountTokens(GoogleFamily):
    """Counting of tokens."""

    name: ClassVar[str] = "gemini_count_tokens"
    paths: ClassVar[tuple[str, ...]] = (":countTokens", ":computeTokens")
    answer: ClassVar[type[JsonAnswer]] = _GeminiTokens
    always_deterministic: ClassVar[bool] = True

    def fits(self, fields: dict[str, Any]) -> bool:
        """Return whether it has messages with parts, or a whole request with them."""
        request = either(fields, "generateContentRequest")
        return are_contents((request if isinstance(request, dict) else fields).get("contents"))


FAMILY = GeminiCountTokens()
