"""The generated documentation of metrics."""

import re
from importlib import resources

from sidecard.core.operations.metrics import DAEMON_GAUGES
from tests.metrics_reference import GAUGES, families, markdown


def test_every_family_of_the_reference_has_a_sample() -> None:
    """The labels of a family are those of its samples."""
    assert [family.name for family in families() if not family.samples] == []
    assert set(GAUGES) == set(DAEMON_GAUGES)


def test_the_reference_has_one_complete_row_per_metric() -> None:
    """Name, type, labels, and a description that is a sentence."""
    rows = [
        re.fullmatch(r"\| `(\w+)` \| (counter|gauge|histogram) \| (.*) \| (.+\.) \|", row)
        for row in markdown().splitlines()[2:]
    ]
    names = [row[1] for row in rows if row]
    assert len(names) == len(rows) == len(families())
    assert names == sorted(names, key=lambda name: name.removesuffix("_total"))
    assert "| `sidecard_cache_hits_total` | counter | `freshness`, `task` |" in markdown()


def test_alerts_and_dashboards_use_existing_metrics() -> None:
    """Every metric that a shipped file queries is in the reference."""
    known = set(re.findall(r"`(sidecard_\w+)`", markdown()))
    for name in ("alerts.yml", "grafana.json"):
        text = (resources.files("sidecard.observe") / "files" / name).read_text(encoding="utf-8")
        used = {re.sub(r"_(bucket|sum|count)$", "", metric) for metric in re.findall(r"\bsidecard_\w+", text)}
        assert used <= known, name
