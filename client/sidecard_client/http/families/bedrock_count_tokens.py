"""The number of tokens of a prompt: Amazon Bedrock's."""

from typing import Any, ClassVar

from sidecard_client.http.answers.json_answer import JsonAnswer
from sidecard_client.http.answers.results import ResultsAnswer
from sidecard_client.http.request_bodies.bedrock import BedrockFamily


class _BedrockTokens(ResultsAnswer):
    """A number, which is the answer and not what it used."""

    def read(self, event: dict[str, Any]) -> None:
        """Find the number."""
        if type(event.get("inputTokens")) is int:
            self.find([True])


class BedrockCountTokens(BedrockFamily):
    """``POST /model/NAME/count-tokens``."""

    name: ClassVar[str] = "bedrock_count_tokens"
    paths: ClassVar[tuple[str, ...]] = ("/count-tokens",)
    answer: ClassVar[type[JsonAnswer]] = _BedrockTokens
    always_deterministic: ClassVar[bool] = True

    def fits(self, fields: dict[str, Any]) -> bool:
        """Return whether it has an input."""
        return isinstance(fields.get("input"), dict)


FAMILY = BedrockCountTokens()
