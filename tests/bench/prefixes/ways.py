"""The ways in which a workload's calls reach the model server: past sidecard, and through it with several settings. Pure."""

from msgspec import Struct

from tests.bench.prefixes.workloads import Script, Workload

SLOTS = 4
"""Of the model server."""

STATIC_LIMITS = (1, 2, 4)


class Way(Struct, frozen=True):
    """How calls are scheduled. ``settings`` are those of the daemon's backend ``local``; None is no daemon."""

    name: str
    settings: dict[str, str] | None
    sorts: bool = False
    """Whether the application sorts its calls by their prompts' beginnings."""
    repeated: bool = True
    """Whether a target depends on its time, so that it is measured in every round."""

    def scripts(self, workload: Workload) -> tuple[Script, ...]:
        """Return the scripts in the order in which they start."""
        return workload.grouped() if self.sorts else workload.scripts

    def flags(self) -> list[str]:
        """Return the flags of ``sidecard serve``."""
        settings = self.settings or {}
        return [text for key, value in settings.items() for text in ("--set", f"backends.local.{key}={value}")]


def _static(limit: int, **fields: bool) -> Way:
    return Way(f"arrival, {limit} at a time", {"max_concurrent": str(limit)}, **fields)


ALONE = Way("the server alone", None, repeated=False)
ARRIVAL = {limit: _static(limit) for limit in STATIC_LIMITS}
GROUPED = Way("sorted by prefix, 4 at a time", {"max_concurrent": "4"}, sorts=True, repeated=False)
ADAPTIVE = Way("adaptive, up to 4", {"max_concurrent": "4", "adaptive": "true"}, repeated=False)
DEFAULT = Way("default settings", {}, repeated=False)
AFFINITY = Way("prefix affinity", {"prefix_affinity": "slots", "slots": str(SLOTS)})

WAYS = [ALONE, *ARRIVAL.values(), GROUPED, ADAPTIVE, AFFINITY]
