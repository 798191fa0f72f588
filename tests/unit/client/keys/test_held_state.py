"""Attacks on keys: functions that answer differently and look alike, and functions that answer alike and look different."""

import enum
import functools
import re
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta, timezone
from decimal import Decimal
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple
from uuid import UUID

import msgspec
import numpy as np
import pydantic
import pytest

from sidecard_client import Client
from sidecard_client.call.call import prepare
from sidecard_client.call.options import Options
from sidecard_client.keys.naming import name_of
from sidecard_client.protocol.errors import UnkeyableRequest


def key_of(function: Any, *args: Any, **policy: Any) -> Any:
    """Return the key of a call."""
    return prepare(Options(), function, args or ("q",), policy).key


def build(held: Any) -> Callable[[str], Any]:
    """Make a function that captures a value."""

    def answer(question: str) -> Any:
        return held, question

    return answer


def by_default(model: Any, other: Any = None) -> Callable[[str], Any]:
    """Make a function that keeps values as defaults."""

    def answer(question: str, model: Any = model, *, other: Any = other) -> Any:
        return model, question, other

    return answer


def through_another(model: Any) -> Callable[[str], Any]:
    """Make a function that captures one that keeps a value as a default."""

    def inner(question: str, model: Any = model) -> Any:
        return model, question

    def answer(question: str) -> Any:
        return inner(question)

    return answer


def either(flag: bool) -> Callable[[str], str]:
    """Define one name twice."""
    if flag:

        def answer(question: str) -> str:
            return question

    else:

        def answer(question: str) -> str:
            return question * 2

    return answer


def classes(text: str) -> Any:
    """Make a class."""

    class Bot:
        model = text

        def answer(self, question: str) -> str:
            return self.model + question

        def __call__(self, question: str) -> str:
            return self.answer(question)

        @classmethod
        def made(cls, question: str) -> str:
            return cls.model + question

    return Bot


class Plain:
    """An object that compares by identity: a client of a model, with counters and connections."""

    def __init__(self, model: str = "a") -> None:
        self.model = model
        self.calls = 0

    def answer(self, question: str) -> str:
        """Answer."""
        self.calls += 1
        return self.model + question


@dataclass
class Data:
    """An object that compares by value."""

    model: str
    client: Any = None
    calls: int = field(default=0, compare=False)

    def answer(self, question: str) -> str:
        """Answer."""
        return self.model + question


@dataclass(frozen=True, slots=True)
class Frozen:
    """As above, without a dict."""

    model: str
    __secret: str = ""

    def answer(self, question: str) -> str:
        """Answer."""
        return self.model + question


class Pair(NamedTuple):
    """A tuple with names."""

    model: str
    size: int = 0

    def answer(self, question: str) -> str:
        """Answer."""
        return self.model + question


class Model(pydantic.BaseModel):
    """A pydantic model."""

    model: str
    client: Any = None

    def answer(self, question: str) -> str:
        """Answer."""
        return self.model + question


class Packed(msgspec.Struct):
    """A Struct."""

    model: str

    def answer(self, question: str) -> str:
        """Answer."""
        return self.model + question


class Size(enum.Enum):
    """An enumeration with a method."""

    SMALL = 1
    BIG = 2

    def answer(self, question: str) -> str:
        """Answer."""
        return self.name + question


class Color(enum.Enum):
    """Another one with equal values."""

    SMALL = 1


class Text(str):
    """Text that is called."""

    __slots__ = ()

    def __call__(self, question: str) -> str:
        """Answer."""
        return self + question


class Names(dict[str, Any]):
    """A dict that is called."""

    def __call__(self, question: str) -> Any:
        """Answer."""
        return self.get(question)


class Private:
    """An object with a private slot."""

    __slots__ = ("__model",)

    def __init__(self, model: str) -> None:
        self.__model = model

    def __call__(self, question: str) -> str:
        """Answer."""
        return self.__model + question


