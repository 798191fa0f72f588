"""What was said in a call, for the daemon's call log: only where its operator asks for it, and only what the app lets pass.

The daemon asks with each lease (`wire.Lease.log`). The app's ``redact`` hook sees prompt and answer before they leave the
process, and whatever goes wrong there, nothing is told: the call itself is not touched by it.
"""

import warnings
from typing import Any, Final

import msgspec
from msgspec import Raw

from sidecard_client.call.options import Options
from sidecard_client.protocol import wire
from sidecard_client.protocol.errors import SidecardWarning

MAX_TRANSCRIPT_BYTES: Final = 1024 * 1024
"""Of prompt or answer as msgpack; what is larger is told as ``{"$truncated": "", "bytes": number}``.

The daemon's log looks at no more either: such a prompt is images.
"""


def _kind(thing: Any) -> str:
    return f"<{type(thing).__qualname__}>"


_pack = msgspec.msgpack.Encoder(enc_hook=_kind).encode
"""What has no form in msgpack is told by its type alone: a ``repr`` may hold a secret."""


def transcript_of(
    options: Options, args: tuple[Any, ...], kwargs: dict[str, Any], value: Any
) -> wire.Transcript | None:
    """Return what is told of a call that was given ``args`` and ``kwargs`` and returned ``value``; None for nothing.

    The prompt is ``{"args": [...], "kwargs": {...}}``. Never raises: a hook that fails is warned of by its exception's type.
    """
    prompt: Any = {"args": list(args), "kwargs": kwargs}
    try:
        said = (prompt, value) if options.redact is None else options.redact(prompt, value)
        if said is None:
            return None

        prompt, answer = said
        return wire.Transcript(_packed(prompt), _packed(answer))
    except Exception as error:  # noqa: BLE001 - the boundary to the user's hook, as with `calls.read_usage`
        warnings.warn(
            f"The call is logged without what was said ({type(error).__name__}): redact= should return "
            "(prompt, answer), or None to keep both.",
            SidecardWarning,
            stacklevel=2,
        )
        return None


def _packed(thing: Any) -> Raw:
    packed = _pack(thing)
    return Raw(packed if len(packed) <= MAX_TRANSCRIPT_BYTES else _pack({"$truncated": "", "bytes": len(packed)}))
