"""Charges of requests and streams, compared with the memory that they take."""

import gc
import tracemalloc
from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from sidecard.core.events import RequestReceived
from sidecard.core.settings import BackendSettings, TaskSettings
from sidecard_client.protocol import wire
from tests.host import Actor, Host

pytestmark = pytest.mark.usefixtures("spared_heap")

NUMBER = 500
ROOM = 2**40
FACTOR = 1.2
"""How far a charge may be from the measured memory."""

TWICE_FACTOR = 4
"""The same where a text is charged twice, and for characters of four bytes."""

LARGE: dict[str, Any] = {"max_memory_bytes": ROOM, "max_waiters": ROOM, "max_flights": ROOM, "max_leases": ROOM}
NARROW = {"narrow": BackendSettings(max_concurrent=1, max_queue=ROOM)}

_decode = msgspec.msgpack.Decoder(wire.AnyRequest).decode


CACHING = {"caching": BackendSettings(prefix_affinity="provider", prefix_min_tokens=0, max_queue=ROOM)}


def _with_prefixes(number: int, prompt: str = "", prefixes: int = 16) -> wire.Begin:
    prefix = tuple(f"{prompt or format(number, '016x')}{place:016x}" for place in range(prefixes))
    lengths = tuple(range(number * 300 + 1, number * 300 + prefixes + 1))
    return wire.Begin(_key(number), id=number, backends=("caching",), prefix=prefix, prefix_bytes=lengths)


def _lead_prompt(peer: Actor) -> None:
    peer.asks(_with_prefixes(9999, "f" * 16))
    peer.gets(wire.Lease)


def _key(number: int) -> str:
    return f"v1:{number:064d}"


def _lead(peer: Actor) -> None:
    peer.leads("hot", -1)


def _call_narrow(peer: Actor) -> None:
    peer.calls("narrow", request_id=-1)


def _idle(_: Actor) -> None:
    pass


def _measured(host: Host, peer: Actor, requests: list[wire.AnyRequest]) -> tuple[int, int]:
    """Send requests; return the growth of traced memory, and of the charges."""
    frames = [msgspec.msgpack.encode(request) for request in requests]
    engine, now = host.engine, host.now
    charged = sum(engine.memory.by_uid().values())
    gc.collect()
    tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()
        for frame in frames:
            engine.handle(RequestReceived(peer.peer, _decode(frame)), now)

        gc.collect()
        after, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()

    return after - before, sum(engine.memory.by_uid().values()) - charged


