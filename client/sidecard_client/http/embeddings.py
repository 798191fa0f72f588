"""Embeddings of several texts: each text has its own entry, and one upstream request asks for those that are missing. Pure.

What is kept of a text is JSON as the server wrote it, so that numbers keep their digits:

========== =========================================================================
field      content
========== =========================================================================
`head`     the answer's object, with null in place of the vectors and of numbers to add up
`item`     the text's member of the vectors' list
`used`     the text's share of those numbers: tokens, durations
========== =========================================================================

A server's numbers are divided among the texts of a request by length, and the sums are exact. An answer that is put together
has the sum over all of its texts, stored ones and duplicates included, as a server would say that was asked for all of them.

The answer has the items in the order of the request, each with the ``index`` of its place, whatever order the server chose.
"""

from collections.abc import Sequence
from typing import Any, Final

import msgspec
from msgspec import Raw, Struct

from sidecard_client.batches.batch import LARGEST_BATCH, divided
from sidecard_client.http.family import AnswerSummary, EmbeddingLayout, NotStored
from sidecard_client.http.request import LlmRequest
from sidecard_client.protocol.usage import counts_of
from sidecard_client.protocol.wire import FailureKind, Usage

_EACH: Final = " each"
"""Ends the name in the key of one text, whose entry is a part of an answer."""
_NULL: Final = Raw(b"null")

_to_json = msgspec.json.encode
_from_json = msgspec.json.Decoder().decode
_fields_of = msgspec.json.Decoder(dict[str, Raw]).decode
_items_of = msgspec.json.Decoder(list[Raw]).decode


class UnusableAnswer(Exception):
    """An answer of status 2xx that does not have one vector for each text. Never reaches the app.

    The fields are those that a failure's report takes from its exception (`call.failures.fail`).
    """

    kind: FailureKind = "ignored"
    answered = False
    not_stored: NotStored = "dialect"

    def judge(self, summary: AnswerSummary) -> None:
        """Let the backend be judged by the answer; an error of the request may be that of another text."""
        self.kind = "transient" if summary.failure == "transient" else "ignored"
        self.answered = summary.answered
        self.not_stored = summary.not_stored or "incomplete"


class TextInput(Struct, frozen=True):
    """One text, or list of token ids: its value, and the JSON that the request has for it."""

    value: Any
    json: str


class EmbeddingRequest(Struct, frozen=True):
    """A request for embeddings. ``fields`` are those of its body, in order."""

    layout: EmbeddingLayout
    fields: dict[str, Raw]
    inputs: list[TextInput]

    def body_for(self, texts: Sequence[str]) -> bytes:
        """Return the body of a request for these texts, which is otherwise the same."""
        joined = Raw(f"[{','.join(texts)}]".encode())
        return _to_json({name: joined if name == self.layout.inputs else raw for name, raw in self.fields.items()})


class EmbeddedText(Struct, frozen=True):
    """What is kept of one text's answer."""

    head: bytes
    item: bytes
    used: dict[str, Any]


def parts_of_text(request: LlmRequest, layout: EmbeddingLayout, text: TextInput) -> tuple[str, dict[str, Any]]:
    """Return the name and the parts in the key of one text: those of a request for this text alone."""
    body = {**request.asked.body, layout.inputs: text.value}
    return f"{request.key_name}{_EACH}", {**request.parts, "body": body}


def embedding_request(layout: EmbeddingLayout | None, body: bytes) -> EmbeddingRequest | None:
    """Return a request whose texts can be separated; None for any other."""
    if layout is None:
        return None

    try:
        fields = _fields_of(body)
        given = fields[layout.inputs]
        value = _from_json(given)
        alone = not layout.objects and _is_one(layout, value)
        values, texts = ([value], [given]) if alone else (value, _items_of(given))
    except (msgspec.MsgspecError, RecursionError, UnicodeError, ValueError, KeyError):
        return None

    if not 1 <= len(values) <= LARGEST_BATCH or not all(_is_one(layout, one) for one in values):
        return None

    inputs = [TextInput(one, bytes(text).decode()) for one, text in zip(values, texts, strict=True)]
    return EmbeddingRequest(layout, fields, inputs)


def _is_one(layout: EmbeddingLayout, value: Any) -> bool:
    """Return whether a value is one text: a string, an object or a list of token ids, as the API takes them."""
    if layout.objects:
        return isinstance(value, dict)

    if isinstance(value, str):
        return True

    tokens = isinstance(value, list) and layout.token_lists and value
    return bool(tokens) and all(type(token) is int for token in value)


