"""The asynchronous client: calls, entries, keys and the daemon's state. How it opens and closes is in `lifecycle`."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any, cast, overload

from msgspec import Raw, structs

from sidecard_client._async.batches import run_batch
from sidecard_client._async.lifecycle import AsyncDecorator, AsyncFunctions, AsyncLifecycle, AsyncStreamFunctions
from sidecard_client._async.streams import AsyncStream
from sidecard_client.batches import batch as batches
from sidecard_client.batches.batch import MAX_BATCH, InputBatch
from sidecard_client.call import call as calls
from sidecard_client.call.call import Call, Functions, T
from sidecard_client.call.options import Options
from sidecard_client.call.outcome import Outcome, renewable
from sidecard_client.call.wrapping import generates, wrapped
from sidecard_client.keys.explanation import Explanation
from sidecard_client.keys.normal_form import NormalForm
from sidecard_client.protocol import wire
from sidecard_client.protocol.connection import ConnectionLost
from sidecard_client.protocol.errors import DaemonUnavailable, RequestRefused
from sidecard_client.values.packing import pack_value


class AsyncClient(AsyncLifecycle):
    """Calls that all processes of the host share. `BaseClient` describes the arguments, `AsyncLifecycle` the use.

    ::

        sidecard = AsyncClient()
        text = await sidecard.call(llm.generate, prompt)
    """

    # Calls ------------------------------------------------------------------------------------------------------------

    @overload
    async def call(self, function: AsyncFunctions[T], /, *args: Any, **kwargs: Any) -> T: ...

    @overload
    async def call(self, function: Functions[T], /, *args: Any, **kwargs: Any) -> T: ...

    async def call(self, function: Functions[T], /, *args: Any, **kwargs: Any) -> T:
        """Return the value of ``function(*args, **kwargs)``. It runs only if no stored or running call has the answer.

        ``function`` may be a dict of backend names and functions, in order of preference, whose answers are
        interchangeable by declaration: if one fails in a way that may pass, the next is tried. A single function goes to
        ``backend=``, or to the daemon's ``default``. Policy keywords (`options`) are not passed on.

        Raises what the function raises, as it is; `CallFailed` if the call that this one waited for failed;
        `CallRejected` and `CallTimeout` as the policy says; `UnkeyableRequest` for arguments without a stable form;
        `DaemonUnavailable` if ``on_unavailable`` is ``"raise"`` and no daemon answers.
        """
        outcome = await self._interpreter.run(calls.prepare(self._options, function, args, kwargs))
        value: T = outcome.value
        return value

    @overload
    async def outcome(self, function: AsyncFunctions[T], /, *args: Any, **kwargs: Any) -> Outcome[T]: ...

    @overload
    async def outcome(self, function: Functions[T], /, *args: Any, **kwargs: Any) -> Outcome[T]: ...

    async def outcome(  # type: ignore[misc]  # mypy wants one T for both overloads
        self, function: Functions[T], /, *args: Any, **kwargs: Any
    ) -> Outcome[T]:
        """Like `call`, but return the value with its source. `Outcome.refresh` makes the call again."""
        renewed: Outcome[T] = await self._outcome_of(calls.prepare(self._options, function, args, kwargs))
        return renewed

    @overload
    async def call_each(
        self,
        function: AsyncFunctions[Iterable[T]],
        inputs: Iterable[Any],
        /,
        *,
        max_batch: int = MAX_BATCH,
        **kwargs: Any,
    ) -> list[T]: ...

    @overload
    async def call_each(
        self, function: Functions[Iterable[T]], inputs: Iterable[Any], /, *, max_batch: int = MAX_BATCH, **kwargs: Any
    ) -> list[T]: ...

    async def call_each(  # type: ignore[misc]  # mypy wants one T for both overloads
        self, function: Functions[Iterable[T]], inputs: Iterable[Any], /, *, max_batch: int = MAX_BATCH, **kwargs: Any
    ) -> list[T]:
        """Return the answer to each of ``inputs``, in order; ``function(inputs, **kwargs)`` returns a list of answers.

        Each input has its own stored answer and its own running call, as with `call`. The function runs with the inputs that
        are neither stored nor running, each once, ``max_batch`` at most; `sidecard docs client` describes the keys.

        ::

            vectors = await sidecard.call_each(model.embed, texts)

        Raises what `call` does, and `WrongAnswers` if the function does not return one answer for each input. If a call
        fails, no answer is returned; the answers of earlier upstream calls are stored.
        """
        outcomes: list[Outcome[T]] = await self.outcome_each(function, inputs, max_batch=max_batch, **kwargs)
        return [outcome.value for outcome in outcomes]

    @overload
    async def outcome_each(
        self,
        function: AsyncFunctions[Iterable[T]],
        inputs: Iterable[Any],
        /,
        *,
        max_batch: int = MAX_BATCH,
        **kwargs: Any,
    ) -> list[Outcome[T]]: ...

    @overload
    async def outcome_each(
        self, function: Functions[Iterable[T]], inputs: Iterable[Any], /, *, max_batch: int = MAX_BATCH, **kwargs: Any
    ) -> list[Outcome[T]]: ...

    async def outcome_each(  # type: ignore[misc]  # mypy wants one T for both overloads
        self, function: Functions[Iterable[T]], inputs: Iterable[Any], /, *, max_batch: int = MAX_BATCH, **kwargs: Any
    ) -> list[Outcome[T]]:
        """Like `call_each`, but return each value with its source."""
        inputs = batches.listed(inputs)
        template = batches.template_of(self._options, function, inputs, kwargs, max_batch)
        if template is None:
            return []

        forms = await self.normal_forms(template.options.task) if template.key is calls.UNKEYED else None
        outcomes = await self._answer_each(batches.batch_of(template, inputs, max_batch, forms))
        return [
            renewable(outcome, structs.replace(template, args=(one,)), self._outcome_of_input, self._clock)
            for one, outcome in zip(inputs, outcomes, strict=True)
        ]

    def stream(self, function: AsyncStreamFunctions[T], /, *args: Any, **kwargs: Any) -> AsyncStream[T]:
        """Return an iterator over the pieces that ``function(*args, **kwargs)`` returns or generates.

        The function runs only if no stored or running call has the answer; the pieces of a running call arrive as its
        own caller gets them. The arguments are `call`'s.

        ::

            async with sidecard.stream(llm.stream, prompt) as pieces:
                async for piece in pieces:
                    ...

        Raises what `call` does, when the first piece is taken. After it, another caller's stream that breaks raises
        `CallFailed` or `CallTimeout` (``wait=`` limits the wait for each piece): discard the pieces before it. No stream
        ends early without an exception. A caller that closes it early ends the call, unless other callers wait for it.
        """
        call = calls.prepare(self._options, cast("Functions[Any]", function), args, kwargs, stream=True)
        return AsyncStream(self._connector, call)

    def cached(self, **policy: Any) -> AsyncDecorator:
        """Decorate a function or method so that each of its calls is a `call` with this policy.

        All keywords of its calls go to the function. A generator function becomes one whose calls are `stream`'s.
        The key of a method has the texts of its instance (`sidecard docs client`, "Keys").
        """
        return AsyncDecorator(self._perform, self._options.changed(policy))

    def wrap(self, llm_client: T, *, methods: Collection[str] | None = None, **policy: Any) -> T:
        """Return a proxy of ``llm_client`` whose public methods (or only ``methods``) are each a `call` with this policy.

        Everything else passes through. All keywords of a method's calls go to the method.
        Two objects of one class share if their texts are equal (`sidecard docs client`, "Keys").

        A client of an SDK, such as ``OpenAI()``, or a model of a framework is shared by its HTTP clients instead, as by
        `sidecard_client.share` with this client, and returned itself. ``methods`` makes a proxy of it as well.
        """
        return cast("T", wrapped(self, self._perform, llm_client, methods, policy))

    # Entries ----------------------------------------------------------------------------------------------------------

    async def get(
        self, key: str, default: Any = None, *, namespace: str | None = None, max_age: float | None = None
    ) -> Any:
        """Return the stored value of ``key``, or ``default``; also if the daemon is away and calls fall back.

        A value that was stored ``max_age`` seconds ago or earlier counts as not stored.
        """
        options = self._options if max_age is None else self._options.changed({"max_age": max_age})
        limit = options.max_age_seconds
        request = wire.Get(key=key, namespace=namespace or options.namespace, max_age_seconds=limit)
        try:
            reply = await self._ask(request)
        except DaemonUnavailable:
            if self._options.on_unavailable == "raise":
                raise

            return default

        # A daemon of an older version does not know the limit.
        found = isinstance(reply, wire.Hit) and (limit is None or reply.age_seconds < limit)
        return reply.value if found else default

    async def put(
        self,
        key: str,
        value: Any,
        *,
        ttl: float | None = None,
        tags: Collection[str] = (),
        namespace: str | None = None,
    ) -> bool:
        """Store ``value``. Return whether it was stored; False also if the daemon is away and calls fall back.

        Raises `UnshareableValue` for a value that would not decode to an equal one.
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
        """Remove an entry and return the number of removed entries, 0 or 1.

        Raises `DaemonUnavailable` whatever the policy: a caller that deletes must know that it has not.
        """
        reply = await self._ask(wire.Delete(key=key, namespace=namespace or self._options.namespace))
        return cast("wire.Deleted", reply).count

    async def purge(self, *, namespace: str | None = None, tag: str | None = None, task: str | None = None) -> int:
        """Remove the entries of a namespace, tag and task, as far as given, and return their number.

        For operators. Raises as `delete`.
        """
        reply = await self._ask(wire.Purge(namespace=namespace, tag=tag, task=task))
        return cast("wire.Deleted", reply).count

    # Keys -------------------------------------------------------------------------------------------------------------

    async def explain(self, function: Functions[Any], /, *args: Any, **kwargs: Any) -> Explanation:
        """Return the parts of the key of ``call(function, *args, **kwargs)``. Nothing is called, begun or stored.

        ::

            first = await sidecard.explain(ask, "why?")
            second = await sidecard.explain(ask, "why")
            for difference in first.differences(second):
                print(difference)  # args[0]: 'why?' / 'why'

        For a generator function it is the key of its stream, as with `cached`.
        Raises what `call` does before it asks the daemon.
        """
        stream = generates(function) if callable(function) else False
        call = calls.prepare(self._options, function, args, kwargs, stream=stream)
        forms = await self.normal_forms(call.options.task) if call.key is calls.UNKEYED else None
        return calls.explanation_of(call, forms)

    async def normal_forms(self, task: str) -> tuple[NormalForm, ...]:
        """Return the daemon's normal forms for a task, which ``normalize="task"`` uses.

        If the daemon cannot be asked, those that it reported last, or none.
        """
        return await self._connector.normal_forms(task)

    # The daemon -------------------------------------------------------------------------------------------------------

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
        """Return the daemon's settings and their origins. For operators. Raises as `delete`."""
        return cast("wire.Settings", await self._ask(wire.GetConfig()))

    async def breakers(self) -> wire.Breakers:
        """Return the state of every backend that is configured or in use. Raises `DaemonUnavailable`."""
        return cast("wire.Breakers", await self._ask(wire.GetBreakers()))

    async def breaker(self, backend: str, action: wire.BreakerAction) -> None:
        """Set the breaker of a backend for all workers: ``"open"``, ``"close"``, ``"auto"`` or ``"disable"``.

        For operators: raises `RequestRefused` for others, and `DaemonUnavailable`.
        """
        await self._ask(wire.SetBreaker(backend=backend, action=action))

    # What they share --------------------------------------------------------------------------------------------------

    async def outcome_keyed(
        self,
        function: Functions[Any],
        inputs: Sequence[Any],
        keys: Sequence[str],
        policy: Mapping[str, Any],
        context: str = "",
    ) -> list[Outcome[Any]]:
        """Like `outcome_each`, with the ``keys`` of the inputs and a ``policy`` without ``key=``. For transports.

        ``context`` is a digest of what differs between requests of one key.
        """
        options = structs.replace(self._options.changed(policy), context=context)
        return await self._answer_each(batches.keyed_batch(options, function, inputs, keys))

    def stream_with(self, function: AsyncStreamFunctions[T], args: tuple[Any, ...], options: Options) -> AsyncStream[T]:
        """Like `stream`, with ``options`` that were made from this client's and have a key. For transports."""
        functions = cast("Functions[Any]", function)
        return AsyncStream(self._connector, calls.prepare(options, functions, args, {}, stream=True))

    async def _outcome_of(self, call: Call) -> Any:
        return renewable(await self._interpreter.run(call), call, self._outcome_of, self._clock)

    async def _outcome_of_input(self, call: Call) -> Any:
        if call.key is calls.UNKEYED:
            call = calls.keyed(call, await self.normal_forms(call.options.task))

        (outcome,) = await self._answer_each(InputBatch([structs.replace(call)], [0]))
        return renewable(outcome, call, self._outcome_of_input, self._clock)

    async def _answer_each(self, batch: InputBatch) -> list[Any]:
        return await run_batch(self._connector, self._interpreter, batch)

    def _perform(self, call: Call) -> Any:
        return AsyncStream(self._connector, call) if call.stream else self._value_of(call)

    async def _value_of(self, call: Call) -> Any:
        outcome = await self._interpreter.run(call)
        return outcome.value

    async def _ask(self, request: wire.AnyRequest) -> Any:
        try:
            reply = await self._connector.ask(request)
        except ConnectionLost as lost:
            raise DaemonUnavailable(self._connector.place(), lost.reason) from None

        if isinstance(reply, wire.Error):
            raise RequestRefused(reply.code, reply.message)

        if isinstance(request, wire.Delete | wire.Purge):
            self._interpreter.forget(request.namespace, request.key if isinstance(request, wire.Delete) else None)

        return reply
