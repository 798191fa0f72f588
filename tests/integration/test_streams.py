"""Streams of both clients against the real daemon: followed as they come, never cut short."""

import gc
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import closing, suppress
from time import monotonic
from typing import Any

import anyio
import pytest

from sidecard_client import AsyncClient, CallFailed, CallRejected, CallTimeout, Client, SidecardWarning
from sidecard_client._sync.streams import Stream
from tests.daemons import Daemon, ask, poll, until

SECONDS = 20.0


class Model:
    """A model whose pieces a test lets out one by one, and that counts how often it was asked."""

    def __init__(self) -> None:
        self.asked = 0
        self.closed = 0
        self.errors: list[Exception] = []
        """What the next calls raise, after two pieces."""
        self.permits = threading.Semaphore(0)
        self.free = False
        """Whether pieces need no permit."""

    def lets(self, count: int) -> None:
        """Let so many pieces out."""
        for _ in range(count):
            self.permits.release()

    def stream(self, prompt: str, count: int = 4) -> Iterator[str]:
        """Generate pieces."""
        self.asked += 1
        call = self.asked
        error = self.errors.pop(0) if self.errors else None
        try:
            for number in range(count):
                if not self.free:
                    assert self.permits.acquire(timeout=SECONDS)

                if error is not None and number == 2:
                    raise error

                yield f"{prompt} {call}.{number}"
        finally:
            self.closed += 1

    async def astream(self, prompt: str, count: int = 4) -> AsyncIterator[str]:
        """Generate pieces."""
        self.asked += 1
        call = self.asked
        error = self.errors.pop(0) if self.errors else None
        try:
            for number in range(count):
                if not self.free:
                    await until(lambda: self.free or self.permits.acquire(blocking=False))

                if error is not None and number == 2:
                    raise error

                yield f"{prompt} {call}.{number}"
        finally:
            self.closed += 1


def pieces(prompt: str, call: int = 1, count: int = 4) -> list[str]:
    """Return what the model generates."""
    return [f"{prompt} {call}.{number}" for number in range(count)]


@pytest.fixture
def model() -> Model:
    """A model without any calls yet."""
    return Model()


@pytest.fixture
def running(daemon: Callable[..., Daemon]) -> Daemon:
    """A daemon."""
    return daemon()


@pytest.fixture
def client(running: Daemon) -> Iterator[Client]:
    """A client of it."""
    with Client(running.socket) as client:
        yield client


def stats(running: Daemon) -> dict[str, Any]:
    """Ask the daemon how it is."""
    return ask(running.socket, {"op": "stats"})


def waits(running: Daemon, count: int) -> None:
    """Wait until so many callers wait for an answer."""
    poll(lambda: stats(running)["waiters"] == count, f"{count} never waited")


class Reader:
    """Reads a stream in a thread."""

    def __init__(self, stream: Stream[str]) -> None:
        self.stream = stream
        self.got: list[str] = []
        self.error: Exception | None = None
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def _read(self) -> None:
        try:
            with self.stream:
                for piece in self.stream:
                    self.got.append(piece)
        except Exception as error:  # noqa: BLE001 - what a test looks at
            self.error = error

    def has(self, count: int) -> None:
        """Wait until so many pieces have come."""
        poll(lambda: len(self.got) >= count or self.error is not None, f"{count} pieces never came")

    def ends(self) -> list[str]:
        """Wait for the end and return what came; raise what the stream has raised."""
        self._thread.join(SECONDS)
        assert not self._thread.is_alive(), f"the stream has not ended: {self.got}"
        if self.error is not None:
            raise self.error

        return self.got


# The blocking client ---------------------------------------------------------------------------------------------------


def test_a_stream_is_made_once_and_replayed(client: Client, model: Model) -> None:
    """Piece by piece, with where it is from."""
    model.free = True
    first, second = client.stream(model.stream, "p"), client.stream(model.stream, "p")
    assert list(first) == pieces("p")
    assert list(second) == pieces("p")
    assert (model.asked, first.source, second.source) == (1, "upstream", "cache")
    assert (first.attempts, first.backend, second.backend) == (1, "default", "default")
    assert second.saved_seconds > 0
    assert repr(second) == "<Stream from cache, ended>"
    assert list(second) == []


