"""All messages of the protocol under one name, with their msgpack codecs.

Both sides import these Structs; there is no second definition.

=========================  ===========================================================
`values`                   limits, defaults and field types
`requests`                 what a client sends
`replies`                  replies to calls and entry operations
`reports`, `metrics`       replies about the daemon's state
`ledgers`                  the reply about calls, time and money
`reported_usage`           what a call used, in requests and replies
`frames`                   framing: msgpack with a length prefix, or JSON lines
``sidecard docs protocol``   how they are used (`sidecard/docs/protocol.md`)
=========================  ===========================================================

All fields with a default are optional, and a peer that does not know a field ignores it. What follows from that:

- A caller without ``context`` has the empty one, so callers of older versions share their ``fatal`` failures as before.
- An older client would close its connection for a message of an unknown type. So a `Wanted`, the only message that answers no
  request, is sent only to a holder whose `Begin` had ``wanted``. `Lease.waiters` and `Ok.waiters` report the same state.
- `Fail.status` and `Fail.detail` never change what a failure means: ``kind`` and ``retry_after_seconds`` decide.
- A holder sends `Started` only if its `Lease` had ``prefix``: older daemons never set it, and do not know the message. A holder
  that never sends it only delays callers with the same prefix.
- A holder sends `Append.output` only if it is false, and its `Lease` had ``prefix``. An older daemon ignores it, and takes the
  first chunk for the first output; for a chunk of an older client, it is true.
- The daemon replies `PrefixWanted` only to a begin with ``has_prefix`` and without ``prefix``; a caller that gets it begins again.
  Older clients never set ``has_prefix``, and older daemons ignore it: their calls are scheduled without prefixes.
- ``prefix`` and ``prefix_bytes`` never decide what is shared or stored, so older daemons ignore them.
- `RecordMetrics.passed` is a field and no operation of its own, so that an older daemon ignores it, and a repeated message
  (``session``, ``sequence``) is counted once.
"""

from collections.abc import Callable

import msgspec

from sidecard_client.protocol.ledgers import *  # noqa: F403 - this module is their common namespace
from sidecard_client.protocol.metrics import *  # noqa: F403
from sidecard_client.protocol.replies import *  # noqa: F403
from sidecard_client.protocol.replies import CallReply, Reply
from sidecard_client.protocol.reported_usage import *  # noqa: F403
from sidecard_client.protocol.reports import *  # noqa: F403
from sidecard_client.protocol.reports import StateReply
from sidecard_client.protocol.requests import *  # noqa: F403
from sidecard_client.protocol.requests import AnyRequest, Request
from sidecard_client.protocol.values import *  # noqa: F403

AnyReply = CallReply | StateReply

pack = msgspec.msgpack.Encoder().encode
"""Encode a message as a msgpack map, without its frame header."""

unpack_request: Callable[[bytes | memoryview], AnyRequest] = msgspec.msgpack.Decoder(AnyRequest).decode
"""Decode a request. Raises `msgspec.DecodeError`, `msgspec.ValidationError` or `RecursionError`."""

unpack_reply: Callable[[bytes | memoryview], AnyReply] = msgspec.msgpack.Decoder(AnyReply).decode
"""Decode a reply; ``value`` becomes plain objects. Raises as `unpack_request` does."""


def tag_of(kind: type[Request] | type[Reply]) -> str:
    """Return a message's name on the wire: its ``op``, or its ``type``."""
    return str(kind.__struct_config__.tag)
