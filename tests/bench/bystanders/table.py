"""Draw measured attacks as rows of a Markdown table."""

from tests.bench.bystanders.harness import Measured

HEAD = "| attack | p50 ms | p99.9 ms | max ms | fallbacks | peak MiB | missed |\n|---|---|---|---|---|---|---|"


def figures(measured: Measured) -> list[str]:
    """Return the cells of one run."""
    return [
        f"{measured.p50_ms:.1f}",
        _milliseconds(measured.p999_ms),
        _milliseconds(measured.max_ms),
        f"{measured.fallbacks}" if not measured.fallbacks else f"{measured.fallbacks} of {measured.calls}",
        f"{measured.peak_mib:.0f}",
    ]


def _milliseconds(value: float) -> str:
    return f"{value:,.1f}" if value < 100 else f"{value:,.0f}"


def row(measured: Measured) -> str:
    """Return a row that says which targets are missed."""
    return f"| {' | '.join([measured.name, *figures(measured), '; '.join(measured.misses()) or '-'])} |"