def test_followers_read_along_and_late_ones_catch_up(running: Daemon, client: Client, model: Model) -> None:
    """Each piece is there before the next one is made."""
    holder = Reader(client.stream(model.stream, "p"))
    poll(lambda: model.asked == 1, "the model was never asked")
    early = Reader(client.stream(model.stream, "p"))
    waits(running, 1)
    model.lets(2)
    early.has(2)
    late = Reader(client.stream(model.stream, "p"))
    late.has(2)
    assert holder.got == early.got == late.got == pieces("p")[:2]
    model.lets(2)
    assert holder.ends() == early.ends() == late.ends() == pieces("p")
    assert (model.asked, early.stream.source, late.stream.source) == (1, "shared", "shared")


def test_a_stream_that_fails_in_the_middle_raises_everywhere_and_is_not_kept(
    running: Daemon, client: Client, model: Model
) -> None:
    """Its own caller sees the exception, followers see `CallFailed`, and no caller sees an early end."""
    model.errors = [ConnectionError("gone")]
    holder = Reader(client.stream(model.stream, "p"))
    poll(lambda: model.asked == 1, "the model was never asked")
    follower = Reader(client.stream(model.stream, "p"))
    waits(running, 1)
    model.lets(3)

    with pytest.raises(ConnectionError, match="gone"):
        holder.ends()

    with pytest.raises(CallFailed, match="gone") as failed:
        follower.ends()

    assert failed.value.kind == "transient"
    model.free = True
    assert list(client.stream(model.stream, "p")) == pieces("p", 2)


def test_who_has_seen_nothing_makes_the_call_when_the_holder_fails(running: Daemon, model: Model) -> None:
    """One is elected; its stream is then everybody's."""
    with Client(running.socket) as one, Client(running.socket) as other:
        model.errors = [ConnectionError("at once")]

        def fails_at_once(prompt: str) -> Iterator[str]:
            poll(lambda: stats(running)["waiters"] == 1, "nobody waits")
            raise model.errors.pop()
            yield prompt

        def works(prompt: str) -> Iterator[str]:
            model.free = True
            return model.stream(prompt)

        holder = Reader(one.stream(fails_at_once, "p", key="k"))
        poll(lambda: stats(running)["leases"] == 1, "no lease")
        follower = Reader(other.stream(works, "p", key="k"))

        with pytest.raises(ConnectionError):
            holder.ends()

        assert follower.ends() == pieces("p")
        assert follower.stream.source == "upstream"


def test_backends_are_tried_before_the_first_piece(client: Client, model: Model) -> None:
    """After it there is no way back."""
    model.free = True

    def broken(prompt: str) -> Iterator[str]:
        raise ConnectionError(prompt)
        yield prompt

    stream = client.stream({"local": broken, "cloud": model.stream}, "p", name="n")
    assert list(stream) == pieces("p")
    assert (stream.backend, stream.attempts, stream.source) == ("cloud", 2, "upstream")


def test_closing_early_hands_the_call_on_or_ends_it(running: Daemon, client: Client, model: Model) -> None:
    """With a follower it is finished; without one the function is closed, and nothing is kept."""
    model.lets(1)
    with client.stream(model.stream, "alone") as stream:
        assert next(stream) == "alone 1.0"

    assert model.closed == 1
    poll(lambda: stats(running)["leases"] == 0, "the lease was not given back")
    assert list(stream) == []

    model.lets(1)
    shared = client.stream(model.stream, "p")
    assert next(shared) == "p 2.0"
    follower = Reader(client.stream(model.stream, "p"))
    follower.has(1)
    shared.close()
    model.lets(3)
    assert follower.ends() == pieces("p", 2)
    poll(lambda: stats(running)["leases"] == 0, "the lease was not ended")
    model.free = True
    assert list(client.stream(model.stream, "p")) == pieces("p", 2)


def test_a_stored_stream_comes_at_the_pace_that_was_asked_for(client: Client, model: Model) -> None:
    """At least so many seconds apart; the call itself is not held up."""
    model.free = True
    seconds = {}
    for round_number in range(2):
        began = monotonic()
        assert list(client.stream(model.stream, "p", pace=0.2)) == pieces("p")
        seconds[round_number] = monotonic() - began

    assert model.asked == 1
    assert seconds[1] >= 0.6  # three pauses


def test_a_function_may_close_its_own_stream(running: Daemon, client: Client) -> None:
    """The piece that it yields next is the last one, and the lease is returned."""
    streams: list[Stream[str]] = []

    def generate(prompt: str) -> Iterator[str]:
        yield prompt
        streams[0].close()
        yield "last"
        yield "more"

    streams.append(client.stream(generate, "p"))
    assert list(streams[0]) == ["p", "last"]
    poll(lambda: ask(running.socket, {"op": "stats"})["leases"] == 0, "the lease is kept")


