"""The names of an OpenPipe integration, on the sidecar: a stack that has them changes one import line.

::

    from sidecard_client.openpipe import openpipe_manager

    await openpipe_manager.initialize()
    llm = openpipe_manager.create_llm_wrapper(llm_client, "rag")
    text = await llm.generate(prompt, context)

What is different from the integration that the names come from:

* Callers who ask for the same at the same moment await the one real answer, in all processes of the host.
  A caller that dies or fails passes the call on; no key stays blocked, and no table grows.
* Breakers, limits, routes and budgets are the daemon's, for all workers together.
* Rates and savings are measured; nothing is estimated. What a call costs says ``usage``, or the daemon's prices.
* Where the daemon is away, calls are made all the same, and what it would have stored or counted is not.

For asyncio alone, as the original. Needs the ``async`` extra.
"""

import asyncio
import contextlib
import os
from collections.abc import Callable, Mapping
from typing import Any, Final, Protocol, TypeVar

import msgspec

from sidecard_client._async.client import AsyncClient
from sidecard_client.call.options import ReadUsage
from sidecard_client.call.sovereign import WORDS, sovereign_by
from sidecard_client.keys.fingerprint import fingerprint
from sidecard_client.protocol.errors import DaemonUnavailable, RequestRefused
from sidecard_client.protocol.wire import DEFAULT_NAMESPACE, DEFAULT_TASK, FailureKind, Report

CACHE_TTL_SECONDS: Final = 300.0
"""The original's default, and the daemon's."""

_AWAY = (DaemonUnavailable, RequestRefused)


class Llm(Protocol):
    """What is wrapped: ``generate`` may be asynchronous, or plain, which then runs in a thread."""

    @property
    def generate(self) -> Callable[[str], Any]:
        """Make the call."""


L = TypeVar("L", bound=Llm)


