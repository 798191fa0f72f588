"""Prompts and answers as JSON for the call log, redacted by ``calls.redact``.

A process of its own does this. Python's regular expressions hold the interpreter's lock: one that backtracks without end would
stop the whole daemon, in any thread. The process starts with the first text, is ended by the kernel if one call's texts take
more than `MAX_CPU_SECONDS`, and ends with the daemon.

==================  ======================================================================================================
value               JSON
==================  ======================================================================================================
bytes               ``{"$bytes": base64}``; redacted as text if they are UTF-8
above the limit     ``{"$truncated": the beginning of its JSON, "bytes": size of the whole}``
undecodable         ``{"$unreadable": size}``
==================  ======================================================================================================

Patterns are applied to each string separately, names in maps included: a secret that spans two strings is not found.
"""

import base64
import contextlib
import re
import signal
import sys
from collections.abc import Sequence
from typing import IO, TYPE_CHECKING, Any, Final, cast

import msgspec

if TYPE_CHECKING:
    from subprocess import Popen

MAX_TEXT_BYTES: Final = 256 * 1024
"""Limit of one prompt or answer, as JSON. A model's context of 64,000 tokens is about as much."""

MAX_PACKED_BYTES: Final = 1024 * 1024
"""Larger texts are not decoded: they are mostly images, and decoding a map of a million nulls takes 100 MB."""

MAX_CPU_SECONDS: Final = 2.0
"""For the prompt and answer of one call."""

_MODULE: Final = "sidecard.observe.call_log.redaction_process"

REDACTED: Final = "[redacted]"

_pack = msgspec.msgpack.Encoder().encode
_unpack = msgspec.msgpack.Decoder().decode
_decode_texts = msgspec.msgpack.Decoder(tuple[str | None, str | None]).decode
_to_json = msgspec.json.Encoder().encode

_FAULTS = (msgspec.MsgspecError, RecursionError, UnicodeError, ValueError, TypeError, OverflowError)
"""Raised for bytes that are no message, or that have no JSON."""

_Pattern = re.Pattern[str]
_Match = re.Match[str]


def redacted_json(packed: bytes, patterns: Sequence[_Pattern], max_bytes: int = MAX_TEXT_BYTES) -> str:
    """Return msgpack bytes as redacted JSON, of about ``max_bytes`` at most. Never raises."""
    try:
        text = _json(_plain(_unpack(packed), patterns))
    except _FAULTS:
        return _json({"$unreadable": len(packed)})

    encoded = text.encode()
    if len(encoded) <= max_bytes:
        return text

    # Cut only after the redaction: half a secret would not be found.
    beginning = encoded[:max_bytes].decode(errors="ignore")
    return _json({"$truncated": beginning, "bytes": len(encoded)})


def truncation_marker(packed: bytes) -> bytes:
    """Return the msgpack that replaces more than `MAX_PACKED_BYTES`."""
    return _pack({"$truncated": "", "bytes": len(packed)})


def _plain(value: Any, patterns: Sequence[_Pattern]) -> Any:
    match value:
        case str():
            return _redacted(value, patterns)
        case bytes():
            return {"$bytes": base64.b64encode(_redacted_bytes(value, patterns)).decode()}
        case list():
            return [_plain(item, patterns) for item in value]
        case dict():
            return {_name(name, patterns): _plain(item, patterns) for name, item in value.items()}
        case msgspec.msgpack.Ext():
            return {"$bytes": base64.b64encode(_redacted_bytes(bytes(value.data), patterns)).decode()}
        case _:
            return value


def _name(name: Any, patterns: Sequence[_Pattern]) -> str:
    if isinstance(name, bytes):
        name = name.decode(errors="replace")

    return _redacted(name if isinstance(name, str) else str(name), patterns)


def _redacted(text: str, patterns: Sequence[_Pattern]) -> str:
    for pattern in patterns:
        text = pattern.sub(_blot, text)

    return text


def _redacted_bytes(data: bytes, patterns: Sequence[_Pattern]) -> bytes:
    try:
        return _redacted(data.decode(), patterns).encode()
    except UnicodeDecodeError:
        return data


def _blot(match: _Match) -> str:
    return REDACTED if match[0] else ""


def _json(value: Any) -> str:
    return _to_json(value).decode()


# The process --------------------------------------------------------------------------------------------------------


class RedactionProcess:
    """Redacts texts in the process. Its methods wait for it; only one may be called at a time."""

    def __init__(self, patterns: Sequence[str], max_bytes: int = MAX_TEXT_BYTES) -> None:
        self._setup = _pack((patterns, max_bytes))
        self._process: Popen[bytes] | None = None

    def texts(self, prompt: bytes | None, answer: bytes | None) -> tuple[str | None, str | None]:
        """Return msgpack bytes as redacted JSON. Raises `OSError` if that took too long, or if no process can start."""
        process = self._process or self._start()
        try:
            _send(cast("IO[bytes]", process.stdin), _pack((prompt, answer)))
            return _decode_texts(_receive(cast("IO[bytes]", process.stdout)))
        except (EOFError, BrokenPipeError) as error:
            code = process.wait()
            self.close()
            raise OSError(0, _why(code)) from error

    def close(self) -> None:
        """End the process, if there is one."""
        if self._process is not None:
            process, self._process = self._process, None
            process.kill()
            with contextlib.suppress(BrokenPipeError):
                process.communicate()  # reads the rest, closes and waits

    def _start(self) -> "Popen[bytes]":
        import subprocess  # noqa: PLC0415 - few daemons keep prompts

        self._process = process = subprocess.Popen(  # noqa: S603 - our own module, without foreign input
            [sys.executable, "-P", "-m", _MODULE],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,  # a traceback might quote
        )
        _send(cast("IO[bytes]", process.stdin), self._setup)
        return process


def _why(code: int) -> str:
    if code == -signal.SIGVTALRM:
        return f"it takes more than {MAX_CPU_SECONDS:g} s of CPU time: simplify calls.redact"

    return f"the process that makes it ended with {code}"


def serve(source: IO[bytes], target: IO[bytes]) -> None:
    """Redact texts from ``source`` until it ends; runs in the process."""
    expressions, max_bytes = _unpack(_receive(source))
    patterns = [re.compile(expression) for expression in expressions]
    while True:
        try:
            said = _unpack(_receive(source))
        except EOFError:
            return

        # CPU time of this process, so that a busy host does not count. The signal's default action ends the process.
        signal.setitimer(signal.ITIMER_VIRTUAL, MAX_CPU_SECONDS)
        made = [None if packed is None else redacted_json(packed, patterns, max_bytes) for packed in said]
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        _send(target, _pack(made))


def _send(pipe: IO[bytes], message: bytes) -> None:
    pipe.write(len(message).to_bytes(4, "big") + message)
    pipe.flush()


def _receive(pipe: IO[bytes]) -> bytes:
    """Return the next message. Raises `EOFError` if the other side has closed."""
    return _exactly(pipe, int.from_bytes(_exactly(pipe, 4), "big"))


def _exactly(pipe: IO[bytes], count: int) -> bytes:
    data = pipe.read(count)
    if len(data) < count:
        raise EOFError

    return data


if __name__ == "__main__":
    # A signal to the daemon's process group must not end this process: the daemon needs it until its own end.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)

    signal.signal(signal.SIGVTALRM, signal.SIG_DFL)
    serve(sys.stdin.buffer, sys.stdout.buffer)
