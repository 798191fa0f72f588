"""Anthropic's models on Vertex AI: ``publishers/anthropic/models/NAME:rawPredict`` and ``:streamRawPredict``."""

from collections.abc import Sequence
from typing import Any, ClassVar, Final

from sidecard_client.http.answers.json_answer import JsonAnswer
from sidecard_client.http.families import anthropic_messages
from sidecard_client.http.family import ApiRequest, RequestTarget, SideEffect
from sidecard_client.http.request_bodies.google import GoogleFamily
from sidecard_client.keys.prefixes.recipe import PromptPart

_PUBLISHER: Final = "/publishers/anthropic/models/"


class AnthropicVertex(GoogleFamily):
    """The fields and answers of Anthropic's messages. The model is in the path."""

    name: ClassVar[str] = "anthropic_vertex"
    paths: ClassVar[tuple[str, ...]] = (":rawPredict", ":streamRawPredict")
    outside: ClassVar[tuple[str, ...]] = anthropic_messages.FAMILY.outside
    answer: ClassVar[type[JsonAnswer]] = anthropic_messages.MessageAnswer
    text_field: ClassVar[str] = "messages"

    def claims(self, target: RequestTarget) -> bool:
        """As `ApiFamily.claims`. Other publishers have other APIs."""
        return super().claims(target) and (target.declared == self.name or _PUBLISHER in target.path)

    def fits(self, fields: dict[str, Any]) -> bool:
        """Return whether it has a version, messages and the limit of tokens."""
        return isinstance(fields.get("anthropic_version"), str) and anthropic_messages.FAMILY.fits(fields)

    def prompt(self, asked: ApiRequest, target: RequestTarget) -> Sequence[PromptPart]:  # noqa: ARG002 - as in `ApiFamily`
        """As `ApiFamily.prompt`. Nothing is cached without marks."""
        return anthropic_messages.anthropic_prompt(asked, only_marked=True)

    def effect(self, fields: dict[str, Any]) -> SideEffect:
        """Return what the request changes, as Anthropic's own API would."""
        return anthropic_messages.FAMILY.effect(fields)


FAMILY = AnthropicVertex()
