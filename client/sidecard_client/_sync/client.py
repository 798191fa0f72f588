"""The blocking client: calls run in their callers' threads, each over a connection of its own.

Behind it, `runner` makes the calls, `connector` keeps the connections and knows whether the daemon is worth asking,
`heartbeat` keeps leases and waits alive, and `local` shares calls within the process where the daemon is away.
"""

import os
from collections.abc import Callable, Collection, Iterable
from typing import Any, Literal, ParamSpec, Self, cast
from weakref import WeakSet

from msgspec import Raw

from sidecard_client._sync.calls import Interpreter
from sidecard_client._sync.connection import BlockingConnection
from sidecard_client._sync.connector import Connector
from sidecard_client._sync.streams import Stream
from sidecard_client.call import call as calls
from sidecard_client.call.call import Backends, Call, Functions, T
from sidecard_client.call.failures import Classify, default_classify
from sidecard_client.call.options import OnUnavailable, Options, ReadUsage, Redact
from sidecard_client.call.outcome import Outcome
from sidecard_client.call.sovereign import sovereign_by
from sidecard_client.call.values import pack_value
from sidecard_client.call.wrapping import CachedFunction, SharedMethods, generates
from sidecard_client.keys.explanation import Explanation
from sidecard_client.keys.normal_form import NormalForm
from sidecard_client.keys.vectors import Embedder
from sidecard_client.metrics.client_metrics import ClientMetrics
from sidecard_client.protocol import wire
from sidecard_client.protocol.connection import ConnectionLost
from sidecard_client.protocol.errors import DaemonUnavailable, RequestRefused
from sidecard_client.protocol.socket_path import StrPath, find_socket

P = ParamSpec("P")

StreamFunctions = Callable[..., Iterable[T]] | Backends[Iterable[T]]

DAEMON_TIMEOUT_SECONDS = 0.5
"""Ten thousand times a hit's round trip: a daemon that needs longer does not work."""


