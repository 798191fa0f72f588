"""Serve ten agents with the simulated provider: in virtual time with the engine alone, and with a real daemon and clients."""

import subprocess
import sys
from collections.abc import Callable, Sequence
from typing import NamedTuple

import msgspec

from sidecard.cli.processes import Processes
from sidecard.cli.query import query
from sidecard.cli.text.numbers import count, dollars, percent, ratio, seconds
from sidecard.cli.text.tables import render, table
from sidecard.core.settings import BackendSettings
from sidecard.errors import SidecardError
from sidecard_client.protocol.wire import GetReport, Report
from tests.bench.prefixes.agents.provider import (
    BURST_SECONDS,
    INPUT_DOLLARS,
    LIFETIME_SECONDS,
    OUTPUT_DOLLARS,
    READ_DOLLARS,
    WRITE_DOLLARS,
    Answered,
    Ideal,
    work_of_agents,
)
from tests.bench.prefixes.agents.virtual import Outcome, Sent, Simulation, outcome_of
from tests.bench.prefixes.agents.worker import BACKEND, AgentAssignment, Streamed
from tests.bench.prefixes.report import Target

PROCESSES = 4
SCALE = 20.0
BURSTS = 2
REACHED = 0.95
NO_LATER = 1.0001
NO_LATER_FOR_REAL = 1.1
"""Of the median time to the first output. At `SCALE`, five milliseconds of the machine's own are a tenth of a second."""

AFFINITY = BackendSettings(prefix_affinity="provider", prefix_family="anthropic")


class Agents(NamedTuple):
    """The outcome in both ways."""

    name: str
    arrival: Outcome
    affinity: Outcome
    no_later: float

    def targets(self) -> list[Target]:
        """Return what was to be reached."""
        later = self.affinity.median_first_output_seconds / self.arrival.median_first_output_seconds
        return [
            Target(
                f"{self.name}: share of the cacheable tokens that was cached",
                self.affinity.reached,
                REACHED,
                at_least=True,
            ),
            Target(f"{self.name}: median time to the first output, against arrival order", later, self.no_later),
        ]


def simulate() -> Agents:
    """Serve six bursts in virtual time."""
    work = work_of_agents()
    arrival, affinity = (outcome_of(Simulation(work, settings).run()) for settings in (BackendSettings(), AFFINITY))
    return Agents("provider, virtual time", arrival, affinity, NO_LATER)


def measure(report: Callable[[str], None]) -> Agents:
    """Serve bursts with a real daemon, real clients and the provider as a server. Raises `SidecardError` if a process fails."""
    outcomes = []
    for name, by_prefix in (("arrival order", False), ("prefix affinity", True)):
        report(f"provider, {name}: {BURSTS * BURST_SECONDS / SCALE:.0f} s")
        outcomes.append(_serve(affinity=by_prefix))

    arrival, affinity = outcomes
    return Agents("provider, real processes", arrival, affinity, NO_LATER_FOR_REAL)


def draw(results: Sequence[Agents]) -> str:
    """Return the outcomes as a table."""
    rows = [
        (
            result.name if way == "arrival order" else "",
            way,
            count(outcome.calls),
            percent(outcome.reached),
            percent(outcome.read_tokens / outcome.prompt_tokens),
            dollars(outcome.dollars),
            ratio(outcome.dollars / result.arrival.dollars),
            seconds(outcome.median_first_output_seconds),
            seconds(outcome.longest_first_output_seconds),
        )
        for result in results
        for way, outcome in (("arrival order", result.arrival), ("prefix affinity", result.affinity))
    ]
    heads = ("", "way", "calls", "of the cacheable", "cached", "cost", "/ arrival", "first output: median", "longest")
    return render(table("32 workers, 10 agents", heads, rows, align="llrrrrrrr"))


def _serve(*, affinity: bool) -> Outcome:
    prices = {
        "input": INPUT_DOLLARS, "output": OUTPUT_DOLLARS, "cached_input": READ_DOLLARS, "cache_write": WRITE_DOLLARS
    }  # fmt: skip
    settings = {f"{name}_dollars_per_million_tokens": str(price) for name, price in prices.items()}
    if affinity:
        settings |= {
            "prefix_affinity": "provider",
            "prefix_family": "anthropic",
            "prefix_lifetime_seconds": str(LIFETIME_SECONDS / SCALE),
        }

    work = work_of_agents(BURSTS)
    with Processes() as processes:
        flags = [text for key, value in settings.items() for text in ("--set", f"backends.{BACKEND}.{key}={value}")]
        socket, _ = processes.start_daemon("sidecard", *flags)
        server = processes.start(
            *(sys.executable, "-m", "tests.bench.prefixes.agents.server", str(SCALE)),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        assert server.stdout is not None
        url = server.stdout.readline().decode().strip()
        workers = [
            processes.start(
                *(sys.executable, "-m", "tests.bench.prefixes.agents.worker"),
                msgspec.json.encode(AgentAssignment(url, socket, work[number::PROCESSES], SCALE)).decode(),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
            )
            for number in range(PROCESSES)
        ]
        for worker in workers:
            assert worker.stdout is not None
            worker.stdout.readline()

        for worker in workers:
            assert worker.stdin is not None
            worker.stdin.write(b"\n")
            worker.stdin.flush()

        made = []
        for worker in workers:
            output, _ = worker.communicate()
            if worker.returncode:
                raise SidecardError(f"a worker of the bench failed:\n{processes.stderr_of(worker)}")

            made += msgspec.json.decode(output, type=list[Streamed])

        outcome = outcome_of(_sent(made))
        _check(query(socket, GetReport(id=1), Report), outcome)
        return outcome


def _sent(made: list[Streamed]) -> list[Sent]:
    ideal = Ideal()
    return [
        Sent(
            one.wanted_at,
            Answered(
                one.first_output_at, 0.0, one.read_tokens, one.written_tokens, one.plain_tokens, one.output_tokens
            ),
            ideal.readable(one.turn, one.wanted_at),
        )
        for one in sorted(made, key=lambda one: one.wanted_at)
    ]


def _check(report: Report, outcome: Outcome) -> None:
    """Check that the daemon has booked what the provider has billed. Raises `SidecardError`."""
    booked, billed = report.total.billed_dollars, outcome.dollars
    tokens, read = report.total.saved_by_prefix_tokens, outcome.read_tokens
    if abs(booked - billed) > billed / 1e6 or tokens != read:
        raise SidecardError(
            f"the daemon has booked ${booked} and {tokens} cached tokens, the provider ${billed} and {read}"
        )