class Celsius(NamedTuple):
    """A temperature."""

    value: float


class Kelvin(NamedTuple):
    """Another one."""

    value: float


DIFFERENT: dict[str, tuple[Any, Any]] = {
    "a default": (by_default("a"), by_default("b")),
    "a default that is a function": (by_default(len), by_default(repr)),
    "a default by name": (by_default("a", "b"), by_default("a", "c")),
    "a default of a captured function": (through_another("a"), through_another("b")),
    "two definitions of one name": (either(flag=True), either(flag=False)),
    "attributes of local classes, called by method": (classes("a")().answer, classes("b")().answer),
    "attributes of local classes, called": (classes("a")(), classes("b")()),
    "attributes of local classes, by class method": (classes("a").made, classes("b").made),
    "a captured local class": (build(classes("a")), build(classes("b"))),
    "dataclasses": (Data("a").answer, Data("b").answer),
    "frozen dataclasses": (Frozen("a").answer, Frozen("b").answer),
    "private fields": (Frozen("a", "x").answer, Frozen("a", "y").answer),
    "named tuples": (Pair("a").answer, Pair("b").answer),
    "pydantic models": (Model(model="a").answer, Model(model="b").answer),
    "structs": (Packed("a").answer, Packed("b").answer),
    "members": (Size.SMALL.answer, Size.BIG.answer),
    "text": (", ".join, "; ".join),
    "patterns": (re.compile("a").findall, re.compile("b").findall),
    "flags of patterns": (re.compile("a").findall, re.compile("a", re.IGNORECASE).findall),
    "arrays": (np.array([1.0]).dot, np.array([2.0]).dot),
    "subclasses of text": (Text("a"), Text("b")),
    "subclasses of dicts": (Names(a=1), Names(a=2)),
    "private slots": (Private("a"), Private("b")),
    "captured: enumerations": (build(Size.SMALL), build(Color.SMALL)),
    "captured: named tuples": (build(Celsius(1)), build(Kelvin(1))),
    "captured: dataclasses": (build(Data("a")), build(Data("b"))),
    "captured: sets": (build({"a", "b"}), build({"a"})),
    "captured: a set of lists' forms": (build({("a",)}), build({"a"})),
    "captured: dates": (build(date(2026, 1, 1)), build(date(2026, 1, 2))),
    "captured: zones": (
        build(datetime(2026, 1, 1, tzinfo=UTC)),
        build(datetime(2026, 1, 1, tzinfo=timezone(timedelta(0), "X"))),
    ),
    "captured: zones of one name": (
        build(timezone(timedelta(hours=1), "X")),
        build(timezone(timedelta(hours=2), "X")),
    ),
    "captured: texts without a UTF-8 form": (build({"\ud800"}), build({"\ud801"})),
    "captured: a form of such a text": (build("\ud800"), build(b"\xed\xa0\x80")),
    "captured: durations and dates": (build(timedelta(1)), build(timedelta(2))),
    "captured: decimals": (build(Decimal("1.0")), build(Decimal("1.00"))),
    "captured: paths and text": (build(Path("a")), build("a")),
    "captured: identifiers": (build(UUID(int=1)), build(UUID(int=2))),
    "captured: large numbers": (build(2**70), build(str(2**70))),
    "captured: not a number": (build(float("nan")), build("nan")),
    "captured: types of numbers": (build(1), build(True)),
    "captured: signs of zero": (build(0.0), build(-0.0)),
    "captured: text and bytes": (build("a"), build(b"a")),
    "captured: dtypes": (build(np.float32(1)), build(np.float64(1))),
    "captured: shapes": (build(np.zeros((2, 3))), build(np.zeros((3, 2)))),
    "captured: methods of values": (build(Data("a").answer), build(Data("b").answer)),
    "captured: methods of text": (build("a".join), build("b".join)),
    "captured: a form of a class": (build(dict), build({"class": "builtins.dict"})),
    "captured: a form of a module": (build(re), build({"module": "re"})),
    "captured: a form of recursion": (build([[]]), build([{"around": 0}])),
    "captured: types of keys": (build({1: "a"}), build({"1": "a"})),
    "captured: nothing and a text": (build(None), build("None")),
}


