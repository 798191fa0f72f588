"""One process of an attack: ``python -m tests.bench.bystanders.attacker NAME run|prepare|both PATH PORT UID PROCESS NICE``."""

import os
import sys
import time
from contextlib import suppress

import tests.bench.bystanders.attacks.connections
import tests.bench.bystanders.attacks.flights
import tests.bench.bystanders.attacks.metrics
import tests.bench.bystanders.attacks.values
import tests.bench.bystanders.attacks.views  # noqa: F401 - these five register the attacks
from tests.bench.bystanders.attack import ATTACKS, Target

PAUSE_SECONDS = 0.01
"""After a round, and before an attacker that was thrown out returns."""


def main() -> None:
    """Attack until the process is killed, or prepare once."""
    name, what, path, port, uid, process, niceness = sys.argv[1:]
    with suppress(PermissionError):
        os.setpriority(os.PRIO_PROCESS, 0, int(niceness))

    if int(uid):
        os.setgroups([])
        os.setgid(int(uid))
        os.setuid(int(uid))

    attack = ATTACKS[name]
    target = Target(path, int(port), int(process))
    if what != "run" and attack.prepare is not None:
        with suppress(OSError):
            attack.prepare(target)

    if what == "prepare":
        return

    said = False
    while True:
        try:
            attack.run(target)
        except (OSError, KeyError) as error:
            if not said:
                print(f"{name}: {error!r}"[:400], file=sys.stderr, flush=True)
                said = True

        time.sleep(PAUSE_SECONDS)


if __name__ == "__main__":
    main()
