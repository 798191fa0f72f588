"""Build large replies to `metrics` in turns, one for all peers that wait.

1. A request that arrives while a reply is built may not have its content, which can lack what was recorded since: it waits for the
   next one.
2. All requests that wait when a build begins get its content, which is encoded once.
"""

from collections.abc import Callable, Iterator
from typing import Protocol

from msgspec import Raw, Struct

from sidecard.core.accounts.app_metrics import FamilySource
from sidecard.server.scheduler import TURN_SECONDS
from sidecard_client.protocol import wire
from sidecard_client.protocol.wire import Family, pack


class MetricsWriter(Protocol):
    """A peer's writer, as far as this module uses it."""

    def queue_metrics(self, request_id: int, families: list[bytes]) -> None:
        """Queue a reply to `metrics` with encoded families, which other peers get too, and flush."""


class _EncodedFamily(Struct):
    """A `wire.Family` whose samples are encoded already."""

    name: str
    kind: wire.MetricKind
    help: str
    samples: Raw


class MetricsReplies:
    """Builds replies in turns. ``sources`` yields the families of the moment; ``writers`` returns that of a connected peer."""

    def __init__(
        self,
        sources: Callable[[], Iterator[FamilySource]],
        writers: Callable[[int], MetricsWriter | None],
        clock: Callable[[], float],
    ) -> None:
        self._sources = sources
        self._writers = writers
        self._clock = clock
        self._waiting: list[tuple[int, int]] = []
        """Peer and request ids."""
        self._building: Iterator[None] | None = None

    def add(self, peer_id: int, request_id: int) -> None:
        """Have a request answered. The caller requests turns."""
        self._waiting.append((peer_id, request_id))

    def serve_turn(self) -> bool:
        """Build for one turn; return whether more is to be done."""
        until = self._clock() + TURN_SECONDS
        if self._building is None:
            waiting, self._waiting = self._waiting, []
            self._building = self._build(waiting)

        for _ in self._building:
            if self._clock() > until:
                return True

        self._building = None
        return bool(self._waiting)

    def _build(self, waiting: list[tuple[int, int]]) -> Iterator[None]:
        """Encode all families for the peers that wait, send them, and yield after each piece."""
        families: list[bytes] = []
        # All may have been lost before their turn.
        sources = self._sources() if any(self._writers(peer_id) for peer_id, _ in waiting) else ()
        for source in sources:
            first: Family | None = None
            pieces: list[bytes] = []
            count = 0
            for piece in source.pieces:
                first = first or piece
                pieces.append(_elements(pack(piece.samples), len(piece.samples)))
                count += len(piece.samples)
                yield

            if first is not None:
                samples = Raw(b"".join((array_header(count), *pieces)))
                families.append(pack(_EncodedFamily(first.name, first.kind, first.help, samples)))
                yield

        for peer_id, request_id in waiting:
            writer = self._writers(peer_id)
            if writer is not None:
                writer.queue_metrics(request_id, families)
                yield


def metrics_frame(request_id: int, families: list[bytes]) -> list[bytes]:
    """Return the parts of a frame: a reply to `metrics` with encoded families."""
    head = pack(wire.Metrics(request_id, [])).removesuffix(b"\x90") + array_header(len(families))
    size = len(head) + sum(map(len, families))
    return [size.to_bytes(wire.FRAME_HEADER_BYTES, "big") + head, *families]


def array_header(count: int) -> bytes:
    """Return the beginning of an array in MessagePack, in the form for any length."""
    return b"\xdd" + count.to_bytes(4, "big")


def _elements(packed: bytes, count: int) -> bytes:
    """Return a MessagePack array without its beginning: one byte up to 15 elements, three up to 65,535, else five."""
    return packed[1 if count < 2**4 else 3 if count < 2**16 else 5 :]
