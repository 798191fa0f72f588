"""Eight workers that count to a million each, killed at random: nothing that was acknowledged is lost, nothing counted twice."""

import os
import random
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.acceptance import counting_worker
from tests.acceptance.counting_worker import INCREMENTS, NOTES
from tests.daemons import Daemon, poll
from tests.metrics import samples

WORKERS = 8
DOOMED = 4


def noted(notes: Path) -> tuple[int, int]:
    """Return what a worker has begun, and what of it is acknowledged."""
    begun, acknowledged = NOTES.unpack(notes.read_bytes())
    return begun, acknowledged


@pytest.mark.slow
@pytest.mark.timeout(180)
def test_metrics_of_killed_workers_are_counted_as_acknowledged(
    daemon: Callable[..., Daemon], socket_path: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The daemon has every increment of living workers, and between acknowledged and sent ones of killed workers."""
    seed = int(os.environ.get("SIDECARD_SIMULATION_SEED", "1"))
    chance = random.Random(seed)
    daemon("--no-state")
    notes = [tmp_path / f"notes-{number}" for number in range(WORKERS)]
    workers = []
    for number, path in enumerate(notes):
        path.write_bytes(bytes(NOTES.size))
        arguments = [counting_worker.__file__, socket_path, str(number), str(path)]
        workers.append(subprocess.Popen([sys.executable, *arguments]))

    # Each at a random point of its work.
    ends_at = {
        number: chance.randrange(INCREMENTS // 10, INCREMENTS) for number in chance.sample(range(WORKERS), DOOMED)
    }
    alive = dict(ends_at)
    while alive:
        for number, increments in list(alive.items()):
            assert workers[number].poll() is None, "a worker ended by itself"
            if noted(notes[number])[0] >= increments:
                workers[number].kill()
                del alive[number]

        time.sleep(0.001)

    codes = [worker.wait(120) for worker in workers]
    exposed = samples(socket_path)
    lines = []
    for number, path in enumerate(notes):
        begun, acknowledged = noted(path)
        counted = exposed.get(f"work_total number={number}", 0.0)
        fate = "killed" if codes[number] else "lived"
        lines.append(
            f"{number} {fate:>6} {begun:>10,} begun {acknowledged:>10,} acknowledged {counted:>12,.0f} exposed"
        )
        assert acknowledged <= counted <= begun, (seed, lines[-1])
        if number not in ends_at:
            assert (codes[number], counted) == (0, INCREMENTS), (seed, lines[-1])

    assert exposed["sidecard_dropped_total what=client"] == exposed["sidecard_dropped_total what=series"] == 0.0
    poll(lambda: "alive" not in samples(socket_path), "a gauge outlived its worker")
    with capsys.disabled():
        print("", *lines, sep="\n")
