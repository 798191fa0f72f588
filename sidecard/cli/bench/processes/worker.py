"""Blocking worker process of the bench: reads one `Order` per line and writes one `Result` per line.

``python -m sidecard.cli.bench.processes.worker SIDE=PATH ...`` where SIDE is one of `SIDES`.
"""

import sys
from time import monotonic, perf_counter, sleep

from sidecard.cli.bench.load import ANSWERS, PROMPTS, Order, Result, quantiles_of, read_order, write
from sidecard.cli.bench.processes.sides import SIDES, Hit


class Worker:
    """Performs orders."""

    def __init__(self, sides: dict[str, Hit]) -> None:
        self._sides = sides
        self._misses_made = 0

    def perform(self, order: Order) -> Result:
        """Perform an order and return its result."""
        hit = self._sides[order.side]
        before = ANSWERS.calls
        perform = {"single": self._single, "misses": self._misses, "rate": self._rate}[order.do]
        sleep(max(0.0, order.start_at - monotonic()))
        result = perform(hit, order)
        result.upstream_calls = ANSWERS.calls - before
        return result

    def _single(self, hit: Hit, order: Order) -> Result:
        return _timed(hit, (PROMPTS * (order.count // len(PROMPTS) + 1))[: order.count])

    def _misses(self, hit: Hit, order: Order) -> Result:
        prompts = tuple(f"{PROMPTS[0]} Parcel {self._misses_made + number}" for number in range(order.count))
        self._misses_made += order.count
        return _timed(hit, prompts)

    def _rate(self, hit: Hit, order: Order) -> Result:
        count = 0
        began = perf_counter()
        while perf_counter() - began < order.seconds:
            for prompt in PROMPTS:
                hit(prompt)

            count += len(PROMPTS)

        return Result(seconds=perf_counter() - began, count=count)


def _timed(hit: Hit, prompts: tuple[str, ...]) -> Result:
    times = []
    for prompt in prompts:
        began = perf_counter()
        hit(prompt)
        times.append(perf_counter() - began)

    quantiles = quantiles_of(times)
    return Result(seconds=quantiles["p50"], count=len(prompts), quantiles=quantiles)


def main(arguments: list[str]) -> None:
    """Report that the answers are stored, then perform orders until standard input ends."""
    worker = Worker({name: SIDES[name](path) for name, _, path in (argument.partition("=") for argument in arguments)})
    sys.stdout.buffer.write(write(Result()) + b"\n")
    sys.stdout.buffer.flush()
    for line in sys.stdin.buffer:
        sys.stdout.buffer.write(write(worker.perform(read_order(line))) + b"\n")
        sys.stdout.buffer.flush()


if __name__ == "__main__":
    main(sys.argv[1:])
