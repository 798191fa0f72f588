"""The worker thread: order, results, faults, and jobs that no task waits for any more."""

import asyncio
import threading

import anyio
import pytest

from sidecard.persistence.worker import MAX_BATCH, WorkerThread

pytestmark = pytest.mark.anyio

PATIENCE_SECONDS = 20.0


@pytest.fixture
def anyio_backend() -> str:
    """Run where the daemon runs."""
    return "asyncio"


async def test_run_returns_or_raises_as_the_job_does() -> None:
    """The caller sees a job's result or its exception."""
    worker = WorkerThread("test", asyncio.get_running_loop())
    assert await worker.run(lambda: 42) == 42
    with pytest.raises(ZeroDivisionError):
        await worker.run(lambda: 1 // 0)

    assert not worker.busy
    worker.stop()


async def test_do_hands_results_over_in_order_on_the_loops_thread() -> None:
    """More results than one batch holds arrive completely, in order, in the thread of the event loop."""
    worker = WorkerThread("test", asyncio.get_running_loop())
    results: list[object] = []
    threads: set[threading.Thread] = set()

    def take(result: object) -> None:
        results.append(result)
        threads.add(threading.current_thread())

    count = 3 * MAX_BATCH + 1
    for number in range(count):
        worker.do(lambda number=number: number, take)  # type: ignore[misc]  # bound early

    await worker.run(lambda: None)
    assert results == list(range(count))
    assert threads == {threading.current_thread()}
    worker.stop()


async def test_a_canceled_wait_does_not_end_the_job() -> None:
    """The worker is busy until the job's result arrives, though no task waits for it."""
    worker = WorkerThread("test", asyncio.get_running_loop())
    go_on, done = threading.Event(), threading.Event()

    def job() -> None:
        go_on.wait(PATIENCE_SECONDS)
        done.set()

    with anyio.move_on_after(0.01):
        await worker.run(job)

    assert worker.busy
    go_on.set()
    await worker.run(lambda: None)
    assert done.is_set()
    assert not worker.busy
    worker.stop()


def test_submit_needs_no_event_loop() -> None:
    """Jobs without results run in order, also where one of them raises; ``queued`` counts those that have not started."""
    worker = WorkerThread("test")
    go_on, began, done = threading.Event(), threading.Event(), threading.Event()

    def first() -> None:
        began.set()
        go_on.wait(PATIENCE_SECONDS)
        raise ValueError

    worker.submit(first)
    assert began.wait(PATIENCE_SECONDS)
    worker.submit(done.set)
    assert worker.queued == 1
    go_on.set()
    assert done.wait(PATIENCE_SECONDS)
    worker.stop()


def test_results_for_a_closed_loop_are_dropped() -> None:
    """A job that outlives the event loop ends its thread without an error."""
    loop = asyncio.new_event_loop()
    worker = WorkerThread("test-closed-loop", loop)
    go_on = threading.Event()
    worker.do(lambda: go_on.wait(PATIENCE_SECONDS), lambda _: None)
    loop.close()
    (thread,) = [thread for thread in threading.enumerate() if thread.name == "test-closed-loop"]
    go_on.set()
    thread.join(PATIENCE_SECONDS)
    assert not thread.is_alive()
