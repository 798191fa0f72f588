"""Everything that the bench gate measures."""

from sidecard.cli.bench.parts import PARTS, Part
from tests.bench.compression import compression
from tests.bench.own_ratios import daemon_metrics, typed_values, waiters
from tests.bench.scale import churn, idle_peers, many_entries, memory
from tests.bench.sdk_overhead import sdk_overhead

SOURCES = (
    *PARTS,
    Part(waiters),
    Part(daemon_metrics, "one cpu"),
    Part(typed_values, "one cpu"),
    Part(compression, "one cpu"),
    Part(idle_peers, "one cpu"),
    Part(memory),
    Part(many_entries, "one cpu"),
    Part(churn),
    Part(sdk_overhead),
)
