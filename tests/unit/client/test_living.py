"""A set of clients that threads change while a fork, or the exit, goes through it."""

from collections.abc import Iterator
from weakref import WeakSet

from sidecard_client.living import living


class Client:
    """A member."""


class ChangingSet(WeakSet[Client]):
    """A set to which another thread adds a member during the first iterations."""

    added: list[Client]

    def __iter__(self) -> Iterator[Client]:
        """Iterate as the set does, and add a member after the first step."""
        for member in super().__iter__():
            if len(self.added) < 3:
                self.added.append(Client())
                self.add(self.added[-1])

            yield member


def test_members_that_are_added_meanwhile_end_no_iteration() -> None:
    """All members are returned, those that were added included, and no dropped one."""
    kept, members = [Client(), Client()], ChangingSet()
    members.added = []
    members.update(kept)
    dropped = Client()
    members.add(dropped)
    del dropped
    assert set(living(members)) == {*kept, *members.added}
