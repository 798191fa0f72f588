"""Fair shares: how much of a common table each uid uses.

A table's limit holds for all uids together, so one uid could fill it. Therefore spare room exists beyond the limit, for
uids that use little of the table:

==================  ==================================  =============================================================
the table is        the uid uses                        may the uid add one more?
==================  ==================================  =============================================================
below its limit     any number                          yes: a single active uid may use all of it
full                less than a quarter of the spare    yes, until the spare is used up as well
full                more                                no
==================  ==================================  =============================================================

So a uid that starts to use a full table finds room immediately, no uid loses what it has, and memory is bounded by the limit plus the spare.
Precedent for a guaranteed minimum plus a shared rest: Linux' TCP memory accounting, with its minimum for each socket.
"""

LITTLE_SHARE = 1 / 4
"""Share of the spare room below which a uid uses little: so four uids can use the spare at the same time."""


class Share:
    """How much of one table each uid uses."""

    __slots__ = ("_of_uid", "total")

    def __init__(self) -> None:
        self.total = 0
        self._of_uid: dict[int, int] = {}

    def of(self, uid: int) -> int:
        """Return how much a uid uses."""
        return self._of_uid.get(uid, 0)

    def has_room(self, uid: int, limit: int, spare_share: float) -> bool:
        """Return whether a uid may add one more. ``limit`` is for all uids; ``spare_share`` of it is the spare."""
        return self.total < limit or in_spare(self.of(uid), self.total, limit, spare_share)

    def take(self, uid: int) -> None:
        """Add one to a uid's use."""
        self.total += 1
        self._of_uid[uid] = self._of_uid.get(uid, 0) + 1

    def give_back(self, uid: int) -> None:
        """Subtract one from a uid's use."""
        self.total -= 1
        left = self._of_uid[uid] - 1
        if left:
            self._of_uid[uid] = left
        else:
            del self._of_uid[uid]


def in_spare(own: int, total: int, limit: int, spare_share: float) -> bool:
    """Return whether a uid that uses ``own`` of ``total`` may add one more to a full table."""
    spare = limit * spare_share
    return own < spare * LITTLE_SHARE and total < limit + spare
