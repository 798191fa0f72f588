"""The scripts that run in a Redis server, and the layout of an entry in it.

A key's entry and claim are one Redis hash, so every script is a single-key operation: a cluster may move the hash between
nodes at any time, and its parts are never separated.

===================  ================================================================================================
field                content
===================  ================================================================================================
``value``            the entry, in the versioned envelope of `encode_entry`
``until``            when it expires, in milliseconds of the server's clock (hosts' clocks are never compared)
``tags``             `sidecard.core.records.Record.index_tags`, each between two zero bytes
``claim``            the host and flight that compute the key: a fence, since it is never used twice
``claimed_until``    when that claim expires unless it is renewed, as ``until``
===================  ================================================================================================

Redis expires the hash when the later of both has passed. A claim stays in the hash for a while after its time
(`GRACE_MILLISECONDS`): a holder that was late, but was not replaced, may still store and renew.

Every change is published on one channel by the script that makes it: a host that receives the message finds the change done.
"""

from hashlib import sha1

import msgspec
from msgspec import Struct

from sidecard.core.records import Record
from sidecard.store.base import terms_of
from sidecard.store.validation import (
    MAX_CLOCK_ERROR_SECONDS,
    UNDECODABLE,
    StoredBackend,
    StoredSeconds,
    StoredTask,
    is_value,
)
from sidecard_client.protocol.wire import Tags, Usage

LAYOUT = 1
"""Part of every Redis key: another layout has other keys, so its entries are misses."""

ENVELOPE = 1
"""The first byte of an encoded entry."""

COMPRESSED_ENVELOPE = 2
"""Like `ENVELOPE`, but with a compressed value (`sidecard.core.cache.compression`). Versions without compression have a miss."""

GRACE_MILLISECONDS = 60_000
"""Far longer than the usual hang of a server that recovers, and short enough that the memory does not matter."""

MAX_CLAIM_SECONDS = 600
"""The longest claim. One that ends later (a foreign value, a clock that was set back, "nan") does not count: no host renews it."""

NOW = """
local clock = redis.call('TIME')
local now = clock[1] * 1000 + math.floor(clock[2] / 1000)
"""

_LOOK = """
local kind = redis.call('TYPE', KEYS[1])['ok']
local ours = kind == 'hash'
local at = ours and redis.call('HMGET', KEYS[1], 'value', 'until', 'claim', 'claimed_until', 'tags') or {}
local stored = at[1] and at[2] and tonumber(at[2]) and tonumber(at[2]) > now and tonumber(at[2]) or 0
local claimed = at[3] and at[4] and tonumber(at[4]) or 0
if not (claimed <= now + MAX_CLAIM) then claimed = 0 end
if stored > 1e15 then stored = 0 end
""".replace("MAX_CLAIM", str(1000 * MAX_CLAIM_SECONDS))

_KEEP = """
local function keep(stored, claimed)
  local last = math.max(stored, claimed > 0 and claimed + GRACE or 0)
  redis.call('PEXPIREAT', KEYS[1], last)
end
""".replace("GRACE", str(GRACE_MILLISECONDS))


class Script:
    """One script: its text, and the SHA-1 by which a server knows it."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.sha = sha1(text.encode(), usedforsecurity=False).hexdigest()


READ = Script(
    # The most frequent case first: it takes 10 us of a server's time, the others 20.
    """
if ARGV[3] == '1' then
  local found = redis.pcall('HMGET', KEYS[1], 'value', 'until')
  local ends = found[1] and tonumber(found[2])
  if ends then
    local clock = redis.call('TIME')
    local left = ends - clock[1] * 1000 - math.floor(clock[2] / 1000)
    if left > 0 then return {'found', found[1], left} end
  end
end
"""
    + NOW
    + _LOOK
    + _KEEP
    + """
local token, claim_ms = ARGV[1], tonumber(ARGV[2])
if kind ~= 'none' and not ours then return {'absent'} end
if claimed > now and at[3] ~= token then return {'elsewhere', claimed - now} end
if token == '' then return {'absent'} end
redis.call('HSET', KEYS[1], 'claim', token, 'claimed_until', now + claim_ms)
keep(stored, now + claim_ms)
return {'claimed'}
"""
)
"""Arguments: the claim to request (empty: none), its milliseconds, ``1`` to read the entry.

Returns ``found`` with the envelope and its remaining milliseconds; ``elsewhere`` with those of another holder's claim;
``claimed``; or ``absent``."""

WRITE = Script(
    NOW
    + _LOOK
    + _KEEP
    + """
local how, token, value, ttl_ms, tags = ARGV[1], ARGV[2], ARGV[3], tonumber(ARGV[4]), ARGV[5]
if how == 'claimed' and at[3] ~= token then return 0 end
if how == 'absent' and stored > 0 then return 0 end
if kind ~= 'none' and not ours then redis.call('DEL', KEYS[1]) end
redis.call('HSET', KEYS[1], 'value', value, 'until', now + ttl_ms, 'tags', tags)
if at[3] == token then
  redis.call('HDEL', KEYS[1], 'claim', 'claimed_until')
  claimed = 0
end
keep(now + ttl_ms, claimed)
redis.call('PUBLISH', ARGV[6], ARGV[7])
return 1
"""
)
"""Arguments: when to write, the claim (may be empty), envelope, milliseconds, tags, channel, message.

``claimed`` writes if the claim is current, ``absent`` if there is no entry, ``always`` in any case. Returns 1 if the entry was
stored."""

RENEW = Script(
    NOW
    + _LOOK
    + _KEEP
    + """