def texts_of_answer(layout: EmbeddingLayout, body: bytes, texts: Sequence[str]) -> list[EmbeddedText]:
    """Take an answer to a request for ``texts`` apart. Raises `UnusableAnswer`."""
    try:
        fields = _fields_of(body)
        items = _items_of(fields.get(layout.vectors, _NULL))
        if layout.member:
            items = _in_order(items)

        used = {name: _from_json(fields[name]) for name in layout.used if name in fields}
        fault = _from_json(fields.get("error", _NULL))
    except (msgspec.MsgspecError, RecursionError, UnicodeError, ValueError) as error:
        raise UnusableAnswer(f"the answer has no list of vectors ({error})") from None

    if fault:
        raise UnusableAnswer("the answer contains an error")

    vectors = sum(_has_vector(layout, item) for item in items)
    if not vectors == len(items) == len(texts):
        raise UnusableAnswer(f"the answer has {vectors} vectors in {len(items)} items for {len(texts)} texts")

    replaced = {layout.vectors, *used}
    head = _to_json({name: _NULL if name in replaced else raw for name, raw in fields.items()})
    shares = _shares(used, [_weight_of(text) for text in texts])
    return [EmbeddedText(head, bytes(item), share) for item, share in zip(items, shares, strict=True)]


def _weight_of(text: str) -> int:
    """Return a text's length: in characters, in token ids, or in characters of its object."""
    value = _from_json(text)
    return max(1, len(text if isinstance(value, dict) else value))


def answer_of_texts(layout: EmbeddingLayout, head: bytes, texts: Sequence[EmbeddedText]) -> bytes:
    """Put an answer together, from the ``head`` of one and the items of all."""
    items = [Raw(text.item) for text in texts]
    if layout.member:
        items = [_with_index(item, index) for index, item in enumerate(items)]

    fields: dict[str, Any] = dict(_fields_of(head))
    fields |= _sum([text.used for text in texts])
    fields[layout.vectors] = items
    return _to_json(fields)


def usage_of(texts: Sequence[EmbeddedText]) -> Usage | None:
    """Return the usage of several texts together, for the daemon."""
    used = _sum([text.used for text in texts])
    fields = _from_json(texts[0].head)
    counted = next((value for value in used.values() if isinstance(value, dict)), used)
    tokens = counts_of(counted).fields.get("prompt_tokens")
    model = fields.get("model")
    model = model if isinstance(model, str) and 0 < len(model) <= 128 else None  # noqa: PLR2004 - the limit of names
    return None if model is None and tokens is None else Usage(model, tokens)


def _in_order(items: list[Raw]) -> list[Raw]:
    """Return items in the order of their ``index``; as they are if none has one. Raises `ValueError` for a wrong index."""
    indices = [_from_json(_fields_of(item).get("index", _NULL)) for item in items]
    if all(index is None for index in indices):
        return items

    if any(type(index) is not int for index in indices) or sorted(indices) != list(range(len(items))):
        raise ValueError("their indices are not 0, 1, 2, ...")

    return [item for _, item in sorted(zip(indices, items, strict=True), key=lambda pair: pair[0])]


def _has_vector(layout: EmbeddingLayout, item: Raw) -> bool:
    """Return whether an item has a vector that is not empty, in numbers or base64."""
    vector = bytes(_fields_of(item).get(layout.member, _NULL) if layout.member else item)
    return vector[:1] in {b"[", b'"'} and bool(vector[1:-1].strip())


def _with_index(item: Raw, index: int) -> Raw:
    fields = _fields_of(item)
    if "index" not in fields:
        return item

    return Raw(_to_json({name: index if name == "index" else raw for name, raw in fields.items()}))


def _shares(value: Any, weights: Sequence[int]) -> list[Any]:
    """Divide the numbers in a value; whole ones stay whole, and anything else is everyone's."""
    if isinstance(value, dict):
        parts = {name: _shares(part, weights) for name, part in value.items()}
        return [{name: shares[place] for name, shares in parts.items()} for place in range(len(weights))]

    if type(value) is int and value >= 0:
        return list(divided(value, weights))

    if type(value) is float:
        whole = sum(weights)
        return [value * weight / whole for weight in weights]

    return [value] * len(weights)


def _sum(values: Sequence[Any]) -> Any:
    """Undo `_shares`, for the texts of any requests."""
    first = values[0]
    if isinstance(first, dict):
        names = dict.fromkeys(name for value in values if isinstance(value, dict) for name in value)
        return {
            name: _sum([value[name] for value in values if isinstance(value, dict) and name in value]) for name in names
        }

    numbers = [value for value in values if type(value) in {int, float}]
    return sum(numbers) if numbers else first
