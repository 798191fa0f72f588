"""Jobs take turns, a batch each, until none has work."""

from collections import Counter

from sidecard.core.effects import Effect, EmitNote
from sidecard.core.jobs import Jobs
from sidecard.core.notes import StoreRecovered

NOTE = EmitNote(StoreRecovered(1))


class Countdown:
    """A job of so many batches."""

    def __init__(self, batches: int, log: list[object]) -> None:
        self.left = batches
        self._log = log

    @property
    def has_work(self) -> bool:
        """Whether batches are left."""
        return self.left > 0

    def do_batch(self, now: float) -> list[Effect]:
        """Do one."""
        assert now == 5.0
        self.left -= 1
        self._log.append(self)
        return [NOTE]


def finish(jobs: Jobs) -> list[Effect]:
    """Do all batches; return their effects."""
    effects: list[Effect] = []
    while jobs.has_work:
        effects += jobs.do_batch(5.0)

    return effects


def test_jobs_take_turns() -> None:
    """A short job does not wait for the end of a long one, whether it was added or is standing."""
    log: list[object] = []
    standing, long, short = Countdown(4, log), Countdown(6, log), Countdown(2, log)
    jobs = Jobs([standing])
    jobs.add(long)
    jobs.add(short)

    assert finish(jobs) == [NOTE] * 12
    assert log[:6].count(short) == 2
    assert Counter(log) == {standing: 4, long: 6, short: 2}


def test_standing_job_gets_work_again() -> None:
    """It needs not be added again, and is never asked for a batch that it does not need."""
    log: list[object] = []
    standing = Countdown(1, log)
    jobs = Jobs([standing])
    finish(jobs)
    assert (jobs.has_work, jobs.do_batch(5.0)) == (False, [])
    standing.left = 2

    assert finish(jobs) == [NOTE] * 2
    assert len(log) == 3


def test_job_whose_work_has_vanished_gets_no_batch() -> None:
    """1. a job waits; 2. another event does its work; 3. its turn."""
    log: list[object] = []
    job = Countdown(1, log)
    jobs = Jobs([])
    jobs.add(job)
    job.left = 0

    assert jobs.do_batch(5.0) == []
    assert (jobs.has_work, log) == (False, [])
