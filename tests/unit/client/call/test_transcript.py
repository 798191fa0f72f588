"""What is told of a call to the call log, and what the app's hook makes of it."""

from typing import Any

import msgspec
import pytest

from sidecard_client import SidecardWarning
from sidecard_client.call.options import Options
from sidecard_client.call.transcript import MAX_TRANSCRIPT_BYTES, transcript_of
from sidecard_client.protocol import wire


def said(value: Any, *args: Any, redact: Any = None, **kwargs: Any) -> tuple[Any, Any] | None:
    """Return prompt and answer as the daemon reads them."""
    told = transcript_of(Options(redact=redact), args, kwargs, value)
    if told is None:
        return None

    # As it travels: what is told must be what is read.
    sent = wire.unpack_request(wire.pack(wire.Complete("lease", msgspec.Raw(b"\xc0"), spoken=told)))
    assert isinstance(sent, wire.Complete)
    assert sent.spoken is not None
    told = sent.spoken
    return msgspec.msgpack.decode(told.prompt), msgspec.msgpack.decode(told.answer)


def test_arguments_are_the_prompt_and_the_value_is_the_answer() -> None:
    """Where no hook has anything against it."""
    assert said("42", "why?", temperature=0) == ({"args": ["why?"], "kwargs": {"temperature": 0}}, "42")


def test_what_has_no_form_is_told_by_its_type() -> None:
    """A client that holds an API key, say."""

    class Session:
        def __repr__(self) -> str:
            return "Session(key=SECRET)"

    told = said("42", Session(), "why?")
    assert told is not None
    assert told[0]["args"][1:] == ["why?"]
    assert "Session>" in told[0]["args"][0]
    assert "SECRET" not in str(told)


def test_the_hook_sees_both_and_says_what_is_told() -> None:
    """In whatever shape it likes."""
    seen = []

    def redact(prompt: Any, answer: Any) -> tuple[Any, Any]:
        seen.append((prompt, answer))
        return "asked", {"length": len(answer)}

    assert said("42", "why?", redact=redact) == ("asked", {"length": 2})
    assert seen == [({"args": ["why?"], "kwargs": {}}, "42")]


def test_the_hook_may_keep_all_of_it() -> None:
    """None is told as nothing."""
    assert said("42", "why?", redact=lambda *_: None) is None


@pytest.mark.parametrize(
    "redact", [lambda *_: 1 / 0, lambda *_: 5, lambda *_: ("a", "b", "c"), lambda *_: ("\udc00", "")]
)
def test_a_hook_that_fails_lets_nothing_pass(redact: Any) -> None:
    """And does not say what it failed at: its message may quote."""
    with pytest.warns(SidecardWarning, match=r"logged without prompt and answer \(\w+\)"):
        assert said("42", "why?", redact=redact) is None


def test_what_is_too_large_is_told_by_its_size() -> None:
    """Images, mostly."""
    image = b"x" * MAX_TRANSCRIPT_BYTES
    told = said("42", image, redact=lambda prompt, _: (prompt, image))
    assert told is not None
    prompt, answer = told
    assert prompt["$truncated"] == answer["$truncated"] == ""
    assert prompt["bytes"] > answer["bytes"] > MAX_TRANSCRIPT_BYTES


def test_a_hook_is_a_callable() -> None:
    """Said where it is given."""
    with pytest.raises(TypeError, match="redact= must be callable"):
        Options().changed({"redact": "no"})

    assert isinstance(transcript_of(Options(), (), {}, None), wire.Transcript)