def test_another_thread_may_close_a_stream_while_its_function_runs(
    running: Daemon, client: Client, model: Model
) -> None:
    """The lease is returned immediately, so that a waiter need not wait for the function."""
    shared = client.stream(model.stream, "p")
    model.lets(1)
    assert next(shared) == "p 1.0"
    rest: list[str] = []
    reader = threading.Thread(target=lambda: rest.extend(shared))
    reader.start()
    poll(lambda: shared._held is not None and shared._held._calls_function, "the function does not run")
    shared.close()
    poll(lambda: ask(running.socket, {"op": "stats"})["leases"] == 0, "the lease is kept")
    model.lets(1)
    reader.join(SECONDS)
    assert rest == ["p 1.1"]


def test_a_stream_that_is_closed_twice_is_finished_once(running: Daemon, client: Client, model: Model) -> None:
    """SDKs close a response when it has ended and when its block does; both must not use the generator at the same time."""
    model.lets(1)
    shared = client.stream(model.stream, "p")
    assert next(shared) == "p 1.0"
    follower = Reader(client.stream(model.stream, "p"))
    follower.has(1)
    shared.close()
    shared.close()
    assert list(shared) == []
    assert [thread.name for thread in threading.enumerate()].count("sidecard-stream") == 1
    model.lets(3)
    assert follower.ends() == pieces("p")
    assert model.asked == model.closed == 1


def test_a_stream_without_references_returns_its_lease(running: Daemon, client: Client, model: Model) -> None:
    """As in ``for ... break``."""
    model.lets(2)
    for _piece in client.stream(model.stream, "p"):
        break

    gc.collect()
    poll(lambda: stats(running)["leases"] == 0, "the lease was not given back")
    model.free = True
    assert list(client.stream(model.stream, "p")) == pieces("p", 2)


def test_an_exception_in_the_loop_releases_the_call(running: Daemon, client: Client, model: Model) -> None:
    """The block closes the stream."""
    model.lets(2)

    def read() -> None:
        with client.stream(model.stream, "p") as stream:
            for _piece in stream:
                raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        read()

    assert stats(running)["leases"] == 0
    assert model.closed == 1


def test_a_follower_that_leaves_affects_no_other_caller(running: Daemon, client: Client, model: Model) -> None:
    """Neither the holder nor the other follower."""
    holder = Reader(client.stream(model.stream, "p"))
    poll(lambda: model.asked == 1, "the model was never asked")
    other = Reader(client.stream(model.stream, "p"))
    waits(running, 1)
    leaver = client.stream(model.stream, "p")
    model.lets(1)
    assert next(leaver) == "p 1.0"
    leaver.close()
    waits(running, 1)
    model.lets(3)
    assert holder.ends() == other.ends() == pieces("p")


def test_when_the_daemon_dies_the_holder_goes_on_and_followers_fail(
    running: Daemon, client: Client, model: Model
) -> None:
    """A new caller falls back; no caller takes a partial stream for an answer."""
    holder = Reader(client.stream(model.stream, "p"))
    poll(lambda: model.asked == 1, "the model was never asked")
    follower = Reader(client.stream(model.stream, "p"))
    waits(running, 1)
    model.lets(2)
    follower.has(2)
    running.kill()
    model.free = True
    model.lets(1)

    assert holder.ends() == pieces("p")
    with pytest.raises(CallFailed, match="the daemon was lost"):
        follower.ends()

    fallback = client.stream(model.stream, "r")
    assert list(fallback) == pieces("r", 2)
    assert fallback.source == "fallback"


def test_patience_is_for_each_piece(running: Daemon, client: Client, model: Model) -> None:
    """``wait`` does not limit the whole."""
    holder = Reader(client.stream(model.stream, "p"))
    poll(lambda: model.asked == 1, "the model was never asked")
    follower = Reader(client.stream(model.stream, "p", wait=0.4))
    waits(running, 1)
    model.lets(1)
    follower.has(1)

    with pytest.raises(CallTimeout):
        follower.ends()

    model.lets(3)
    assert holder.ends() == pieces("p")


