"""Scripts: written at random, run, shortened to what matters, and printed as a test.

As FoundationDB has it, not every fault is possible in every life: one that is would drown the others.
"""

import gc
import random
import traceback
from collections.abc import Callable, Sequence
from functools import partial
from itertools import count
from pprint import pformat
from typing import Any, NamedTuple

from tests.simulation.host.patches import simulated
from tests.simulation.host.world import SLOTS, Setting, Step, World
from tests.simulation.host.worlds import SETTINGS

_SHARE_OF_FAULTS = 0.4
"""Of all faults, in one life. FoundationDB activates 25 % of its sections in a run."""

_RATES = (1.0, 1.0, 0.98, 1.02)
"""Clocks on a host agree better than these."""

_PASS_SECONDS = (0.0005, 0.001, 0.002, 0.01, 0.05, 0.2, 0.7)
_ARRIVING_BYTES = (0, 0, 0, 0, 1, 3, 7, 40)
_PAUSE_SECONDS = (0.2, 0.7, 2.5)
_KEPT_BYTES = (0, 0, 5, 1 << 30)
_ACTIONS = ("open", "close", "auto", "auto", "disable")
_SAID: tuple[dict[str, Any], ...] = (
    {"op": "complete", "lease": 0, "value": ["stolen"]},
    {"op": "complete", "lease": 1, "value": ["stolen"]},
    {"op": "append", "lease": 0, "chunk": "stolen"},
    {"op": "append", "lease": 1, "chunk": "stolen"},
    {"op": "fail", "lease": 0, "kind": "fatal", "message": "stolen"},
    {"op": "renew", "lease": 0},
    {"op": "cancel", "target": 1},
    {"op": "purge"},
    {"op": "nonsense"},
    {"op": "stats"},
    {"op": "complete"},
    {"raw": b"\x00\x00\x00\x00"},
    {"raw": b"\x7f"},
    {"raw": b"{]\n"},
)

STEPS_OF_A_LIFE = 600

Fails = Callable[[Sequence[Step]], bool]


class Found(NamedTuple):
    """A script that ends badly, and how."""

    setting: str
    script: list[Step]
    fault: BaseException

    @property
    def where(self) -> tuple[str, str]:
        """Distinguish faults by the place that found them."""
        frame = traceback.extract_tb(self.fault.__traceback__)[-1]
        return frame.filename, frame.line or ""


class Writer:
    """Writes the script of one life, step by step."""

    def __init__(self, setting: Setting, seed: str) -> None:
        self._chance = chance = random.Random(seed)
        self._setting = setting
        orderly = {"go", "pass", "call", "start", "get", "boot"}
        weights = {
            word: weight
            for word, weight in setting.weights.items()
            if word in orderly or chance.random() < _SHARE_OF_FAULTS
        }
        self._words = list(weights)
        self._weights = list(weights.values())
        self._first = list(range(SLOTS))
        slot, kept = partial(chance.randrange, SLOTS), partial(chance.choice, _KEPT_BYTES)
        few, one_of, operator = partial(chance.randrange, 4), chance.choice, SLOTS - 1
        keys = setting.calls["key"]
        self._about: dict[str, Callable[[], tuple[Any, ...]]] = {
            "go": lambda: (chance.randrange(12), one_of(_ARRIVING_BYTES)),
            "pass": lambda: (one_of(_PASS_SECONDS),),
            "call": lambda: (slot(), self._fields()),
            "start": lambda: self._start(slot())[1:],
            "get": lambda: (slot(), one_of(keys)),
            "delete": lambda: (slot(), one_of(keys)),
            "put": lambda: (slot(), one_of(keys)),
            "elsewhere": lambda: (one_of(keys), one_of(_PAUSE_SECONDS), one_of(["ok", "ok", "released"])),
            "interrupt": lambda: (slot(), few()),
            "kill": lambda: (slot(), kept()),
            "cut": lambda: (slot(), few(), kept()),
            "pause": lambda: (slot(), one_of(_PAUSE_SECONDS)),
            "purge": lambda: (operator, one_of([None, "default", "1000:default", "team"])),
            "break": lambda: (operator, one_of(["default", "local", "cloud"]), one_of(_ACTIONS)),
            "say": lambda: (slot(), one_of(_SAID)),
            "half-close": lambda: (slot(),),
            "reload": lambda: (chance.randrange(len(setting.reloads)),),
            "crash": lambda: (kept(),),
            "stop": lambda: (one_of([0.1, 1.0]),),
            "boot": lambda: (),
        }
        """What a step of each word is about; of those that are not here, for how long."""

    def step(self) -> Step:
        """Return the next step."""
        chance = self._chance
        if self._first:
            return self._start(self._first.pop())

        (word,) = chance.choices(self._words, self._weights)
        about = self._about.get(word, lambda: (chance.choice(_PAUSE_SECONDS),))
        return (word, *about())

    def _start(self, slot: int) -> Step:
        return "start", slot, self._setting.kinds[slot], self._setting.uids[slot], self._chance.choice(_RATES)

    def _fields(self) -> dict[str, Any]:
        chance = self._chance
        drawn = {name: chance.choice(choices) for name, choices in self._setting.calls.items()}
        attempts = chance.choice([1, 1, 2])
        seconds, ends = self._setting.calls["seconds"], self._setting.calls["ends"]
        del drawn["seconds"], drawn["ends"]
        fields = {name: value for name, value in drawn.items() if value is not None}
        fields["plan"] = tuple((chance.choice(seconds), chance.choice(ends)) for _ in range(attempts))
        return fields


