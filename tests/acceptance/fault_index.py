"""Which tests show which fault."""
from collections.abc import Iterable
from typing import Any
def table(passed: Iterable[tuple[str, dict[str, Any]]]) -> list[str]:
    """Tell."""
    return [f"{n} {p}" for n, p in passed]