def test_pieces_that_cannot_be_shared_are_only_their_callers(client: Client, running: Daemon) -> None:
    """With a warning; waiters make their own calls."""
    calls = []

    def objects() -> Iterator[object]:
        calls.append(1)
        yield "a"
        yield {1, 2}
        yield "c"

    with pytest.warns(SidecardWarning, match="value is of type set"):
        assert list(client.stream(objects)) == ["a", {1, 2}, "c"]

    assert list(client.stream(objects)) == ["a", {1, 2}, "c"]
    assert len(calls) == 2
    assert stats(running)["leases"] == 0


def test_large_pieces_and_many_come_whole(client: Client) -> None:
    """Beyond a window, a buffer and a frame's share."""
    sent = [bytes([number % 256]) * (300_000 if number % 100 == 0 else 50) for number in range(1_000)]

    def large() -> Iterator[bytes]:
        yield from sent

    assert list(client.stream(large)) == sent
    stream = client.stream(large)
    assert list(stream) == sent
    assert stream.source == "cache"


def test_streams_have_other_keys_than_calls(client: Client) -> None:
    """The same function and arguments, asked for in two ways."""

    def both(prompt: str) -> list[str]:
        return [prompt, "x"]

    assert client.call(both, "p") == ["p", "x"]
    stream = client.stream(both, "p")
    assert list(stream) == ["p", "x"]
    assert stream.source == "upstream"


def test_generator_functions_are_cached_and_wrapped_as_streams(client: Client, model: Model) -> None:
    """Their calls return iterators."""
    model.free = True
    cached = client.cached(task="rag")(model.stream)
    assert list(cached("p")) == pieces("p")
    assert list(cached("p")) == pieces("p")
    wrapped = client.wrap(model, name="m")
    assert list(wrapped.stream("p")) == pieces("p", 2)
    assert list(wrapped.stream("p")) == pieces("p", 2)
    assert model.asked == 2


def test_hooks_see_the_whole_and_may_keep_it_from_the_store(running: Daemon, client: Client, model: Model) -> None:
    """``store`` and ``usage`` get the list of the pieces."""
    model.free = True
    seen = []

    def store(value: list[str]) -> bool:
        seen.append(value)
        return False

    usage = {"model": "m", "cost_dollars": 0.25}
    assert list(client.stream(model.stream, "p", store=store, usage=lambda _: usage)) == pieces("p")
    assert seen == [pieces("p")]
    assert list(client.stream(model.stream, "p")) == pieces("p", 2)
    report = ask(running.socket, {"op": "report"})
    assert report["total"]["billed_dollars"] == 0.25  # type: ignore[index]  # a report is a map of maps


def test_only_if_cached_and_refresh(client: Client, model: Model) -> None:
    """The modes of every call."""
    model.free = True
    with pytest.raises(CallRejected):
        list(client.stream(model.stream, "p", mode="only_if_cached"))

    list(client.stream(model.stream, "p"))
    assert list(client.stream(model.stream, "p", mode="refresh")) == pieces("p", 2)
    assert list(client.stream(model.stream, "p", mode="only_if_cached")) == pieces("p", 2)


def test_something_without_pieces_is_a_mistake_that_says_so(client: Client) -> None:
    """And not an empty stream."""

    def number() -> int:
        return 3

    with pytest.raises(TypeError, match="has no pieces"):
        list(client.stream(number))  # type: ignore[arg-type]  # the mistake


def test_a_lease_is_renewed_while_pieces_come(daemon: Callable[..., Daemon], model: Model) -> None:
    """By the heartbeat, beside the pieces, on the same connection."""
    # Renewed often, so that a busy machine does not end the lease; without renewals, it ends before the last piece.
    running = daemon(SIDECARD_FLIGHTS_LEASE_SECONDS="1", SIDECARD_FLIGHTS_RENEW_SECONDS="0.1")
    with Client(running.socket) as client:
        holder = Reader(client.stream(model.stream, "p", 25))
        poll(lambda: model.asked == 1, "the model was never asked")
        follower = Reader(client.stream(model.stream, "p", 25))
        waits(running, 1)
        for number in range(25):
            model.lets(1)
            follower.has(number + 1)
            threading.Event().wait(0.05)

        assert holder.ends() == follower.ends() == pieces("p", 1, 25)
        assert stats(running)["expired"] == 0


# The async client ------------------------------------------------------------------------------------------------------


