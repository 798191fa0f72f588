"""The simulated kernel: pipes that cut bytes anywhere, threads that run until they wait, and a clock for each process."""

import pytest

from tests.simulation.host.processes import LoopProcess, Process
from tests.simulation.host.sockets import CAPACITY_BYTES, Ends, Pipe
from tests.simulation.host.threads import Event, Interrupted, Lock, ThreadedProcess


class Ground:
    """A world that gives a turn to every process that wants one."""

    def __init__(self) -> None:
        self.now = 0.0
        self.faults: list[BaseException] = []

    def stir(self, process: Process) -> None:
        """Wait for `settle`."""

    def fault(self, fault: BaseException) -> None:
        """Keep it."""
        self.faults.append(fault)

    def moves(self, pipe: Pipe) -> None:
        """Wait for the test."""

    def connect(self, process: Process, ours: Pipe, theirs: Pipe) -> None:
        """Not used."""

    def settle(self, process: Process, seconds: float = 0.0) -> None:
        """Let time pass for a process, and all that it does in it."""
        end = self.now + seconds
        while True:
            while process.has_something:
                process.turn()

            due = process.due
            if due is None or due > end:
                break

            self.now = due

        self.now = end


def test_pipe_with_cut_bytes_delivers_them_in_order() -> None:
    """Bytes arrive in order however they are cut, and the end follows the last."""
    pipe = Pipe(Ground())
    assert pipe.send(b"abcdef") == 6
    pipe.end()
    reads = []
    for size in (1, 3, 0):
        pipe.deliver(size)
        reads.append((pipe.read(100), pipe.end_arrived))

    assert reads == [(b"a", False), (b"bcd", False), (b"ef", True)]


def test_full_pipe_takes_no_more_until_it_is_read() -> None:
    """A pipe counts the bytes on their way and those that have arrived."""
    pipe = Pipe(Ground())
    assert pipe.send(b"x" * (CAPACITY_BYTES + 5)) == CAPACITY_BYTES
    pipe.deliver(10)
    assert pipe.send(b"y") == 0
    pipe.read(4)
    assert pipe.send(b"y" * 9) == 4


def test_pipe_of_a_killed_process_delivers_a_part_and_then_the_end() -> None:
    """The given number of bytes arrives, and then the end."""
    ground = Ground()
    ours, theirs = Pipe(ground), Pipe(ground)
    theirs.send(b"abcdef")
    Ends(ours, theirs).close(2)
    theirs.deliver(0)

    assert theirs.read(100) == b"ab"
    assert theirs.end_arrived
    with pytest.raises(BrokenPipeError):
        ours.send(b"too late")


def test_threads_that_wait_take_turns() -> None:
    """One thread holds a lock at a time, and an event wakes all."""
    ground = Ground()
    process = ThreadedProcess(ground, "threads")
    lock, event, said = Lock(), Event(), list[str]()

    def work(name: str) -> None:
        event.wait()
        with lock:
            said.append(f"{name} in")
            process.sleep(1.0)
            said.append(f"{name} out")

    process.start(lambda: work("a"))
    process.start(lambda: work("b"))
    process.start(event.set)
    ground.settle(process, 5.0)

    assert said == ["a in", "a out", "b in", "b out"]
    assert ground.faults == []


def test_interrupted_thread_raises_where_it_waits() -> None:
    """An interrupted thread leaves the blocks that it had entered."""
    ground = Ground()
    process = ThreadedProcess(ground, "threads")
    ends: list[type[BaseException]] = []

    def work() -> None:
        try:
            process.sleep(10.0)
        except Interrupted as fault:
            ends.append(type(fault))
            raise

    thread = process.start(work)
    ground.settle(process)
    process.waiting[thread].interrupt()
    ground.settle(process)

    assert ends == [Interrupted]
    assert ground.faults == []


def test_timer_follows_the_clock_of_its_process() -> None:
    """A timer fires when the clock of its own process shows the time."""
    ground = Ground()
    process = LoopProcess(ground, "fast", offset_seconds=100.0, rate=2.0)
    instants: list[float] = []
    process.loop.call_later(3.0, lambda: instants.append(ground.now))
    ground.settle(process, 10.0)

    assert instants == [1.5]
    assert process.clock() == 120.0
