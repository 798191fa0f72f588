"""Waiters that give up in great numbers, and what is left of them: nothing. See `tests.acceptance.fault_index`."""

import gc
import tracemalloc
from collections.abc import Callable

import anyio
import msgspec
import pytest

from sidecard_client import AsyncClient
from sidecard_client.protocol import wire
from tests.acceptance.test_faults_of_waiters import IDLE, Upstream, calm, read, waits
from tests.acceptance.test_serve import Wire
from tests.daemons import Daemon
from tests.faults import PATIENT, SHAPES, Injected, Scene, resident_bytes

pytestmark = [pytest.mark.slow, pytest.mark.timeout(120)]

Start = Callable[..., Daemon]

CANCELS = 100_000
AT_ONCE = 500


def give_up(line: Wire, rounds: int, *, stream: bool) -> None:
    """Begin and take back, `AT_ONCE` at a time."""
    for number in range(rounds):
        ids = range(number * 2 * AT_ONCE + 10, (number * 2 + 2) * AT_ONCE + 10, 2)
        line.send(*(wire.Begin("key", id=one, stream=stream) for one in ids))
        for _ in ids:
            assert isinstance(line.receive(), wire.Pending)

        line.send(*(wire.Cancel(one, id=one + 1) for one in ids))
        for _ in ids:
            assert isinstance(line.receive(), wire.Ok)


@pytest.mark.parametrize("shape", SHAPES)
def test_hundred_thousand_timed_out_waiters_leave_no_memory_in_the_daemon(
    shape: str, scenes: Callable[..., Scene], injected: Injected
) -> None:
    """The daemon has as much memory after the last waiter as after a few thousand, and their flight goes on."""
    scene = scenes(*PATIENT)
    with Wire(scene.daemon.socket) as holder, Wire(scene.daemon.socket) as line:
        lease = holder.ask(wire.Begin("key", id=1, stream=shape == "stream"))
        assert isinstance(lease, wire.Lease)
        give_up(line, 10, stream=shape == "stream")
        before = resident_bytes(scene.daemon.pid)
        give_up(line, CANCELS // AT_ONCE, stream=shape == "stream")
        growth = resident_bytes(scene.daemon.pid) - before
        stats = scene.stats()
        assert (stats["waiters"], stats["leases"], stats["left"]) == (0, 1, CANCELS + 10 * AT_ONCE)
        holder.send(wire.Complete(lease.lease, msgspec.Raw(b"\x91\x01"), id=3))
        assert isinstance(holder.receive(), wire.Stored)

    print(f"\n{shape}: {CANCELS} waiters gave up, the daemon grew by {growth / 1024:.0f} KiB")
    injected(CANCELS, callers=CANCELS)
    # A few arenas of the allocator; one reference kept of each would be ten times that.
    assert growth < 2_000_000
    scene.calm()


@pytest.mark.anyio
@pytest.mark.parametrize("shape", SHAPES)
async def test_canceled_waiters_leave_no_memory_in_the_client(shape: str, daemon: Start, injected: Injected) -> None:
    """Five thousand canceled waits leave nothing in the client, as tracemalloc counts it.

    Sets and dicts grow and shrink with the calls that are there at once, asyncio's set of tasks among them, and a
    canceled task of anyio is a cycle that stays there until it is collected. A hundred at once, collected after each
    hundred, keep all these tables small; what is kept of each waiter would still grow with their total number.
    """
    path = daemon().socket
    upstream = Upstream()
    at_once, hundreds = 100, 50

    async def rounds(client: AsyncClient, number: int) -> None:
        for _ in range(number):
            async with anyio.create_task_group() as waiting:
                for _ in range(at_once):
                    waiting.start_soon(read, client, shape, upstream, "key")

                await waits(client, number=at_once)

                waiting.cancel_scope.cancel()

            gc.collect()

    async with AsyncClient(path, daemon_timeout=10) as client, AsyncClient(path) as theirs:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(read, theirs, shape, upstream, "key")
            await upstream.running.wait()
            tracemalloc.start()
            await rounds(client, 10)
            before, _ = tracemalloc.get_traced_memory()
            await rounds(client, hundreds)
            after, _ = tracemalloc.get_traced_memory()
            tracemalloc.stop()
            upstream.joined.set()
            upstream.may_end.set()

        await calm(theirs)
        assert repr(client._connector.connection()) == IDLE

    canceled = hundreds * at_once
    print(f"\n{shape}: {after - before} bytes more after {canceled} canceled waiters")
    injected(canceled + 10 * at_once, callers=canceled + 10 * at_once)
    # One reference kept of each would be eight bytes; the tables differ by a few thousand in all.
    assert after - before < canceled * 8 / 2, f"{after - before} bytes of {canceled} waiters are kept"
