"""A model of llama.cpp's server: its slots, its prompt cache in the host's memory, and the batches that it computes. Pure.

A prompt is a tuple of segments. Sources: llama.cpp's ``tools/server`` (``get_available_slot``, ``update_slots``,
``server_prompt_cache``), November 2026.

- A call gets the idle slot whose prompt has the most in common with its own, if that is a tenth of it, else the one that was not used
  for longest. If less than half of the slot's prompt stays, the old one moves to the host's memory, and a better one from there
  replaces it. A call without an idle slot waits, first in, first out.
- A batch has one token of each slot that produces an answer, and up to 2,048 tokens of prompts.
"""

from dataclasses import dataclass, field

from msgspec import Struct

BATCH_TOKENS = 2048
SIMILAR = 0.1
KEPT = 0.5

Prompt = tuple[tuple[str, int], ...]
"""Segments: what they are, and their tokens."""


class Machine(Struct, frozen=True):
    """How fast the server computes."""

    prompt_tokens_per_second: float
    answer_tokens_per_second: float
    """Of one answer alone."""
    next_answer: float
    """What each further answer adds to the time of a token, as a share of it: 1 where answers gain nothing by being computed
    together."""


TWO_PROCESSORS = Machine(430.0, 95.0, 0.9)
"""Fits the measurements of SmolLM2 with two threads (`sidecard docs benchmarks`) within a tenth."""

ACCELERATOR = Machine(5_000.0, 60.0, 0.05)
"""A model of some billion parameters on a graphics card."""


def length(prompt: Prompt) -> int:
    """Return the number of tokens."""
    return sum(tokens for _, tokens in prompt)


def common(one: Prompt, other: Prompt) -> int:
    """Return the tokens of the longest common prefix."""
    tokens = 0
    for mine, its in zip(one, other, strict=False):
        if mine != its:
            break

        tokens += mine[1]

    return tokens


@dataclass(eq=False)
class Task:
    """A call in the server."""

    prompt: Prompt
    answer: str
    answer_tokens: int
    left: int = 0
    """Tokens of the prompt that have not been processed yet."""
    processed: int = 0
    """Tokens of the prompt that were processed for it."""
    produced: int = 0


@dataclass(eq=False)
class _Slot:
    prompt: Prompt = ()
    task: Task | None = None
    used: int = 0


@dataclass
class Server:
    """The server. Call `step` until it returns None, after each new task too."""

    machine: Machine
    slots: int
    _slots: list[_Slot] = field(default_factory=list)
    _memory: list[Prompt] = field(default_factory=list)
    _waiting: list[Task] = field(default_factory=list)
    _uses: int = 0

    def __post_init__(self) -> None:
        """Create the slots."""
        self._slots = [_Slot() for _ in range(self.slots)]

    def add(self, task: Task) -> None:
        """Add a call."""
        self._waiting.append(task)

    def step(self) -> tuple[float, list[Task], list[Task]] | None:
        """Compute one batch. Return its seconds, the tasks whose first token it has, and those that it ends; None if all is done."""
        while self._waiting and any(slot.task is None for slot in self._slots):
            self._begin(self._waiting.pop(0))

        busy = [(slot, slot.task) for slot in self._slots if slot.task is not None]
        if not busy:
            return None

        answering = [task for _, task in busy if not task.left]
        room = BATCH_TOKENS
        first = []
        for _, task in busy:
            if task.left:
                taken = min(task.left, room)
                task.left -= taken
                room -= taken
                if not task.left:
                    first.append(task)

        seconds = (BATCH_TOKENS - room) / self.machine.prompt_tokens_per_second
        if answering:
            together = 1 + (len(answering) - 1) * self.machine.next_answer
            seconds += together / self.machine.answer_tokens_per_second

        ended = []
        for slot, task in busy:
            task.produced += task in answering or task in first
            if task.produced >= task.answer_tokens:
                ended.append(task)
                self._uses += 1
                slot.prompt, slot.task, slot.used = (*task.prompt, (task.answer, task.answer_tokens)), None, self._uses

        return seconds, first, ended

    def _begin(self, task: Task) -> None:
        idle = [slot for slot in self._slots if slot.task is None]
        slot = max(idle, key=lambda one: common(one.prompt, task.prompt))
        if common(slot.prompt, task.prompt) <= SIMILAR * length(task.prompt):
            slot = min(idle, key=lambda one: one.used)

        kept = common(slot.prompt, task.prompt)
        if slot.prompt and kept < KEPT * length(slot.prompt):
            self._memory.append(slot.prompt)
            best = max(self._memory, key=lambda one: common(one, task.prompt))
            if common(best, task.prompt) > kept:
                self._memory.remove(best)
                kept = common(best, task.prompt)

        slot.task = task
        # At least the last token is always processed.
        task.left = task.processed = max(1, length(task.prompt) - kept)
