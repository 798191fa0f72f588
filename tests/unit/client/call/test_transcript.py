"""The transcript of a call for the call log, and the app's redaction hook."""

from typing import Any

import msgspec
import pytest

from sidecard_client import SidecardWarning
from sidecard_client.call.options import Options
from sidecard_client.call.transcript import MAX_TRANSCRIPT_BYTES, transcript_of
from sidecard_client.protocol import wire


def said(value: Any, *args: Any, redact: Any = None, **kwargs: Any) -> tuple[Any, Any] | None:
    """Return prompt and answer as the daemon reads them."""
    sent_transcript = transcript_of(Options(redact=redact), args, kwargs, value)
    if sent_transcript is None:
        return None

    # As sent over the wire: it must decode to what was encoded.
    sent = wire.unpack_request(wire.pack(wire.Complete("lease", msgspec.Raw(b"\xc0"), spoken=sent_transcript)))
    assert isinstance(sent, wire.Complete)
    assert sent.spoken is not None
    sent_transcript = sent.spoken
    return msgspec.msgpack.decode(sent_transcript.prompt), msgspec.msgpack.decode(sent_transcript.answer)


def test_arguments_are_the_prompt_and_the_value_is_the_answer() -> None:
    """Without a hook, both are sent as they are."""
    assert said("42", "why?", temperature=0) == ({"args": ["why?"], "kwargs": {"temperature": 0}}, "42")


def test_an_argument_without_a_msgpack_form_is_sent_as_its_type() -> None:
    """A client object may hold an API key."""

    class Session:
        def __repr__(self) -> str:
            return "Session(key=SECRET)"

    sent_transcript = said("42", Session(), "why?")
    assert sent_transcript is not None
    assert sent_transcript[0]["args"][1:] == ["why?"]
    assert "Session>" in sent_transcript[0]["args"][0]
    assert "SECRET" not in str(sent_transcript)


def test_the_hook_decides_what_is_sent() -> None:
    """It may return any shape."""
    seen = []

    def redact(prompt: Any, answer: Any) -> tuple[Any, Any]:
        seen.append((prompt, answer))
        return "asked", {"length": len(answer)}

    assert said("42", "why?", redact=redact) == ("asked", {"length": 2})
    assert seen == [({"args": ["why?"], "kwargs": {}}, "42")]


def test_the_hook_may_keep_all_of_it() -> None:
    """A hook that returns None sends no transcript."""
    assert said("42", "why?", redact=lambda *_: None) is None


@pytest.mark.parametrize(
    "redact", [lambda *_: 1 / 0, lambda *_: 5, lambda *_: ("a", "b", "c"), lambda *_: ("\udc00", "")]
)
def test_a_failing_hook_sends_nothing(redact: Any) -> None:
    """The warning leaves the exception's text out, which may quote the prompt."""
    with pytest.warns(SidecardWarning, match=r"logged without prompt and answer \(\w+\)"):
        assert said("42", "why?", redact=redact) is None


def test_a_too_large_prompt_is_sent_as_its_size() -> None:
    """Such prompts are mostly images."""
    image = b"x" * MAX_TRANSCRIPT_BYTES
    sent_transcript = said("42", image, redact=lambda prompt, _: (prompt, image))
    assert sent_transcript is not None
    prompt, answer = sent_transcript
    assert prompt["$truncated"] == answer["$truncated"] == ""
    assert prompt["bytes"] > answer["bytes"] > MAX_TRANSCRIPT_BYTES


def test_a_hook_is_a_callable() -> None:
    """Another type is refused immediately."""
    with pytest.raises(TypeError, match="redact= must be callable"):
        Options().changed({"redact": "no"})

    assert isinstance(transcript_of(Options(), (), {}, None), wire.Transcript)
