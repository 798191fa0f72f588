"""The attempts of one call under leases: which backends have failed it, what it asks for next, what the answer means.

Pure, and the same for both clients::

    take(lease) --> the function runs --> a value: `Attempts.outcome`
         ^                           +--> an exception: `Attempts.fail` makes the message
         |                                 without ``next``: the exception is raised
         +------ "lease" <---------------- else the reply's `Attempts.verdict`
                 "alone": go on without a lease, on backends that were never tried
                 "stands": the exception is raised, or `Attempts.old_outcome` takes its place

A daemon that is lost, or whose lease was void, gives no permission to ask a backend again:
backends that have failed in an earlier round are not called without it.
"""

from collections.abc import Callable
from typing import Any, Literal

from msgspec import UNSET

from sidecard_client.call import failures
from sidecard_client.call.call import Call, Outcome, another_backend, another_here, old_outcome
from sidecard_client.protocol import wire
from sidecard_client.protocol.wire import FailureKind

Verdict = Literal["lease", "alone", "stands"]


class Attempts:
    """``tried`` are the backends that this call has ever asked, ``count`` the leases that it has used."""

    __slots__ = ("_call", "_old", "_retries", "_round", "backend", "count", "passed_over", "tried")

    def __init__(self, call: Call) -> None:
        self._call = call
        self._old: wire.Lease | None = None  # the lease that brought an older answer along
        self._retries = 0
        self._round: list[str] = []  # asked since the last retry
        self.tried: set[str] = set()
        self.count = 0
        self.backend = ""
        self.passed_over: dict[str, wire.RejectionReason] = {}

    def take(self, lease: wire.Lease) -> Callable[..., Any]:
        """Use ``lease``, and return the function to run under it."""
        call = self._call
        self.backend = call.backend_of(lease.backend)
        self.passed_over = lease.passed_over
        if lease.stale_value is not UNSET:
            self._old = lease

        self.count += 1
        if self._is_retry(self.backend):
            self._retries += 1
            self._round.clear()

        self._round.append(self.backend)
        self.tried.add(self.backend)
        return call.function_of(self.backend)

    def fail(self, request_id: int, lease: wire.Lease, error: BaseException, kind: FailureKind) -> wire.Fail:
        """Build the message of a failure; it asks for all that may still help."""
        call = self._call
        retry = kind == "transient" and self._retries < call.options.retries
        another = retry or another_backend(call, self._round, kind)
        return failures.fail(
            request_id,
            lease.lease,
            error,
            kind,
            another=another,
            retry=retry,
            ttl_seconds=call.options.failure_ttl_seconds,
        )

    def verdict(self, told: wire.Fail, reply: wire.AnyReply | None) -> Verdict:
        """Say what follows from the final reply to a `fail` with ``next``; None where the daemon was lost."""
        match reply:
            case wire.Lease() if told.retry or not self._is_retry(self._call.backend_of(reply.backend)):
                return "lease"
            case None | wire.Lease() | wire.StaleLease() | wire.Error():
                # No reason to give up what another backend can answer.
                return "alone" if another_here(self._call, self.tried, told.kind) else "stands"
            case _:
                return "stands"

    def outcome(self, value: Any, waited_seconds: float) -> Outcome[Any]:
        """Return the outcome of a call that was made under the last lease."""
        return Outcome(
            value,
            "upstream",
            backend=self.backend,
            waited_seconds=waited_seconds,
            passed_over={**self.passed_over},
            attempts=self.count,
        )

    def old_outcome(self, error: Exception, waited_seconds: float) -> Outcome[Any] | None:
        """Return the older answer in place of a failure that may pass; None where there is none, or the failure stands."""
        old = self._old
        if old is None or failures.kind_of(error, self._call.options.classify) != "transient":
            return None

        return old_outcome(old, waited_seconds, self.count)

    def _is_retry(self, backend: str) -> bool:
        # A single function without a backend answers for every name, so each further lease is its retry.
        return backend in self._round or bool(self._round and not self._call.backends)


def leaves_a_lease(reply: wire.AnyReply | None) -> bool:
    """Tell whether a lease may be left at the daemon after a reply that does not lead to using one."""
    return reply is None or isinstance(reply, wire.Lease | wire.Error)
