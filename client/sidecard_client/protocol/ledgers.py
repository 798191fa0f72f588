"""What the daemon replies about calls, time and money: the ledger."""

# ruff: noqa: RUF012 - msgspec copies the mutable defaults of its Structs

from msgspec import Struct

from sidecard_client.protocol.replies import Reply
from sidecard_client.protocol.values import BreakerState, RejectionReason


class Ledger(Struct, frozen=True):
    """What the calls of one task cost and saved.

    ``served = billed + saved_by_cache + saved_by_sharing`` in dollars, and the same in seconds except for
    ``waited_seconds``, the time that sharing callers waited.
    Seconds are measured from the lease to its `Complete`, of the entries actually served.
    """

    calls: int
    """Begins with a key that ended in an answer or in a lease."""
    hits: int
    shared: int
    upstream_calls: int
    """Leases whose backend answered, including answers that were late or could not be shared."""
    hit_rate: float
    """``hits / calls``"""
    deduplication_rate: float
    """``shared / calls``"""
    average_latency_reduction: float
    """``(saved_by_cache_seconds + saved_by_sharing_seconds) / served_seconds``: 0.4 means 40 % less time."""
    average_saved_seconds: float
    """Seconds saved per call."""
    served_seconds: float
    billed_seconds: float
    saved_by_cache_seconds: float
    saved_by_sharing_seconds: float
    waited_seconds: float
    served_dollars: float
    billed_dollars: float
    saved_by_cache_dollars: float
    saved_by_sharing_dollars: float
    similar_hits: int = 0
    """Of ``hits``, answers to a similar request; their savings are what that request's call took."""
    saved_by_similar_seconds: float = 0.0
    """Of ``saved_by_cache_seconds``, the share of ``similar_hits``."""
    saved_by_similar_dollars: float = 0.0
    """Of ``saved_by_cache_dollars``, the share of ``similar_hits``."""
    rejected: int = 0
    """Begins that ended in `Rejected`; not in ``calls``."""
    rejected_by_reason: dict[RejectionReason, int] = {}
    """The same by reason, without reasons that have not occurred."""
    failed: int = 0
    """Leases whose call failed (transient or fatal), or whose holder was lost or hung. Their begins are in ``calls``."""
    timeouts: int = 0
    """Begins that ended in `Timeout`; not in ``calls``."""
    passed: int = 0
    """Requests that intercepting clients passed to the upstream without a begin; not in ``calls``."""
    passed_by_reason: dict[str, int] = {}
    """The same by reason, without reasons that have not occurred."""
    not_stored: int = 0
    """Answers that were not stored, of calls with a key and of those whose holder gave a reason."""
    not_stored_by_reason: dict[str, int] = {}
    """The same by reason, without reasons that have not occurred."""
    saved_by_prefix_tokens: int = 0
    """Prompt tokens of ``upstream_calls`` that backends read from their own caches, as they reported."""
    saved_by_prefix_dollars: float = 0.0
    """How much less these tokens cost than others of the prompt, where both prices are known. In no other sum: ``billed_dollars``
    is less by it, and so is ``served_dollars``."""
    view_hits: int = 0
    """Of ``hits``, those that clients read from a view."""


class BackendSpending(Struct, frozen=True):
    """Calls and cost of one backend, or of one model of it."""

    calls: int
    seconds: float
    dollars: float
    prompt_tokens: int
    completion_tokens: int
    saved_dollars: float
    """What reusing its answers saved."""
    cached_prompt_tokens: int = 0
    """Of ``prompt_tokens``, those that the backend read from its own cache, in answers that report them."""
    processed_prompt_tokens: int = 0
    """Of ``prompt_tokens``, the others in the same answers."""
    saved_by_prefix_dollars: float = 0.0
    """As `Ledger.saved_by_prefix_dollars`."""


class BudgetState(Struct, frozen=True):
    """A budget in its current period. Periods are aligned to the epoch: a day ends at midnight UTC."""

    dollars: float
    spent_dollars: float
    reserved_dollars: float
    """Expected cost of the calls in progress."""
    period_seconds: float
    resets_in_seconds: float
    hard: bool
    rejected: int = 0
    """Calls that it has rejected since the daemon started."""
    rejecting: bool = False
    """It is hard, and spent or has rejected a call in the last five minutes of this period: the expected cost did not fit."""


class Report(Reply, frozen=True, tag="report"):
    """The ledger, in total and per task, since the daemon started or the ledger of its state directory was created."""

    uptime_seconds: float
    total: Ledger
    tasks: dict[str, Ledger]
    backends: dict[str, BackendSpending] = {}
    models: dict[str, BackendSpending] = {}
    """By ``backend/model``."""
    budgets: dict[str, BudgetState] = {}
    ledger_seconds: float = 0.0
    """Age of the ledger, by the wall clock."""
    breakers: dict[str, BreakerState] = {}
    """Current state, by backend."""
    reasons: list[str] = []
    """The daemon's problems, as in `Health`."""
    passed: dict[str, dict[str, int]] = {}
    """Passed requests since the daemon started, by API family (empty: none recognized them) and reason."""
