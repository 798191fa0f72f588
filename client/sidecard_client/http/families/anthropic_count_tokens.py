"""The number of tokens of a prompt: Anthropic's."""

from collections.abc import Sequence
from typing import Any, ClassVar

from sidecard_client.http.answers.json_answer import JsonAnswer
from sidecard_client.http.answers.results import ResultsAnswer
from sidecard_client.http.families.anthropic_messages import AnthropicMessages
from sidecard_client.http.family import ApiRequest, RequestTarget, SideEffect
from sidecard_client.http.request_bodies.shapes import are_messages
from sidecard_client.keys.prefixes.recipe import PromptPart


class _AnthropicTokens(ResultsAnswer):
    """A number, which is the answer and not what it used."""

    def read(self, event: dict[str, Any]) -> None:
        """Find the number."""
        if type(event.get("input_tokens")) is int:
            self.find([True])


class AnthropicCountTokens(AnthropicMessages):
    """``POST /v1/messages/count_tokens``: the request of a message, which is counted and not answered."""

    name: ClassVar[str] = "anthropic_count_tokens"
    paths: ClassVar[tuple[str, ...]] = ("/v1/messages/count_tokens",)
    answer: ClassVar[type[JsonAnswer]] = _AnthropicTokens
    always_deterministic: ClassVar[bool] = True
    text_field: ClassVar[str] = ""

    def fits(self, fields: dict[str, Any]) -> bool:
        """Return whether it has messages."""
        return are_messages(fields.get("messages"))

    def effect(self, fields: dict[str, Any]) -> SideEffect:  # noqa: ARG002 - for all of them
        """No tool acts."""
        return ""

    def prompt(self, asked: ApiRequest, target: RequestTarget) -> Sequence[PromptPart]:  # noqa: ARG002 - for all of them
        """Counting caches nothing."""
        return ()


FAMILY = AnthropicCountTokens()
