"""Amazon Bedrock's ``invoke``: a model's own request and answer."""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Final

from msgspec import structs

from sidecard_client.http.answers.bedrock import InvokedAnswer, bedrock_reader
from sidecard_client.http.answers.json_answer import JsonAnswer
from sidecard_client.http.families import anthropic_messages
from sidecard_client.http.family import NO_HEADERS, AnswerReader, ApiRequest, RequestTarget, SideEffect
from sidecard_client.http.request_bodies.bedrock import BedrockFamily
from sidecard_client.http.request_bodies.outside import Places
from sidecard_client.keys.prefixes.recipe import PromptPart

_STREAMED: Final = "/invoke-with-response-stream"


class BedrockInvoke(BedrockFamily):
    """``POST /model/NAME/invoke`` and ``/invoke-with-response-stream``, whose answer is a binary event stream."""

    name: ClassVar[str] = "bedrock_invoke"
    paths: ClassVar[tuple[str, ...]] = ("/invoke", _STREAMED)
    outside: ClassVar[tuple[str, ...]] = anthropic_messages.FAMILY.outside
    answer: ClassVar[type[JsonAnswer]] = InvokedAnswer
    text_field: ClassVar[str] = "messages"

    def read(self, target: RequestTarget, body: bytes) -> ApiRequest | None:
        """As `JsonFamily.read`. The path says whether the answer is a stream."""
        asked = super().read(target, body)
        return None if asked is None else structs.replace(asked, stream=self.ending(target) == _STREAMED)

    def places_outside(self, fields: dict[str, Any], body: bytes) -> Places:
        """Return the places in requests of Anthropic's models; others have fields of their own."""
        return super().places_outside(fields, body) if "anthropic_version" in fields else {}

    def fits(self, fields: dict[str, Any]) -> bool:
        """Return True: the path names a model, and models have requests of any form."""
        return bool(fields)

    def effect(self, fields: dict[str, Any]) -> SideEffect:
        """Return what a request of Anthropic's models changes; others have no tools of the server."""
        return anthropic_messages.FAMILY.effect(fields) if "anthropic_version" in fields else ""

    def prompt(self, asked: ApiRequest, target: RequestTarget) -> Sequence[PromptPart]:  # noqa: ARG002 - as in `ApiFamily`
        """As `ApiFamily.prompt`, of Anthropic's models. Nothing is cached without marks."""
        is_message = "anthropic_version" in asked.body
        return anthropic_messages.anthropic_prompt(asked, only_marked=True) if is_message else ()

    def reader(self, asked: ApiRequest, *, content_type: str, headers: Mapping[str, str] = NO_HEADERS) -> AnswerReader:  # noqa: ARG002 - as in `ApiFamily`
        """As `ApiFamily.reader`. Anthropic's models answer as its own API does."""
        is_message = "anthropic_version" in asked.body and "messages" in asked.body
        make = anthropic_messages.MessageAnswer if is_message else InvokedAnswer
        return bedrock_reader(make, content_type=content_type, stream=asked.stream)


FAMILY = BedrockInvoke()