@pytest.mark.parametrize(("one", "other"), DIFFERENT.values(), ids=DIFFERENT)
def test_functions_that_answer_differently_do_not_share(one: Any, other: Any) -> None:
    """Whatever makes the difference."""
    assert key_of(one) != key_of(other)
    assert key_of(one) == key_of(one)


ALIKE: dict[str, tuple[Any, Any]] = {
    "plain objects": (Plain("a").answer, Plain("a").answer),
    "fields that do not compare": (Data("a", calls=1).answer, Data("a", calls=2).answer),
    "fields without a stable form": (Data("a", client=object()).answer, Data("a", client=object()).answer),
    "pydantic models": (Model(model="a", client=object()).answer, Model(model="a", client=threading.Lock()).answer),
    "pydantic models, by default": (Model(model="a").answer, Model(model="a", client=None).answer),
    "structs": (Packed("a").answer, Packed("a").answer),
    "local classes": (classes("a")().answer, classes("a")().answer),
    "one definition": (either(flag=True), either(flag=True)),
    "order of a dict": (build({"a": 1, "b": 2}), build({"b": 2, "a": 1})),
    "order of a set": (build({"a", "b", "c"}), build({"c", "b", "a"})),
    "equal arrays": (build(np.arange(3)), build(np.arange(3))),
    "equal instants": (build(datetime(2026, 1, 1, tzinfo=UTC)), build(datetime(2026, 1, 1, tzinfo=UTC))),
    "sidecard's clients": (build(Client("/tmp/one")), build(Client("/tmp/two"))),
    "private slots": (Private("a"), Private("a")),
}


@pytest.mark.parametrize(("one", "other"), ALIKE.values(), ids=ALIKE)
def test_functions_that_answer_alike_share(one: Any, other: Any) -> None:
    """As two processes have them."""
    assert key_of(one) == key_of(other)


class Base:
    """A class with a method that is overridden."""

    def answer(self, question: str) -> str:
        """Answer."""
        return question


class Sub(Base):
    """Calls the overridden method."""

    def answer(self, question: str) -> str:
        """Answer otherwise."""
        return question * 2

    def of_base(self) -> Any:
        """Return the overridden method."""
        return super().answer


def test_an_overridden_method_is_another_one() -> None:
    """An override that shares the call of what it overrides would wait for itself."""
    names = {name_of(Sub().answer), name_of(Sub().of_base()), name_of(Base().answer)}
    assert len(names) == 3
    assert name_of(Sub().of_base()) == f"{name_of(Sub().answer)}<Base.answer>"


class Untouched:
    """Methods that call ``super()`` capture their class, which is in their name."""

    def answer(self, question: str) -> str:
        """Answer."""
        return super().__repr__() + question


def test_a_method_that_calls_super_holds_nothing() -> None:
    """Its hits take no longer."""
    assert prepare(Options(), Untouched().answer, ("q",), {}).key == key_of(Untouched().answer)
    assert (
        key_of(Untouched().answer) == prepare(Options(name=name_of(Untouched().answer)), Plain().answer, ("q",), {}).key
    )


def retrying(function: Callable[..., Any]) -> Callable[..., Any]:
    """Decorate with a state that has no stable form, as libraries for retries do."""
    lock = threading.Lock()

    @functools.wraps(function)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        with lock:
            return function(*args, **kwargs)

    return wrapper


@retrying
def ask(question: str) -> str:
    """Be what a module means by this name."""
    return question


class Robot:
    """Has a decorated method."""

    @retrying
    def ask(self, question: str) -> str:
        """Answer."""
        return question


