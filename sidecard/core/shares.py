"""Who has how much of a table that all use.

A table's bound is for all uids together, so one of them could fill it. Therefore some room beyond the bound is spare, for uids
that have little in the table:

==================  ==================================  =============================================================
the table           a uid has                           is there room for more of it?
==================  ==================================  =============================================================
below its bound     whatever                            yes: where only one uid is active, all is its own
full                less than a quarter of the spare    yes, until the spare is used up as well
full                more                                no
==================  ==================================  =============================================================

So whoever comes late finds room at once, nobody loses what it has, and the memory is bounded by the bound and the spare.
Precedent for guaranteeing some to each and sharing the rest: Linux' TCP memory accounting, with its minimum for each socket.
"""

from collections import Counter

LITTLE_SHARE = 1 / 4
"""Of the spare: so many uids at a time can be kept from being shut out."""


class Share:
    """How much of one table each uid has."""

    __slots__ = ("_of_uid", "total")

    def __init__(self) -> None:
        self.total = 0
        self._of_uid: Counter[int] = Counter()

    def of(self, uid: int) -> int:
        """Return how much a uid has."""
        return self._of_uid.get(uid, 0)

    def has_room(self, uid: int, limit: int, spare_share: float) -> bool:
        """Tell whether a uid may have one more, where ``limit`` bounds all and ``spare_share`` of it is spare."""
        return self.total < limit or in_spare(self.of(uid), self.total, limit, spare_share)

    def take(self, uid: int) -> None:
        """A uid has one more."""
        self.total += 1
        self._of_uid[uid] += 1

    def give_back(self, uid: int) -> None:
        """A uid has one less."""
        self.total -= 1
        self._of_uid[uid] -= 1
        if not self._of_uid[uid]:
            del self._of_uid[uid]


def in_spare(own: int, total: int, limit: int, spare_share: float) -> bool:
    """Tell whether a uid that has ``own`` of ``total`` may have one more in a table that is full."""
    spare = limit * spare_share
    return own < spare * LITTLE_SHARE and total < limit + spare
