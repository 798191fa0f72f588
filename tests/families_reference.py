"""Generate the documentation of the APIs whose requests are shared, from their families."""

from sidecard_client.http.recognition import families
from sidecard_client.http.request_bodies.json_family import JsonFamily

_FEW = 4
"""A shorter list is repeated for each family that has it."""


def markdown() -> str:
    """Return a table of all families: name, endings of their paths, fields outside the key."""
    rows = ["| family | path ends with | outside the key |", "|---|---|---|"]
    listed: dict[tuple[str, ...], str] = {}
    for name, family in families().items():
        outside = family.outside if isinstance(family, JsonFamily) else ()
        first = listed.setdefault(outside, name)
        places = _listed(outside) if first == name or len(outside) < _FEW else f"as `{first}`"
        rows.append(f"| `{name}` | {_listed(family.paths)} | {places} |")

    return "\n".join(rows) + "\n"


def _listed(names: tuple[str, ...]) -> str:
    return ", ".join(f"`{name}`" for name in names)
