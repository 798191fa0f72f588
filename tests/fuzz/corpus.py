"""The checked-in inputs of each target, as lines of base64: earlier findings, and inputs that reach far."""

import base64
from pathlib import Path

FOLDER = Path(__file__).parent / "corpus"

MAX_INPUTS = 80
"""Of one target."""

MAX_INPUT_BYTES = 1024
"""Of an input that is kept for its reach; an earlier finding may be longer."""


def inputs(target: str) -> list[bytes]:
    """Return the inputs of a target."""
    file = FOLDER / f"{target}.txt"
    lines = file.read_text(encoding="ascii").splitlines() if file.exists() else []
    return [base64.b64decode(line, validate=True) for line in lines if line and not line.startswith("#")]


def keep(target: str, found: list[bytes]) -> int:
    """Add inputs, the shortest first, up to the bound; return how many were added."""
    kept = inputs(target)
    few = [
        data
        for data in sorted(set(found) - set(kept), key=lambda data: (len(data), data))
        if len(data) <= MAX_INPUT_BYTES
    ]
    few = few[: max(0, MAX_INPUTS - len(kept))]
    with (FOLDER / f"{target}.txt").open("a", encoding="ascii") as file:
        file.writelines(base64.b64encode(data).decode() + "\n" for data in few)

    return len(few)
