"""Cut a sequence into batches."""

from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

T = TypeVar("T")


def batches(
    items: Iterable[T], size_of: Callable[[T], float], max_bytes: float, max_items: float = float("inf")
) -> Iterator[list[T]]:
    """Yield items in lists within both bounds, or of one item that is larger."""
    batch: list[T] = []
    batch_bytes = 0.0
    for item in items:
        size = size_of(item)
        if batch and (len(batch) >= max_items or batch_bytes + size > max_bytes):
            yield batch
            batch, batch_bytes = [], 0.0

        batch.append(item)
        batch_bytes += size

    if batch:
        yield batch
