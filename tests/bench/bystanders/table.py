"""Draw measured attacks as rows of a Markdown table: ``python -m tests.bench.bystanders.table AFTER`` updates `security.md`."""

import sys
from pathlib import Path

import msgspec

from tests.bench.bystanders.harness import Measured
from tests.bench.bystanders.served import ROOT

BEFORE = Path(__file__).with_name("before.jsonl")
"""Rows of 0.1.0, by ``python -m tests.bench.bystanders --tree TREE --json FILE``."""

PAGE = ROOT / "sidecard" / "docs" / "security.md"
START, END = "<!-- attacks: begin -->", "<!-- attacks: end -->"

HEAD = "| attack | p50 ms | p99.9 ms | max ms | fallbacks | peak MiB | missed |\n|---|---|---|---|---|---|---|"
COMPARISON_HEAD = "| attack | p50 ms | p99.9 ms | max ms | fallbacks | peak MiB |\n|---|---|---|---|---|---|"


def read(path: Path) -> dict[str, Measured]:
    """Return the rows of a file by their name, the last one of each."""
    rows = [msgspec.json.decode(line, type=Measured) for line in path.read_bytes().splitlines()]
    return {row.name: row for row in rows}


def figures(measured: Measured) -> list[str]:
    """Return the cells of one run."""
    return [
        f"{measured.p50_ms:.1f}",
        _milliseconds(measured.p999_ms),
        _milliseconds(measured.max_ms),
        ", ".join([f"{measured.fallbacks / measured.calls:.1%}" if measured.fallbacks else "0", *measured.wrong]),
        f"{measured.peak_mib:,.0f}",
    ]


def _milliseconds(value: float) -> str:
    return f"{value:,.1f}" if value < 100 else f"{value:,.0f}"


def row(measured: Measured) -> str:
    """Return a row that says which targets are missed."""
    return f"| {' | '.join([measured.name, *figures(measured), '; '.join(measured.misses()) or '-'])} |"


def comparison(before: dict[str, Measured], after: dict[str, Measured]) -> str:
    """Return a table of two runs."""
    rows = [f"| {' | '.join([one.about, *(_pair(before.get(name), one))])} |" for name, one in after.items()]
    return "\n".join([COMPARISON_HEAD, *rows])


def _pair(before: Measured | None, after: Measured) -> list[str]:
    new = figures(after)
    return [f"{old} → {now}" for old, now in zip(figures(before) if before else ["-"] * len(new), new, strict=True)]


def main() -> None:
    """Compare a run with 0.1.0, in the documentation."""
    text = PAGE.read_text(encoding="utf-8")
    start, end = text.index(START) + len(START), text.index(END)
    table = comparison(read(BEFORE), read(Path(sys.argv[1])))
    PAGE.write_text(f"{text[:start]}\n{table}\n{text[end:]}", encoding="utf-8")


if __name__ == "__main__":
    main()
