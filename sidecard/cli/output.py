"""Write the results of commands: text or JSON on standard output, and files that are replaced atomically."""

import os
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import msgspec

from sidecard.errors import SidecardError

STANDARD = "-"
"""File name that means standard input or output."""


def write(text: str) -> None:
    """Write a line to standard output and flush it, so that `main` handles a closed pipe."""
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def write_json(value: Any) -> None:
    """Write a value as indented JSON."""
    write(msgspec.json.format(msgspec.json.encode(value)).decode())


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
    """Return a value as one line of JSON."""
    return msgspec.json.encode(value) + b"\n"


def write_lines(file: IO[bytes], lines: Iterable[bytes]) -> int:
    """Write lines as they are produced, flush the file, and return their number."""
    number = 0
    for number, line in enumerate(lines, start=1):  # noqa: B007 - the last number is returned
        file.write(line)

    file.flush()
    return number


def warn(sentence: object) -> None:
    """Write a sentence to standard error."""
    print(f"sidecard: {sentence}", file=sys.stderr)


@contextmanager
def replaced_file(name: str) -> Iterator[IO[bytes]]:
    """Open a file for writing, or standard output. Raises `SidecardError` if it cannot be written.

    An existing file is replaced only after the new one is complete and synced. Pipes and devices are written in place.
    """
    if name == STANDARD:
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
        raise SidecardError(f"cannot write {name}: {error.strerror}") from error