@pytest.mark.anyio
class TestAsync:
    """The same, on asyncio and trio."""

    async def test_a_stream_is_made_once_and_replayed(self, running: Daemon, model: Model) -> None:
        """Piece by piece, with where it is from."""
        model.free = True
        async with AsyncClient(running.socket) as client:
            first = client.stream(model.astream, "p")
            assert [piece async for piece in first] == pieces("p")
            second = client.stream(model.astream, "p")
            assert [piece async for piece in second] == pieces("p")

        assert (model.asked, first.source, second.source) == (1, "upstream", "cache")
        assert (first.attempts, first.backend) == (1, "default")

    async def test_any_function_that_returns_something_to_iterate_over(self, running: Daemon, model: Model) -> None:
        """Generators, coroutines that return one, plain ones in threads."""
        model.free = True

        async def coroutine(prompt: str) -> AsyncIterator[str]:
            await anyio.lowlevel.checkpoint()
            return model.astream(prompt)

        async with AsyncClient(running.socket) as client:
            assert [piece async for piece in client.stream(coroutine, "a", name="coroutine")] == pieces("a", 1)
            assert [piece async for piece in client.stream(model.stream, "b")] == pieces("b", 2)

    async def test_followers_read_along_on_one_connection(self, running: Daemon, model: Model) -> None:
        """Followers that join late catch up."""
        got: list[list[str]] = [[] for _ in range(6)]

        async def read(client: AsyncClient, mine: list[str]) -> None:
            async with client.stream(model.astream, "p") as stream:
                async for piece in stream:
                    mine.append(piece)  # noqa: PERF401 - looked at while it grows

        async with AsyncClient(running.socket) as client, anyio.create_task_group() as tasks:
            for mine in got[:3]:
                tasks.start_soon(read, client, mine)

            await until(lambda: stats(running)["waiters"] == 2)
            model.lets(2)
            await until(lambda: all(len(mine) == 2 for mine in got[:3]))
            for mine in got[3:]:
                tasks.start_soon(read, client, mine)

            await until(lambda: all(len(mine) == 2 for mine in got))
            model.lets(2)

        assert got == [pieces("p")] * 6
        assert model.asked == 1

    async def test_a_caller_that_is_canceled_between_two_paced_pieces_loses_none(
        self, running: Daemon, model: Model
    ) -> None:
        """The pause is before a piece is taken."""
        model.free = True
        async with AsyncClient(running.socket) as client:
            assert [piece async for piece in client.stream(model.astream, "p")] == pieces("p")
            stream = client.stream(model.astream, "p", pace=0.3)
            read = [await anext(stream)]
            with anyio.move_on_after(0.01):
                read.append(await anext(stream))

            began = monotonic()
            read += [piece async for piece in stream]
            assert read == pieces("p")
            assert monotonic() - began >= 0.3

    async def test_a_canceled_holder_finishes_for_its_followers(self, running: Daemon, model: Model) -> None:
        """Wherever it was canceled: here while it waited for a piece."""
        got: list[str] = []

        async def read(client: AsyncClient) -> None:
            async for piece in client.stream(model.astream, "p"):
                got.append(piece)  # noqa: PERF401 - looked at while it grows

        async with AsyncClient(running.socket) as client, anyio.create_task_group() as tasks:
            async with anyio.create_task_group() as holder:
                holder.start_soon(read, client)
                model.lets(1)
                await until(lambda: got == ["p 1.0"])
                got.clear()
                tasks.start_soon(read, client)
                await until(lambda: got == ["p 1.0"])
                holder.cancel_scope.cancel()

            model.lets(3)

        assert got == pieces("p")
        assert model.asked == 1

    async def test_a_holder_that_leaves_alone_ends_the_call(self, running: Daemon, model: Model) -> None:
        """By closing, by an exception in the loop, by cancellation, or by being forgotten."""
        model.free = True
        async with AsyncClient(running.socket) as client:
            async with client.stream(model.astream, "a", 10_000) as stream:
                assert await anext(stream) == "a 1.0"

            assert model.closed == 1
            with suppress(ZeroDivisionError):
                async with client.stream(model.astream, "b", 10_000) as stream:
                    async for _piece in stream:
                        raise ZeroDivisionError

            assert model.closed == 2
            forgotten = client.stream(model.astream, "c", 10_000)
            assert await anext(forgotten) == "c 3.0"
            del forgotten
            gc.collect()
            await until(lambda: model.closed == 3)
            with anyio.CancelScope() as scope:
                async for _piece in client.stream(model.astream, "d", 10_000):
                    scope.cancel()

            await until(lambda: model.closed == 4)
            await until(lambda: stats(running)["leases"] == 0)
            assert stats(running)["stored"] == 0

    async def test_failures_reach_the_caller_and_the_followers(self, running: Daemon, model: Model) -> None:
        """Its own caller sees the exception, followers see `CallFailed`, and no caller sees an early end."""
        model.errors = [ConnectionError("gone")]
        seen: list[Exception] = []

        async def read(client: AsyncClient) -> None:
            try:
                async for _piece in client.stream(model.astream, "p"):
                    pass
            except Exception as error:  # noqa: BLE001 - what the test looks at
                seen.append(error)

        async with AsyncClient(running.socket) as client, anyio.create_task_group() as tasks:
            tasks.start_soon(read, client)
            await until(lambda: model.asked == 1)
            tasks.start_soon(read, client)
            await until(lambda: stats(running)["waiters"] == 1)
            model.lets(3)

        assert {type(error) for error in seen} == {ConnectionError, CallFailed}
        assert stats(running)["stored"] == 0

    async def test_backends_are_tried_before_the_first_piece(self, running: Daemon, model: Model) -> None:
        """After it there is no way back."""
        model.free = True

        async def broken(prompt: str) -> AsyncIterator[str]:
            await anyio.lowlevel.checkpoint()
            raise ConnectionError(prompt)
            yield prompt

        async with AsyncClient(running.socket) as client:
            stream = client.stream({"local": broken, "cloud": model.astream}, "p", name="n")
            assert [piece async for piece in stream] == pieces("p")

        assert (stream.backend, stream.attempts, stream.source) == ("cloud", 2, "upstream")

    async def test_when_the_daemon_dies_the_holder_goes_on_and_followers_fail(
        self, running: Daemon, model: Model
    ) -> None:
        """A new caller falls back."""
        results: dict[str, Any] = {}

        async def read(client: AsyncClient, who: str) -> None:
            got: list[str] = []
            results[who] = got
            try:
                async for piece in client.stream(model.astream, "p"):
                    got.append(piece)  # noqa: PERF401 - looked at while it grows
            except CallFailed as error:
                results[who] = error

        async with AsyncClient(running.socket) as holder, AsyncClient(running.socket) as other:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(read, holder, "holder")
                await until(lambda: model.asked == 1)
                tasks.start_soon(read, other, "follower")
                await until(lambda: stats(running)["waiters"] == 1)
                model.lets(2)
                await until(lambda: len(results["follower"]) == 2)
                running.kill()
                model.lets(2)

            assert results["holder"] == pieces("p")
            assert "the daemon was lost" in str(results["follower"])
            model.free = True
            fallback = other.stream(model.astream, "q")
            assert [piece async for piece in fallback] == pieces("q", 2)
            assert fallback.source == "fallback"

    async def test_async_generator_functions_are_cached_as_streams(self, running: Daemon, model: Model) -> None:
        """Their calls return asynchronous iterators, as before."""
        model.free = True
        async with AsyncClient(running.socket) as client:
            cached = client.cached(name="n")(model.astream)
            assert [piece async for piece in cached("p")] == pieces("p")
            assert [piece async for piece in cached("p")] == pieces("p")

        assert model.asked == 1

    async def test_streams_go_on_when_their_client_is_closed(self, running: Daemon, model: Model) -> None:
        """The caller gets all of its function's pieces, and the function is closed at the end."""
        got: list[str] = []

        async def read(client: AsyncClient) -> None:
            async for piece in client.stream(model.astream, "p"):
                got.append(piece)  # noqa: PERF401 - looked at while it grows

        async with anyio.create_task_group() as tasks, AsyncClient(running.socket) as client:
            tasks.start_soon(read, client)
            await until(lambda: model.asked == 1)
            model.lets(1)
            await until(lambda: len(got) == 1)
            await client.aclose()
            model.free = True
            model.lets(1)

        assert got == pieces("p")
        assert model.closed == 1
        assert stats(running)["stored"] == 0


def test_the_two_clients_share_streams(running: Daemon, model: Model) -> None:
    """A key is a key."""
    model.free = True

    async def read() -> list[str]:
        async with AsyncClient(running.socket) as client:
            return [piece async for piece in client.stream(model.astream, "p", key="k")]

    with closing(Client(running.socket)) as client:
        assert list(client.stream(model.stream, "p", key="k")) == pieces("p")

    assert anyio.run(read) == pieces("p")
    assert model.asked == 1
