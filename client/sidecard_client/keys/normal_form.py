"""The normal form of a request's texts, so that requests share one key although they are written differently.

Off by default, because a form declares that answers do not depend on what it removes:

``"nfc"``
    Unicode's composed form: an accented letter is one character, however it was typed. Changes no visible meaning.
``"space"``
    Each run of white space becomes one space, and none remains at either end. Wrong for text whose layout matters: source
    code (above all Python), tables, poems, diffs.
``"case"``
    Unicode's full case folding. Wrong for code, for names that differ only by case, for base64, and in languages where
    case has meaning (Turkish dotless i; German "Sie" and "sie").

Forms affect only the key: the function receives the request as written, and of two callers that share, one gets the
answer to the other's spelling. Names of arguments and fields are kept, and so is every value below a name in
`VERBATIM_NAMES`.

Recipe, for other languages: for each string of ``args`` and ``kwargs`` at any depth, except names and what is below
`VERBATIM_NAMES`,

1. with ``nfc``: Unicode Normalization Form C (stable since Unicode 4.1 for all assigned characters);
2. with ``case``: full case folding (the C and F lines of CaseFolding.txt), and with ``nfc`` form C once more;
3. with ``space``: each longest run of U+0009 to U+000D, U+001C to U+001F, U+0020, U+0085, U+00A0, U+1680, U+2000 to U+200A,
   U+2028, U+2029, U+202F, U+205F and U+3000 becomes one U+0020, and one at either end is removed.

`sidecard_client.keys.fingerprint` describes how the forms enter the key.
"""

import unicodedata
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final, Literal, get_args

NormalForm = Literal["nfc", "space", "case"]

NORMAL_FORMS: Final[tuple[NormalForm, ...]] = get_args(NormalForm)

VERBATIM_NAMES: Final = frozenset(
    {
        "call_id",
        "data",
        "encrypted_content",
        "file_data",
        "file_id",
        "headers",
        "id",
        "identity",
        "image_url",
        "images",
        "model",
        "signature",
        "tool_call_id",
        "tool_use_id",
        "url",
    }
)
"""Arguments and fields whose values are identifiers or encoded bytes in the interfaces of language models, or parts of an
HTTP request besides its body (`sidecard_client.http.request`). Case folding, for example, would make two different images equal."""

BY_TASK: Final = "task"
"""Given instead of forms: use the daemon's forms for the call's task."""

Normalize = tuple[NormalForm, ...] | Literal["task"]


def ordered(forms: Iterable[NormalForm]) -> tuple[NormalForm, ...]:
    """Return forms as they are in keys: each once, in alphabetical order."""
    return tuple(sorted(set(forms)))


def normal_arguments(
    args: tuple[Any, ...], kwargs: Mapping[str, Any], forms: Iterable[NormalForm]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Return the arguments of a call with their texts in normal form. Raises `RecursionError` for endless nesting."""
    text = _text_form(frozenset(forms))
    return tuple(_normal(value, text) for value in args), _normal_map(kwargs, text)


def _normal(value: Any, text: Callable[[str], str]) -> Any:
    if isinstance(value, str):
        return text(str.__str__(value))

    if isinstance(value, dict):
        return _normal_map(value, text)

    return [_normal(item, text) for item in value] if isinstance(value, list | tuple) else value


def _normal_map(fields: Mapping[Any, Any], text: Callable[[str], str]) -> dict[Any, Any]:
    return {name: value if name in VERBATIM_NAMES else _normal(value, text) for name, value in fields.items()}


def _text_form(forms: frozenset[NormalForm]) -> Callable[[str], str]:
    def form(text: str) -> str:
        if "nfc" in forms:
            text = unicodedata.normalize("NFC", text)

        if "case" in forms:
            text = text.casefold()
            if "nfc" in forms:
                # Folding may decompose a character.
                text = unicodedata.normalize("NFC", text)

        return " ".join(text.split()) if "space" in forms else text

    return form
