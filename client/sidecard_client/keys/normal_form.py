"""The normal form of a request's texts, for keys of requests that are to count as one although they are written differently.

Off unless asked for (``normalize=`` of a call, a client or a transport; see `options`), because it says that answers do not
depend on what it takes away:

``"nfc"``
    Unicode's composed form: an e with an accent is one character, however it was typed. Changes no meaning that people see.
``"space"``
    Each run of white space is one space, and there is none at either end. Wrong for what is laid out by it: source code
    (Python's above all), tables, poems, diffs.
``"case"``
    Unicode's full case folding. Wrong for code, for names that differ by case alone, for base64, and in languages where case
    means something (Turkish dotless i is not told from the dotted one by a plain I; German "Sie" and "sie" differ).

It goes into the key alone: the function receives the request as it was written, and of two callers who share, one has the
answer to the other's spelling. Names of arguments and of fields stay as they are, and so does every value below a name in
`VERBATIM_NAMES`, where texts are no prose.

The recipe, so that another language can compute it
===================================================
Of each string among ``args`` and ``kwargs``, at any depth, but for names of maps and what is below `VERBATIM_NAMES`:

1. with ``nfc``: Unicode Normalization Form C (stable since Unicode 4.1 for all characters that are assigned);
2. with ``case``: full case folding (the C and F lines of Unicode's CaseFolding.txt), and with ``nfc`` form C once more;
3. with ``space``: each longest run of U+0009 to U+000D, U+001C to U+001F, U+0020, U+0085, U+00A0, U+1680, U+2000 to U+200A,
   U+2028, U+2029, U+202F, U+205F and U+3000 becomes one U+0020, and one at either end is taken away.

How the forms go into the key is told in `keys`.
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
"""Names of arguments and fields whose values are identifiers or encoded bytes in the interfaces of language models, or what
`http_asked` tells of a request beside its body: folding their case would make two images one."""

BY_TASK: Final = "task"
"""In place of forms: those that the daemon has for the call's task."""

Normalize = tuple[NormalForm, ...] | Literal["task"]


def ordered(forms: Iterable[NormalForm]) -> tuple[NormalForm, ...]:
    """Return forms as they go into keys: each once, by the alphabet."""
    return tuple(sorted(set(forms)))


def normal_arguments(
    args: tuple[Any, ...], kwargs: Mapping[str, Any], forms: Iterable[NormalForm]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Return the arguments of a call with their texts in normal form. Raises `RecursionError` for what has no end."""
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
                # Folding may take a composed character apart.
                text = unicodedata.normalize("NFC", text)

        return " ".join(text.split()) if "space" in forms else text

    return form
