"""How many random cases tests try: few in the default run, several times as many in CI's thorough one."""

import os

THOROUGHNESS = float(os.environ.get("TEST_THOROUGHNESS") or "1")
"""A factor of all counts of random cases."""


def cases(count: int) -> int:
    """Return how many cases a test tries: ``count``, times ``TEST_THOROUGHNESS``."""
    return max(1, round(count * THOROUGHNESS))
