"""The metrics that a real daemon exposes, for tests that observe it from outside."""

from typing import Any

from tests.daemons import ask


def samples(path: str) -> dict[str, float]:
    """Return every sample of the daemon at ``path`` by its name and labels: ``jobs_total kind=pdf``."""
    families: Any = ask(path, {"op": "metrics"})["families"]
    return {
        sample["name"]
        + "".join(f" {label}={value}" for label, value in sorted(sample.get("labels", {}).items())): sample["value"]
        for family in families
        for sample in family["samples"]
    }
