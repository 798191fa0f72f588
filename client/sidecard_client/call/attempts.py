"""The attempts of one call: its lease, which backends failed, what to ask for next, what the reply means. Pure.

::

    use() --> the function runs --> a value: `Attempts.outcome`
      ^                        +--> an exception: `Attempts.failure` makes the message
      |                                without ``next``: the exception is raised
      +---- "use_lease" <------------- else the reply's `Attempts.after_failure`
            "without_lease": continue on backends that were never tried
            "give_up": the exception is raised, or `Attempts.stale_outcome` replaces it

Without the daemon, or with a void lease, there is no permission to retry: backends that failed are not called again.
"""

from collections.abc import Callable
from time import monotonic
from typing import Any, Literal

from msgspec import UNSET, Struct

from sidecard_client.call import failures
from sidecard_client.call.call import Call, another_backend, another_without_daemon
from sidecard_client.call.outcome import Outcome, Source, stale_outcome
from sidecard_client.protocol import wire
from sidecard_client.protocol.connection import ConnectionLost
from sidecard_client.protocol.wire import FailureKind

AfterFailure = Literal["use_lease", "without_lease", "give_up"]


_MAY_LEAVE_LEASE = (ConnectionLost, wire.Lease, wire.Error)


class Attempts(Struct, eq=False):
    """The attempts of ``call``, and its ``lease`` until the daemon has the result.

    ``tried`` are the backends that the call has used, ``count`` is the number of its leases.
    """

    call: Call
    lease: wire.Lease | None = None
    tried: set[str] = set()
    count: int = 0
    backend: str = ""
    passed_over: dict[str, wire.RejectionReason] = {}
    opened_at: float = 0.0
    """When the function of a stream was last called, in monotonic seconds."""
    not_stored: str = ""
    """Why the answer was not stored, once the daemon has it (`sidecard_client.protocol.wire.NotStoredReason`)."""
    _stale: wire.Lease | None = None
    """The lease that carried a stale value."""
    _stale_at: float = 0.0
    """When it came."""
    _retries: int = 0
    _round: list[str] = []
    """Backends used since the last retry."""

    def use(self, lease: wire.Lease) -> Callable[..., Any]:
        """Use ``lease``, and return the function to run under it."""
        call = self.call
        self.backend = backend = call.backend_of(lease.backend) if call.backends else lease.backend
        self.passed_over = lease.passed_over
        if lease.stale_value is not UNSET:
            self._stale, self._stale_at = lease, monotonic()

        self.count += 1
        if self._round and self._is_retry(backend):
            self._retries += 1
            self._round.clear()

        self._round.append(backend)
        self.tried.add(backend)
        return call.function_of(backend) if call.backends else call.functions[0]

    def failure(self, lease: wire.Lease, error: BaseException, kind: FailureKind) -> wire.Fail:
        """Build the message of a failure. It asks for everything that may still help."""
        call = self.call
        retry = kind == "transient" and self._retries < call.options.retries
        another = retry or another_backend(call, self._round, kind)
        return failures.fail(
            lease.lease, error, kind, another=another, retry=retry, ttl_seconds=call.options.failure_ttl_seconds
        )

    def after_failure(self, message: wire.Fail, reply: wire.AnyReply | ConnectionLost) -> AfterFailure:
        """Return the consequence of the final reply to a `failure` with ``next``."""
        match reply:
            case wire.Lease() if message.retry or not self._is_retry(self.call.backend_of(reply.backend)):
                return "use_lease"
            case ConnectionLost() | wire.Lease() | wire.StaleLease() | wire.Error():
                # No reason to give up what another backend can answer.
                return "without_lease" if another_without_daemon(self.call, self.tried, message.kind) else "give_up"
            case _:
                return "give_up"

    def outcome(self, value: Any, source: Source, waited_seconds: float) -> Outcome[Any]:
        """Return the outcome of a call that this caller made."""
        return Outcome(
            value,
            source,
            backend=self.backend,
            waited_seconds=waited_seconds,
            passed_over={**self.passed_over},
            attempts=self.count,
        )

    def stale_outcome(self, error: BaseException, waited_seconds: float) -> Outcome[Any] | None:
        """Return the stale value in place of a transient failure; None without one, and for every other failure."""
        if self._stale is None or failures.kind_of(error, self.call.options.classify) != "transient":
            return None

        since_seconds = monotonic() - self._stale_at
        return stale_outcome(self.call, self._stale, waited_seconds, self.count, since_seconds)

    def _is_retry(self, backend: str) -> bool:
        # A single function without a backend serves every name, so each further lease is its retry.
        return backend in self._round or bool(self._round and not self.call.backends)


def may_leave_lease(reply: wire.AnyReply | ConnectionLost) -> bool:
    """Return whether the daemon may still hold a lease after ``reply``, which does not lead to using one."""
    return isinstance(reply, _MAY_LEAVE_LEASE)
