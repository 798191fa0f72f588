"""The asynchronous client: any number of concurrent calls over one connection, on asyncio and on trio.

The methods are `sync.Client`'s, in the same order, with ``await``.
What a call goes through is in `aio_calls`, the connection in `aio_link`, making it anew in `aio_reach`.
"""

import inspect
import os
import sys
from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable, Collection, Iterable
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, ParamSpec, Self, cast, overload

import anyio
import anyio.to_thread
from msgspec import Raw

from sidecard_client._async.calls import AsyncInterpreter
from sidecard_client._async.connector import AsyncConnector
from sidecard_client._async.streams import AsyncStream
from sidecard_client._sync.connection import BlockingConnection
from sidecard_client.call import call as calls
from sidecard_client.call.call import Backends, Call, Functions, T
from sidecard_client.call.failures import Classify, default_classify
from sidecard_client.call.options import OnUnavailable, Options, ReadUsage, Redact
from sidecard_client.call.outcome import Outcome
from sidecard_client.call.sovereign import sovereign_by
from sidecard_client.call.values import pack_value
from sidecard_client.call.wrapping import CachedFunction, Perform, SharedMethods, generates
from sidecard_client.keys.explanation import Explanation
from sidecard_client.keys.normal_form import NormalForm
from sidecard_client.keys.vectors import Embedder
from sidecard_client.metrics.client_metrics import ClientMetrics
from sidecard_client.protocol import wire
from sidecard_client.protocol.connection import ConnectionLost
from sidecard_client.protocol.errors import DaemonUnavailable, RequestRefused
from sidecard_client.protocol.socket_path import StrPath, find_socket

if TYPE_CHECKING:
    from anyio.abc import TaskGroup

P = ParamSpec("P")

DAEMON_TIMEOUT_SECONDS = 0.5
"""Ten thousand times a hit's round trip: a daemon that needs longer does not work."""

AsyncStreamFunctions = (
    Callable[..., AsyncIterable[T] | Iterable[T] | Awaitable[AsyncIterable[T]]]
    | Backends[AsyncIterable[T] | Iterable[T] | Awaitable[AsyncIterable[T]]]
)

AsyncFunctions = Callable[..., Awaitable[T]] | Backends[Awaitable[T]]


