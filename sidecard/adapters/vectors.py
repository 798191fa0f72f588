"""Nearest vectors, by the libraries numpy and usearch (extra ``sidecard[similar]``), for `sidecard.core.cache.similarity`.

The first `FLAT_VECTORS` vectors of a group are compared exactly, by one matrix multiplication; most groups have no more.
Further ones are in a graph (HNSW: Malkov, Yashunin, "Efficient and robust approximate nearest neighbor search using
hierarchical navigable small world graphs", 2016), which is searched as well. A vector never moves between the two, because
that would block the loop; one that is removed from the matrix makes room there for the next new one.

Compared and rejected: hnswlib (last release 2023, no wheels), faiss-cpu (no removal from its graph). usearch keeps half
precision, removes vectors, has wheels for all supported Pythons, and depends on numpy.
"""

import os
from collections.abc import Iterable
from operator import itemgetter
from typing import TYPE_CHECKING, Any

from sidecard.config.model import Config
from sidecard.core.cache.similarity import IndexFactory
from sidecard.errors import ConfigError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

FLAT_VECTORS = 1024
"""Size of the matrix: its search takes 0.1 ms for 384 dimensions, as long as the graph's."""

CONNECTIVITY = 16
"""Links of a vector. usearch's default, and the middle of what the paper recommends."""

EXPANSION_ADD = 64
EXPANSION_SEARCH = 64
"""Candidates that are examined. usearch's defaults are 128 and 64; half of the first costs no measurable recall, and the loop
waits while a vector is added."""


def index_maker(config: Config) -> IndexFactory:
    """Return the factory of indexes; see `require`."""
    require(config)
    return NearestVectors


def require(config: Config) -> None:
    """Load the libraries if a task needs them: 0.3 s and 30 MB. Raises `ConfigError` if they are not installed."""
    tasks = [name for name, task in config.tasks.items() if task.similar]
    if not tasks:
        return

    # All work is done in the loop's thread: a thread pool would only idle and take memory.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    try:
        import usearch.index  # noqa: F401, PLC0415 - only for tasks that need it
    except ImportError as error:
        sentence = (
            f"tasks.{tasks[0]}.similar is true, but vectors cannot be searched ({error}); "
            f'install the libraries with `pip install "sidecard[similar]"`, or set tasks.{tasks[0]}.similar = false'
        )
        raise ConfigError([sentence]) from error


class NearestVectors:
    """Vectors of one dimension, by label: a `VectorIndex`."""

    def __init__(self, dimensions: int) -> None:
        self._flat = _Flat(dimensions)
        self._graph: _Graph | None = None
        self._dimensions = dimensions

    def __len__(self) -> int:
        return len(self._flat) + (0 if self._graph is None else len(self._graph))

    def add(self, label: int, vector: bytes) -> None:
        """Add a vector under an unused label."""
        if len(self._flat) < FLAT_VECTORS:
            self._flat.add(label, vector)
            return

        if self._graph is None:
            self._graph = _Graph(self._dimensions)

        self._graph.add(label, vector)

    def get(self, label: int) -> bytes:
        """Return a vector, scaled to length 1, with the precision that is kept."""
        return self._part_of(label).get(label)

    def remove(self, label: int) -> None:
        """Remove a vector."""
        self._part_of(label).remove(label)
        if self._graph is not None and not len(self._graph):
            self._graph = None

    def nearest(self, vector: bytes, count: int) -> Iterable[tuple[int, float]]:
        """Return labels with their cosines, nearest first; some of those in the graph may be missed."""
        unit = _unit(vector)
        found = self._flat.nearest(unit, count)
        if self._graph is None:
            return found

        return sorted([*found, *self._graph.nearest(unit, count)], key=itemgetter(1), reverse=True)[:count]

    def _part_of(self, label: int) -> "_Flat | _Graph":
        return self._flat if self._graph is None or label in self._flat else self._graph


class _Flat:
    """Vectors as rows of a matrix, which doubles when it is full."""

    def __init__(self, dimensions: int) -> None:
        import numpy as np  # noqa: PLC0415 - only for tasks that need it

        self._np = np
        self._rows = np.zeros((1, dimensions), np.float32)
        self._labels: list[int] = []
        """By row."""
        self._row_of: dict[int, int] = {}

    def __len__(self) -> int:
        return len(self._labels)

    def __contains__(self, label: int) -> bool:
        return label in self._row_of

    def add(self, label: int, vector: bytes) -> None:
        row = len(self._labels)
        if row == len(self._rows):
            self._rows = self._np.concatenate((self._rows, self._np.zeros_like(self._rows)))

        self._rows[row] = _unit(vector)
        self._row_of[label] = row
        self._labels.append(label)

    def get(self, label: int) -> bytes:
        return bytes(self._rows[self._row_of[label]].tobytes())

    def remove(self, label: int) -> None:
        row = self._row_of.pop(label)
        last = self._labels.pop()
        if last != label:
            self._rows[row] = self._rows[len(self._labels)]
            self._labels[row] = last
            self._row_of[last] = row

    def nearest(self, unit: "NDArray[np.float32]", count: int) -> list[tuple[int, float]]:
        size = len(self._labels)
        cosines = self._rows[:size] @ unit
        rows = self._np.argpartition(cosines, size - count)[-count:] if count < size else range(size)
        found = [(self._labels[row], float(cosines[row])) for row in rows]
        return sorted(found, key=itemgetter(1), reverse=True)


class _Graph:
    """Vectors in a graph, at half precision: 0.001 of a cosine at most."""

    def __init__(self, dimensions: int) -> None:
        from usearch.index import Index  # noqa: PLC0415 - only for tasks that need it

        self._index: Any = Index(
            ndim=dimensions,
            metric="cos",
            dtype="f16",
            connectivity=CONNECTIVITY,
            expansion_add=EXPANSION_ADD,
            expansion_search=EXPANSION_SEARCH,
        )

    def __len__(self) -> int:
        return len(self._index)

    def add(self, label: int, vector: bytes) -> None:
        self._index.add(label, _unit(vector), threads=1)

    def get(self, label: int) -> bytes:
        return bytes(self._index.get(label, "f32").tobytes())

    def remove(self, label: int) -> None:
        self._index.remove(label)

    def nearest(self, unit: "NDArray[np.float32]", count: int) -> list[tuple[int, float]]:
        matches = self._index.search(unit, count, threads=1)
        return [
            (int(label), 1.0 - float(distance)) for label, distance in zip(matches.keys, matches.distances, strict=True)
        ]


def _unit(vector: bytes) -> "NDArray[np.float32]":
    """Return a vector of length 1 in the same direction."""
    import numpy as np  # noqa: PLC0415 - only for tasks that need it

    numbers = np.frombuffer(vector, np.float32).astype(np.float64)
    unit: NDArray[np.float32] = (numbers / np.sqrt(numbers @ numbers)).astype(np.float32)
    return unit
