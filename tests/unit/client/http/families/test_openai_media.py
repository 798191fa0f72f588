"""OpenAI's images, speech, transcripts and moderation: what proves an answer, and what is in the key."""

import json
from typing import Any

import pytest

from sidecard_client.http.family import AnswerSummary, ApiFamily, ApiRequest, RequestTarget
from sidecard_client.http.recognition import recognize
from tests.api_samples import EVENTS, FORM, JSON, OPENAI, PICTURE, SONG, as_events, as_form


def asked_for(
    path: str, fields: dict[str, Any] | bytes, host: str = OPENAI, content_type: str = JSON
) -> tuple[ApiFamily, ApiRequest]:
    """Recognize a request."""
    found = found_for(path, fields, host, content_type)
    assert found is not None
    return found


def found_for(
    path: str, fields: dict[str, Any] | bytes, host: str = OPENAI, content_type: str = JSON
) -> tuple[ApiFamily, ApiRequest] | None:
    """Recognize a request, or not."""
    target = RequestTarget.of("POST", f"https://{host}{path}", FORM if isinstance(fields, bytes) else content_type)
    assert target is not None
    return recognize(target, fields if isinstance(fields, bytes) else json.dumps(fields).encode())


def summary(
    known: tuple[ApiFamily, ApiRequest], answer: Any, content_type: str = JSON, headers: dict[str, str] | None = None
) -> AnswerSummary:
    """Read an answer."""
    family, asked = known
    reader = family.reader(asked, content_type=content_type, headers=headers or {})
    reader.feed(answer if isinstance(answer, bytes) else json.dumps(answer).encode())
    return reader.finish()


@pytest.mark.parametrize(
    ("path", "fields"),
    [
        ("/v1/images/generations", {"prompt": "a cat"}),
        ("/v1/images/generations", {"prompt": "a cat", "n": 2, "size": "auto", "user": "u"}),
        ("/v1/moderations", {"input": "text"}),
        ("/v1/audio/speech", {"input": "text", "voice": "alloy"}),
    ],
)
def test_a_request_without_a_model_is_known_by_its_fields(path: str, fields: dict[str, Any]) -> None:
    """On a foreign host, a field that is not the API's makes the request another API's."""
    for host in (OPENAI, "127.0.0.1"):
        assert asked_for(path, fields, host)[1].model == ""

    assert found_for(path, {**fields, "survey": 7}, OPENAI) is not None
    assert found_for(path, {**fields, "survey": 7}, "127.0.0.1") is None
    assert found_for(path, {**fields, "survey": 7, "model": "m"}, "127.0.0.1") is not None


@pytest.mark.parametrize(
    ("images", "verdict", "not_stored"),
    [
        ([{"b64_json": "AA"}, {"b64_json": "BB"}], "complete", ""),
        ([{"url": "https://x/1"}, {"b64_json": "BB"}], "complete", "state"),
        ([{"b64_json": "AA"}], "unproven", "incomplete"),
        ([{"b64_json": "AA"}, {}], "unproven", "incomplete"),
    ],
)
def test_an_answer_has_all_images(images: Any, verdict: str, not_stored: str) -> None:
    """Two were requested. A link is to an image that the server keeps for an hour, so it is not stored."""
    found = summary(asked_for("/v1/images/generations", {"model": "m", "prompt": "p", "n": 2}), {"data": images})
    assert (found.verdict, found.not_stored) == (verdict, not_stored)


def test_a_stream_of_images_ends_with_the_last_of_them() -> None:
    """Previews are none."""
    known = asked_for(
        "/v1/images/edits", as_form({"model": "m", "prompt": "p", "image": PICTURE, "n": "2", "stream": "true"})
    )
    assert known[1].stream
    assert known[1].choices == 2
    done = {"type": "image_edit.completed", "b64_json": "AA"}
    preview = {"type": "image_edit.partial_image", "b64_json": "AA"}
    assert summary(known, as_events(preview, done), EVENTS).verdict == "unproven"
    assert summary(known, as_events(preview, done, preview, done), EVENTS).verdict == "complete"
    failed = {"type": "error", "error": {"type": "image_generation_user_error", "code": "moderation_blocked"}}
    assert summary(known, as_events(preview, failed), EVENTS).verdict == "request_error"


def test_what_the_answer_repeats_is_in_the_key() -> None:
    """``safety_identifier`` comes back, ``user`` does not."""
    fields = {"model": "m", "prompt": "p", "safety_identifier": "s", "user": "u"}
    asked = asked_for("/v1/images/generations", fields)[1]
    assert asked.body == {"model": "m", "prompt": "p", "safety_identifier": "s"}
    assert asked.outside == {"user": "u"}


def test_images_may_be_varied_and_given_as_json() -> None:
    """Without a text, and without a form."""
    assert found_for("/v1/images/variations", as_form({"image": PICTURE}))
    assert found_for("/v1/images/edits", {"model": "m", "prompt": "p", "images": [{"file_id": "f"}]})
    assert found_for("/v1/images/variations", as_form({"image": "text"})) is None