class AsyncClient(ClientMetrics):
    """Calls made once for all processes of the host, on asyncio and trio.

    ::

        async with AsyncClient() as sidecard:
            text = await sidecard.call(llm.generate, prompt)

    Functions may be asynchronous; plain ones run in threads. The arguments are `sync.Client`'s.
    Connects at the first request, and again by itself after the daemon was away.

    Belongs to the event loop in which it was opened, any of whose tasks may use it.
    In another loop or thread, and in the child of a fork, its methods raise `RuntimeError`: make another client there.
    Calls that still wait when it is closed raise `RuntimeError`; functions that still run go on, and are not shared.
    """

    def __init__(
        self,
        path: StrPath | None = None,
        *,
        namespace: str = wire.DEFAULT_NAMESPACE,
        task: str = wire.DEFAULT_TASK,
        daemon_timeout: float = DAEMON_TIMEOUT_SECONDS,
        ttl: float | None = None,
        stale: float | None = None,
        wait: float | None = None,
        normalize: Collection[NormalForm] | Literal["task"] = (),
        usage: ReadUsage | None = None,
        classify: Classify = default_classify,
        embed: Embedder | None = None,
        redact: Redact | None = None,
        on_unavailable: OnUnavailable = "fallback",
        sovereign: bool | None = None,
    ) -> None:
        if not daemon_timeout > 0:
            raise ValueError(f"daemon_timeout= must be more than 0 seconds, not {daemon_timeout}.")

        self._options = Options().changed(
            {
                "namespace": namespace,
                "task": task,
                "ttl": ttl,
                "stale": stale,
                "wait": wait,
                "normalize": normalize,
                "usage": usage,
                "classify": classify,
                "embed": embed,
                "redact": redact,
                "on_unavailable": on_unavailable,
                "sovereign": sovereign_by(os.environ) if sovereign is None else sovereign,
            }
        )
        place = None if path is None else find_socket(path)
        self._connector = AsyncConnector(place, daemon_timeout)
        self._init_metrics(lambda: BlockingConnection(place or find_socket(), daemon_timeout), daemon_timeout)
        self._interpreter = AsyncInterpreter(self._connector)
        self._tasks: TaskGroup | None = None

    def __repr__(self) -> str:
        """Show what is known of the daemon, and the connection."""
        return f"<AsyncClient {self._connector!r}>"

    async def __aenter__(self) -> Self:
        if self._tasks is not None:
            raise RuntimeError("This client was opened before: make a new one.")

        self._tasks = anyio.create_task_group()
        await self._tasks.__aenter__()
        self._connector.open(self._tasks)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> bool | None:
        tasks = self._tasks
        assert tasks is not None  # noqa: S101 - left only after it was entered; for the type checker
        try:
            await self._connector.close()
            if self._metrics_sender is not None:
                # In a thread: its last words may take half a second where the daemon hangs.
                with anyio.CancelScope(shield=True):
                    await anyio.to_thread.run_sync(self._close_metrics)
        finally:
            tasks.cancel_scope.cancel()
            # The task group is the client's own affair: the body's exceptions are not its, so they leave as they are and
            # not in a group. Cancellation is, because only the group knows whether it was its own.
            if not isinstance(error, anyio.get_cancelled_exc_class()):
                kind, error, traceback = None, None, None

            swallow = await tasks.__aexit__(kind, error, traceback)

        return swallow and error is not None

    @property
    def redact(self) -> Redact | None:
        """What lets prompts and answers pass to the daemon's call log."""
        return self._options.redact

    @property
    def sovereign(self) -> bool:
        """Backends that may be remote are left out where no daemon decides."""
        return self._options.sovereign

    # Calls ---------------------------------------------------------------------------------------------------------

    @overload
    async def call(self, function: AsyncFunctions[T], /, *args: Any, **kwargs: Any) -> T: ...

    @overload
    async def call(self, function: Functions[T], /, *args: Any, **kwargs: Any) -> T: ...

    async def call(self, function: Functions[Any], /, *args: Any, **kwargs: Any) -> Any:
        """Return what ``await function(*args, **kwargs)`` returns; it runs only if nobody else has the answer.

        ``function`` may be a dict of backend names and functions, in order of preference,
        whose answers are interchangeable by declaration: where one fails in a way that may pass, the next is asked.
        A single function goes to ``backend=``, or to the daemon's ``default``.
        Policy keywords (`options`) are not passed on.

        Raises what the function raises, as it is; `CallFailed` where the call that this one waited for failed;
        `CallRejected` and `CallTimeout` as the policy has it; `UnkeyableRequest` for arguments without a stable form;
        `DaemonUnavailable` where ``on_unavailable`` is ``"raise"`` and no daemon answers.

        May be cancelled at any time: one that waits leaves the others waiting,
        and one whose function runs hands the call to the next who waits.
        """
        return (await self._interpreter.run(calls.prepare(self._options, function, args, kwargs))).value

    @overload
    async def outcome(self, function: AsyncFunctions[T], /, *args: Any, **kwargs: Any) -> Outcome[T]: ...

    @overload
    async def outcome(self, function: Functions[T], /, *args: Any, **kwargs: Any) -> Outcome[T]: ...

    async def outcome(self, function: Functions[Any], /, *args: Any, **kwargs: Any) -> Outcome[Any]:
        """Do as `call` does, and return the value with where it came from."""
        return await self._interpreter.run(calls.prepare(self._options, function, args, kwargs))

    def stream(self, function: AsyncStreamFunctions[T], /, *args: Any, **kwargs: Any) -> AsyncStream[T]:
        """Return an asynchronous iterator over the pieces that ``function(*args, **kwargs)`` returns or generates.

        The function runs only if nobody else has the answer or is just getting it; the pieces of a call in progress come as
        they come to its own caller. ``function`` is an asynchronous generator function, or a coroutine function or a plain one
        (in a thread) that returns something to iterate over, asynchronously or not. The arguments are `call`'s. It runs in a
        task of this client's, at most one piece ahead of its caller.

        ::

            async with sidecard.stream(llm.stream, prompt) as pieces:
                async for piece in pieces:
                    ...

        Raises what `call` does, when the first piece is asked for. After it, a stream of somebody else's call that breaks
        raises `CallFailed` or `CallTimeout` (``wait=`` is the patience for each piece): what came before is to be discarded.
        No stream ends before its end without an exception.

        May be cancelled at any time. Where others wait for the call, it goes on for them.
        """
        call = calls.prepare(self._options, cast("Functions[Any]", function), args, kwargs, stream=True)
        return AsyncStream(self._connector, call)

    def cached(self, **policy: Any) -> "AsyncDecorator":
        """Decorate a function or method so that each of its calls is a `call` with this policy, to be awaited.

        All keywords of its calls go to the function. A generator function, asynchronous or not, becomes one whose calls are
        `stream`'s.
        A method's key has its class and its arguments, not its instance:
        where the instance decides the answer, say ``model=`` or ``name=``.
        """
        return AsyncDecorator(self._perform, self._options.changed(policy))

    def wrap(self, llm_client: T, *, methods: Collection[str] | None = None, **policy: Any) -> T:
        """Return a proxy of ``llm_client`` whose public methods (or ``methods`` alone) are each a `call` with this policy.

        They must be awaited, also those that are plain methods of ``llm_client``, which run in threads.
        Everything else passes through. All keywords of a method's calls go to the method.
        Two objects of one class share: where the object decides the answer, say ``model=`` or ``name=``.
        """
        return cast("T", SharedMethods(self._perform, llm_client, self._options.changed(policy), methods))

    # Entries -------------------------------------------------------------------------------------------------------

    async def get(self, key: str, default: Any = None, *, namespace: str | None = None) -> Any:
        """Return the stored value of ``key``, or ``default``; so also where the daemon is away and calls fall back."""
        try:
            reply = await self._ask(wire.Get(key=key, namespace=namespace or self._options.namespace))
        except DaemonUnavailable:
            if self._options.on_unavailable == "raise":
                raise

            return default

        return reply.value if isinstance(reply, wire.Hit) else default

    async def put(
        self,
        key: str,
        value: Any,
        *,
        ttl: float | None = None,
        tags: Collection[str] = (),
        namespace: str | None = None,
    ) -> bool:
        """Store ``value`` and tell whether it was; False also where the daemon is away and calls fall back.

        Raises `UnshareableValue` where it would not come back equal.
        """
        options = self._options.changed({"ttl": ttl, "tags": tags, "namespace": namespace or self._options.namespace})
        request = wire.Put(
            key=key,
            value=Raw(pack_value(value)),
            namespace=options.namespace,
            ttl_seconds=options.ttl_seconds,
            tags=options.tags,
            task=options.task,
        )
        try:
            reply = await self._ask(request)
        except DaemonUnavailable:
            if self._options.on_unavailable == "raise":
                raise

            return False

        return cast("wire.Stored", reply).stored

    async def delete(self, key: str, *, namespace: str | None = None) -> int:
        """Remove an entry and return how many there were, 0 or 1.

        Raises `DaemonUnavailable` whatever the policy: a caller that deletes must know that it has not.
        """
        reply = await self._ask(wire.Delete(key=key, namespace=namespace or self._options.namespace))
        return cast("wire.Deleted", reply).count

    async def purge(self, *, namespace: str | None = None, tag: str | None = None, task: str | None = None) -> int:
        """Remove the entries of a namespace, tag and task, as far as they are given, and return how many.

        For operators. Raises as `delete`.
        """
        return cast("wire.Deleted", await self._ask(wire.Purge(namespace=namespace, tag=tag, task=task))).count

    # Keys ----------------------------------------------------------------------------------------------------------

    async def explain(self, function: Functions[Any], /, *args: Any, **kwargs: Any) -> Explanation:
        """Return what the key of ``call(function, *args, **kwargs)`` is made of. Nothing is called, begun or stored.

        ::

            one, other = await sidecard.explain(ask, "why?"), await sidecard.explain(ask, "why")
            for difference in one.differences(other):
                print(difference)  # kwargs.messages[1].content: 'why?' / 'why'

        Of a stream it is the key where ``function`` is a generator function, as `cached` has it.
        Raises what `call` does before it asks the daemon.
        """
        stream = generates(function) if callable(function) else False
        call = calls.prepare(self._options, function, args, kwargs, stream=stream)
        return calls.explanation_of(
            call, await self.normal_forms(call.options.task) if call.key is calls.UNKEYED else None
        )

    async def normal_forms(self, task: str) -> tuple[NormalForm, ...]:
        """Return the normal forms that the daemon has for a task, which ``normalize="task"`` goes by.

        Where it cannot be asked, what it said last, or none.
        """
        return await self._connector.normal_forms(task)

    # The daemon ----------------------------------------------------------------------------------------------------

    async def report(self) -> wire.Report:
        """Return rates, savings and spending since the daemon began. Raises `DaemonUnavailable`."""
        return cast("wire.Report", await self._ask(wire.GetReport()))

    async def stats(self) -> wire.Stats:
        """Return the daemon's gauges and counters. Raises `DaemonUnavailable`."""
        return cast("wire.Stats", await self._ask(wire.GetStats()))

    async def health(self) -> wire.Health:
        """Return whether the daemon is fit to serve. Raises `DaemonUnavailable`."""
        return cast("wire.Health", await self._ask(wire.GetHealth()))

    async def ping(self) -> wire.Pong:
        """Return the daemon's sign of life. Raises `DaemonUnavailable`."""
        return cast("wire.Pong", await self._ask(wire.Ping()))

    async def config(self) -> wire.Settings:
        """Return the daemon's settings and where each came from. For operators. Raises as `delete`."""
        return cast("wire.Settings", await self._ask(wire.GetConfig()))

    async def breakers(self) -> wire.Breakers:
        """Return how every backend is that is configured or in use. Raises `DaemonUnavailable`."""
        return cast("wire.Breakers", await self._ask(wire.GetBreakers()))

    async def breaker(self, backend: str, action: wire.BreakerAction) -> None:
        """Set the breaker of a backend for all workers: ``"open"``, ``"close"``, ``"auto"`` or ``"disable"``.

        For operators: raises `RequestRefused` for others, and `DaemonUnavailable`.
        """
        await self._ask(wire.SetBreaker(backend=backend, action=action))

    def _perform(self, call: Call) -> Any:
        return AsyncStream(self._connector, call) if call.stream else self._value_of(call)

    async def _value_of(self, call: Call) -> Any:
        return (await self._interpreter.run(call)).value

    async def _ask(self, request: wire.AnyRequest) -> Any:
        try:
            reply = await self._connector.ask(request)
        except ConnectionLost as lost:
            raise DaemonUnavailable(self._connector.place(), lost.reason) from None

        if isinstance(reply, wire.Error):
            raise RequestRefused(reply.code, reply.message)

        return reply


class AsyncDecorator:
    """What `AsyncClient.cached` returns: makes a function one to be awaited, whose calls are sidecard's."""

    def __init__(self, perform: Perform, options: Options) -> None:
        self._perform = perform
        self._options = options

    @overload
    def __call__(  # type: ignore[overload-overlap]  # the first that applies counts
        self, function: Callable[P, AsyncIterator[T]]
    ) -> Callable[P, AsyncIterator[T]]: ...

    @overload
    def __call__(self, function: Callable[P, Awaitable[T]]) -> Callable[P, Awaitable[T]]: ...

    @overload
    def __call__(self, function: Callable[P, T]) -> Callable[P, Awaitable[T]]: ...

    def __call__(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """Decorate ``function``."""
        decorated = CachedFunction(self._perform, function, self._options)
        if sys.version_info >= (3, 12) and not generates(function):
            inspect.markcoroutinefunction(decorated)  # frameworks look whether a handler is to be awaited

        return cast("Callable[..., Any]", decorated)
