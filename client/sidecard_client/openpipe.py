"""The names of an OpenPipe integration on top of sidecard: its users change one import line.

::

    from sidecard_client.openpipe import openpipe_manager

    await openpipe_manager.initialize()
    llm = openpipe_manager.create_llm_wrapper(llm_client, "rag")
    text = await llm.generate(prompt, context)

Differences from that integration:

* Concurrent duplicates await the one real answer, in all processes of the host. If its caller fails or dies, another one makes
  the call; no key stays blocked, and no table grows.
* The daemon keeps breakers, limits, routes and budgets for all workers together.
* Rates and savings are measured, never estimated. The cost of a call comes from ``usage``, or from the daemon's prices.
* Without a daemon, calls are made but neither stored nor counted.

Requires the ``async`` extra.
"""

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
"""The default of the original, and of the daemon."""

_UNAVAILABLE = (DaemonUnavailable, RequestRefused)


class Llm(Protocol):
    """The wrapped client: ``generate`` is a coroutine function, or a plain one that runs in a thread."""

    @property
    def generate(self) -> Callable[[str], Any]:
        """Make the call."""


L = TypeVar("L", bound=Llm)


class OpenPipeClient:
    """A client of the daemon under the original's names.

    ``config["openpipe"]`` may contain ``cache_ttl`` (seconds), ``sovereign_mode``, ``namespace`` and ``socket`` (the daemon's
    path). The original's other settings have no effect: ``api_key``, ``base_url``, ``deduplication_window`` (now the daemon's
    ``cache.sharing_window_seconds``), and ``config["redis"]``.
    Raises `ValueError` if ``cache_ttl`` is not a number, or ``sovereign_mode`` not a flag or a word for one.
    """

    def __init__(self, config: Mapping[str, Any] | None = None) -> None:
        self.config = dict(config or {})
        settings = self.config.get("openpipe") or {}
        self.cache_ttl = float(settings.get("cache_ttl", CACHE_TTL_SECONDS))
        self.sovereign_mode = _flag(settings.get("sovereign_mode", True))
        self._namespace = settings.get("namespace", DEFAULT_NAMESPACE)
        self._path = settings.get("socket")
        self._sidecard: AsyncClient | None = None

    @property
    def sidecard(self) -> AsyncClient:
        """The underlying client, with all that the original lacks. Raises `RuntimeError` before `initialize`."""
        if self._sidecard is None:
            raise RuntimeError("This client is not open: await initialize() first.")

        return self._sidecard

    async def initialize(self) -> bool:
        """Open the client. Return True, also without a daemon: calls are shared once it is back.

        Raises `ValueError` and `TypeError` for an invalid setting.
        """
        if self._sidecard is None:
            self._sidecard = AsyncClient(
                self._path, namespace=self._namespace, ttl=self.cache_ttl, sovereign=self.sovereign_mode
            )

        return True

    async def shutdown(self) -> None:
        """Close the client. It can be opened again."""
        sidecard, self._sidecard = self._sidecard, None
        if sidecard is not None:
            await sidecard.aclose()

    async def get_cached_response(
        self, prompt: str, context: Mapping[str, Any] | None = None, task_type: str = DEFAULT_TASK
    ) -> str | None:
        """Return the stored answer; None if there is none, or no daemon."""
        with contextlib.suppress(*_UNAVAILABLE):
            answer: str | None = await self.sidecard.get(key_of(prompt, context, task_type))
            return answer

        return None

    async def cache_response(
        self, prompt: str, response: str, context: Mapping[str, Any] | None = None, task_type: str = DEFAULT_TASK
    ) -> None:
        """Store an answer that was fetched by other means; `OpenPipeLLMWrapper.generate` stores its own."""
        with contextlib.suppress(*_UNAVAILABLE):
            await self.sidecard.put(key_of(prompt, context, task_type), response, ttl=self.cache_ttl)

    async def deduplicate_request(
        self, prompt: str, context: Mapping[str, Any] | None = None, task_type: str = DEFAULT_TASK
    ) -> bool:
        """Wait while any process fetches the answer; return whether there is one now.

        True: `get_cached_response` returns it. False: nobody fetched it, or the fetch failed, so this caller makes the call.
        `OpenPipeLLMWrapper.generate` does all of this in one step, without a gap in between.
        """
        sidecard, key = self.sidecard, key_of(prompt, context, task_type)
        try:
            await sidecard.call(_decline, key=key, task=task_type, classify=_canceled)
        except Exception:  # noqa: BLE001 - however the other call failed, there is no answer
            return False

        # A shared answer may not be stored: without a daemon, or if it is too large.
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
        """Count a call that was made by other means: ``latency`` in milliseconds, ``cost`` in dollars. The prompt is not kept.

        The daemon measures the calls of `OpenPipeLLMWrapper` itself. The metrics' names are those of ``POST /v1/metrics``.
        """
        sidecard = self.sidecard
        sidecard.counter("openpipe_calls").labels(task=task_type, success=str(success).lower()).inc()
        sidecard.histogram("openpipe_latency_seconds").labels(task=task_type).observe(latency / 1000)
        sidecard.counter("openpipe_cost_dollars").labels(task=task_type).inc(max(0.0, cost))
        sidecard.counter("openpipe_response_characters").labels(task=task_type).inc(len(response))

    async def get_performance_summary(self) -> dict[str, Any]:
        """Return the measurements of all processes of the host: rates from 0 to 1, seconds, dollars. Empty without a daemon."""
        try:
            return _summary(await self.sidecard.report())
        except _UNAVAILABLE:
            return {}


