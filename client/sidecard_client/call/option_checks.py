"""Checks of policy keywords: each takes a keyword and its value, and returns the value in its final form.

They raise `TypeError` for a wrong type and `ValueError` for a value out of range, with the keyword and what it takes.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from msgspec import UNSET, UnsetType

from sidecard_client.keys.normal_form import BY_TASK, NORMAL_FORMS, Normalize, ordered
from sidecard_client.keys.vectors import Embedding
from sidecard_client.values.codec import ValueCodec, codec_of

_COROUTINE_FLAG = 0x80
"""``inspect.CO_COROUTINE``."""

MAX_SECONDS = 366 * 86400.0

_NUMBERS = (int, float)  # a union in the check would be created for each call with a policy

MAX_TIME_LIMIT_SECONDS = 3600.0
"""A daemon that does not answer for an hour hangs."""


MAX_BACKENDS = 16
"""Limit of the wire's ``Begin.backends``."""

MAX_NAME_CHARACTERS = 128

MAX_PREFIX_TEXTS = 1000
"""Limit of the parts of ``prefix=``; the wire takes 16 of their prefixes."""


def functions_of_backends(functions: Any) -> tuple[Callable[..., Any], ...]:
    """Check a dict of backend names and functions; return the functions."""
    if not isinstance(functions, Mapping) or not all(map(callable, functions.values())):
        raise TypeError(
            "The first argument must be a function, or a dict of backend names and functions, "
            f"not {type(functions).__name__}: write call(f, x), not call(f(x))."
        )

    if not 1 <= len(functions) <= MAX_BACKENDS:
        raise ValueError(f"A call has 1 to {MAX_BACKENDS} backends, not {len(functions)}.")

    for name in functions:
        if not isinstance(name, str) or not 1 <= len(name) <= MAX_NAME_CHARACTERS:
            raise TypeError(f"A backend's name is a str of 1 to {MAX_NAME_CHARACTERS} characters, not {name!r}.")

    return tuple(functions.values())


def prefix_texts(keyword: str, value: Any) -> tuple[str | bytes, ...]:
    """Check the prefix of a prompt: a text or bytes, or several of them that follow one another."""
    texts = (value,) if isinstance(value, str | bytes) else value
    if not isinstance(texts, Sequence) or not all(isinstance(part, str | bytes) for part in texts):
        raise TypeError(
            f"{keyword}= must be a str or bytes, or a list of them that follow one another, not {type(value).__name__}."
        )

    if not 1 <= len(texts) <= MAX_PREFIX_TEXTS:
        raise ValueError(f"{keyword}= takes 1 to {MAX_PREFIX_TEXTS} texts, not {len(texts)}.")

    for part in texts:
        if isinstance(part, str) and not part.isascii():
            part.encode()  # as in `text`

    return tuple(texts)


def text(max_characters: int) -> Callable[[str, Any], str]:
    """Check a str of 1 to ``max_characters``."""

    def check(keyword: str, value: Any) -> str:
        if not isinstance(value, str):
            raise TypeError(f"{keyword}= must be a str, not {type(value).__name__}.")

        if not 1 <= len(value) <= max_characters:
            raise ValueError(f"{keyword}= must have 1 to {max_characters} characters, not {len(value)}.")

        if not value.isascii():
            value.encode()  # lone surrogates have no UTF-8 form: UnicodeEncodeError, a ValueError, says where

        return value

    return check


def seconds(keyword: str, value: Any) -> float | None:
    """Check a number of seconds, or None."""
    if value is None:
        return None

    if isinstance(value, bool) or not isinstance(value, _NUMBERS):
        raise TypeError(f"{keyword}= must be a number of seconds or None, not {type(value).__name__}.")

    if not 0 <= value <= MAX_SECONDS:
        raise ValueError(f"{keyword}= must be 0 to {MAX_SECONDS:.0f} seconds, not {value}.")

    return float(value)


def time_limit(name: str, value: Any, *, may_be_zero: bool = False) -> float:
    """Check how long to wait for the daemon: a number of seconds that the kernel and thread locks accept."""
    if isinstance(value, bool) or not isinstance(value, _NUMBERS):
        raise TypeError(f"{name}= must be a number of seconds, not {type(value).__name__}.")

    if not 0 <= value <= MAX_TIME_LIMIT_SECONDS or (value == 0 and not may_be_zero):
        least = "at least" if may_be_zero else "more than"
        raise ValueError(f"{name}= must be {least} 0 seconds and at most {MAX_TIME_LIMIT_SECONDS:.0f}, not {value}.")

    return float(value)


