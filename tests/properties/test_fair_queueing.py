"""Fairness between processes, in whatever order they come, leave and finish."""

from hypothesis import given, settings
from hypothesis import strategies as st

from sidecard.core.settings import BackendSettings
from sidecard_client.protocol.wire import Begin, Cancel, Complete, Lease
from tests.host import Actor, Host, packed
from tests.thoroughness import cases

PROCESSES = 3
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("comes"), st.integers(1, PROCESSES)),
        st.tuples(st.just("comes"), st.just(1)),
        st.tuples(st.just("leaves"), st.integers(0, 20)),
        st.tuples(st.just("ends"), st.just(0)),
    ),
    min_size=20,
    max_size=60,
)


class Counter:
    """One backend with one permit, and callers of some processes in front of it."""

    def __init__(self) -> None:
        self.host = Host(backends={"a": BackendSettings(max_concurrent=1)}, lease_seconds=1e6)
        self.actors = {pid: self.host.peer(pid=pid) for pid in range(1, PROCESSES + 1)}
        self.waiting: list[tuple[int, int]] = []
        """Process and request id, the longest-waiting first."""
        self.holder: tuple[Actor, str] | None = None
        self.passed: dict[int, int] = {}
        """How often others were served since a process that waits was, or since it came."""
        self.ids = 0

    def comes(self, pid: int) -> None:
        """A caller asks for the permit."""
        self.ids += 1
        self.waiting.append((pid, self.ids))
        self.passed.setdefault(pid, 0)
        self.actors[pid].asks(Begin(None, id=self.ids, backends=("a",)))
        self.serve(expected=self.holder is None)

    def leaves(self, pick: int) -> None:
        """One that waits takes its begin back."""
        if not self.waiting:
            return

        pid, request_id = self.waiting.pop(pick % len(self.waiting))
        self.actors[pid].asks(Cancel(request_id, id=0))
        self.serve(expected=False)
        if all(other != pid for other, _ in self.waiting):
            del self.passed[pid]

    def ends(self) -> None:
        """The call in progress has ended."""
        if self.holder is None:
            return

        actor, lease = self.holder
        self.holder = None
        actor.asks(Complete(lease, packed("answer"), id=0))
        self.serve(expected=bool(self.waiting))

    def serve(self, *, expected: bool) -> None:
        """Check which caller got the permit, if one was due."""
        leases = [
            (pid, reply) for pid, actor in self.actors.items() for reply in actor.receives() if isinstance(reply, Lease)
        ]
        assert len(leases) == expected
        for pid, lease in leases:
            first = next(number for other, number in self.waiting if other == pid)
            assert lease.id == first, "within a process: first come, first served"
            self.waiting.remove((pid, lease.id))
            self.holder = (self.actors[pid], lease.lease)
            still = {other for other, _ in self.waiting}
            for other in still - {pid}:
                self.passed[other] += 1
                assert self.passed[other] < PROCESSES, f"process {other} was passed by more often than there are others"

            self.passed = {
                other: 0 if other == pid else passed for other, passed in self.passed.items() if other in still
            }


@settings(max_examples=cases(50), deadline=None)
@given(steps=STEPS)
def test_waiting_process_is_passed_over_at_most_once_by_each_other(steps: list[tuple[str, int]]) -> None:
    """Between two turns of a process, each other process has at most one turn; two processes alternate."""
    counter = Counter()
    for what, which in steps:
        match what:
            case "comes":
                counter.comes(which)
            case "leaves":
                counter.leaves(which)
            case _:
                counter.ends()

    for _ in range(len(counter.waiting) + 1):
        counter.ends()

    assert not counter.waiting
