"""Track which requests of a JSON-lines peer are unanswered.

A JSON-lines peer may close its sending side and still gets every outstanding reply (``echo ... | socat``). The connection
closes once nothing is outstanding. Ids may be left out in JSON, so several requests can share one id.
"""

from collections import Counter

from sidecard.server.reader import Incoming
from sidecard_client.protocol import wire

_ENDS_OF_BEGIN = frozenset(wire.FINAL_REPLIES_OF_BEGIN)
_MAY_END_OWN_WAIT = (wire.Complete, wire.Fail, wire.Cancel)


class UnansweredRequests:
    """The outstanding requests of one peer. ``current`` is the request that is being served."""

    def __init__(self) -> None:
        self.current: Incoming | None = None
        self._waiting: set[int] = set()
        """Ids of begins that wait, and of watches."""
        self._unanswered: Counter[int] = Counter()
        """By id, requests without any reply so far, for example because the store is read."""

    def __bool__(self) -> bool:
        return bool(self._waiting or self._unanswered)

    def begin(self, request: Incoming) -> None:
        """Note that a request is about to be served."""
        self.current = request
        if not _has_no_reply(request):
            self._unanswered[request.id] += 1

    def end(self, request: Incoming) -> None:
        """Note that a request has been served; its reply may still follow."""
        if isinstance(request, wire.Cancel):
            self._waiting.discard(request.target)
            del self._unanswered[request.target]

        self.current = None

    def reply(self, reply: wire.AnyReply) -> None:
        """Note a reply. A begin that waits may share its id with requests whose replies do not end that wait."""
        if isinstance(reply, wire.Chunk | wire.Note) and reply.id in self._waiting:
            return

        if self._unanswered[reply.id] > 1:
            self._unanswered[reply.id] -= 1
        else:
            del self._unanswered[reply.id]

        if isinstance(reply, wire.Pending | wire.Chunk):
            self._waiting.add(reply.id)
        elif isinstance(reply, wire.End) or (
            # The end of a stored stream is sent while its own begin is served.
            type(reply) in _ENDS_OF_BEGIN and (self.current is None or isinstance(self.current, _MAY_END_OWN_WAIT))
        ):
            self._waiting.discard(reply.id)


def _has_no_reply(request: Incoming) -> bool:
    """Return whether a request has no reply if nothing is wrong with it."""
    return isinstance(request, wire.Append) or (isinstance(request, wire.RecordMetrics) and not request.acknowledge)
