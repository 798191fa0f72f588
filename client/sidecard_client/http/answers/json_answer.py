"""Assess an answer in JSON: finish reasons, errors, usage. Families derive their own forms from `JsonAnswer`. Pure."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from itertools import chain
from typing import Any, ClassVar, Final

from sidecard_client.http.answers.errors import InBandError, in_band_error, is_refusal
from sidecard_client.http.answers.finish import not_stored_for
from sidecard_client.http.family import AnswerSummary, NotStored, Verdict
from sidecard_client.protocol.usage import counts_of
from sidecard_client.protocol.wire import Usage

_MAX_NAME_CHARACTERS: Final = 128
"""The protocol's limit of a model's name."""


class JsonAnswer(ABC):
    """The assessment of one answer so far. ``choices`` were requested; ``streamed`` says that it comes in events or lines."""

    has_end: ClassVar[bool] = False
    """Its streams have a last event, without which they are not whole."""

    preceding_events: ClassVar[tuple[str, ...]] = ()
    """Types of its events that precede the model's output. A tuple, because a hostile type may be unhashable."""

    lists: ClassVar[bool] = False
    """A whole answer may be a list of what a stream has as events."""

    def __init__(self, choices: int = 1, *, streamed: bool = False) -> None:
        self.choices = choices
        self.streamed = streamed
        self.fits = False
        """Something in it has the API's shape."""
        self.has_output = False
        """An event other than the `preceding_events` was received."""
        self.ended = False
        """The last event was received."""
        self.marked_done = False
        """``[DONE]`` was received."""
        self.error: InBandError | None = None
        self.refused = False
        """The model's own words say that it refuses, whatever its finish reason."""
        self.reasons: dict[int, str] = {}
        """Finish reasons, by choice."""
        self.begun: set[int] = set()
        """Choices that have received something."""
        self._model: str | None = None
        self._counts: dict[str, int] = {}

    @abstractmethod
    def read(self, event: dict[str, Any]) -> None:
        """Read the whole answer, or one of its events. Never raises."""

    def ignores(self, name: str) -> bool:  # noqa: ARG002 - for families that name their events
        """Return whether events of this name have no meaning, so that their data may be anything."""
        return False

    def receive(self, name: str, event: dict[str, Any]) -> None:
        """Read an event and the error in it. ``name`` is empty for events without one, lines and whole answers."""
        self.has_output = self.has_output or event.get("type", name) not in self.preceding_events
        error = _error_in(name, event)
        if error is not None:
            self.fail(error)

        self.read(event)

    def fail(self, error: Any) -> None:
        """Note the first error inside the answer."""
        self.error = self.error or in_band_error(error)

    def use(self, message: Mapping[str, Any], usage: Any) -> None:
        """Note model and usage; later numbers replace earlier ones."""
        model = message.get("model")
        if isinstance(model, str) and 0 < len(model) <= _MAX_NAME_CHARACTERS:
            self._model = model

        timings = message.get("timings")  # llama.cpp's, beside a usage or without one
        if isinstance(timings, dict):
            usage = {**usage, "timings": timings} if isinstance(usage, dict) else {"timings": timings}

        if isinstance(usage, dict):
            self._counts |= counts_of(usage).fields

    def missing(self) -> str:
        """Return what the answer lacks to be known as whole; empty if nothing."""
        # Not all requested ones at once: an app may request any number, and the server may answer with fewer.
        wanted = chain(range(self.choices), sorted(self.begun))
        unfinished = next((choice for choice in wanted if choice not in self.reasons), None)
        if unfinished is not None:
            return f"choice {unfinished} has no finish reason"

        return "its last event is missing" if self.streamed and self.has_end and not self.ended else ""

    def not_stored(self) -> NotStored:
        """Return why an answer that is whole is not stored."""
        meaning = not_stored_for(self.reasons.values())
        return "refusal" if self.refused and meaning in {"", "length"} else meaning

    def usage(self) -> Usage | None:
        """Return the usage that the answer reports."""
        if self._model is None and not self._counts.keys() & {"prompt_tokens", "completion_tokens"}:
            return None

        count = self._counts.get
        return Usage(
            self._model,
            count("prompt_tokens"),
            count("completion_tokens"),
            cached_prompt_tokens=count("cached_prompt_tokens"),
            cache_write_prompt_tokens=count("cache_write_prompt_tokens"),
        )

    def summary(self, unreadable: str = "", reason: NotStored = "dialect") -> AnswerSummary:
        """Return the assessment at the end. ``unreadable`` describes what could not be read; ``reason`` is its kind."""
        usage = self.usage()
        if self.error is not None:
            detail = f"it contains an error ({self.error.description})"
            return AnswerSummary(self.error.origin, "error", detail, usage)

        if unreadable:
            verdict: Verdict = "unproven" if self.fits else "unclassifiable"
            return AnswerSummary(verdict, reason, f"it cannot be read: {unreadable}", usage)

        if not self.fits:
            return AnswerSummary("unclassifiable", "dialect", "it has nothing of its API's form", usage)

        missing = self.missing()
        if missing:
            return AnswerSummary("unproven", "incomplete", missing, usage)

        not_stored = self.not_stored()
        return AnswerSummary("complete", not_stored, self._objection() if not_stored else "", usage)

    def _objection(self) -> str:
        shown = " and ".join(sorted({repr(reason[:80]) for reason in self.reasons.values()}))
        return "the model refused" if self.refused else f"its finish reason is {shown}"


def _error_in(name: str, event: dict[str, Any]) -> Any:
    """Return the error in an event; None if it has none."""
    error = event.get("error")
    if error:
        return error

    # An event of this name, or an object that says so, is the error itself: Responses, vLLM, SGLang, gateways.
    is_error = name == "error" or event.get("type") == "error" or event.get("object") == "error" or is_refusal(event)
    return event if is_error else None