@pytest.mark.parametrize(
    ("content_type", "headers", "body", "verdict"),
    [
        ("audio/mpeg", {"content-length": "3"}, b"ID3", "complete"),
        ("audio/pcm", {"transfer-encoding": "chunked"}, b"\x00", "complete"),
        ("application/octet-stream", {"content-length": "1"}, b"\x00", "complete"),
        ("audio/mpeg", {}, b"ID3", "unproven"),
        ("audio/mpeg", {"content-length": "0"}, b"", "unproven"),
        ("text/html", {"content-length": "3"}, b"<p>", "unclassifiable"),
        (JSON, {"content-length": "3"}, b'{"error": {"code": 500}}', "server_error"),
        (JSON, {"content-length": "3"}, b'{"ok": true}', "unclassifiable"),
    ],
)
def test_audio_is_whole_if_its_body_is(content_type: str, headers: dict[str, str], body: bytes, verdict: str) -> None:
    """A body that ends with its connection may have been cut."""
    known = asked_for("/v1/audio/speech", {"model": "m", "input": "text", "voice": "alloy"})
    assert summary(known, body, content_type, headers).verdict == verdict


@pytest.mark.parametrize(
    ("fields", "content_type", "body", "verdict"),
    [
        ({}, JSON, b'{"text": ""}', "complete"),
        ({"response_format": "verbose_json"}, JSON, b'{"text": "x", "segments": []}', "complete"),
        ({"response_format": "srt"}, "text/plain; charset=utf-8", b"1\n00:00", "complete"),
        ({"response_format": "srt"}, JSON, b'{"error": {"code": "invalid_value"}}', "request_error"),
        ({}, "text/plain", b"an error page", "unclassifiable"),
        ({"stream": "true"}, EVENTS, as_events({"type": "transcript.text.delta", "delta": "x"}), "unproven"),
        ({}, JSON, b'{"words": []}', "unclassifiable"),
    ],
)
def test_a_transcript_is_whole(fields: dict[str, Any], content_type: str, body: bytes, verdict: str) -> None:
    """JSON by its text, a stream by its last event, and subtitles by their body, if they were requested."""
    known = asked_for("/v1/audio/transcriptions", as_form({"model": "m", "file": SONG, **fields}))
    assert summary(known, body, content_type, {"content-length": "1"}).verdict == verdict


def test_a_transcript_without_a_temperature_is_meant_to_be_the_same() -> None:
    """The API's default is 0."""

    def deterministic(**fields: Any) -> bool:
        return asked_for("/v1/audio/transcriptions", as_form({"model": "m", "file": SONG, **fields}))[1].deterministic

    assert deterministic()
    assert deterministic(temperature="0.0")
    assert not deterministic(temperature="0.2")
    assert not deterministic(temperature="hot")


def test_a_form_without_a_file_is_no_transcription() -> None:
    """Mistral's may name a file instead."""
    assert found_for("/v1/audio/transcriptions", as_form({"model": "m", "file": "text"})) is None
    assert found_for("/v1/audio/transcriptions", as_form({"model": "m", "file_url": "https://x/1.mp3"})) is not None
    assert found_for("/v1/audio/transcriptions", as_form({"model": "m", "file": SONG})[:-9]) is None


@pytest.mark.parametrize(
    ("given", "results", "verdict"),
    [
        ("a", 1, "complete"),
        (["a", "b"], 2, "complete"),
        (["a", "b"], 1, "unproven"),
        ([{"type": "text", "text": "a"}, {"type": "image_url", "image_url": {"url": "u"}}], 1, "complete"),
        ([{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}], 1, "complete"),
        (["a"], 0, "unproven"),
    ],
)
def test_each_input_has_its_verdict(given: Any, results: int, verdict: str) -> None:
    """Parts and messages are judged together."""
    known = asked_for("/v1/moderations", {"model": "m", "input": given})
    assert known[1].deterministic
    answer = {"id": "m", "model": "m", "results": [{"flagged": False, "categories": {"violence": False}}] * results}
    assert summary(known, answer).verdict == verdict


def test_azure_names_the_deployment_in_the_path() -> None:
    """Of a form, too."""
    form = as_form({"file": SONG})
    assert asked_for("/openai/deployments/whisper-1/audio/transcriptions", form, "127.0.0.1")[1].model == "whisper-1"


def test_a_field_that_is_repeated_is_no_fault() -> None:
    """Its value is a list."""
    twice = as_form({"model": "m", "file": SONG, "stream": "true", "response_format": "srt"})
    twice = twice.replace(b"--limit--", b"") + as_form({"stream": "true", "response_format": "srt"})
    family, asked = asked_for("/v1/audio/transcriptions", twice)
    assert asked.body["stream"] == ["true", "true"]
    assert family.reader(asked, content_type="text/plain").finish().verdict == "unclassifiable"
