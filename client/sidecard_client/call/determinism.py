"""Whether a request is meant to have one answer, as far as it shows: temperature 0, or a seed.

Tasks with ``cache = "deterministic"`` store only such answers. Whether the backend complies cannot be known.
"""

from collections.abc import Mapping
from typing import Any, Final

_SEEDS: Final = ("seed", "random_seed")
"""``random_seed`` is Mistral's."""


def is_deterministic(fields: Mapping[str, Any]) -> bool:
    """Return whether temperature is 0 or a seed is given, at the top or in Ollama's ``options``."""
    options = fields.get("options")
    for place in (fields, options if isinstance(options, dict) else {}):
        temperature = place.get("temperature")
        if isinstance(temperature, int | float) and not isinstance(temperature, bool) and temperature == 0:
            return True

        if any(type(place.get(name)) is int for name in _SEEDS):
            return True

    return False


def asks_for_one_answer(args: tuple[Any, ...], kwargs: Mapping[str, Any], *, said: bool | None) -> bool:
    """Return ``said``, the caller's own word, or else whether the named arguments or a positional dict ask for one answer."""
    if said is not None:
        return said

    if kwargs and is_deterministic(kwargs):
        return True

    for value in args:  # noqa: SIM110 - a generator's frames cost more than the rest
        if isinstance(value, dict) and is_deterministic(value):
            return True

    return False