class Client(ClientMetrics):
    """Calls made once for all processes of the host. Thread-safe, fork-safe, and reconnecting by itself.

    ``path`` is the daemon's socket, found by `paths.find_socket` at each connection where it is left out.
    The keywords are the defaults of every call's policy (see `options`), but for ``daemon_timeout``:
    how many seconds the daemon may take for a first answer, or for a sign of life during a wait,
    before calls go on without it.

    Where the daemon is sovereign, it grants no lease on a remote backend. ``sovereign`` keeps that up without it:
    calls that fall back, or are made on their own account, leave out every backend that is not called ``local`` or
    ``default``, and raise `CallRejected` ("sovereign") where none is left.
    None takes the daemon's own variables: ``SIDECARD_SOVEREIGN_ENABLED``, else ``SOVEREIGN_MODE``,
    read once, when the client is made. While a daemon answers, it alone decides.

    Making a client connects to nothing and never fails because no daemon is there.
    Raises `ValueError` and `TypeError` for a wrong argument, a path longer than a socket's may be included.
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
        self._connector = Connector(place, daemon_timeout)
        self._init_metrics(lambda: BlockingConnection(place or find_socket(), daemon_timeout), daemon_timeout)
        self._interpreter = Interpreter(self._connector)
        _clients.add(self)

    def __repr__(self) -> str:
        """Show what is known of the daemon, and the connections."""
        return f"<Client {self._connector!r}>"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def redact(self) -> Redact | None:
        """What lets prompts and answers pass to the daemon's call log."""
        return self._options.redact

    @property
    def sovereign(self) -> bool:
        """Backends that may be remote are left out where no daemon decides."""
        return self._options.sovereign

    def close(self) -> None:
        """Close idle connections, and those of running calls when these end. Later requests raise `RuntimeError`.

        Metrics that were not sent yet are, for which it may take half a second where the daemon hangs.
        """
        self._close_metrics()
        self._connector.close()

    # Calls ---------------------------------------------------------------------------------------------------------

    def call(self, function: Functions[T], /, *args: Any, **kwargs: Any) -> T:
        """Return what ``function(*args, **kwargs)`` returns; it runs only if nobody else has the answer.

        ``function`` may be a dict of backend names and functions, in order of preference,
        whose answers are interchangeable by declaration: where one fails in a way that may pass, the next is asked.
        A single function goes to ``backend=``, or to the daemon's ``default``.
        Policy keywords (`options`) are not passed on.

        Raises what the function raises, as it is; `CallFailed` where the call that this one waited for failed;
        `CallRejected` and `CallTimeout` as the policy has it; `UnkeyableRequest` for arguments without a stable form;
        `DaemonUnavailable` where ``on_unavailable`` is ``"raise"`` and no daemon answers.
        """
        value: T = self._interpreter.run(calls.prepare(self._options, function, args, kwargs)).value
        return value

    def outcome(self, function: Functions[T], /, *args: Any, **kwargs: Any) -> Outcome[T]:
        """Do as `call` does, and return the value with where it came from."""
        return self._interpreter.run(calls.prepare(self._options, function, args, kwargs))

    def stream(self, function: StreamFunctions[T], /, *args: Any, **kwargs: Any) -> Stream[T]:
        """Return an iterator over the pieces that ``function(*args, **kwargs)`` returns or generates.

        The function runs only if nobody else has the answer or is just getting it; the pieces of a call in progress come as
        they come to its own caller. The arguments are `call`'s.

        ::

            with sidecard.stream(llm.stream, prompt) as pieces:
                for piece in pieces:
                    ...

        Raises what `call` does, when the first piece is asked for. After it, a stream of somebody else's call that breaks
        raises `CallFailed` or `CallTimeout` (``wait=`` is the patience for each piece): what came before is to be discarded.
        No stream ends before its end without an exception.
        """
        call = calls.prepare(self._options, cast("Functions[Any]", function), args, kwargs, stream=True)
        return Stream(self._connector, call)

    def cached(self, **policy: Any) -> Callable[[Callable[P, T]], Callable[P, T]]:
        """Decorate a function or method so that each of its calls is a `call` with this policy.

        All keywords of its calls go to the function. A generator function becomes one whose calls are `stream`'s.
        A method's key has its class and its arguments, not its instance:
        where the instance decides the answer, say ``model=`` or ``name=``.
        """
        bound = self._options.changed(policy)

        def decorate(function: Callable[P, T]) -> Callable[P, T]:
            return cast("Callable[P, T]", CachedFunction(self._perform, function, bound))

        return decorate

    def wrap(self, llm_client: T, *, methods: Collection[str] | None = None, **policy: Any) -> T:
        """Return a proxy of ``llm_client`` whose public methods (or ``methods`` alone) are each a `call` with this policy.

        Everything else passes through. All keywords of a method's calls go to the method.
        Two objects of one class share: where the object decides the answer, say ``model=`` or ``name=``.
        """
        return cast("T", SharedMethods(self._perform, llm_client, self._options.changed(policy), methods))

    # Entries -------------------------------------------------------------------------------------------------------

    def get(self, key: str, default: Any = None, *, namespace: str | None = None) -> Any:
        """Return the stored value of ``key``, or ``default``; so also where the daemon is away and calls fall back."""
        try:
            reply = self._ask(wire.Get(key=key, namespace=namespace or self._options.namespace))
        except DaemonUnavailable:
            if self._options.on_unavailable == "raise":
                raise

            return default

        return reply.value if isinstance(reply, wire.Hit) else default

    def put(
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
            reply = self._ask(request)
        except DaemonUnavailable:
            if self._options.on_unavailable == "raise":
                raise

            return False

        return cast("wire.Stored", reply).stored

    def delete(self, key: str, *, namespace: str | None = None) -> int:
        """Remove an entry and return how many there were, 0 or 1.

        Raises `DaemonUnavailable` whatever the policy: a caller that deletes must know that it has not.
        """
        reply = self._ask(wire.Delete(key=key, namespace=namespace or self._options.namespace))
        return cast("wire.Deleted", reply).count

    def purge(self, *, namespace: str | None = None, tag: str | None = None, task: str | None = None) -> int:
        """Remove the entries of a namespace, tag and task, as far as they are given, and return how many.

        For operators. Raises as `delete`.
        """
        return cast("wire.Deleted", self._ask(wire.Purge(namespace=namespace, tag=tag, task=task))).count

    # Keys ----------------------------------------------------------------------------------------------------------

    def explain(self, function: Functions[Any], /, *args: Any, **kwargs: Any) -> Explanation:
        """Return what the key of ``call(function, *args, **kwargs)`` is made of. Nothing is called, begun or stored.

        ::

            one, other = sidecard.explain(ask, "why?"), sidecard.explain(ask, "why")
            for difference in one.differences(other):
                print(difference)  # kwargs.messages[1].content: 'why?' / 'why'

        Of a stream it is the key where ``function`` is a generator function, as `cached` has it.
        Raises what `call` does before it asks the daemon.
        """
        stream = generates(function) if callable(function) else False
        call = calls.prepare(self._options, function, args, kwargs, stream=stream)
        return calls.explanation_of(call, self.normal_forms(call.options.task) if call.key is calls.UNKEYED else None)

    def normal_forms(self, task: str) -> tuple[NormalForm, ...]:
        """Return the normal forms that the daemon has for a task, which ``normalize="task"`` goes by.

        Where it cannot be asked, what it said last, or none.
        """
        return self._connector.normal_forms(task)

    # The daemon ----------------------------------------------------------------------------------------------------

    def report(self) -> wire.Report:
        """Return rates, savings and spending since the daemon began. Raises `DaemonUnavailable`."""
        return cast("wire.Report", self._ask(wire.GetReport()))

    def stats(self) -> wire.Stats:
        """Return the daemon's gauges and counters. Raises `DaemonUnavailable`."""
        return cast("wire.Stats", self._ask(wire.GetStats()))

    def health(self) -> wire.Health:
        """Return whether the daemon is fit to serve. Raises `DaemonUnavailable`."""
        return cast("wire.Health", self._ask(wire.GetHealth()))

    def ping(self) -> wire.Pong:
        """Return the daemon's sign of life. Raises `DaemonUnavailable`."""
        return cast("wire.Pong", self._ask(wire.Ping()))

    def config(self) -> wire.Settings:
        """Return the daemon's settings and where each came from. For operators. Raises as `delete`."""
        return cast("wire.Settings", self._ask(wire.GetConfig()))

    def breakers(self) -> wire.Breakers:
        """Return how every backend is that is configured or in use. Raises `DaemonUnavailable`."""
        return cast("wire.Breakers", self._ask(wire.GetBreakers()))

    def breaker(self, backend: str, action: wire.BreakerAction) -> None:
        """Set the breaker of a backend for all workers: ``"open"``, ``"close"``, ``"auto"`` or ``"disable"``.

        For operators: raises `RequestRefused` for others, and `DaemonUnavailable`.
        """
        self._ask(wire.SetBreaker(backend=backend, action=action))

    # What they all do ----------------------------------------------------------------------------------------------

    def _perform(self, call: Call) -> Any:
        if call.stream:
            return Stream(self._connector, call)

        return self._interpreter.run(call).value

    def _ask(self, request: wire.AnyRequest) -> Any:
        try:
            reply = self._connector.ask(request)
        except ConnectionLost as lost:
            raise DaemonUnavailable(self._connector.place(), lost.reason) from None

        if isinstance(reply, wire.Error):
            raise RequestRefused(reply.code, reply.message)

        return reply

    def _leave_to_parent(self) -> None:
        self._connector.leave_to_parent()
        self._interpreter = Interpreter(self._connector)


_clients: WeakSet[Client] = WeakSet()


def _start_over_in_child() -> None:
    for client in list(_clients):
        client._leave_to_parent()  # noqa: SLF001 - this module's own class


os.register_at_fork(after_in_child=_start_over_in_child)
