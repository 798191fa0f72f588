"""Read a body of ``multipart/form-data`` as the value that a key is made of. Pure.

What counts are names, texts and contents. What does not: the boundary, the order of fields with different names, the name of a
file but for its extension, and the headers of a text field. A file is represented by the SHA-256 of its content, its
media type and the extension of its name in lower case, because servers detect a file's format by either.
Fields of one name keep their order, as in a list.
"""

import hashlib
import re
from collections.abc import Iterator, Mapping
from email.message import Message
from typing import Any, Final

from msgspec import Struct

_BOUNDARY: Final = re.compile(r"[0-9A-Za-z'()+_,\-./:=? ]{0,69}[0-9A-Za-z'()+_,\-./:=?]")
"""RFC 2046."""

MAX_PARTS: Final = 1000

MAX_HEADER_CHARACTERS: Final = 4096
"""Limit of a header with parameters: the standard library reads it in a time that grows with the square of its length."""

_READ_CHARSETS: Final = frozenset({"utf-8", "utf8", "us-ascii", "ascii"})


class FormField(Struct, frozen=True):
    """One field of a form. ``file_name`` is None for a text field."""

    name: str
    content: memoryview
    file_name: str | None = None
    media_type: str = ""


def form_of(content_type: str, body: bytes) -> dict[str, Any] | None:
    """Return a form's fields by name, one value or a list of several; None if it is not a form that can be read."""
    form: dict[str, list[Any]] = {}
    try:
        boundary = _parameters_of(content_type).get("boundary", "")
        if not _BOUNDARY.fullmatch(boundary):
            return None

        for number, part in enumerate(_parts_of(body, boundary.encode("ascii"))):
            if number >= MAX_PARTS:
                return None

            form.setdefault(part.name, []).append(_value_of(part))
    except ValueError:  # such as a text that is not UTF-8
        return None

    return {name: values[0] if len(values) == 1 else values for name, values in form.items()}


def is_file(value: Any) -> bool:
    """Return whether a value of a form is a file, or a list of them."""
    files = value if isinstance(value, list) else [value]
    return bool(files) and all(isinstance(one, dict) for one in files)


def _value_of(part: FormField) -> Any:
    if part.file_name is None:
        return str(part.content, "utf-8")

    _, dot, extension = part.file_name.rpartition(".")
    return {
        "sha256": hashlib.sha256(part.content).hexdigest(),
        "extension": extension.lower() if dot else "",
        "type": part.media_type,
    }


def _parts_of(body: bytes, boundary: bytes) -> Iterator[FormField]:
    """Yield the parts, without a copy of their contents. Raises `ValueError` for a form that is not well-formed."""
    view = memoryview(body)
    first, separator = b"--" + boundary, b"\r\n--" + boundary
    # The first delimiter may begin the body; all others follow a line end that belongs to them.
    start = len(first) if body.startswith(first) else _after(body, separator, 0)
    if body[: start - len(first)].strip():
        raise ValueError("something stands before the first delimiter")

    while not body.startswith(b"--", start):
        end = _after(body, separator, start) - len(separator)
        content = _after(body, b"\r\n\r\n", start, end)
        blanks, line_end, lines = body[start:content].partition(b"\r\n")
        if not line_end or blanks.strip(b" \t"):
            raise ValueError("a delimiter is not alone in its line")

        yield _part_of(_headers_of(lines.removesuffix(b"\r\n\r\n")), view[content:end])
        start = end + len(separator)


def _after(body: bytes, text: bytes, start: int, end: int | None = None) -> int:
    """Return where the text ends. Raises `ValueError` if it is not there."""
    return body.index(text, start, end) + len(text)


def _headers_of(lines: bytes) -> dict[str, str]:
    headers = {}
    for line in lines.decode().split("\r\n"):
        name, colon, value = line.partition(":")
        name = name.strip().lower()
        if not colon or name in headers:
            raise ValueError("a header of a part has no colon, or is repeated")

        headers[name] = value.strip()

    return headers


def _part_of(headers: Mapping[str, str], content: memoryview) -> FormField:
    if headers.get("content-transfer-encoding", "binary").lower() not in {"7bit", "8bit", "binary"}:
        raise ValueError("a part is encoded")

    written = headers.get("content-disposition", "")
    if "\\" in written:  # browsers and mail programs read it differently
        raise ValueError("a part has a name that could be another")

    disposition = _parameters_of(written)
    name = disposition.get("name")
    if not name:
        raise ValueError("a part has no name")

    file_name = disposition.get("filename")
    content_type = headers.get("content-type", "")
    if file_name is None and _parameters_of(content_type).get("charset", "utf-8").lower() not in _READ_CHARSETS:
        raise ValueError("a text is not in UTF-8")

    media_type = content_type.partition(";")[0].strip().lower()
    return FormField(name, content, file_name, media_type)


def _parameters_of(header: str) -> dict[str, str]:
    """Return the parameters of a header, ``filename*`` as ``filename``. Raises `ValueError` if one is repeated, or the header too long."""
    if len(header) > MAX_HEADER_CHARACTERS:
        raise ValueError("a header is too long")

    message = Message()
    message["x-any"] = header.replace("\r", " ").replace("\n", " ")
    found = {}
    parameters: list[tuple[str, Any]] = message.get_params(
        [], "x-any", unquote=True
    )  # as typeshed says it less exactly
    for name, value in parameters[1:]:
        text = value if isinstance(value, str) else value[2]  # RFC 2231: character set, language, text
        if name.lower() in found:  # servers use the first or the last
            raise ValueError("a parameter of a header is repeated")

        found[name.lower()] = text

    return found
