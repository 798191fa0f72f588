"""Convert the values of a type to plain ones, and back to values of the same type in another process.

A codec belongs to what the app gave: ``returns=``, or the annotation of its function. Nothing is ever imported because of bytes that
were received, and no bytes name a class.
"""

import functools
import hashlib
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

import msgspec
from msgspec import Struct

from sidecard_client.protocol.errors import UnreadableAnswer, UnshareableValue
from sidecard_client.protocol.nesting import nests_too_deep
from sidecard_client.protocol.wire import pack
from sidecard_client.values.annotations import Part, UnknownAnnotation, annotation_of, is_plain

if TYPE_CHECKING:
    from sidecard_client.values.forms import Form

unpack_value = msgspec.msgpack.Decoder().decode
"""Decode msgpack bytes to plain objects. Raises `msgspec.DecodeError`."""


TYPED: Final = "sidecard type "
"""Begins what stands in front of a value of a type, so that no caller who expects a plain value takes the form for one."""


def is_of_a_type(plain: Any) -> bool:
    """Return whether a plain value is the form of a value of a type."""
    return type(plain) is list and len(plain) == 2 and type(plain[0]) is str and plain[0].startswith(TYPED)  # noqa: PLR2004


class ValueCodec(Struct, frozen=True, eq=False):
    """Converts the values of one type, whose ``name`` is for messages.

    ``identity`` is a digest of the type and of all types within it. It is part of the key, and the plain form of a value is
    ``[TYPED + identity, plain form]``: an answer of a type that has changed is not found, or at least not mistaken for another.
    """

    name: str
    identity: str
    form: "Form"

    def to_plain(self, value: Any) -> Any:
        """Return the plain form of a value, after checking that the same value comes back. Raises `UnshareableValue`."""
        from sidecard_client.values.forms import Misfit  # noqa: PLC0415 - as `codec_of`'s
        from sidecard_client.values.likeness import TOO_DEEP, difference_of  # noqa: PLC0415

        try:
            plain = self.form.to_plain(value)
            if nests_too_deep(plain):
                raise Misfit(TOO_DEEP)

            restored = self.form.from_plain(unpack_value(pack(plain)))
            difference = difference_of(value, restored)
        except Misfit as error:
            raise UnshareableValue(f"The value is not shared: {error}.") from None
        except RecursionError:
            raise UnshareableValue(f"The value is not shared: value {TOO_DEEP}.") from None
        except Exception as error:
            raise UnshareableValue(
                f"The value is not shared: it does not come back as {self.name} ({type(error).__name__}: {error})."
            ) from error

        if difference is None:
            return [TYPED + self.identity, plain]

        place, problem = difference
        raise UnshareableValue(
            f"The value is not shared: value{place} {problem} from {self.name}. Return another type, such as dict or str."
        )

    def from_plain(self, plain: Any) -> Any:
        """Return the value of a plain form, which is used up. Raises `UnreadableAnswer` if it is not of this type."""
        try:
            identity, inner = plain
            if identity == TYPED + self.identity:
                return self.form.from_plain(inner)
        except Exception as error:
            raise UnreadableAnswer(
                f"The answer is not of type {self.name} ({type(error).__name__}: {error})"
            ) from error

        raise UnreadableAnswer(f"The answer is not of type {self.name}, or was stored before that type changed")


def codec_of(annotation: Any) -> ValueCodec | None:
    """Return the codec of a type; None for plain values. Raises `TypeError` for a type that is not supported."""
    if is_plain(annotation):
        return None

    try:
        return _kept_codec_of(annotation)
    except TypeError as error:
        if not str(error).startswith("unhashable"):
            raise

        return _build(annotation)


def annotated_codec(function: Callable[..., Any], part: Part) -> ValueCodec | None:
    """Return the codec of a function's annotation; None for plain values, and for types that are not supported."""
    try:
        return codec_of(annotation_of(function, part))
    except TypeError:
        return None


def problem_of_annotation(function: Callable[..., Any], part: Part) -> str | None:
    """Return why a function's annotation is not used; None if it is, or if there is none."""
    try:
        codec_of(annotation_of(function, part))
    except UnknownAnnotation as error:
        return f"{error}: give returns="
    except TypeError as error:
        return str(error)

    return None


@functools.lru_cache(maxsize=1024)
def _kept_codec_of(annotation: Any) -> ValueCodec | None:
    return _build(annotation)


def _build(annotation: Any) -> ValueCodec | None:
    # Imported for apps with typed values.
    from sidecard_client.values.building import Builder, description_of  # noqa: PLC0415
    from sidecard_client.values.forms import PlainForm  # noqa: PLC0415

    builder = Builder()
    form = builder.form(annotation)
    if type(form) is not PlainForm:
        digest = hashlib.sha256(description_of(form, builder).encode()).hexdigest()[:16]
        return ValueCodec(form.shape.removeprefix("@"), digest, form)

    if builder.problems:
        raise TypeError(f"values of type {builder.problems[0]} cannot be shared")

    return None