class OpenPipeClient:
    """A connection to the daemon under the original's names.

    Of ``config``, ``openpipe`` may have ``cache_ttl`` (seconds), ``sovereign_mode``, ``namespace`` and ``socket`` (the daemon's
    path, else found as ever). What the original needed besides has no meaning here and is passed by: ``api_key``,
    ``base_url``, ``deduplication_window`` (the daemon's ``cache.sharing_window_seconds``), and all of ``redis``.
    Raises `ValueError` where ``cache_ttl`` is no number, or ``sovereign_mode`` neither a flag nor a word for one.
    """

    def __init__(self, config: Mapping[str, Any] | None = None) -> None:
        self.config = dict(config or {})
        settings = self.config.get("openpipe") or {}
        self.cache_ttl = float(settings.get("cache_ttl", CACHE_TTL_SECONDS))
        self.sovereign_mode = _flag(settings.get("sovereign_mode", True))
        self._namespace = settings.get("namespace", DEFAULT_NAMESPACE)
        self._path = settings.get("socket")
        self._sidecard: AsyncClient | None = None
        self._keeping: asyncio.Task[None] | None = None
        self._opened = asyncio.Event()
        self._ending = asyncio.Event()

    @property
    def sidecard(self) -> AsyncClient:
        """The client of this name's own world, for all that the original could not. Raises `RuntimeError` before `initialize`."""
        if self._sidecard is None:
            raise RuntimeError("This client is not open: await initialize() first.")

        return self._sidecard

    async def initialize(self) -> bool:
        """Open the client. True also where no daemon answers: calls are made without it then, and shared again once it is back.

        Raises `ValueError` and `TypeError` for a setting that cannot be.
        """
        # One that is done has ended with its event loop.
        if self._keeping is None or self._keeping.done():
            sidecard = AsyncClient(
                self._path, namespace=self._namespace, ttl=self.cache_ttl, sovereign=self.sovereign_mode
            )
            # Anew, because an event belongs to the loop in which it was awaited first.
            self._opened, self._ending = asyncio.Event(), asyncio.Event()
            # In a task of its own: whoever shuts it down need not be the task that has opened it.
            self._keeping = asyncio.ensure_future(self._keep(sidecard, self._opened, self._ending))

        await self._opened.wait()
        return True

    async def shutdown(self) -> None:
        """Close the client; it may be opened again."""
        keeping, self._keeping = self._keeping, None
        if keeping is not None:
            self._ending.set()
            await keeping

    async def _keep(self, sidecard: AsyncClient, opened: asyncio.Event, ending: asyncio.Event) -> None:
        try:
            async with sidecard:
                self._sidecard = sidecard
                opened.set()
                await ending.wait()
        finally:
            # It may be open anew by now.
            if self._sidecard is sidecard:
                self._sidecard = None

    async def get_cached_response(
        self, prompt: str, context: Mapping[str, Any] | None = None, task_type: str = DEFAULT_TASK
    ) -> str | None:
        """Return the stored answer; None where there is none, or no daemon."""
        try:
            answer: str | None = await self.sidecard.get(key_of(prompt, context, task_type))
        except _AWAY:
            return None
        else:
            return answer

    async def cache_response(
        self, prompt: str, response: str, context: Mapping[str, Any] | None = None, task_type: str = DEFAULT_TASK
    ) -> None:
        """Store an answer that was fetched otherwise; `OpenPipeLLMWrapper.generate` does so by itself."""
        with contextlib.suppress(*_AWAY):
            await self.sidecard.put(key_of(prompt, context, task_type), response, ttl=self.cache_ttl)

    async def deduplicate_request(
        self, prompt: str, context: Mapping[str, Any] | None = None, task_type: str = DEFAULT_TASK
    ) -> bool:
        """Wait for the answer if somebody is fetching it, in any process; tell whether there is one now.

        True: `get_cached_response` has it. False: nobody was fetching it, or nobody succeeded, so it is this caller's to
        fetch. Nobody needs to ask: `OpenPipeLLMWrapper.generate` does all of it in one step, without a gap in between.
        """
        sidecard, key = self.sidecard, key_of(prompt, context, task_type)
        try:
            await sidecard.call(_fetch_nothing, key=key, task=task_type, classify=_given_back)
        except Exception:  # noqa: BLE001 - whatever became of the other's call, the answer is not there
            return False

        # An answer that was shared need not be stored: not without a daemon, nor where it is too large.
        return await self.get_cached_response(prompt, context, task_type) is not None

    async def record_metrics(
        self,
        prompt: str,  # noqa: ARG002 - the original's signature
        response: str,
        latency: float,
        cost: float,
        success: bool,  # noqa: FBT001 - as above
        task_type: str,
    ) -> None:
        """Count a call that was made otherwise: ``latency`` in milliseconds, ``cost`` in dollars. The prompt is not kept.

        The daemon measures calls through `OpenPipeLLMWrapper` itself. The names are those of ``POST /v1/metrics``.
        """
        sidecard = self.sidecard
        sidecard.counter("openpipe_calls").labels(task=task_type, success=str(success).lower()).inc()
        sidecard.histogram("openpipe_latency_seconds").labels(task=task_type).observe(latency / 1000)
        sidecard.counter("openpipe_cost_dollars").labels(task=task_type).inc(max(0.0, cost))
        sidecard.counter("openpipe_response_characters").labels(task=task_type).inc(len(response))

    async def get_performance_summary(self) -> dict[str, Any]:
        """Return what was measured, of all processes of the host: rates as shares of 1, times in seconds, money in dollars.

        Empty where no daemon answers.
        """
        try:
            return _summary(await self.sidecard.report())
        except _AWAY:
            return {}


class OpenPipeLLMWrapper:
    """An LLM client whose ``generate`` makes each call once for all processes of the host.

    ``usage`` is a callable that says what an answer cost, and ``backend`` the name of the place that it comes from:
    as `AsyncClient.call` takes them.
    """

    def __init__(
        self,
        llm_client: Llm,
        openpipe_client: OpenPipeClient,
        task_type: str = DEFAULT_TASK,
        *,
        usage: ReadUsage | None = None,
        backend: str | None = None,
    ) -> None:
        self.llm_client = llm_client
        self.openpipe_client = openpipe_client
        self.task_type = task_type
        self._policy: dict[str, Any] = {"task": task_type, "usage": usage, "backend": backend}

    async def generate(self, prompt: str, context: Mapping[str, Any] | None = None) -> str:
        """Return the answer: stored, another caller's, or that of ``llm_client.generate(prompt)``.

        ``context`` is part of what tells requests apart, and not given to the model. Raises what ``generate`` raises, and
        `CallFailed` and `CallRejected` as `AsyncClient.call` does.
        """
        key = key_of(prompt, context, self.task_type)
        answer: str = await self.openpipe_client.sidecard.call(
            self.llm_client.generate, prompt, key=key, **self._policy
        )
        return answer