@pytest.mark.parametrize(
    ("prepare", "request_of", "settings"),
    [
        pytest.param(_lead, lambda number: wire.Begin("hot", id=number), {}, id="waiter"),
        pytest.param(
            _lead,
            lambda number: wire.Begin("hot", id=number, vector=tuple(map(float, range(300))), group="g"),
            {"tasks": {"general": TaskSettings(similar=True)}},
            id="waiter with a vector of numbers",
        ),
        pytest.param(
            _lead,
            lambda number: wire.Begin("hot", id=number, vector=bytes([0, 0, 128, 63] * 300), group="g"),
            {"tasks": {"general": TaskSettings(similar=True)}},
            id="waiter with a packed vector",
        ),
        pytest.param(
            _lead,
            lambda number: wire.Begin("hot", id=number, vector=tuple(map(float, range(300))), group="g"),
            {},
            id="waiter with a vector of no use",
        ),
        pytest.param(_idle, lambda number: wire.Begin(_key(number), id=number), {}, id="lease"),
        pytest.param(_idle, lambda number: wire.Begin(None, id=number), {}, id="lease without a key"),
        pytest.param(
            _idle,
            lambda number: wire.Begin(None, id=number, backends=tuple(f"{'b' * 100}{one}" for one in range(16))),
            {},
            id="many backends",
        ),
        pytest.param(
            _call_narrow,
            lambda number: wire.Begin(_key(number), id=number, backends=("narrow",)),
            {"backends": NARROW},
            id="applicant",
        ),
        pytest.param(_idle, _with_prefixes, {"backends": CACHING}, id="lease of a prompt"),
        pytest.param(
            _idle,
            lambda number: _with_prefixes(number, prefixes=1),
            {"backends": CACHING},
            id="lease of a short prompt",
        ),
        pytest.param(_lead_prompt, lambda number: _with_prefixes(number, "f" * 16), {"backends": CACHING}, id="held"),
        pytest.param(
            _lead_prompt,
            lambda number: _with_prefixes(number, "f" * 16, 1),
            {"backends": CACHING},
            id="held by a short prompt",
        ),
        pytest.param(_idle, lambda number: wire.Begin(_key(number), id=number), {"store": "own"}, id="lookup"),
        pytest.param(_idle, lambda number: wire.Get(_key(number), id=number), {"store": "own"}, id="get"),
        pytest.param(_idle, lambda number: wire.Delete(_key(number), id=number), {"store": "own"}, id="delete"),
    ],
)
def test_charge_of_requests_is_near_their_memory(
    prepare: Callable[[Actor], None], request_of: Callable[[int], wire.AnyRequest], settings: dict[str, Any]
) -> None:
    """What waits or is held is charged with its memory, within a fifth."""
    host = Host(**LARGE, **settings)
    peer = host.peer()
    prepare(peer)
    memory, charged = _measured(host, peer, [request_of(number) for number in range(NUMBER)])
    assert memory / FACTOR <= charged <= memory * FACTOR, (
        f"measured {memory / NUMBER:.0f}, charged {charged / NUMBER:.0f}"
    )


@pytest.mark.parametrize("character", ["k", "\N{SNOWMAN}", "\N{GRINNING FACE}"])
def test_charge_of_long_keys_is_at_least_their_memory(character: str) -> None:
    """A key is charged for the begin and for its flight, which may outlive the begin; both refer to one text at first."""
    host = Host(**LARGE)
    requests: list[wire.AnyRequest] = [wire.Begin(character * 900 + str(number), id=number) for number in range(NUMBER)]
    memory, charged = _measured(host, host.peer(), requests)
    assert memory / FACTOR <= charged <= memory * TWICE_FACTOR


@pytest.mark.parametrize("size", [0, 30, 1000])
def test_charge_of_chunks_is_near_their_memory(size: int) -> None:
    """Chunks are charged with their memory, within a fifth, however small they are."""
    host = Host(**LARGE)
    peer = host.peer()
    lease = peer.leads("key", stream=True)
    chunk = msgspec.Raw(wire.pack("y" * size))
    memory, charged = _measured(host, peer, [wire.Append(lease, chunk) for _ in range(NUMBER)])
    assert memory / FACTOR <= charged <= memory * FACTOR, (
        f"measured {memory / NUMBER:.0f}, charged {charged / NUMBER:.0f}"
    )


def test_charge_of_streams_and_followers_is_near_their_memory() -> None:
    """Streams of one chunk are charged with their memory, and so is each follower."""
    host = Host(**LARGE)
    peer = host.peer()
    leases = [peer.leads(_key(number), number, stream=True) for number in range(NUMBER)]
    chunk = msgspec.Raw(wire.pack("y"))
    memory, charged = _measured(host, peer, [wire.Append(lease, chunk) for lease in leases])
    assert memory / FACTOR <= charged <= memory * FACTOR, (
        f"measured {memory / NUMBER:.0f}, charged {charged / NUMBER:.0f}"
    )

    hot = peer.leads("hot", -1, stream=True)
    for number in range(NUMBER, 2 * NUMBER):
        peer.waits("hot", number, stream=True)

    memory, charged = _measured(host, peer, [wire.Append(hot, chunk)])
    assert memory / FACTOR <= charged <= memory * FACTOR, (
        f"measured {memory / NUMBER:.0f}, charged {charged / NUMBER:.0f}"
    )