@functools.singledispatch
def dispatched(question: str) -> str:
    """Be decorated by another module's function, with caches of its own."""
    return question


class Lazy:
    """An object that computes an attribute of another one, once."""

    def __init__(self, model: str) -> None:
        self.model = model

    @functools.cached_property
    def long(self) -> str:
        """Compute it."""
        return self.model * 2

    def __call__(self, question: str) -> str:
        """Answer."""
        return self.long + question


class Raising:
    """Raises for every attribute."""

    def __getattr__(self, name: str) -> Any:
        raise RuntimeError(name)

    def __call__(self, question: str) -> str:
        """Answer."""
        return question


def test_what_is_computed_of_attributes_does_not_count() -> None:
    """The attributes do."""
    lazy = Lazy("a")
    before = key_of(lazy)
    lazy("q")
    assert key_of(lazy) == before != key_of(Lazy("b"))
    assert key_of(Raising()) == key_of(Raising())


def test_a_decorated_function_of_a_module_needs_no_name() -> None:
    """Each process has one of it, whatever its decorator holds. A local one may be any of many."""
    assert key_of(ask) == key_of(ask)
    assert key_of(dispatched) == key_of(dispatched) != key_of(ask)
    assert key_of(Robot().ask) == key_of(Robot().ask)

    @retrying
    def local(question: str) -> str:
        return question

    with pytest.raises(UnkeyableRequest, match=r"'lock' of .*local .*name="):
        key_of(local)


def test_functions_of_one_name_in_a_module_are_several() -> None:
    """A later definition takes the name; registries keep both."""
    module = ModuleType("registry")
    registered: list[Any] = []
    source = "@register\ndef _(q): return 1\n@register\ndef _(q): return 2\ndef alone(q): return 3\n"
    exec(compile(source, "registry.py", "exec"), _with(module, registered))  # noqa: S102 - a module as a text
    one, other = registered
    assert key_of(one) != key_of(other)
    assert name_of(module.alone).endswith("registry.alone")
    assert name_of(other).endswith("registry._")
    assert name_of(one).endswith("registry._@1")


def _with(module: ModuleType, registered: list[Any]) -> dict[str, Any]:
    variables = vars(module)

    def register(function: Any) -> Any:
        registered.append(function)
        return function

    variables["register"] = register
    return variables


def test_a_local_functions_name_survives_changes_above() -> None:
    """Its line counts from the function around it."""
    source = "def outer():\n    def inner(q): return q\n    return inner\n"
    names = set()
    for above in ("", "\n\n\n", "import re\n"):
        module = ModuleType("shifted")
        exec(compile(above + source, "shifted.py", "exec"), vars(module))  # noqa: S102 - as above
        names.add(name_of(module.outer()))

    (name,) = names
    assert name.endswith("shifted.outer.<locals>.inner+1")


UNSTABLE = [object(), threading.Lock(), iter("a"), Plain("a"), Plain("a").answer, [].append, lambda: 1]


@pytest.mark.parametrize("held", UNSTABLE, ids=lambda held: type(held).__name__)
def test_what_has_no_stable_form_is_refused(held: Any) -> None:
    """In a closure, in a default of a local function, and within a container; with the place, and what to do."""
    for function in (build(held), by_default(held), build([held]), build({"a": held}), build({"a": (held,)})):
        with pytest.raises(UnkeyableRequest, match=r"'(held|model)'.* of .*answer.*name=.*or pass it as an argument"):
            key_of(function)


def test_what_a_call_changes_counts_as_it_is_then() -> None:
    """It may change the answer."""
    asked: list[str] = []
    count = 0

    def counting(question: str) -> str:
        nonlocal count
        count += 1
        return f"{question}{count}"

    def remembering(question: str) -> str:
        asked.append(question)
        return f"{asked}"

    for function in (counting, remembering):
        before = key_of(function)
        function("q")
        assert key_of(function) != before
        assert key_of(function, name="n") == key_of(build("a"), name="n")
