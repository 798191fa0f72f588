"""Attackers and a bystander for the soak: each attack of `tests.bench.bystanders` for some seconds, in random order, all the time."""

import random
import subprocess
import time
from contextlib import ExitStack

from tests.bench.bystanders.attack import Attack
from tests.bench.bystanders.harness import Seen, all_attacks, ask_bystander, bystanding, start_attacker
from tests.bench.bystanders.served import ROOT

ATTACK_SECONDS = (5.0, 15.0)
AT_A_TIME = 2


class Attackers:
    """Two attacks at a time, each by processes of another uid, beside a bystander of a third uid."""

    def __init__(self, path: str, randomness: random.Random) -> None:
        self._path = path
        self._random = randomness
        # Attacks with settings of their own or an operator's rights are not for a daemon that others use.
        self._attacks = [one for one in all_attacks().values() if not one.settings and not one.operator]
        self._running: list[tuple[float, list[subprocess.Popen[bytes]]]] = []
        self._stack = ExitStack()
        self._bystander: subprocess.Popen[bytes] | None = None
        self.seen = Seen([], {})
        """What the bystander has seen."""

    def start_bystander(self) -> None:
        """Let the bystander work from now on: until then, restarts of the daemon explain its fallbacks."""
        if self._bystander is None:
            self._bystander = self._stack.enter_context(bystanding(ROOT, self._path, quiet=False))

    def step(self) -> list[str]:
        """End attacks whose time is over, begin others, and return their names."""
        now = time.monotonic()
        for one in [one for one in self._running if one[0] <= now]:
            self._end(one[1])
            self._running.remove(one)

        begun = []
        while len(self._running) < AT_A_TIME:
            attack = self._random.choice(self._attacks)
            begun.append(attack.name)
            self._running.append((now + self._random.uniform(*ATTACK_SECONDS), self._begin(attack)))

        self._ask()
        return begun

    def close(self) -> None:
        """End all attacks, and the bystander."""
        for _, processes in self._running:
            self._end(processes)

        self._running.clear()
        self._ask()
        self._stack.close()
        self._bystander = None

    def _ask(self) -> None:
        if self._bystander is not None:
            self.seen.add(ask_bystander(self._bystander))

    def _begin(self, attack: Attack) -> list[subprocess.Popen[bytes]]:
        return [
            start_attacker(attack, "both", self._path, 0, number, quiet=False) for number in range(attack.processes)
        ]

    def _end(self, processes: list[subprocess.Popen[bytes]]) -> None:
        for process in processes:
            process.kill()
            process.wait()
