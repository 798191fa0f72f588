"""The queue on disk against a naive one, with crashes at any moment and files that are cut, changed and removed."""

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from sidecard.observe.push.spool import Spool
from sidecard.observe.push.spool_records import Block
from tests.thoroughness import cases

MAX_BYTES = 2_000

Step = tuple[str, int]

STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("append"), st.integers(0, 400)),
        st.tuples(st.just("take"), st.integers(1, 4)),
        st.tuples(st.just("show"), st.just(0)),
        st.tuples(st.just("crash"), st.just(0)),
    ),
    max_size=60,
)
HARM = st.tuples(
    st.sampled_from(["cut", "flip", "remove", "empty", "grow"]), st.integers(0, 50), st.integers(0, 10_000)
)


class World:
    """A spool, what was appended to it, and what came of it."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.made: list[Block] = []
        self.taken: list[Block] = []
        self.dropped = 0
        self.on_its_way = 0
        """Samples that were being sent when a process died, of a file that was dropped meanwhile: whether they arrived is unknown."""
        self.damaged: list[Path] = []
        self.lives = 0
        self.spool = self._open()

    def _open(self) -> Spool:
        return Spool(self.directory, max_bytes=MAX_BYTES, on_dropped=self._drop, on_damaged=self.damaged.append)

    def _drop(self, samples: int) -> None:
        self.dropped += samples

    def act(self, step: Step) -> None:
        """Do one step."""
        match step:
            case "append", size:
                number = len(self.made)
                self.made.append(Block(1, number + 1, number, f"{number} ".encode() + bytes(size)))
                self.spool.append(self.made[-1])
            case "take", count:
                for _ in range(count):
                    if (found := self.spool.oldest()) is not None:
                        self.taken.append(found[1])
                        self.spool.take(found[0])
            case "show", _:
                self.spool.oldest()
            case _:
                self.crash()

        on_disk = sum(path.stat().st_size for path in self.directory.glob("*.blocks*"))
        assert on_disk <= MAX_BYTES

    def crash(self) -> None:
        """Go on with a copy of the directory, as it is at this moment."""
        self.lives += 1
        if self.spool._shown is not None and self.spool._shown_dropped:
            self.on_its_way += self.spool._shown[1].samples

        copy = self.directory.with_name(f"spool-{self.lives}")
        shutil.copytree(self.directory, copy)
        self.spool.close()
        self.directory = copy
        self.spool = self._open()

    def harm(self, kind: str, which: int, where: int) -> None:
        """Damage one file of a directory that is not in use."""
        files = sorted(path for path in self.directory.iterdir() if path.name != "lock")
        if not files:
            return

        path = files[which % len(files)]
        data = bytearray(path.read_bytes())
        at = where % len(data) if data else 0
        match kind:
            case "cut":
                path.write_bytes(data[:at])
            case "empty":
                path.write_bytes(b"")
            case "grow":
                path.write_bytes(data + bytes(where % 100))
            case "flip" if data:
                data[at] ^= 1 << where % 8
                path.write_bytes(data)
            case "remove":
                path.unlink()

    def drain(self) -> None:
        """Take all that is left."""
        while (found := self.spool.oldest()) is not None:
            self.taken.append(found[1])
            self.spool.take(found[0])

        self.spool.close()


@contextmanager
def a_world() -> Iterator[World]:
    """Make a world, and remove it."""
    with tempfile.TemporaryDirectory() as parent:
        yield World(Path(parent) / "spool")


@settings(max_examples=cases(100), deadline=None)
@given(STEPS)
def test_no_crash_loses_repeats_or_reorders_a_block(steps: list[Step]) -> None:
    """All appended blocks are taken, except the oldest ones at the limit; each sample is accounted for."""
    with a_world() as world:
        for step in steps:
            world.act(step)

        world.drain()
        numbers = [block.at_milliseconds for block in world.taken]
        assert world.taken == [world.made[number] for number in numbers]
        assert numbers == sorted(set(numbers))
        accounted = sum(block.samples for block in world.taken) + world.dropped + world.on_its_way
        assert accounted == sum(block.samples for block in world.made)
        assert world.damaged == []


@settings(max_examples=cases(100), deadline=None)
@given(STEPS, st.lists(HARM, min_size=1, max_size=4), STEPS)
def test_no_damage_stops_the_queue_or_invents_a_block(
    before: list[Step], harms: list[tuple[str, int, int]], after: list[Step]
) -> None:
    """Blocks may be lost, or repeated after a damaged position, but never changed or reordered."""
    with a_world() as world:
        for step in before:
            world.act(step)

        world.spool.close()
        for harm in harms:
            world.harm(*harm)

        earlier = len(world.taken)
        world.spool = world._open()
        for step in after:
            world.act(step)

        world.drain()
        numbers = [block.at_milliseconds for block in world.taken]
        assert world.taken == [world.made[number] for number in numbers]
        assert numbers[earlier:] == sorted(set(numbers[earlier:]))
