"""What the async client does with a call: asks, waits, runs the function where it must, and tells how it went.

The decisions are `calls`'; sharing without a daemon is `local`'s. This is the waiting between them.
"""

import inspect
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from time import monotonic
from typing import Any

import anyio
from anyio import to_thread

from sidecard_client import calls, wire
from sidecard_client.aio_link import Link, LinkLost
from sidecard_client.aio_reach import Reach
from sidecard_client.calls import Call, Outcome
from sidecard_client.errors import CallFailed, CallTimeout, ProtocolError, UnshareableValue
from sidecard_client.failures import fail, kind_of, message_of
from sidecard_client.local import Answered, Broken, Elected, LocalFlight, LocalFlights, LocalWaiter
from sidecard_client.values import unpack_value
from sidecard_client.wire import FailureKind

LOCAL_WAIT_SECONDS = 120.0
"""How long a call waits for another task's where the caller does not say: the daemon's own default."""


class AsyncCalls:
    """Performs calls over ``reach``; shares them within the process where the daemon is away."""

    def __init__(self, reach: Reach) -> None:
        self._reach = reach
        self._flights = LocalFlights()

    async def perform(self, call: Call) -> Any:
        """Return the value of ``call``."""
        return (await self.run(call)).value

    async def run(self, call: Call) -> Outcome[Any]:
        """Make ``call`` if it must be made. Raises what `calls.resolve` and `calls.may_run_here` do, and what the function does."""
        started = monotonic()
        reach = self._reach
        try:
            link = reach.link()
            request = call.begin(link.next_id())
            try:
                reply = await link.ask(request)
            except LinkLost as lost:
                link = reach.instead_of(link, lost)
                request = call.begin(link.next_id(), calls.remaining_seconds(call, monotonic() - started))
                try:
                    reply = await link.ask(request)
                except LinkLost as again:
                    raise reach.lost_again(again) from None

        except LinkLost as lost:
            return await self._run_without_daemon(call, lost.reason, started)

        waited_seconds = monotonic() - started
        try:
            verdict = calls.resolve(call, reply, waited_seconds)
        except ProtocolError as fault:
            link.end(str(fault))
            raise

        if verdict.__class__ is Outcome:
            return verdict

        if isinstance(verdict, wire.Lease):
            return await self._lead(link, call, request.id, verdict, waited_seconds)

        if verdict is calls.OWN_CALL:
            value = await _perform(call.functions[0], call)
            return Outcome(value, "upstream", waited_seconds=waited_seconds)

        return await self._run_without_daemon(call, "it takes no more calls just now", started)

    # With a lease --------------------------------------------------------------------------------------------------

    async def _lead(
        self, link: Link, call: Call, begin_id: int, lease: wire.Lease, waited_seconds: float
    ) -> Outcome[Any]:
        # Callers of this process who lose the daemon meanwhile join this call instead of making their own.
        flight = None if call.key is None else self._flights.lead((call.options.namespace, call.key))
        tried = set()
        while True:
            tried.add(lease.backend)
            function = call.function_of(lease.backend)
            link.hold(lease)
            try:
                value = await _perform(function, call)
            except BaseException as error:
                link.release(lease.lease)
                kind = kind_of(error, call.options.classify)
                another = None
                try:
                    another = await self._another_lease(link, call, begin_id, lease, tried, error, kind)
                finally:
                    if another is None and flight is not None:
                        self._flights.fail(flight, kind, message_of(error))

                if another is None:
                    raise

                lease = another
            else:
                link.release(lease.lease)
                break

        if flight is not None:
            self._flights.succeed(flight, value)

        await self._complete(link, call, lease, function, value)
        return Outcome(value, "upstream", backend=lease.backend, waited_seconds=waited_seconds)

    async def _another_lease(
        self,
        link: Link,
        call: Call,
        begin_id: int,
        lease: wire.Lease,
        tried: set[str],
        error: BaseException,
        kind: FailureKind,
    ) -> wire.Lease | None:
        """Tell the daemon of ``error``, and ask for the next backend where there is one; None where there is none."""
        if not calls.another_backend(call, tried, kind):
            link.tell(fail(link.next_id(), lease.lease, error, kind))
            return None

        try:
            reply = await link.ask(fail(link.next_id(), lease.lease, error, kind, another=True))
        except LinkLost:
            return None
        except BaseException:
            # 1. the daemon grants the next lease; 2. this caller, not yet having read it, is cancelled; 3. nobody holds it.
            link.tell(wire.Cancel(target=begin_id))
            raise

        return reply if isinstance(reply, wire.Lease) else None

    async def _complete(
        self, link: Link, call: Call, lease: wire.Lease, function: Callable[..., Any], value: Any
    ) -> None:
        try:
            request = calls.complete(call, link.next_id(), lease.lease, value)
        except UnshareableValue as error:
            link.tell(calls.refuse_to_share(link.next_id(), lease.lease, error))
            calls.warn_unshareable(function, error)
            return

        # Not only told: once a call has returned, its answer is there for whoever asks next, in any process.
        # Where the link is lost, its end has voided the lease, and the caller has its value all the same.
        with suppress(LinkLost):
            await link.ask(request)

    # Without the daemon --------------------------------------------------------------------------------------------

    async def _run_without_daemon(self, call: Call, reason: str, started: float) -> Outcome[Any]:
        calls.may_run_here(call, reason, self._reach.path)
        if call.key is None:
            return await self._run_here(call, None, started)

        event = anyio.Event()
        entered = self._flights.enter((call.options.namespace, call.key), event.set)
        if isinstance(entered, LocalFlight):
            return await self._run_here(call, entered, started)

        left = calls.remaining_seconds(call, monotonic() - started)
        try:
            with anyio.move_on_after(LOCAL_WAIT_SECONDS if left is None else left):
                await event.wait()
        except BaseException:
            self._flights.leave(entered)
            raise

        return await self._follow(call, entered, started)

    async def _follow(self, call: Call, waiter: LocalWaiter, started: float) -> Outcome[Any]:
        """Do what the end of the call that this one waited for says."""
        waited_seconds = monotonic() - started
        match waiter.end:
            case Answered(packed):
                return Outcome(unpack_value(packed), "fallback", waited_seconds=waited_seconds)
            case Elected():
                return await self._run_here(call, waiter.flight, started)
            case Broken(kind, message):
                raise CallFailed(kind, message)
            case None:
                self._flights.leave(waiter)
                raise CallTimeout(waited_seconds)
            case _:
                return await self._run_here(call, None, started)

    async def _run_here(self, call: Call, flight: LocalFlight | None, started: float) -> Outcome[Any]:
        """Ask the backends in order; ``flight`` is what others wait for."""
        waited_seconds = monotonic() - started
        tried: set[str] = set()
        try:
            while True:
                backend = next((name for name in call.backends if name not in tried), wire.DEFAULT_BACKEND)
                tried.add(backend)
                try:
                    value = await _perform(call.function_of(backend), call)
                    break
                except BaseException as error:
                    if not calls.another_backend(call, tried, kind_of(error, call.options.classify)):
                        raise

        except BaseException as error:
            if flight is not None:
                self._flights.fail(flight, kind_of(error, call.options.classify), message_of(error))

            raise

        if flight is not None:
            self._flights.succeed(flight, value)

        return Outcome(value, "fallback", backend=backend, waited_seconds=waited_seconds)


async def _perform(function: Callable[..., Any], call: Call) -> Any:
    """Await an async function here; run a plain one in a thread, because nobody knows whether it blocks."""
    if inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(getattr(function, "__call__", None)):  # noqa: B004 - callable() does not tell whether it is async
        return await function(*call.args, **call.kwargs)

    result = await to_thread.run_sync(partial(function, *call.args, **call.kwargs))
    return await result if inspect.isawaitable(result) else result
