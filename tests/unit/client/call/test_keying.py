"""The keys of calls whose function was called before: by its template, and the same as by all parts."""

import datetime as dt
import enum
import uuid
from dataclasses import dataclass
from typing import Any

import pytest

from sidecard_client.call.call import UNKEYED, keyed, prepare
from sidecard_client.call.keying import key_parts
from sidecard_client.call.options import Options
from sidecard_client.keys.fingerprint import fingerprint
from sidecard_client.protocol.errors import UnkeyableRequest

DEFAULTS = Options()


class Color(enum.StrEnum):
    """A text that is more than a text."""

    RED = "red"


@dataclass
class Point:
    """What the encoder takes as a map."""

    x: int = 1


class Text(str):
    """A text of another type."""

    __slots__ = ()


class Model:
    """A client whose instances differ by their texts."""

    def __init__(self, model: str | None = None) -> None:
        self.model = model

    def generate(self, prompt: str) -> str:
        """Answer."""
        return prompt


def ask(question: Any, *more: Any) -> None:
    """Be called with anything."""


def ask_with_defaults(question: Any, temperature: float = 0.5, top: int = 3) -> None:
    """Have defaults."""


def ask_with_named_default(question: Any, *, temperature: float = 0.5) -> None:
    """Have a default that only a name gives."""


def ask_anything(**options: Any) -> None:
    """Be called with any name."""


def count(_text: str) -> dict[str, Point]:
    """Return what a type describes."""
    return {}


PLAIN = [
    "text",
    "\u00ff \ufffd \x7f",
    b"\xd6\xff\x00\x00\x00\x00",
    b"\xd7\xff",
    1,
    True,
    None,
    0.5,
    -0.0,
    2**64 - 1,
    [{"role": "user", "content": "why?"}],
    ("a", ["b", {"c": (1, 2.0)}]),
    {1: "a", "b": None},
    Text("text"),
    Color.RED,
    bytearray(b"x"),
    [Text("x")],
    {"b": 1, "a": 2},
]

UNKEYABLE = [
    float("nan"),
    [float("nan")],
    2**64,
    "\ud800",
    Point(),
    [Point()],
    {"p": Point()},
    uuid.UUID(int=1),
    dt.datetime(2026, 1, 1, tzinfo=dt.UTC),
    [dt.datetime(2026, 1, 1, tzinfo=dt.UTC)],
    {1, 2},
    object(),
]


def by_all_parts(options: Options, function: Any, args: tuple[Any, ...], kwargs: dict[str, Any] | None = None) -> str:
    """Return the key without a template."""
    name, bound, named, extras = key_parts(prepare(options, function, args, kwargs or {}))
    return fingerprint(options.task, options.model, name, bound, named, extras=extras)


@pytest.mark.parametrize("function", [ask, ask_with_defaults, ask_with_named_default, count])
@pytest.mark.parametrize("value", PLAIN, ids=lambda value: type(value).__name__)
def test_a_template_makes_the_keys_of_all_parts(function: Any, value: Any) -> None:
    """A template and all parts yield one key, whatever the arguments, and whether defaults are left out."""
    assert prepare(DEFAULTS, function, (value,), {}).key == by_all_parts(DEFAULTS, function, (value,))
    if function is ask:
        assert prepare(DEFAULTS, ask, (value, "x"), {}).key == by_all_parts(DEFAULTS, ask, (value, "x"))


@pytest.mark.parametrize("function", [ask_with_defaults, ask_with_named_default, ask_anything])
@pytest.mark.parametrize("value", PLAIN, ids=lambda value: type(value).__name__)
def test_a_template_makes_the_keys_of_named_arguments(function: Any, value: Any) -> None:
    """In any order, of a name that is a parameter or part of the rest."""
    kwargs = {"temperature": value, "question": "q"}
    key = prepare(DEFAULTS, function, (), kwargs).key
    assert key == by_all_parts(DEFAULTS, function, (), kwargs)
    assert key == prepare(DEFAULTS, function, (), dict(reversed(kwargs.items()))).key
    if function is not ask_anything:
        assert key == prepare(DEFAULTS, function, ("q",), {"temperature": value}).key


@pytest.mark.parametrize("value", UNKEYABLE, ids=lambda value: type(value).__name__)
def test_a_template_refuses_what_has_no_stable_form(value: Any) -> None:
    """The general path raises the error, which names the parameter."""
    prepare(DEFAULTS, ask, ("text",), {})
    with pytest.raises(UnkeyableRequest, match=r"ask: question"):
        prepare(DEFAULTS, ask, (value,), {})

    with pytest.raises(UnkeyableRequest, match=r"ask_anything: question"):
        prepare(DEFAULTS, ask_anything, (), {"question": value})


def test_a_template_is_of_one_task_and_model() -> None:
    """A call for another task, or of another model, does not get the key of the first."""
    keys = {
        prepare(Options(task=task, model=model), ask, ("text",), {}).key
        for task in ("general", "rag")
        for model in (None, "small")
        for _ in range(2)
    }
    assert len(keys) == 4


def test_instances_differ_although_their_method_has_one_template() -> None:
    """An instance without texts, one with, and one whose text changes."""
    model = Model()
    keys = []
    for name in (None, "small", "large", None):
        model.model = name
        keys.append(prepare(DEFAULTS, model.generate, ("text",), {}).key)
        assert keys[-1] == by_all_parts(DEFAULTS, model.generate, ("text",))

    assert keys[0] == keys[3]
    assert len(set(keys)) == 3


@pytest.mark.parametrize(
    "options",
    [
        Options(name="n"),
        Options(key="k"),
        Options(key=None),
        Options(sample=1),
        Options(ignore=("_text",)),
        Options(normalize=("case",)),
        Options(returns=None),
    ],
    ids=["name", "key", "no key", "sample", "ignore", "normalize", "returns"],  # which differ between no two processes
)
def test_a_policy_that_changes_keys_uses_no_template(options: Options) -> None:
    """Its keys differ from those without the policy, although these came first."""
    prepare(DEFAULTS, count, ("Text",), {})
    plain = prepare(DEFAULTS, count, ("Text",), {}).key
    assert prepare(options, count, ("Text",), {}).key != plain


def test_a_replaced_default_counts() -> None:
    """The template of a function does not outlive what it was made of."""

    def local(question: str, top: int = 3) -> str:
        return question * top

    first = prepare(DEFAULTS, local, ("text",), {}).key
    assert first == prepare(DEFAULTS, local, ("text",), {}).key == prepare(DEFAULTS, local, ("text", 3), {}).key
    local.__defaults__ = (4,)
    assert first != prepare(DEFAULTS, local, ("text",), {}).key == prepare(DEFAULTS, local, ("text", 4), {}).key


def test_keys_for_a_task_s_forms_use_no_template() -> None:
    """They wait until the daemon has named the forms."""
    first = prepare(DEFAULTS, ask, ("text",), {}).key
    waiting = prepare(Options(normalize="task"), ask, ("text",), {})
    assert waiting.key == UNKEYED
    assert keyed(waiting, ()).key == first


def test_what_a_call_held_is_known() -> None:
    """Of a method whose key was made by a template, as of any other."""
    held = prepare(DEFAULTS, Model("small").generate, ("text",), {}).held
    assert held == {"self.model": "small"}
