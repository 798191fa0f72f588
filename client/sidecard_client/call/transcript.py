"""Prompt and answer for the daemon's call log: only if its operator asks, and only as the app's ``redact`` hook allows.

The daemon asks with each lease (`wire.Lease.log`). The hook sees prompt and answer before they leave the process. If it
fails, nothing is sent, and the call is unaffected.
"""

from collections.abc import Callable
from typing import Any, Final

import msgspec
from msgspec import Raw

from sidecard_client.call.options import Options
from sidecard_client.call.warn import of, warn
from sidecard_client.protocol import wire

MAX_TRANSCRIPT_BYTES: Final = 1024 * 1024
"""Maximum size of a prompt or answer as msgpack; a larger one is sent as ``{"$truncated": "", "bytes": number}``.

The daemon's log reads no more either: such a prompt is images.
"""


def _kind(thing: Any) -> str:
    return f"<{type(thing).__qualname__}>"


_pack = msgspec.msgpack.Encoder(enc_hook=_kind).encode
"""A value without a msgpack form is sent as its type alone: a ``repr`` may hold a secret."""


def transcript_of(
    options: Options,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    value: Any,
    function: Callable[..., Any] | None = None,
) -> wire.Transcript | None:
    """Return the transcript of a call of ``function`` that returned ``value``; None for nothing.

    The prompt is ``{"args": [...], "kwargs": {...}}``. Never raises: a failing hook costs a warning with its exception's type.
    """
    prompt: Any = {"args": list(args), "kwargs": kwargs}
    try:
        redacted = (prompt, value) if options.redact is None else options.redact(prompt, value)
        if redacted is None:
            return None

        prompt, answer = redacted
        return wire.Transcript(_packed(prompt), _packed(answer))
    except Exception as error:  # noqa: BLE001 - the boundary to the user's hook, as in `completion`
        problem = type(error).__name__

    warn(
        f"The call is logged without prompt and answer ({problem}): {of('redact=', function)} should return "
        "(prompt, answer), or None to log neither.",
        function,
    )
    return None


def _packed(thing: Any) -> Raw:
    packed = _pack(thing)
    return Raw(packed if len(packed) <= MAX_TRANSCRIPT_BYTES else _pack({"$truncated": "", "bytes": len(packed)}))
