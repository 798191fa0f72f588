"""What a key is made of, and what makes two keys differ. Pure.

`Client.explain` makes an `Explanation` of a call, ``sidecard explain`` of requests in files.
"""

from collections.abc import Iterator, Mapping
from typing import Any, Final

import msgspec
from msgspec import Struct

from sidecard_client.keys.fingerprint import NO_EXTRAS, canonical, key_of
from sidecard_client.keys.normal_form import NormalForm, ordered
from sidecard_client.protocol import wire

PARTS: Final = ("task", "model", "name", "args", "kwargs", "captured", "sample", "returns")
"""The elements of the canonical array that are shown: all but its name and version, and of its extras these three."""

SHOWN_CHARACTERS: Final = 60
"""Length of a text in a difference; of a longer one, that many around the first difference."""

_decode = msgspec.msgpack.Decoder().decode
_encode = msgspec.msgpack.Encoder(order="sorted").encode


class _Absent:
    """A value that only the other request has."""

    def __repr__(self) -> str:
        return "(absent)"


ABSENT: Final = _Absent()


class Difference(Struct, frozen=True):
    """A place where two requests differ. ``one`` or ``other`` is `ABSENT` if only the other has a value."""

    path: str
    one: Any
    other: Any
    same_in_normal_form: bool = False
    """The texts differ as written, but not in normal form."""

    def __str__(self) -> str:
        """Show one line."""
        one, other = _shown(self.one, self.other)
        return f"{self.path}: {one} / {other}{' (the same in normal form)' * self.same_in_normal_form}"


class Explanation(Struct, frozen=True):
    """The key of a request, and its parts."""

    key: str | None
    """None for ``key=None``: nothing is shared."""
    namespace: str = wire.DEFAULT_NAMESPACE
    """Not part of the key: the same key in another namespace is another entry."""
    normalize: tuple[NormalForm, ...] = ()
    parts: Mapping[str, Any] = {}
    """`PARTS` by name, as they enter the key: without ignored arguments, in normal form. Empty for a given key."""
    as_written: Mapping[str, Any] = {}
    """The same, before normalization."""
    canonical: bytes = b""
    """The bytes that were hashed; see `sidecard_client.keys.fingerprint`."""

    def __str__(self) -> str:
        """Show the key, the namespace and the parts, as JSON."""
        lines = [f"key: {self.key}", f"namespace: {self.namespace}"]
        if self.normalize:
            lines.append(f"normalize: {', '.join(self.normalize)}")

        return "\n".join([*lines, *(f"{name}: {text_of(value)}" for name, value in self.parts.items())])

    def differences(self, other: "Explanation") -> list[Difference]:
        """Return every difference between two requests.

        Texts that differ only before normalization are included, marked ``same_in_normal_form``: the keys are equal
        despite them. Empty if the requests are written alike and share an entry.
        """
        found = list(_between(self.parts, other.parts, ""))
        places = {difference.path for difference in found}
        found += [
            Difference(difference.path, difference.one, difference.other, same_in_normal_form=True)
            for difference in _between(self.as_written, other.as_written, "")
            if difference.path not in places and (self.normalize or other.normalize)
        ]
        if self.normalize != other.normalize:
            found.append(Difference("normalize", list(self.normalize), list(other.normalize)))

        if self.namespace != other.namespace:
            found.append(Difference("namespace", self.namespace, other.namespace))

        if not found and self.key != other.key:
            found.append(Difference("key", self.key, other.key))

        return found


def explain(
    task: str,
    model: str | None,
    name: str,
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any],
    ignore: tuple[str, ...] = (),
    normalize: tuple[NormalForm, ...] = (),
    namespace: str = wire.DEFAULT_NAMESPACE,
    *,
    extras: Mapping[str, Any] = NO_EXTRAS,
) -> Explanation:
    """Explain the key of a request. Raises `UnkeyableRequest`."""
    encoded = canonical(task, model, name, args, kwargs, ignore, normalize, extras)
    written = canonical(task, model, name, args, kwargs, ignore, (), extras) if normalize else encoded
    return Explanation(key_of(encoded), namespace, ordered(normalize), _parts(encoded), _parts(written), encoded)


def text_of(value: Any) -> str:
    """Return a value as JSON, or as Python if JSON cannot express it."""
    try:
        return msgspec.json.encode(value).decode()
    except (TypeError, ValueError):
        return repr(value)


def _parts(encoded: bytes) -> dict[str, Any]:
    elements = _decode(encoded)[2:]
    parts = dict(zip(PARTS, elements[:5], strict=False))
    return parts | {name: part for extras in elements[5:] for name, part in extras.items() if name in PARTS}


def _between(one: Any, other: Any, path: str) -> Iterator[Difference]:
    if isinstance(one, Mapping) and isinstance(other, Mapping):
        for name in dict.fromkeys([*one, *other]):
            yield from _between(one.get(name, ABSENT), other.get(name, ABSENT), _below(path, name))
    elif isinstance(one, list) and isinstance(other, list):
        for index in range(max(len(one), len(other))):
            yield from _between(_at(one, index), _at(other, index), f"{path}[{index}]")
    elif one is ABSENT or other is ABSENT or _encode(one) != _encode(other):
        # Compared by their encoding: 1 is not 1.0, and True is not 1.
        yield Difference(path, one, other)


def _below(path: str, name: Any) -> str:
    if isinstance(name, str) and name.isidentifier():
        return f"{path}.{name}" if path else name

    return f"{path}[{name!r}]"


def _at(items: list[Any], index: int) -> Any:
    return items[index] if index < len(items) else ABSENT


def _shown(one: Any, other: Any) -> tuple[str, str]:
    if not isinstance(one, str) or not isinstance(other, str):
        return _cut(repr(one), 0), _cut(repr(other), 0)

    pairs = enumerate(zip(one, other, strict=False))
    first = next((index for index, (left, right) in pairs if left != right), min(len(one), len(other)))
    return repr(_cut(one, first)), repr(_cut(other, first))


def _cut(text: str, around: int) -> str:
    if len(text) <= SHOWN_CHARACTERS:
        return text

    start = max(0, min(around - SHOWN_CHARACTERS // 2, len(text) - SHOWN_CHARACTERS))
    end = start + SHOWN_CHARACTERS
    return f"{'…' * (start > 0)}{text[start:end]}{'…' * (end < len(text))}"
