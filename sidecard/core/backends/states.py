"""What operators see of a backend."""

from sidecard.core.backends.backend import Backend
from sidecard_client.protocol.wire import BackendState

_CAUSES = {
    "failures": "Too many calls failed",
    "slow": "Too many calls were slow",
    "retry_after": "The backend requested a pause",
    "probes": "Its probes failed",
    "elsewhere": "Its breaker opened on another host",
}


def state_of(backend: Backend, now: float) -> BackendState:
    """Return a backend's state for `breakers`."""
    breaker, affinity = backend.breaker, backend.affinity
    return BackendState(
        state=breaker.state,
        locality=backend.settings.locality,
        generation=breaker.generation,
        cause=cause_of(backend, now),
        retry_after_seconds=breaker.retry_after_seconds(now),
        calls=breaker.calls,
        failures=breaker.failures,
        slow=breaker.slow,
        opened=breaker.opened,
        permits=backend.permits,
        limit=backend.limit or None,
        queued=len(backend.queue),
        max_queue=backend.settings.max_queue,
        latency_seconds=backend.latency.value if backend.latency.known else None,
        dollars_per_call=backend.dollars.value if backend.dollars.known else None,
        prefix_affinity=backend.settings.prefix_affinity,
        warm_prefixes=0 if affinity is None else affinity.warm_count(now),
        held=0 if affinity is None else affinity.held,
        cached_prompt_share=backend.cached_share,
    )


def cause_of(backend: Backend, now: float) -> str:
    """Return a sentence with the reason why a backend's breaker is not closed; empty if it is."""
    match backend.breaker.state:
        case "closed":
            return ""
        case "forced_open":
            return f"Opened by an operator. Re-enable with `sidecard breakers auto {backend.name}`."
        case "disabled":
            return f"Disabled by an operator or by settings. Re-enable with `sidecard breakers auto {backend.name}`."
        case "half_open":
            return "Probes decide whether it closes."

    seconds = backend.breaker.retry_after_seconds(now) or 0.0
    return f"{_CAUSES[backend.breaker.cause or 'failures']}. The next probe may be sent in {seconds:.3g} s."
