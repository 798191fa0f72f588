"""The ways in which a workload's calls reach the model server: past sidecard, and through it with several settings. Pure."""

from msgspec import Struct

from sidecard.config.schema import default_local_limit
from tests.bench.prefixes.workloads import Script, Workload

SLOTS = 4
"""Of the model server."""

DEFAULT_LIMIT = default_local_limit()
STATIC_LIMITS = tuple(sorted({1, 2, SLOTS, DEFAULT_LIMIT}))


class Way(Struct, frozen=True):
    """How calls are scheduled. ``settings`` are those of the daemon's backend ``local``; None is no daemon."""

    name: str
    settings: dict[str, str] | None
    sorts: bool = False
    """Whether the application sorts its calls by prefix."""
    repeated: bool = True
    """Whether a target depends on its time, so that it is measured in every round."""
    everywhere: bool = True
    """Whether it is measured with all workloads, or only with those of long prefixes."""

    def scripts(self, workload: Workload) -> tuple[Script, ...]:
        """Return the scripts in the order in which they start."""
        return workload.grouped() if self.sorts else workload.scripts

    def flags(self) -> list[str]:
        """Return the flags of ``sidecard serve``."""
        settings = self.settings or {}
        return [text for key, value in settings.items() for text in ("--set", f"backends.local.{key}={value}")]


ALONE = Way("the server alone", None, repeated=False)
ARRIVAL = {limit: Way(f"arrival, {limit} at a time", {"max_concurrent": str(limit)}) for limit in STATIC_LIMITS}
GROUPED = Way(
    f"sorted by prefix, {SLOTS} at a time", {"max_concurrent": str(SLOTS)}, sorts=True, repeated=False, everywhere=False
)
ADAPTIVE = Way(
    f"adaptive, up to {SLOTS}", {"max_concurrent": str(SLOTS), "adaptive": "true"}, repeated=False, everywhere=False
)
AFFINITY = Way("prefix affinity", {"prefix_affinity": "slots"})
"""With the default limit, which is `DEFAULT_LIMIT` here."""
WIDE_AFFINITY = Way(
    f"prefix affinity, {SLOTS} at a time",
    {"prefix_affinity": "slots", "max_concurrent": str(SLOTS)},
    repeated=False,
    everywhere=False,
)

WAYS = [ALONE, *ARRIVAL.values(), GROUPED, ADAPTIVE, WIDE_AFFINITY, AFFINITY]
