"""The workloads on which eviction is measured: traces in files, and one that is made here.

Formats, told apart by their first line; a name that ends in ``.gz`` is unpacked on the way:

- JSON lines with ``input_length``, ``output_length`` (tokens) and ``hash_ids`` (the prompt in blocks of 512 tokens), as
  Mooncake publishes its traces. They give two workloads: whole requests, which are the same where lengths and blocks are,
  and single blocks, each with the lengths of the request that first had it.
- CSV with a head. The key is the column ``key``, ``obj_id`` or ``lbn`` (as in the block traces of libCacheSim); ``bytes`` and
  ``dollars`` are what its answer takes and costs. Where there are none, they are drawn, independent of each other.

Each workload has two forms: all answers alike, where hits are all that counts; and with their costs.
"""

import csv
import gzip
import json
import random
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TextIO

from msgspec import Struct

from sidecard.core.cache.entry import ENTRY_OVERHEAD_BYTES
from sidecard.errors import SidecardError

SEED = 1
CALLS = 60_000
DIFFERENT = 20_000
EXPONENT = 0.9
"""Of the power law of the workload that is made here: between those of web caches (0.64 to 0.83, Breslau et al. 1999) and 1."""

INPUT_DOLLARS, OUTPUT_DOLLARS = 2.5e-6, 10e-6
"""A token of a large model, 2026."""

BYTES_PER_TOKEN = 4
ALIKE_BYTES = 1024
KEY_COLUMNS = ("key", "obj_id", "lbn")


class Call(Struct, frozen=True, gc=False):
    """A call by its key: what its answer takes in a cache, key and fixed cost included, and what it costs to make."""

    key: str
    bytes: int
    dollars: float


class Workload(Struct, frozen=True):
    """Calls, in order."""

    name: str
    calls: list[Call]

    def alike(self) -> "Workload":
        """Return the same keys with answers that take and cost the same."""
        known = {call.key: Call(call.key, ALIKE_BYTES, 1.0) for call in self.calls}
        return Workload(self.name, [known[call.key] for call in self.calls])


def made(seed: int = SEED, calls: int = CALLS, different: int = DIFFERENT) -> Workload:
    """Return a workload whose keys follow a power law, and whose sizes and costs are lognormal and independent of it."""
    chance = random.Random(seed)  # noqa: S311 - a workload, no secret
    keys = [_drawn(f"made {number}", chance) for number in range(different)]
    weights = [1 / (rank + 1) ** EXPONENT for rank in range(different)]
    return Workload("power law", chance.choices(keys, weights, k=calls))


def read(path: Path) -> list[Workload]:
    """Read a trace. Raises `SidecardError` where it is none that is known."""
    name = path.name.partition(".")[0]
    try:
        # A file's text may be large, so it is read line by line.
        with _opened(path) as file:
            first = file.readline()
            lines = _again(first, file)
            return _of_json_lines(name, lines) if first.startswith("{") else [_of_csv(name, lines)]
    except OSError as error:
        # Gzip's own has no errno.
        raise SidecardError(f"{path} cannot be read ({error.strerror or error})") from error
    except (EOFError, ValueError, KeyError, TypeError) as error:
        raise SidecardError(
            f"{path} cannot be read as a trace ({type(error).__name__}: {error}); it should be JSON lines with "
            f"input_length, output_length and hash_ids, or CSV with a column {', '.join(KEY_COLUMNS)}"
        ) from error


def _opened(path: Path) -> TextIO:
    if path.suffix == ".gz":
        return gzip.open(path, "rt", encoding="utf-8")

    return path.open(encoding="utf-8")


def _again(first: str, rest: Iterable[str]) -> Iterator[str]:
    yield first
    yield from rest


def _of_json_lines(name: str, lines: Iterable[str]) -> list[Workload]:
    requests: list[Call] = []
    blocks: list[Call] = []
    known: dict[str, Call] = {}
    for line in lines:
        request = json.loads(line)
        asked, answered, hashes = request["input_length"], request["output_length"], request["hash_ids"]
        size = ENTRY_OVERHEAD_BYTES + BYTES_PER_TOKEN * answered
        dollars = asked * INPUT_DOLLARS + answered * OUTPUT_DOLLARS
        for of, key in ((requests, f"{asked} {hashes}"), *((blocks, f"block {block}") for block in hashes)):
            of.append(known.setdefault(key, Call(key, size, dollars)))

    return [Workload(f"{name}, requests", requests), Workload(f"{name}, blocks", blocks)]


def _of_csv(name: str, lines: Iterable[str]) -> Workload:
    rows = csv.DictReader(lines)
    column = next((column for column in KEY_COLUMNS if column in (rows.fieldnames or ())), None)
    if column is None:
        raise ValueError(f"no column {', '.join(KEY_COLUMNS)}")

    chance = random.Random(SEED)  # noqa: S311 - as in `made`
    known: dict[str, Call] = {}
    calls = []
    for row in rows:
        key = row[column]
        if key not in known:
            drawn = _drawn(key, chance)
            known[key] = Call(key, int(row.get("bytes") or drawn.bytes), float(row.get("dollars") or drawn.dollars))

        calls.append(known[key])

    return Workload(name, calls)


def _drawn(key: str, chance: random.Random) -> Call:
    # Medians of 1.1 KiB and 0.7 cents; of a hundred answers, one takes ten times the median, and one costs thirty times it.
    return Call(key, ENTRY_OVERHEAD_BYTES + int(chance.lognormvariate(7, 1)), chance.lognormvariate(-5, 1.5))