class OpenPipeIntegrationManager:
    """One client and its wrappers, for an application's start and end.

    Without ``config`` the environment says what there is to say: ``CACHE_TTL`` (seconds) and ``SOVEREIGN_MODE``.
    """

    def __init__(self, config: Mapping[str, Any] | None = None) -> None:
        self.config: Mapping[str, Any] | None = config
        self.openpipe_client: OpenPipeClient | None = None
        self.llm_wrappers: dict[str, OpenPipeLLMWrapper] = {}

    async def initialize(self) -> bool:
        """Open the client; see `OpenPipeClient.initialize`. Raises `ValueError` for a setting that cannot be."""
        if self.openpipe_client is None:
            self.openpipe_client = OpenPipeClient(_of_environment(os.environ) if self.config is None else self.config)

        try:
            return await self.openpipe_client.initialize()
        except (TypeError, ValueError):
            self.openpipe_client = None  # the settings may be others the next time
            raise

    def create_llm_wrapper(
        self, llm_client: L, task_type: str, *, usage: ReadUsage | None = None, backend: str | None = None
    ) -> OpenPipeLLMWrapper | L:
        """Return a wrapper, or ``llm_client`` itself before `initialize`."""
        if self.openpipe_client is None:
            return llm_client

        wrapper = OpenPipeLLMWrapper(llm_client, self.openpipe_client, task_type, usage=usage, backend=backend)
        self.llm_wrappers[task_type] = wrapper
        return wrapper

    async def get_performance_report(self) -> dict[str, Any]:
        """Return the summary, the three rates that the original names, and a status: ``active``, or why there are none."""
        if self.openpipe_client is None:
            return {"status": "disabled"}

        summary = await self.openpipe_client.get_performance_summary()
        rates = {
            name: summary.get(name, 0.0) for name in ("cache_hit_rate", "deduplication_rate", "avg_latency_reduction")
        }
        return {
            "openpipe_summary": summary,
            "local_metrics": rates,
            "integration_status": "active" if summary else "no daemon answers",
        }

    async def shutdown(self) -> None:
        """Close the client."""
        client, self.openpipe_client = self.openpipe_client, None
        self.llm_wrappers.clear()
        if client is not None:
            await client.shutdown()


def key_of(prompt: str, context: Mapping[str, Any] | None, task_type: str) -> str:
    """Return the key of a request. Raises `UnkeyableRequest` for a context that has no stable form."""
    return fingerprint(task_type, None, "openpipe", (prompt, dict(context or {})), {})


class _NobodyFetchesItError(Exception):
    """There is no answer, and nobody is fetching one."""


def _fetch_nothing() -> str:
    raise _NobodyFetchesItError


def _given_back(_: BaseException) -> FailureKind:
    return "cancelled"


def _summary(report: Report) -> dict[str, Any]:
    total = report.total
    return {
        "total_requests": total.calls,
        "cache_hits": total.hits,
        "shared_requests": total.shared,
        "upstream_calls": total.upstream_calls,
        "cache_hit_rate": total.hit_rate,
        "deduplication_rate": total.deduplication_rate,
        "avg_latency_reduction": total.average_latency_reduction,
        "saved_seconds": total.saved_by_cache_seconds + total.saved_by_sharing_seconds,
        "saved_dollars": total.saved_by_cache_dollars + total.saved_by_sharing_dollars,
    } | {name: value for name, value in msgspec.to_builtins(report).items() if name not in {"type", "id"}}


def _flag(said: object) -> bool:
    """Read a flag, which in a configuration made of the environment is a word: bool("false") would be true."""
    flag = WORDS.get(said.strip().lower()) if isinstance(said, str) else said
    if not isinstance(flag, bool):
        raise ValueError(f"openpipe.sovereign_mode should be one of {', '.join(WORDS)}, not {said!r}.")  # noqa: TRY004 - a setting

    return flag


def _of_environment(environ: Mapping[str, str]) -> dict[str, Any]:
    said = environ.get("CACHE_TTL", "").strip()
    try:
        cache_ttl = float(said) if said else CACHE_TTL_SECONDS
    except ValueError:
        raise ValueError(f"CACHE_TTL should be a number of seconds, not {said!r}.") from None

    return {"openpipe": {"cache_ttl": cache_ttl, "sovereign_mode": sovereign_by(environ)}}


openpipe_manager: Final = OpenPipeIntegrationManager()
"""The application's own; whoever needs another makes one."""


async def get_performance_report() -> dict[str, Any]:
    """Return that of `openpipe_manager`."""
    return await openpipe_manager.get_performance_report()
