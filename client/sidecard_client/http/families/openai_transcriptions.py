"""Text from speech: OpenAI's transcriptions and translations of a file in a form, and Mistral's, which may name a file instead."""

from collections.abc import Mapping
from typing import Any, ClassVar, Final

from msgspec import structs

from sidecard_client.http.answers.json_answer import JsonAnswer
from sidecard_client.http.answers.readers import json_reader
from sidecard_client.http.answers.whole_body import WholeBodyReader
from sidecard_client.http.family import NO_HEADERS, AnswerReader, ApiRequest, RequestTarget, media_type_of
from sidecard_client.http.request_bodies.form import is_file
from sidecard_client.http.request_bodies.form_family import FormFamily
from sidecard_client.http.request_bodies.openai import HOSTS

_TEXT_FORMATS: Final = ("text", "srt", "vtt")
_LINKS: Final = ("file_url", "file_id", "url")
_ENDS: Final = ("transcript.text.done", "transcription.done")


class TranscriptAnswer(JsonAnswer):
    """A transcript, or events of one, whose last event has all of its text."""

    has_end: ClassVar[bool] = True

    def read(self, event: dict[str, Any]) -> None:
        """Read the transcript, or an event."""
        kind = event.get("type")
        if self.streamed:
            self.fits = self.fits or (isinstance(kind, str) and kind.startswith(("transcript.", "transcription.")))
            self.ended = self.ended or kind in _ENDS
        elif isinstance(event.get("text"), str):
            self.fits = self.ended = True

        if self.ended:
            self.reasons[0] = "stop"

        self.use(event, event.get("usage"))


class OpenAITranscriptions(FormFamily):
    """``POST /audio/transcriptions`` and ``POST /audio/translations``."""

    name: ClassVar[str] = "openai_transcriptions"
    paths: ClassVar[tuple[str, ...]] = ("/audio/transcriptions", "/audio/translations")
    hosts: ClassVar[tuple[str, ...]] = HOSTS
    answer: ClassVar[type[JsonAnswer]] = TranscriptAnswer

    def read(self, target: RequestTarget, body: bytes) -> ApiRequest | None:
        """As `FormFamily.read`. Without a temperature, it is 0."""
        asked = super().read(target, body)
        if asked is None:
            return None

        return structs.replace(asked, deterministic=_is_zero(asked.body.get("temperature")))

    def fits(self, fields: dict[str, Any]) -> bool:
        """Return whether it has a file, or the name of one."""
        return is_file(fields.get("file")) or any(isinstance(fields.get(name), str) for name in _LINKS)

    def reader(self, asked: ApiRequest, *, content_type: str, headers: Mapping[str, str] = NO_HEADERS) -> AnswerReader:
        """As `ApiFamily.reader`. Texts and subtitles are whole if their body is."""
        media_type = media_type_of(content_type)
        if asked.body.get("response_format") in _TEXT_FORMATS and media_type != "application/json":
            return WholeBodyReader(headers)

        return json_reader(self.answer, content_type=content_type, stream=asked.stream)


def _is_zero(temperature: Any) -> bool:
    try:
        return temperature is None or float(temperature) == 0
    except (TypeError, ValueError):
        return False


FAMILY = OpenAITranscriptions()