class OpenPipeLLMWrapper:
    """An LLM client whose ``generate`` makes each call once for all processes of the host.

    ``usage`` returns what an answer cost, and ``backend`` names its origin, as in `AsyncClient.call`.
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
        # Answers are plain, as `OpenPipeClient.get_cached_response` returns them, whatever the annotation of ``generate`` says.
        self._policy: dict[str, Any] = {"task": task_type, "usage": usage, "backend": backend, "returns": Any}

    async def generate(self, prompt: str, context: Mapping[str, Any] | None = None) -> str:
        """Return the answer: stored, another caller's, or that of ``llm_client.generate(prompt)``.

        ``context`` distinguishes requests, and is not passed to the model. Raises what ``generate`` raises, and `CallFailed`
        and `CallRejected` as `AsyncClient.call`.
        """
        key = key_of(prompt, context, self.task_type)
        answer: str = await self.openpipe_client.sidecard.call(
            self.llm_client.generate, prompt, key=key, **self._policy
        )
        return answer


class OpenPipeIntegrationManager:
    """One client and its wrappers, for an application's start and end.

    Without ``config``, the environment sets ``CACHE_TTL`` (seconds) and ``SOVEREIGN_MODE``.
    """

    def __init__(self, config: Mapping[str, Any] | None = None) -> None:
        self.config: Mapping[str, Any] | None = config
        self.openpipe_client: OpenPipeClient | None = None
        self.llm_wrappers: dict[str, OpenPipeLLMWrapper] = {}

    async def initialize(self) -> bool:
        """Open the client, as `OpenPipeClient.initialize`. Raises `ValueError` for an invalid setting."""
        if self.openpipe_client is None:
            config = _config_from_environment(os.environ) if self.config is None else self.config
            self.openpipe_client = OpenPipeClient(config)

        try:
            return await self.openpipe_client.initialize()
        except (TypeError, ValueError):
            self.openpipe_client = None  # the settings may have changed at the next attempt
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
        """Return the summary, the original's three rates, and a status: ``active``, or why there are none."""
        if self.openpipe_client is None:
            return {"status": "disabled"}

        summary = await self.openpipe_client.get_performance_summary()
        names = ("cache_hit_rate", "deduplication_rate", "avg_latency_reduction")
        return {
            "openpipe_summary": summary,
            "local_metrics": {name: summary.get(name, 0.0) for name in names},
            "integration_status": "active" if summary else "no daemon answers",
        }

    async def shutdown(self) -> None:
        """Close the client."""
        client, self.openpipe_client = self.openpipe_client, None
        self.llm_wrappers.clear()
        if client is not None:
            await client.shutdown()


def key_of(prompt: str, context: Mapping[str, Any] | None, task_type: str) -> str:
    """Return the key of a request. Raises `UnkeyableRequest` for a context without a stable form."""
    return fingerprint(task_type, None, "openpipe", (prompt, dict(context or {})), {})


class _NotFetchedError(Exception):
    """Nobody fetches the answer."""


def _decline() -> str:
    raise _NotFetchedError


def _canceled(_: BaseException) -> FailureKind:
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


def _flag(value: object) -> bool:
    """Return a flag, or that of a word: a configuration made of the environment has "false", and bool("false") is true."""
    flag = WORDS.get(value.strip().lower()) if isinstance(value, str) else value
    if not isinstance(flag, bool):
        raise ValueError(f"openpipe.sovereign_mode should be one of {', '.join(WORDS)}, not {value!r}.")  # noqa: TRY004 - a setting

    return flag


def _config_from_environment(environ: Mapping[str, str]) -> dict[str, Any]:
    text = environ.get("CACHE_TTL", "").strip()
    try:
        cache_ttl = float(text) if text else CACHE_TTL_SECONDS
    except ValueError:
        raise ValueError(f"CACHE_TTL should be a number of seconds, not {text!r}.") from None

    return {"openpipe": {"cache_ttl": cache_ttl, "sovereign_mode": sovereign_by(environ)}}


openpipe_manager: Final = OpenPipeIntegrationManager()
"""The application's manager; further ones may be made."""


async def get_performance_report() -> dict[str, Any]:
    """Return the report of `openpipe_manager`."""
    return await openpipe_manager.get_performance_report()