if at[3] ~= ARGV[1] then return 0 end
redis.call('HSET', KEYS[1], 'claimed_until', now + tonumber(ARGV[2]))
keep(stored, now + tonumber(ARGV[2]))
return 1
"""
)
"""Arguments: claim, milliseconds. Returns 1 if the claim was still current."""

RELEASE = Script(
    NOW
    + _LOOK
    + """
if at[3] ~= ARGV[1] then return 0 end
if stored > 0 then
  redis.call('HDEL', KEYS[1], 'claim', 'claimed_until')
  redis.call('PEXPIREAT', KEYS[1], stored)
else
  redis.call('DEL', KEYS[1])
end
redis.call('PUBLISH', ARGV[2], ARGV[3])
return 1
"""
)
"""Arguments: claim, channel, message. Returns 1 if the claim was current."""

REMOVE = Script(
    NOW
    + _LOOK
    + """
if kind ~= 'none' and not ours then return 0 end
redis.call('DEL', KEYS[1])
redis.call('PUBLISH', ARGV[1], ARGV[2])
return stored > 0 and 1 or 0
"""
)
"""Arguments: channel, message. Returns 1 if there was an entry. Removes the claim too, so that a call in progress stores nothing."""

PURGE = Script(
    NOW
    + _LOOK
    + """
if not ours then return 0 end
local meant = true
for _, mark in ipairs(ARGV) do
  meant = meant and string.find(at[5] or '', mark, 1, true)
end
if stored > 0 and not meant then
  redis.call('HDEL', KEYS[1], 'claim', 'claimed_until')
  redis.call('PEXPIREAT', KEYS[1], stored)
  return 0
end
redis.call('DEL', KEYS[1])
return stored > 0 and 1 or 0
"""
)
"""Arguments: the encoded tags (none: every entry matches). Returns 1 if an entry with all of them was removed.

Claims are removed in any case."""

ALL = (READ, WRITE, RENEW, RELEASE, REMOVE, PURGE)


class _Envelope(Struct, array_like=True, frozen=True):
    seconds: StoredSeconds
    ttl_seconds: StoredSeconds
    window_seconds: StoredSeconds
    backend: StoredBackend
    usage: Usage
    tags: Tags
    value: bytes
    task: StoredTask = ""
    """Empty in envelopes of versions without tasks, which ignore it when they read ours."""


_pack = msgspec.msgpack.Encoder().encode
_unpack = msgspec.msgpack.Decoder(_Envelope).decode


def encode_entry(record: Record) -> bytes:
    """Return a record's envelope: one byte of version, then msgpack."""
    version = COMPRESSED_ENVELOPE if record.compressed else ENVELOPE
    return bytes((version,)) + _pack(_Envelope(*terms_of(record), record.value, record.task))


def is_of_another_version(data: bytes) -> bool:
    """Return whether an envelope is not for this version to judge."""
    return not data or data[0] not in {ENVELOPE, COMPRESSED_ENVELOPE}


def decode_entry(data: bytes, remaining_seconds: float) -> Record | None:
    """Return an envelope's record; None for one of another version or another program, or if its value is not msgpack.

    Also None if more time remains than the entry ever had: the server's clock was set back, and the entry's age is unknown.
    """
    if is_of_another_version(data):
        return None

    try:
        found = _unpack(memoryview(data)[1:])
    except UNDECODABLE:
        return None

    lifetime_seconds = max(found.ttl_seconds, found.window_seconds)
    if not 0 < remaining_seconds <= lifetime_seconds + MAX_CLOCK_ERROR_SECONDS:
        return None

    compressed = data[0] == COMPRESSED_ENVELOPE
    if not is_value(found.value, compressed=compressed):
        return None

    # Field by field: `terms_of` would take 0.2 us more of each read.
    return Record(
        found.value,
        found.seconds,
        found.ttl_seconds,
        found.window_seconds,
        found.backend,
        found.usage,
        found.tags,
        max(0.0, lifetime_seconds - remaining_seconds),
        found.task,
        compressed=compressed,
    )


def encode_tags(tags: tuple[str, ...]) -> bytes:
    """Return tags in the form that `PURGE` searches."""
    return b"".join(b"\0%b\0" % tag.encode() for tag in tags)


def entry_name(scope: str, key: str) -> bytes:
    """Return the Redis key of a scope and key. A scope has exactly one colon, so names are unique."""
    return f"sidecard:{LAYOUT}:{scope}:{key}".encode()


def scope_and_key(name: bytes) -> tuple[str, str] | None:
    """Return the scope and key of an `entry_name`; None for other names."""
    parts = name.decode(errors="replace").split(":", 4)
    if len(parts) != 5 or parts[:2] != ["sidecard", str(LAYOUT)]:  # noqa: PLR2004 - sidecard, layout, uid, namespace, key
        return None

    return f"{parts[2]}:{parts[3]}", parts[4]


def scan_pattern(namespace: str | None) -> str:
    """Return a `SCAN` pattern for a purge's namespace. It may match more: `sidecard.core.scopes.covers` decides."""
    if namespace is None:
        scope = "*"
    else:
        name = namespace.translate(_GLOB)
        scope = name if ":" in namespace else f"*:{name}"

    return f"sidecard:{LAYOUT}:{scope}:*"


_GLOB = str.maketrans({letter: f"\\{letter}" for letter in "*?[]\\"})

CHANNEL = f"sidecard:{LAYOUT}:news"