def whole(maximum: int) -> Callable[[str, Any], int]:
    """Check a whole number from 0 to ``maximum``."""

    def check(keyword: str, value: Any) -> int:
        if isinstance(value, bool) or not isinstance(value, int):
            raise TypeError(f"{keyword}= must be a whole number, not {type(value).__name__}.")

        if not 0 <= value <= maximum:
            raise ValueError(f"{keyword}= must be 0 to {maximum}, not {value}.")

        return value

    return check


def flag(keyword: str, value: Any) -> bool:
    """Check a bool."""
    if not isinstance(value, bool):
        raise TypeError(f"{keyword}= must be True or False, not {type(value).__name__}.")

    return value


def answer_type(keyword: str, value: Any) -> ValueCodec | UnsetType | None:
    """Check the type of answers. None takes back to the function's annotation."""
    if value is None:
        return UNSET

    try:
        return codec_of(value)
    except TypeError as error:
        raise TypeError(
            f"{keyword}= must be a type that can be shared, such as a dataclass or list[int]: {error}."
        ) from None


def one_of(*choices: str) -> Callable[[str, Any], str]:
    """Check one of a few words."""

    def check(keyword: str, value: Any) -> str:
        if value not in choices:
            raise ValueError(f"{keyword}= must be {' or '.join(map(repr, choices))}, not {value!r}.")

        return str(value)

    return check


def names(max_count: int, max_characters: int = 128) -> Callable[[str, Any], tuple[str, ...]]:
    """Check a list of at most ``max_count`` names."""
    check_name = text(max_characters)

    def check(keyword: str, value: Any) -> tuple[str, ...]:
        if isinstance(value, str | bytes) or not isinstance(value, Iterable):
            raise TypeError(f"{keyword}= must be a list of names, such as {keyword}=['a'], not {type(value).__name__}.")

        checked = tuple(check_name(keyword, name) for name in value)
        if len(checked) > max_count:
            raise ValueError(f"{keyword}= takes at most {max_count} names, not {len(checked)}.")

        return checked

    return check


def normal_forms(keyword: str, value: Any) -> Normalize:
    """Check the names of normal forms, or ``"task"``."""
    if value is None or value == BY_TASK:
        return value or ()

    if isinstance(value, str):
        raise TypeError(
            f"{keyword}= must be a list, such as {keyword}=[{NORMAL_FORMS[0]!r}], or 'task', not {value!r}."
        )

    forms = names(len(NORMAL_FORMS))(keyword, value)
    for form in forms:
        if form not in NORMAL_FORMS:
            raise ValueError(f"{keyword}= takes any of {', '.join(map(repr, NORMAL_FORMS))}, or 'task', not {form!r}.")

    return ordered(form for form in NORMAL_FORMS if form in forms)


def hook(keyword: str, value: Any) -> Any:
    """Check a callable."""
    if not callable(value):
        raise TypeError(f"{keyword}= must be callable, not {type(value).__name__}.")

    return value


def predicate(keyword: str, value: Any) -> Any:
    """Check a callable whose result is true or false, and no coroutine, which is always true."""
    code = getattr(getattr(value, "__func__", value), "__code__", None)
    if code is not None and code.co_flags & _COROUTINE_FLAG:
        raise TypeError(f"{keyword}= must be a plain function: its result is not awaited.")

    return hook(keyword, value)


def embedder(_: str, value: Any) -> Embedding:
    """Check an embedder."""
    from sidecard_client.keys.similarity import embedding_by  # noqa: PLC0415 - for apps that embed

    return embedding_by(value)


def vector(keyword: str, value: Any) -> Embedding:
    """Check a vector."""
    from sidecard_client.keys.similarity import packed  # noqa: PLC0415 - for apps that embed

    try:
        return Embedding(None, None, packed(value))
    except TypeError:
        raise TypeError(f"{keyword}= must be numbers, or their bytes, not {type(value).__name__}.") from None


def or_none(check: Callable[[str, Any], Any]) -> Callable[[str, Any], Any]:
    """Check as ``check``, but accept None."""
    return lambda keyword, value: None if value is None else check(keyword, value)
