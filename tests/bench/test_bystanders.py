"""No attack of another uid stalls a bystander, takes the daemon from it, or makes the daemon large.

``pytest -m bench -n 0 -s tests/bench/test_bystanders.py``; `python -m tests.bench.bystanders` measures single attacks, and
older versions with ``--tree``.
"""

import os

import pytest

from tests.bench.bystanders.attack import Attack
from tests.bench.bystanders.harness import all_attacks, measure
from tests.bench.bystanders.outcomes import OUTCOMES, check_all
from tests.bench.bystanders.served import ROOT
from tests.bench.bystanders.table import row
from tests.hostile import needs_root

pytestmark = [pytest.mark.bench, needs_root]

LONG_SECONDS = 6.0
"""How long an attack is measured."""

SECONDS = float(os.environ.get("BYSTANDER_SECONDS") or LONG_SECONDS)
"""The same for attacks that do the same again and again, many times a second."""

ATTEMPTS = 3
"""Other work on the machine delays a bystander as an attack does, but rarely three times."""

LATENCY_FACTOR = float(os.environ.get("BYSTANDER_LATENCY_FACTOR") or "1")
"""By how much latencies may exceed the targets: attackers, bystander and daemon together need more than two processors."""


@pytest.mark.timeout(900)
@pytest.mark.parametrize("attack", [pytest.param(one, id=name) for name, one in all_attacks().items()])
def test_attack_leaves_bystanders_alone(attack: Attack) -> None:
    """Beside the attack, calls take 20 ms at most (p99.9), none falls back, and memory stays within its bounds."""
    missed: list[str] = []
    for _ in range(ATTEMPTS):
        measured = measure(attack, LONG_SECONDS if attack.long else SECONDS, quiet=True)
        print(row(measured), flush=True)
        missed = measured.misses(20.0 * LATENCY_FACTOR, 100.0 * LATENCY_FACTOR)
        if not missed:
            break

    assert missed == []


@pytest.mark.parametrize("name", OUTCOMES)
def test_hostile_input_makes_nothing_wrong(name: str) -> None:
    """What a peer sends makes neither the daemon nor another process' client wrong."""
    assert check_all(ROOT, name) == {name: ""}
