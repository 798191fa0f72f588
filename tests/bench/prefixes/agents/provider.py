"""A simulated provider with a prompt cache, and what agents send it. Pure.

The cache is Anthropic's: it holds prefixes up to their marks, an entry can be read once the output of the call that
writes it begins, and expires five minutes after its last use. Prices are those of Claude Opus 5
(platform.claude.com/docs/en/about-claude/pricing, November 2026).
"""

import hashlib
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from msgspec import Struct

from sidecard_client.protocol.values import BYTES_PER_TOKEN, PREFIX_CHARACTERS

LIFETIME_SECONDS = 300.0
MIN_TOKENS = 1024

INPUT_DOLLARS, WRITE_DOLLARS, READ_DOLLARS, OUTPUT_DOLLARS = 5.0, 6.25, 0.5, 25.0
"""Per million tokens."""

LATENCY_SECONDS = 0.5
TOKENS_PER_SECOND = 5_000.0
"""Of a prompt that is not cached."""
OUTPUT_TOKENS_PER_SECOND = 60.0


class Turn(Struct, frozen=True):
    """One call: its prompt's marked prefixes, the shortest first, with their lengths; the last is the whole prompt."""

    prefix: tuple[str, ...]
    tokens: tuple[int, ...]
    output_tokens: int
    pause_seconds: float
    """From the end of the previous call of the worker until this one is wanted."""

    @property
    def prefix_bytes(self) -> tuple[int, ...]:
        """The lengths as `Begin.prefix_bytes` has them."""
        return tuple(tokens * BYTES_PER_TOKEN for tokens in self.tokens)


class Answered(Struct, frozen=True):
    """What the provider did for a call that was sent at ``at``."""

    first_output_at: float
    ends_at: float
    read_tokens: int
    written_tokens: int
    plain_tokens: int
    output_tokens: int

    @property
    def dollars(self) -> float:
        """The price."""
        return (
            self.plain_tokens * INPUT_DOLLARS
            + self.written_tokens * WRITE_DOLLARS
            + self.read_tokens * READ_DOLLARS
            + self.output_tokens * OUTPUT_DOLLARS
        ) / 1e6


@dataclass
class Provider:
    """The prompt cache: for each prefix, when it can be read first, and when it was last used."""

    _readable_at: dict[str, float] = field(default_factory=dict)
    _used_at: dict[str, float] = field(default_factory=dict)

    def call(self, turn: Turn, at: float) -> Answered:
        """Answer a call. Calls come in the order of their times."""
        marks = [mark for mark in zip(turn.prefix, turn.tokens, strict=True) if mark[1] >= MIN_TOKENS]
        read = max((tokens for digest, tokens in marks if self._warm(digest, at)), default=0)
        written = max((tokens for _, tokens in marks), default=0) - read
        plain = turn.tokens[-1] - read - written
        first_output_at = at + LATENCY_SECONDS + (written + plain) / TOKENS_PER_SECOND
        for digest, tokens in marks:
            if tokens <= read:
                self._used_at[digest] = at
            elif not self._warm(digest, at):
                # Of several calls that write it at the same time, the first makes it readable.
                pending = self._readable_at.get(digest, -1.0)
                self._readable_at[digest] = min(pending, first_output_at) if pending > at else first_output_at
                self._used_at[digest] = max(first_output_at, self._used_at.get(digest, 0.0))

        ends_at = first_output_at + turn.output_tokens / OUTPUT_TOKENS_PER_SECOND
        return Answered(first_output_at, ends_at, read, written, plain, turn.output_tokens)

    def _warm(self, digest: str, at: float) -> bool:
        readable_at = self._readable_at.get(digest)
        return readable_at is not None and readable_at <= at < self._used_at[digest] + LIFETIME_SECONDS


@dataclass
class Ideal:
    """What a schedule could read at most: each prefix that an earlier call within the lifetime had."""

    _used_at: dict[str, float] = field(default_factory=dict)

    def readable(self, turn: Turn, at: float) -> int:
        """Return the tokens of a call that is wanted at ``at`` that could be read. Calls come in the order of their times."""
        tokens = max(
            (
                tokens
                for digest, tokens in zip(turn.prefix, turn.tokens, strict=True)
                if tokens >= MIN_TOKENS and at < self._used_at.get(digest, float("-inf")) + LIFETIME_SECONDS
            ),
            default=0,
        )
        self._used_at.update(dict.fromkeys(turn.prefix, at))
        return tokens


# The workload --------------------------------------------------------------------------------------------------------

SEED = 25
WORKERS = 32
AGENTS = 10
BURSTS = 6
BURST_SECONDS = 400.0
"""Longer than a burst's calls and the lifetime together: each burst finds a cold cache."""


def work_of_agents(bursts: int = BURSTS, seed: int = SEED) -> list[list[Turn]]:
    """Return the turns of each worker.

    When a burst begins, every worker takes a task of one of the agents within half a second, as workers of a queue do. A task has
    one to four turns; each begins with the agent's tools and instructions (3,000 to 20,000 tokens) and with all turns before it.
    ``pause_seconds`` of a burst's first turn counts from the burst's beginning.
    """
    chance = random.Random(seed)
    lengths = [chance.randrange(3_000, 20_000) for _ in range(AGENTS)]
    return [
        [turn for burst in range(bursts) for turn in _task(chance, lengths, f"{worker}.{burst}")]
        for worker in range(WORKERS)
    ]


def _task(chance: random.Random, lengths: Sequence[int], name: str) -> Iterator[Turn]:
    agent = chance.randrange(AGENTS)
    prefix, tokens = [_digest(f"agent {agent}")], [lengths[agent]]
    for number in range(chance.randint(1, 4)):
        prefix.append(_digest(f"task {name}, turn {number}"))
        tokens.append(tokens[-1] + chance.randrange(200, 800))
        pause = chance.uniform(0, 0.5) if number == 0 else chance.uniform(0.5, 4.0)
        yield Turn(tuple(prefix), tuple(tokens), chance.randrange(50, 300), pause)


def is_first(turn: Turn) -> bool:
    """Return whether a turn is the first of its task."""
    return len(turn.prefix) == 2  # the agent's prefix, and its own


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:PREFIX_CHARACTERS]
