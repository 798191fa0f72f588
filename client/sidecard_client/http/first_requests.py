"""Requests that a process made with a token before the upstream accepted it. Pure.

Their answers are stored for the token's hash (`identity`). They keep their keys once the token is accepted, so that a request
that is repeated with the same token finds its answer.
"""

import hashlib
from collections import OrderedDict
from threading import Lock
from typing import Any, Final

import msgspec

from sidecard_client.http.identity import CallerIdentity

MAX_FIRST_REQUESTS: Final = 1024
"""Limit of the requests that a process remembers. The least recently used one is forgotten."""

_to_json = msgspec.json.Encoder(order="deterministic").encode


class FirstRequests:
    """Digests of such requests. Safe to use from several threads."""

    def __init__(self, limit: int = MAX_FIRST_REQUESTS) -> None:
        self._limit = limit
        self._asked: OrderedDict[bytes, None] = OrderedDict()
        self._lock = Lock()

    def principal_of(self, caller: CallerIdentity, parts: dict[str, Any]) -> str:
        """Return the principal for the key of a request. ``parts`` are the other parts of its key."""
        if not caller.unproven:
            return caller.principal

        asked = hashlib.sha256(_to_json([caller.unproven, parts])).digest()
        with self._lock:
            known = asked in self._asked
            if known or caller.principal == caller.unproven:
                self._asked[asked] = None
                self._asked.move_to_end(asked)

            if len(self._asked) > self._limit:
                self._asked.popitem(last=False)

        return caller.unproven if known else caller.principal


FIRST_REQUESTS: Final = FirstRequests()
"""Those of this process."""
