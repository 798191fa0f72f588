"""Divide the prompt of a request into parts, in the order in which the backend's own cache sees them. Pure.

`PromptBuilder` collects the parts. There is a boundary after settings, tools and system text together, and after each message. If
the app marks what the provider must cache, boundaries are only where the provider caches: at the marks, and where an earlier
request of the same conversation ended.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

from sidecard_client.keys.prefixes.recipe import PromptPart

_MARK: Final = re.compile(
    r"(?P<place>\w+\[\d+\](?:\.(?:content|output)\[\d+\])?)(?:\..+)?\.(?:cache_control|prompt_cache_breakpoint)"
)
"""Where a mark is: a message, a block of a message, or a tool. One within a block counts as at its end."""

_ANSWERING: Final = ("assistant", "model")
"""Roles of the model. A tuple, because a hostile role may be unhashable."""

_SYSTEM: Final = ("system", "developer")

_FIRST_PIECE: Final = 512


class PromptBuilder:
    """Collects the parts of one prompt. ``outside`` is `ApiRequest.outside`, which has the app's marks."""

    def __init__(self, outside: Mapping[str, Any]) -> None:
        self._values: list[Any] = []
        self._cuts: set[int] = set()
        """How many parts are before each natural boundary."""
        self._marks: set[int] = set()
        """How many parts are before each of the app's marks."""
        self._answers: set[int] = set()
        """How many parts are before each message of the model."""
        self._places = _marked_places(outside) if outside else frozenset[str]()
        self._points = frozenset(place for place in outside if place.endswith("]"))
        """Places of blocks that are marks themselves."""

    def settings(self, fields: Mapping[str, Any], *names: str) -> None:
        """Add those of ``names`` that are set, as one part."""
        found = {name: value for name in names if (value := fields.get(name)) is not None}
        if found:
            self._values.append(["settings", found])

    def items(self, kind: str, items: Any, place: str) -> None:
        """Add tools, or the blocks of a text: a part each. ``place`` is theirs in the request."""
        number = 0
        for item in items if isinstance(items, list) else () if items is None else [items]:
            number = self._mark_points(place, number)
            self.add(kind, item, f"{place}[{number}]")
            number += 1

        self._mark_points(place, number)

    def _mark_points(self, place: str, number: int) -> int:
        while self._points and f"{place}[{number}]" in self._points:
            self.mark()
            number += 1

        return number

    def add(self, kind: str, value: Any, place: str = "") -> None:
        """Add one part."""
        self._values.append([kind, value])
        if place in self._places:
            self.mark()

    def cut(self) -> None:
        """Add a boundary after the parts so far."""
        if self._values:
            self._cuts.add(len(self._values))

    def mark(self) -> None:
        """Record that the app marks the parts so far."""
        if self._values:
            self._marks.add(len(self._values))

    def chat(self, messages: Any, place: str, text: str = "text") -> None:
        """Add the messages of a chat, as `messages` does. A first message of the system belongs to what is before it."""
        if not _begins_with_system(messages):
            self.cut()

        self.messages(messages, place, text=text)

    def messages(self, messages: Iterable[Any], place: str, content: str = "content", text: str = "text") -> None:
        """Add messages: for each its fields but the content, then each block of the content. ``text`` is the type of a text."""
        for number, message in enumerate(messages):
            self.message(message, f"{place}[{number}]", content, text)

    def message(self, message: Any, place: str, content: str = "content", text: str = "text") -> None:
        """Add one message, as `messages` does. A text as content means the same as a list of one block with it."""
        if not isinstance(message, dict):
            self.add("message", message, place)
            self.cut()
            return

        if message.get("role") in _ANSWERING:
            self._answers.add(len(self._values))

        self._values.append(["message", {name: value for name, value in message.items() if name != content}])
        blocks = message.get(content)
        if isinstance(blocks, str):
            blocks = [{"type": text, "text": blocks}]

        self.items("block", blocks, f"{place}.{content}")
        if place in self._places:
            self.mark()

        self.cut()

    def text(self, text: str) -> None:
        """Add a prompt that is one text, in pieces of 512 characters, 512, 1,024, 2,048 and so on, each with a boundary."""
        start, end = 0, _FIRST_PIECE
        while start < len(text):
            self.add("text", text[start:end])
            self.cut()
            start, end = end, 2 * end

    @property
    def is_marked(self) -> bool:
        """Whether the app has marked any part."""
        return bool(self._marks)

    def parts(self) -> list[PromptPart]:
        """Return the parts with their boundaries: the marked ones, if there are any."""
        boundaries = self._cuts
        if self._marks:
            last = max(self._marks)
            boundaries = self._marks | {count for count in self._answers if 0 < count < last}

        return [PromptPart(value, number in boundaries) for number, value in enumerate(self._values, start=1)]


def text_prompt(fields: Mapping[str, Any], field: str, *settings: str) -> Sequence[PromptPart]:
    """Return the parts of a prompt that is one text in a ``field``, after these ``settings``; none if it is not a text."""
    text = fields.get(field)
    if not isinstance(text, str):
        return ()

    builder = PromptBuilder({})
    builder.settings(fields, *settings)
    builder.text(text)
    return builder.parts()


def caches_only_marks(model: str) -> bool:
    """Return whether a model's prompts are cached at the app's marks alone: Anthropic's, on any host and in any API."""
    return "claude" in model.lower()


def _begins_with_system(messages: Any) -> bool:
    first = messages[0] if isinstance(messages, list) and messages else None
    return isinstance(first, dict) and first.get("role") in _SYSTEM


def _marked_places(outside: Mapping[str, Any]) -> frozenset[str]:
    found = (_MARK.fullmatch(place) for place, mark in outside.items() if mark is not None)
    return frozenset(one["place"] for one in found if one is not None)
