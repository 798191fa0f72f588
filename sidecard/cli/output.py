"""Write the results of commands: text or JSON on standard output, and files that are replaced atomically."""

import os
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

import msgspec

from sidecard.cli.exit_codes import UNWRITABLE, OutputError
from sidecard.printable import printable, printable_json

STANDARD = "-"
"""File name that means standard input or output."""


class Verbatim(str):
    """Text that is written as it is: rendered for a terminal already, or in a format for programs."""

    __slots__ = ()


def write(text: str) -> None:
    """Write a line to standard output and flush it. Unprintable characters are escaped, unless it is `Verbatim`.

    Raises `OutputError`, and `BrokenPipeError` if the reader is gone.
    """
    shown = text if isinstance(text, Verbatim) else printable(text, keep="\n\t")
    with _standard_output():
        sys.stdout.write(f"{shown}\n")
        sys.stdout.flush()


@contextmanager
def _standard_output() -> Iterator[None]:
    """Raise `OutputError` for errors of standard output."""
    try:
        yield
    except BrokenPipeError:
        raise  # the reader closed the pipe: `main` exits without an error
    except OSError as error:
        raise OutputError(UNWRITABLE.format(error.strerror)) from error


def write_json(value: Any) -> None:
    """Write a value as indented JSON."""
    write(json_text(msgspec.json.format(msgspec.json.encode(value)).decode()))


def write_json_line(value: Any) -> None:
    """Write a value as one line of JSON."""
    write(json_text(msgspec.json.encode(value).decode()))


def json_text(text: str) -> Verbatim:
    """Return JSON that may be shown on a terminal."""
    return Verbatim(printable_json(text))


def fields_of(reply: msgspec.Struct) -> dict[str, Any]:
    """Return a reply's documented fields, without ``type`` and ``id``."""
    fields: dict[str, Any] = msgspec.to_builtins(reply)
    return {name: value for name, value in fields.items() if name not in {"type", "id"}}


def write_reply(reply: msgspec.Struct, text: Callable[[], str], *, as_json: bool) -> None:
    """Write a reply's fields as JSON, or the text for people."""
    if as_json:
        write_json(fields_of(reply))
    else:
        write(text())


def json_line(value: Any) -> bytes:
    """Return a value as one line of JSON that may be shown on a terminal."""
    return shown_json(msgspec.json.encode(value)) + b"\n"


def shown_json(text: bytes) -> bytes:
    """Return JSON, which may end with a line feed, as it may be shown on a terminal."""
    return text if text.isascii() and b"\x7f" not in text else printable_json(text.decode()).encode()


def write_lines(file: IO[bytes], lines: Iterable[bytes]) -> int:
    """Write lines as they are produced, flush the file, and return their number."""
    number = 0
    for number, line in enumerate(lines, start=1):  # noqa: B007 - the last number is returned
        file.write(line)

    file.flush()
    return number


def write_json_lines(values: Iterable[Any]) -> int:
    """Write each value as one line of JSON to standard output, and return their number."""
    with replaced_file(STANDARD) as file:
        return write_lines(file, map(json_line, values))


def warn(sentence: object) -> None:
    """Write a sentence about a problem to standard error."""
    note(f"sidecard: {sentence}")


def note(sentence: str) -> None:
    """Write a sentence to standard error. Nobody can be informed that this failed, so a failure is ignored."""
    with suppress(OSError, ValueError):
        print(printable(sentence, keep="\n\t"), file=sys.stderr, flush=True)


@contextmanager
def replaced_file(name: str) -> Iterator[IO[bytes]]:
    """Open a file for writing, or standard output. Raises `OutputError` if it cannot be written.

    An existing file is replaced only after the new one is complete and synced. Pipes and devices are written in place.
    """
    if name == STANDARD:
        with _standard_output():
            yield sys.stdout.buffer
            sys.stdout.buffer.flush()

        return

    target = Path(name)
    try:
        in_place = target.exists() and not target.is_file()
        new = target if in_place else target.with_name(f"{target.name}.new")
        # Mode 0600, because prompts and answers may be confidential.
        flags = os.O_WRONLY | (0 if in_place else os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW)
        with open(os.open(new, flags, 0o600), "wb") as file:  # noqa: PTH123 - a descriptor, for the mode
            try:
                yield file
                file.flush()
                if not in_place:
                    os.fsync(file.fileno())
                    new.replace(target)
            except BaseException:
                if not in_place:
                    new.unlink(missing_ok=True)

                raise
    except BrokenPipeError:
        raise  # the reader closed the pipe: `main` exits without an error
    except OSError as error:
        raise OutputError(f"cannot write {name}: {error.strerror}. Name another file, or make room for it.") from error