def live(name: str, seed: str, steps: int) -> tuple[int, Found | None]:
    """Live one random life; return how much happened in it, and what was found."""
    setting = SETTINGS[name]
    writer = Writer(setting, seed)
    script: list[Step] = []
    world = _new_world(setting)
    try:
        for _ in range(steps):
            script.append(writer.step())
            world.do(script[-1])

        world.end()
    except Exception as fault:  # noqa: BLE001 - whatever it is, it is what was looked for
        return world.happenings, Found(name, script, fault)
    finally:
        world.close()

    return world.happenings, None


def live_on(name: str, seed: int, happenings: int) -> tuple[int, Found | None]:
    """Live one life after the other until so much has happened, or something was found; return as `live` does."""
    happened, found = 0, None
    for number in count():
        more, found = live(name, f"{seed} {name} {number}", STEPS_OF_A_LIFE)
        happened += more
        if found is not None or happened >= happenings:
            break

    return happened, found


def replay(name: str, script: Sequence[Step]) -> World:
    """Live a script again. Raises what it ends in."""
    with simulated():
        return relive(name, script)


def relive(name: str, script: Sequence[Step]) -> World:
    """Live a script again, on a stage that is set."""
    world = _new_world(SETTINGS[name])
    try:
        for step in script:
            world.do(step)

        world.end()
    finally:
        world.close()

    return world


def _new_world(setting: Setting) -> World:
    """Make a world. What is left of earlier ones goes now: no finalizer may run within a life, when no script has said so."""
    gc.collect()
    return World(setting)


def outcome(name: str, script: Sequence[Step]) -> Found | None:
    """Live a script again, and return how it ends, if badly."""
    try:
        relive(name, script)
    except Exception as fault:  # noqa: BLE001 - as in `live`
        return Found(name, list(script), fault)

    return None


def shorten(found: Found, trials: int = 3000) -> Found:
    """Leave out of a script what its end does not need: Zeller and Hildebrandt's delta debugging, then step by step.

    A shorter script is taken if it ends in a fault that the same check has found.
    """
    tried = 0

    def fails(script: Sequence[Step]) -> bool:
        nonlocal tried
        tried += 1
        other = outcome(found.setting, script)
        return tried <= trials and other is not None and other.where == found.where

    script = _without_chunks(found.script, fails)
    script = _simpler(script, fails)
    script = _without_chunks(script, fails)
    last = outcome(found.setting, script)
    return found if last is None else last


def _without_chunks(script: list[Step], fails: Fails) -> list[Step]:
    size = len(script)
    while size:
        start = 0
        while start < len(script):
            shorter = script[:start] + script[start + size :]
            if fails(shorter):
                script = shorter
            else:
                start += size

        size //= 2

    return script


def _simpler(script: list[Step], fails: Fails) -> list[Step]:
    """Make the steps that are left say less."""
    for place in range(len(script)):
        for simpler in _simpler_steps(script[place]):
            changed = [*script[:place], simpler, *script[place + 1 :]]
            if fails(changed):
                script = changed

    return script


def _simpler_steps(step: Step) -> list[Step]:
    match step:
        case ("call", slot, fields):
            simpler = [name for name in fields if name not in {"key", "plan"}]
            return [("call", slot, {one: fields[one] for one in fields if one != name}) for name in simpler]
        case ("go", number, size) if size:
            return [("go", number, 0)]
        case _:
            return []


def as_test(found: Found) -> str:
    """Return a script as a test, to be pasted."""
    says = str(found.fault).splitlines()[0] if str(found.fault) else type(found.fault).__name__
    steps = "\n".join(f"            {pformat(step, width=100_000, sort_dicts=False)}," for step in found.script)
    doc = says.replace("\\", "").replace('"""', "'''")[:100].replace('"', "'")
    return (
        "from tests.simulation.host.scripts import replay\n\n\n"
        "def test_finding_is_fixed() -> None:\n"
        f'    """It ended in: {doc}."""\n'
        f"    replay(\n        {found.setting!r},\n        [\n{steps}\n        ],\n    )\n"
    )
