"""Memory of waiting and held requests: what each object costs, as charged to its uid (`sidecard.core.accounts.memory`).

The constants are measured with `tracemalloc` (`tests/unit/core/accounts/test_charges.py` checks them against it), for a request
whose texts are all charged in addition. A text is charged by its characters (`text_bytes`): Python's own size of it grows
when it is encoded, and a release must equal its charge.
"""

from typing import Final

from sidecard.core.cache.entry import text_bytes
from sidecard_client.protocol.wire import Begin, Delete, Purge

BEGIN_BYTES: Final = 800
"""A begin that waits or has led to a lease, without its texts: the decoded request, the waiter, applicant or lease, its places in
the tables, and its timer."""

BATCH_BYTES: Final = 600
"""Places of a begin in the tables of its batch, which may have no other one."""

FLIGHT_BYTES: Final = 350
"""A flight without its texts."""

QUESTION_BYTES: Final = 450
"""A `get`, `delete` or `purge` that waits for the store, without its texts."""

FAILURE_BYTES: Final = 400
"""A remembered failure without its texts."""

PROMPT_BYTES: Final = 650
"""A begin with prefixes, without these: its places in the tables of a backend with prefix affinity, and its timer there."""

PREFIX_BYTES: Final = 260
"""One of its prefixes: digest and length, and, with prefix affinity, its place in the tables of a backend."""

TEXT_BYTES: Final = 57
"""Header of a text, and its place in a tuple."""


def begin_bytes(request: Begin) -> int:
    """Return the charge for a begin that waits, queues for a permit, or holds a lease."""
    size = (
        BEGIN_BYTES
        + text_bytes(request.namespace)
        + text_bytes(request.task)
        + text_bytes(request.trace)
        + text_bytes(request.key or "")
        + text_bytes(request.group or "")
        + text_bytes(request.context)
    )
    if request.vector is not None:
        size += len(request.vector)

    if request.signature is not None:
        size += len(request.signature)

    if request.batch:
        size += BATCH_BYTES

    if request.prefix:
        size += PROMPT_BYTES + PREFIX_BYTES * len(request.prefix)

    for name in request.backends:
        size += text_bytes(name) + TEXT_BYTES

    return size


def flight_bytes(scope: str, key: str) -> int:
    """Return the charge for a flight.

    Its key is the one of the begin that started it, which may leave before it, so both are charged for it.
    """
    return FLIGHT_BYTES + text_bytes(scope) + text_bytes(key)


def question_bytes(key: str) -> int:
    """Return the charge for a `get` that waits for the store."""
    return QUESTION_BYTES + text_bytes(key)


def removal_bytes(request: Delete | Purge) -> int:
    """Return the charge for a removal that waits for the store."""
    texts = (request.key,) if isinstance(request, Delete) else (request.namespace, request.tag, request.task)
    return QUESTION_BYTES + sum(text_bytes(text) for text in texts if text is not None)


def failure_bytes(scope: str, key: str, context: str, message: str) -> int:
    """Return the charge for a remembered failure without its detail."""
    return FAILURE_BYTES + sum(map(text_bytes, (scope, key, context, message)))
