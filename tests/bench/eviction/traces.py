"""Workloads for the eviction bench: traces from files, and one generated workload.

The first line of a file determines its format; a file whose name ends in ``.gz`` is decompressed while it is read:

- JSON lines with ``input_length``, ``output_length`` (tokens) and ``hash_ids`` (the prompt as blocks of 512 tokens), the format
  of the published Mooncake traces. A file yields two workloads: whole requests (equal if their lengths and blocks are
  equal), and single blocks, each with the lengths of the first request that contained it.
- CSV with a header. The key is the column ``key``, ``obj_id`` or ``lbn`` (as in libCacheSim's block traces). The columns
  ``bytes`` and ``dollars`` are the size and the cost of the answer; a missing column is filled with independent random values.

The bench uses each workload in two forms: with equal answers (only hits count), and with sizes and costs.
"""

import csv
import gzip
import json
import random
from collections.abc import Iterable, Iterator
from itertools import chain
from pathlib import Path
from typing import TextIO

from msgspec import Struct

from sidecard.core.cache.entry import ENTRY_OVERHEAD_BYTES
from sidecard.errors import SidecardError

SEED = 1
CALLS = 60_000
DISTINCT_KEYS = 20_000
EXPONENT = 0.9
"""Exponent of the generated power law: between web caches (0.64 to 0.83, Breslau et al. 1999) and 1."""

INPUT_DOLLARS, OUTPUT_DOLLARS = 2.5e-6, 10e-6
"""Price of one token of a large model, 2026."""

BYTES_PER_TOKEN = 4
EQUAL_BYTES = 1024
KEY_COLUMNS = ("key", "obj_id", "lbn")


class Call(Struct, frozen=True, gc=False):
    """One call: its key, the bytes its answer occupies in a cache (key and overhead included), and its cost."""

    key: str
    bytes: int
    dollars: float


class Workload(Struct, frozen=True):
    """A named sequence of calls."""

    name: str
    calls: list[Call]

    def with_equal_answers(self) -> "Workload":
        """Return the same keys with answers of equal size and cost."""
        known = {call.key: Call(call.key, EQUAL_BYTES, 1.0) for call in self.calls}
        return Workload(self.name, [known[call.key] for call in self.calls])


def generate(seed: int = SEED, calls: int = CALLS, distinct_keys: int = DISTINCT_KEYS) -> Workload:
    """Return a workload with power-law keys and independent lognormal sizes and costs."""
    chance = random.Random(seed)
    keys = [_random_call(f"generated {number}", chance) for number in range(distinct_keys)]
    weights = [1 / (rank + 1) ** EXPONENT for rank in range(distinct_keys)]
    return Workload("power law", chance.choices(keys, weights, k=calls))


def read(path: Path) -> list[Workload]:
    """Read a trace file. Raises `SidecardError` if the file or its format cannot be read."""
    name = path.name.partition(".")[0]
    try:
        # Traces can exceed memory, so they are read line by line.
        with _open(path) as file:
            first = file.readline()
            lines = chain([first], file)
            return _from_json_lines(name, lines) if first.startswith("{") else [_from_csv(name, lines)]
    except OSError as error:
        # gzip's own OSError has no errno and hence no strerror.
        raise SidecardError(f"cannot read {path}: {error.strerror or error}") from error
    except (EOFError, ValueError, KeyError, TypeError) as error:
        raise SidecardError(
            f"cannot read {path} as a trace: {type(error).__name__}: {error}. Use JSON lines with "
            f"input_length, output_length and hash_ids, or CSV with a column {', '.join(KEY_COLUMNS)}"
        ) from error


def _open(path: Path) -> TextIO:
    if path.suffix == ".gz":
        return gzip.open(path, "rt", encoding="utf-8")

    return path.open(encoding="utf-8")


def _from_json_lines(name: str, lines: Iterable[str]) -> list[Workload]:
    requests: list[Call] = []
    blocks: list[Call] = []
    known: dict[str, Call] = {}
    for line in lines:
        request = json.loads(line)
        prompt_tokens, answer_tokens, hashes = request["input_length"], request["output_length"], request["hash_ids"]
        size = ENTRY_OVERHEAD_BYTES + BYTES_PER_TOKEN * answer_tokens
        dollars = prompt_tokens * INPUT_DOLLARS + answer_tokens * OUTPUT_DOLLARS
        for calls, key in ((requests, f"{prompt_tokens} {hashes}"), *((blocks, f"block {block}") for block in hashes)):
            calls.append(known.setdefault(key, Call(key, size, dollars)))

    return [Workload(f"{name}, requests", requests), Workload(f"{name}, blocks", blocks)]


def _from_csv(name: str, lines: Iterator[str]) -> Workload:
    rows = csv.DictReader(lines)
    column = next((column for column in KEY_COLUMNS if column in (rows.fieldnames or ())), None)
    if column is None:
        raise ValueError(f"no column {', '.join(KEY_COLUMNS)}")

    chance = random.Random(SEED)
    known: dict[str, Call] = {}
    calls = []
    for row in rows:
        key = row[column]
        if key not in known:
            default = _random_call(key, chance)
            known[key] = Call(key, int(row.get("bytes") or default.bytes), float(row.get("dollars") or default.dollars))

        calls.append(known[key])

    return Workload(name, calls)


def _random_call(key: str, chance: random.Random) -> Call:
    # Medians: 1.1 KiB and 0.7 cents. One answer in a hundred has ten times the median size, or thirty times the median cost.
    return Call(key, ENTRY_OVERHEAD_BYTES + int(chance.lognormvariate(7, 1)), chance.lognormvariate(-5, 1.5))
