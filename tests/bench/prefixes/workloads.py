"""The prompts of the bench: what each application sends, with the same words in every run. Pure.

A script is what one thread of an application does: it sends its turns one after another, and each turn's prompt begins with all
turns and answers before it. A workload is many scripts that start at the same time, in random order.
"""

import random
from collections.abc import Iterator, Sequence

from msgspec import Struct

SEED = 24

_WORDS = (  # noqa: SIM905 - shorter than a list
    "the of a to in is and for with that on as by from are this at be or an not it its all can one may each which when if "
    "account address advice agent answer april balance bank bill border branch bridge budget building cable call card case "
    "change city claim clerk client closing color company contract copy corner cost country court cover credit customer date "
    "delay delivery deposit desk detail dispute distance document door driver engine entry error estate event example factory "
    "family farm fee field file floor form garden glass harbor head house image income interest invoice island item journey "
    "judge key kitchen lake letter level limit line list loan manager map market meeting metal method minute model money month "
    "morning network notice number office order owner package page paper part payment period person phone place plan plant "
    "point policy port price problem product project question rate reason record refund region report request result return "
    "river road room rule sale sample school season service share signal size source staff station storage store street "
    "summer supply surface system table target team term test ticket time tool town track trade train transfer travel tree "
    "user value vehicle version village voice wall warehouse water week wheel window winter worker year zone"
).split()
"""Plain words, most of them one token each."""


class Script(Struct, frozen=True):
    """One thread's calls. ``group`` names the prompt's shared prefix, for the way that sorts by it."""

    group: int
    system: str
    turns: tuple[str, ...]
    answer_tokens: int


class Workload(Struct, frozen=True):
    """Scripts in their random order of arrival."""

    name: str
    about: str
    scripts: tuple[Script, ...]
    shares: bool = True
    """Whether prompts share a prefix."""
    long: bool = False
    """Whether it is one of those with long prefixes, which are measured in every way."""

    @property
    def calls(self) -> int:
        """The number of calls."""
        return sum(len(script.turns) for script in self.scripts)

    def grouped(self) -> tuple[Script, ...]:
        """Return the scripts sorted by prefix, as a caller would who wants to use the prompt cache."""
        return tuple(sorted(self.scripts, key=lambda script: script.group))


def workloads(words: int = 900) -> list[Workload]:
    """Return all workloads. ``words`` is the length of the long prefixes; the other lengths follow it."""
    return [
        _prefixes(words, 8),
        _prefixes(words, 64),
        _documents(words),
        _chats(words),
        _unshared(words),
    ]


def _prefixes(words: int, answer_tokens: int) -> Workload:
    chance = random.Random(SEED)
    systems = [_text(chance, words) for _ in range(6)]
    scripts = [
        Script(group, systems[group], (_question(chance, number),), answer_tokens)
        for number, group in enumerate(group for group in range(6) for _ in range(5))
    ]
    return Workload(
        f"prefixes, {answer_tokens} tokens",
        f"30 calls over 6 prefixes of {words} words, answers of {answer_tokens} tokens",
        _shuffled(chance, scripts),
        long=True,
    )


def _documents(words: int) -> Workload:
    """Retrieval: a system text for all calls, then the documents that suit the question, best first."""
    chance = random.Random(SEED + 1)
    system = _text(chance, words // 3)
    documents = [_text(chance, words // 4) for _ in range(6)]
    scripts = []
    for number in range(24):
        first, second = chance.sample(range(6), 2)
        turn = f"{documents[first]}\n\n{documents[second]}\n\n{_question(chance, number)}"
        scripts.append(Script(first, system, (turn,), 16))

    return Workload(
        "documents",
        f"24 calls: a system text of {words // 3} words, two of 6 documents of {words // 4}, answers of 16 tokens",
        _shuffled(chance, scripts),
    )


def _chats(words: int) -> Workload:
    chance = random.Random(SEED + 2)
    system = _text(chance, words // 6)
    scripts = [
        Script(chat, system, tuple(_text(chance, words // 30) + _question(chance, turn) for turn in range(10)), 16)
        for chat in range(8)
    ]
    return Workload(
        "chats",
        f"8 chats of 10 turns: a system text of {words // 6} words, turns of {words // 30}, answers of 16 tokens",
        tuple(scripts),
    )


def _unshared(words: int) -> Workload:
    chance = random.Random(SEED + 3)
    scripts = [Script(number, _text(chance, words // 3), (_question(chance, number),), 16) for number in range(24)]
    return Workload(
        "nothing shared",
        f"24 calls, each with {words // 3} words of its own, answers of 16 tokens",
        tuple(scripts),
        shares=False,
    )


def random_workload(seed: int) -> Workload:
    """Return a workload of 10 to 40 scripts with 1 to 10 prefixes; its lengths vary more than those of the others."""
    chance = random.Random(seed)
    prefixes, words = chance.randint(1, 10), chance.choice((100, 300, 900, 1500))
    tail, answer_tokens = chance.choice((10, 50, 300)), chance.choice((4, 16, 64, 200))
    systems = [_text(chance, words) for _ in range(prefixes)]
    scripts = []
    for _ in range(chance.randint(10, 40)):
        group, turns = chance.randrange(prefixes), chance.choice((1, 1, 1, 3))
        texts = tuple(_text(chance, tail) + _question(chance, turn) for turn in range(turns))
        scripts.append(Script(group, systems[group], texts, answer_tokens))

    about = f"{len(scripts)} scripts, {prefixes} prefixes of {words} words, turns of {tail}, answers of {answer_tokens} tokens"
    return Workload(f"random {seed}", about, tuple(scripts))


def _question(chance: random.Random, number: int) -> str:
    return f"\nQuestion {number}: what does {_word(chance)} {_word(chance)} mean?"


def _text(chance: random.Random, words: int) -> str:
    return " ".join(_sentences(chance, words))


def _sentences(chance: random.Random, words: int) -> Iterator[str]:
    left = words
    while left > 0:
        length = min(left, chance.randint(6, 14))
        left -= length
        yield " ".join(_word(chance) for _ in range(length)).capitalize() + "."


def _word(chance: random.Random) -> str:
    return chance.choice(_WORDS)


def _shuffled(chance: random.Random, scripts: Sequence[Script]) -> tuple[Script, ...]:
    return tuple(chance.sample(scripts, len(scripts)))
