"""Generate the documentation of the APIs whose requests are shared, from their families."""

from sidecard_client.http.recognition import families
from sidecard_client.http.request_bodies.json_family import JsonFamily


def markdown() -> str:
    """Return a table of all families: name, endings of their paths, fields outside the key."""
    rows = ["| family | path ends with | outside the key |", "|---|---|---|"]
    for name, family in families().items():
        outside = family.outside if isinstance(family, JsonFamily) else ()
        rows.append(f"| `{name}` | {_listed(family.paths)} | {_listed(outside)} |")

    return "\n".join(rows) + "\n"


def _listed(names: tuple[str, ...]) -> str:
    return ", ".join(f"`{name}`" for name in names)
