"""Model prices from the table of the library genai-prices (extra ``sidecard[prices]``).

The table is as old as the library's release and never updated over the network: a daemon may be sovereign, and a price that
changes at run time would make the daemon's own sums incomparable.
"""

from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING

from sidecard.core.accounts.billing import Price
from sidecard.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable

    from genai_prices import Usage
    from genai_prices.data_snapshot import DataSnapshot

MAX_REMEMBERED = 4096
"""Names of models, known and unknown ones together, that are remembered: peers choose them."""

MAX_MODEL_CHARACTERS = 256
"""Longer names belong to no model, and matching them against the library's patterns would block the loop."""


def table_price() -> Price:
    """Return a function from model, prompt tokens and completion tokens to dollars; None for an unknown model.

    A model is looked up by its own name first, then as ``PROVIDER/MODEL``, the form of many gateways. Loading the table takes
    0.4 s and 30 MB, a price 0.1 ms. Raises `ConfigError` if the library is not installed.
    """
    try:
        table = _Table()
    except ImportError as error:
        sentence = (
            f"prices.table is true, but the price table cannot be loaded ({error}); "
            'install it with `pip install "sidecard[prices]"`, or set prices.table = false'
        )
        raise ConfigError([sentence]) from error

    # The first price compiles patterns for the others: 30 ms, spent before the loop runs.
    table.price("gpt-4o", 1, 1)
    return table.price


class _Table:
    def __init__(self) -> None:
        from genai_prices import Usage, data_snapshot  # noqa: PLC0415 - costly, see `table_price`
        from genai_prices.data import providers  # noqa: PLC0415 - as above

        self._usage = Usage
        # A private snapshot, so that no other code in this process can replace it by one from the network.
        self._new_snapshot: Callable[[], DataSnapshot] = partial(
            data_snapshot.DataSnapshot, providers=providers, from_auto_update=False
        )
        self._snapshot = self._new_snapshot()
        self._known: set[str] = set()
        self._unknown: set[str] = set()

    def price(
        self,
        model: str,
        prompt_tokens: int,
        completion_tokens: int,
        cached_tokens: int = 0,
        cache_write_tokens: int = 0,
    ) -> float | None:
        """Return the cost of a call in dollars; ``prompt_tokens`` include those read from the provider's cache or written to it."""
        if model in self._unknown or len(model) > MAX_MODEL_CHARACTERS:
            return None

        if model not in self._known and len(self._known) + len(self._unknown) >= MAX_REMEMBERED:
            # The snapshot caches every name without bound, so it is replaced together with these sets.
            self._known.clear()
            self._unknown.clear()
            self._snapshot = self._new_snapshot()

        try:
            dollars = self._look_up(
                model,
                self._usage(
                    input_tokens=prompt_tokens,
                    output_tokens=completion_tokens,
                    cache_read_tokens=cached_tokens or None,
                    cache_write_tokens=cache_write_tokens or None,
                ),
            )
        except LookupError:
            self._unknown.add(model)
            return None
        except Exception:  # noqa: BLE001 - a boundary: another library's parser processes any peer's text
            return None

        self._known.add(model)
        return dollars

    def _look_up(self, model: str, usage: "Usage") -> float:
        """Raise `LookupError` if the table has no such model."""
        now = datetime.now(UTC)
        try:
            return float(self._snapshot.calc(usage, model, None, None, now).total_price)
        except LookupError:
            provider, slash, name = model.partition("/")
            if not slash:
                raise

            return float(self._snapshot.calc(usage, name, provider, None, now).total_price)
