"""A worker of the demo: an app process that asks its questions through sidecard.

``python -m sidecard.cli.demo.worker`` reads a `Plan` as a line of JSON, and then an empty line at the start of each burst. It writes
lines of JSON: `Waiting` before a burst, `DemoAnswer` after each question.
"""

import sys
from time import sleep
from typing import IO, Any, Final
from urllib.request import ProxyHandler, Request, build_opener

import msgspec
from msgspec import Struct

from sidecard.cli.demo.model import ModelQuestion, ModelReply
from sidecard.cli.demo.workload import Turn
from sidecard_client import Client, Usage

TASK: Final = "demo"

PROMPT_DOLLARS_PER_MILLION_TOKENS: Final = 0.15
COMPLETION_DOLLARS_PER_MILLION_TOKENS: Final = 0.60
"""Assumed prices, which the demo prints: a local model is free, and small hosted models cost this much."""

PATIENCE_SECONDS: Final = 3600.0
"""Time limit of a call and lifetime of an answer: long, because a large model may be slow and the demo counts calls."""

DAEMON_TIMEOUT_SECONDS: Final = 10.0
"""Twenty times the default, because the model keeps the processors busy and no call may bypass the daemon."""

opener = build_opener(ProxyHandler({}))
"""Opens the model's URL and ignores proxies, because the model is local."""


class Plan(Struct, frozen=True):
    """The questions of one worker, and where to send them."""

    socket: str
    model_url: str
    model_name: str
    turns: list[Turn]


class Waiting(Struct, frozen=True, tag="waiting"):
    """The worker is ready for the next burst."""


class DemoAnswer(Struct, frozen=True, tag="asked"):
    """One question and its outcome, as the worker saw them."""

    question: str
    source: str
    text: str
    prompt_tokens: int
    completion_tokens: int


def cost_dollars(prompt_tokens: int, completion_tokens: int) -> float:
    """Return the assumed cost of a call."""
    prompt_dollars = prompt_tokens * PROMPT_DOLLARS_PER_MILLION_TOKENS
    return (prompt_dollars + completion_tokens * COMPLETION_DOLLARS_PER_MILLION_TOKENS) / 1e6


def usage_of(reply: dict[str, Any]) -> Usage:
    """Return the usage of a call, for the client."""
    prompt_tokens, completion_tokens = reply["prompt_tokens"], reply["completion_tokens"]
    return Usage(
        prompt_tokens=prompt_tokens,
        completion_tokens=completion_tokens,
        cost_dollars=cost_dollars(prompt_tokens, completion_tokens),
    )


def work(plan: Plan, lines: IO[bytes], output: IO[bytes]) -> None:
    """Ask the plan's questions in order."""

    def report(message: Waiting | DemoAnswer) -> None:
        output.write(msgspec.json.encode(message) + b"\n")
        output.flush()

    def ask_model(question: str) -> dict[str, Any]:
        request = Request(plan.model_url, msgspec.json.encode(ModelQuestion(question)))  # noqa: S310 - the demo's own URL
        with opener.open(request, timeout=PATIENCE_SECONDS) as response:
            reply: dict[str, Any] = msgspec.to_builtins(msgspec.json.decode(response.read(), type=ModelReply))
            return reply

    with Client(
        plan.socket,
        task=TASK,
        daemon_timeout=DAEMON_TIMEOUT_SECONDS,
        ttl=PATIENCE_SECONDS,
        wait=PATIENCE_SECONDS,
        usage=usage_of,
        on_unavailable="raise",
    ) as client:
        for turn in plan.turns:
            if turn.burst:
                report(Waiting())
                if not lines.readline():
                    return  # the demo has ended
            else:
                sleep(turn.pause_seconds)

            outcome = client.outcome(ask_model, turn.question, name="demo.ask_model", model=plan.model_name)
            report(DemoAnswer(turn.question, outcome.source, **outcome.value))


def main() -> None:
    """Execute the plan on standard input."""
    plan = msgspec.json.decode(sys.stdin.buffer.readline(), type=Plan)
    work(plan, sys.stdin.buffer, sys.stdout.buffer)


if __name__ == "__main__":
    main()
