"""``python -m tests.bench.cost``: what a mixed workload costs, with and without sidecard."""

import argparse

import msgspec

from tests.bench.cost import comparison

if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        prog="python -m tests.bench.cost",
        description="Serves one mixed workload always remotely and through sidecard, and compares the costs with the possible "
        "minimum. Takes a minute.",
    )
    parser.add_argument("--json", action="store_true", help="write JSON")
    parsed = parser.parse_args()
    costs = comparison.measure(comparison.workload())
    if parsed.json:
        print(msgspec.json.format(msgspec.json.encode(costs)).decode())
    else:
        print(comparison.draw(costs))
