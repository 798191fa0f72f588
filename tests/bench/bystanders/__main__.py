"""``python -m tests.bench.bystanders [NAME...]``: what each attack does to a bystander. Needs root, to be other uids."""

import argparse
import os
from pathlib import Path

import msgspec

from tests.bench.bystanders.harness import all_attacks, measure
from tests.bench.bystanders.outcomes import check_all
from tests.bench.bystanders.served import ROOT
from tests.bench.bystanders.table import HEAD, row


def main() -> int:
    """Run attacks one after another, print a row for each, and return 1 if one misses a target."""
    attacks = all_attacks()
    parser = argparse.ArgumentParser(prog="python -m tests.bench.bystanders", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help="beginnings of names of attacks (default: all)")
    parser.add_argument("--list", action="store_true", help="list the attacks")
    parser.add_argument("--outcomes", action="store_true", help="check what makes a daemon or client wrong, not slow")
    parser.add_argument(
        "--tree", type=Path, default=ROOT, help="source tree of the daemon and of the bystander's client"
    )
    parser.add_argument("--seconds", type=float, default=6.0, help="duration of each attack (6)")
    parser.add_argument("--shared", action="store_true", help="do not raise priorities above other work on the machine")
    parser.add_argument("--json", type=Path, metavar="FILE", help="add the rows to a file, one line each")
    parsed = parser.parse_args()
    if parsed.outcomes:
        found = check_all(parsed.tree.resolve())
        print(*(f"| {name} | {wrong or 'ok'} |" for name, wrong in found.items()), sep="\n")
        return int(any(found.values()))

    if parsed.list:
        for attack in attacks.values():
            print(f"{attack.name}: {attack.about}")

        return 0

    if os.geteuid():
        parser.error("needs root, to be other uids")

    chosen = [
        attack
        for name, attack in attacks.items()
        if not parsed.names or any(name.startswith(one) for one in parsed.names)
    ]
    missed = 0
    print(HEAD, flush=True)
    for one in [*([] if parsed.names else [None]), *chosen]:
        measured = measure(one, parsed.seconds, parsed.tree.resolve(), quiet=not parsed.shared)
        print(row(measured), flush=True)
        missed += bool(measured.misses())
        if parsed.json:
            with parsed.json.open("ab") as file:
                file.write(msgspec.json.encode(measured) + b"\n")

    return int(missed > 0)


if __name__ == "__main__":
    raise SystemExit(main())
