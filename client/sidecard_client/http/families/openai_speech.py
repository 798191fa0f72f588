"""Speech from text: OpenAI's, whose answer is audio or events, and Mistral's, whose answer is JSON or events."""

from collections.abc import Mapping
from typing import Any, ClassVar, Final

from msgspec import structs

from sidecard_client.http.answers.json_answer import JsonAnswer
from sidecard_client.http.answers.readers import is_json, json_reader
from sidecard_client.http.answers.whole_body import WholeBodyReader
from sidecard_client.http.family import (
    NO_HEADERS,
    AnswerReader,
    ApiRequest,
    RequestTarget,
    UnclassifiableAnswer,
    media_type_of,
)
from sidecard_client.http.request_bodies.json_family import JsonFamily
from sidecard_client.http.request_bodies.openai import HOSTS

_VOICES: Final = ("voice", "voice_id", "ref_audio")
_FIELDS: Final = frozenset({*_VOICES, "input", "instructions", "response_format", "speed", "stream", "stream_format"})
_EVENTS: Final = "text/event-stream"
_AUDIO: Final = ("audio/", "application/octet-stream", "application/ogg")


class SpeechAnswer(JsonAnswer):
    """Speech in base64: an object, or events."""

    has_end: ClassVar[bool] = True

    def read(self, event: dict[str, Any]) -> None:
        """Read the object, or an event."""
        kind = event.get("type")
        if self.streamed and isinstance(kind, str) and kind.startswith("speech.audio."):
            self.fits = True
            self.ended = self.ended or kind == "speech.audio.done"
        elif not self.streamed and isinstance(event.get("audio_data"), str) and event["audio_data"]:
            self.fits = self.ended = True

        if self.ended:
            self.reasons[0] = "stop"

        self.use(event, event.get("usage"))


class OpenAISpeech(JsonFamily):
    """``POST /audio/speech``."""

    name: ClassVar[str] = "openai_speech"
    paths: ClassVar[tuple[str, ...]] = ("/audio/speech",)
    hosts: ClassVar[tuple[str, ...]] = HOSTS
    own_fields: ClassVar[frozenset[str]] = _FIELDS
    outside: ClassVar[tuple[str, ...]] = ("prompt_cache_key", "metadata")
    answer: ClassVar[type[JsonAnswer]] = SpeechAnswer

    def read(self, target: RequestTarget, body: bytes) -> ApiRequest | None:
        """As `JsonFamily.read`. OpenAI's streams of events have a format of their own."""
        asked = super().read(target, body)
        if asked is None or asked.body.get("stream_format") != "sse":
            return asked

        return structs.replace(asked, stream=True)

    def fits(self, fields: dict[str, Any]) -> bool:
        """Return whether it has a text and a voice."""
        return isinstance(fields.get("input"), str) and any(fields.get(name) for name in _VOICES)

    def reader(self, asked: ApiRequest, *, content_type: str, headers: Mapping[str, str] = NO_HEADERS) -> AnswerReader:
        """As `ApiFamily.reader`. Audio is whole if its body is."""
        media_type = media_type_of(content_type)
        if media_type == _EVENTS or is_json(media_type):
            return json_reader(self.answer, content_type=content_type, stream=asked.stream)

        if media_type.startswith(_AUDIO) or not media_type:
            return WholeBodyReader(headers)

        return UnclassifiableAnswer(f"its content type is {media_type[:80]!r}")


FAMILY = OpenAISpeech()
