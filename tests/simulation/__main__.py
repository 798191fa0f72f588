"""Simulate a host on a virtual clock and check the laws: ``python -m tests.simulation --hours 8 --seed 1``.

The seed decides all lives; the worlds take turns (``--world`` selects one). Progress is printed each minute. The first fault ends
the run with exit code 1 and the shortest script that was found, as a test to be pasted. Several runs, each with its own seed, may
run at a time. See `tests.simulation.host.world` for what is simulated.
"""

import argparse
import sys
import time
import traceback
from itertools import count, cycle

from tests.simulation.host.patches import simulated
from tests.simulation.host.scripts import STEPS_OF_A_LIFE, Found, as_test, live, shorten
from tests.simulation.host.worlds import SETTINGS

_REPORT_SECONDS = 60.0


def main() -> int:
    """Simulate until time is up, or something is found."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.simulation", description=__doc__.splitlines()[0] if __doc__ else ""
    )
    parser.add_argument("--hours", type=float, default=0.1, help="duration in real time (default: 0.1)")
    parser.add_argument("--seed", type=int, default=1, help="seed of all random choices (default: 1)")
    parser.add_argument("--world", choices=list(SETTINGS), help="only this kind of host (default: all in turn)")
    arguments = parser.parse_args()
    found = _simulate(
        arguments.hours * 3600.0, arguments.seed, [arguments.world] if arguments.world else list(SETTINGS)
    )
    if found is None:
        return 0

    traceback.print_exception(found.fault)
    print("Making the script shorter ...", file=sys.stderr)
    with simulated():
        print(as_test(shorten(found)))

    return 1


def _simulate(seconds: float, seed: int, names: list[str]) -> Found | None:
    began_at = said_at = time.monotonic()
    happenings = 0
    with simulated():
        for life, name in zip(count(), cycle(names), strict=False):
            now = time.monotonic()
            if now - said_at > _REPORT_SECONDS or now - began_at > seconds:
                said_at = now
                each_us = (now - began_at) / max(1, happenings) * 1e6
                print(
                    f"{now - began_at:.0f} s: {life} lives, {happenings} happenings, {each_us:.0f} us each", flush=True
                )

            if now - began_at > seconds:
                print("Nothing went wrong.")
                break

            happened, found = live(name, f"{seed} {name} {life}", STEPS_OF_A_LIFE)
            happenings += happened
            if found is not None:
                print(f"Life {life} in the world {name!r} of the seed {seed} has ended badly.", file=sys.stderr)
                return found

    return None


if __name__ == "__main__":
    sys.exit(main())
