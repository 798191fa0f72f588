"""The standard streams of a command, which may be closed, full, or without a reader."""

import os
import sys
from contextlib import suppress
from io import TextIOWrapper

_STANDARD_INPUT, _STANDARD_OUTPUT, _STANDARD_ERROR = range(3)


def prepare() -> None:
    """Occupy closed standard descriptors, so that no database or socket gets their numbers and receives messages.

    Writing to a standard output that was closed fails; messages to a closed standard error vanish. Characters that the
    encoding of standard output lacks are written as escapes.
    """
    for descriptor in (_STANDARD_INPUT, _STANDARD_OUTPUT, _STANDARD_ERROR):
        try:
            os.fstat(descriptor)
        except OSError:
            # The lowest free number is the one that is closed. Not inheritable, as those of a parent are: children get their own.
            os.open(os.devnull, os.O_WRONLY if descriptor == _STANDARD_ERROR else os.O_RDONLY)

    if sys.stdout is None:
        sys.stdout = open(_STANDARD_OUTPUT, "w", encoding="utf-8", closefd=False)  # noqa: SIM115 - open until the end

    if sys.stderr is None:
        sys.stderr = open(_STANDARD_ERROR, "w", encoding="utf-8", closefd=False)  # noqa: SIM115 - as above

    if isinstance(sys.stdout, TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")


def flush() -> None:
    """Flush both output streams at the end of a command.

    A stream that fails is redirected to nowhere: otherwise Python would report it once more, with exit code 120.
    """
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError:
            with suppress(OSError):
                nowhere = os.open(os.devnull, os.O_WRONLY)
                os.dup2(nowhere, stream.fileno())
                os.close(nowhere)
                stream.flush()

        except ValueError:
            continue  # closed
