"""Equal calls are keyed equally, however they are written; different ones never."""

import inspect
import re
from functools import lru_cache, partial, wraps
from typing import Any
from xmlrpc.client import ServerProxy

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecard_client.call.call import prepare
from sidecard_client.call.options import Options
from sidecard_client.keys.identity import identity_of
from sidecard_client.protocol.errors import UnkeyableRequest

SENTINEL = object()


def bind(function: Any, args: tuple[Any, ...], kwargs: dict[str, Any], ignore: tuple[str, ...] = ()) -> Any:
    """Bind the arguments of a call."""
    return identity_of(function).bind(args, kwargs, ignore)


def f(q: Any, n: Any = 1, *, t: Any = 0.5) -> Any:
    """Take one of each."""
    return q, n, t


def rest(q: Any, n: Any = 1, *more: Any, t: Any = None, **named: Any) -> Any:
    """Take everything."""
    return q, n, more, t, named


def only(a: Any, /, b: Any = 2, **named: Any) -> Any:
    """Take a positional one whose name is free for others."""
    return a, b, named


def unset(q: Any, n: Any = SENTINEL, m: Any = 3, *, t: Any = SENTINEL) -> Any:
    """Tell what was not given by a value that has no stable form."""
    return q, n, m, t


@wraps(f)
def wrapper(*args: Any, **kwargs: Any) -> Any:
    """Take what the wrapped function takes."""
    return f(*args, **kwargs)


@wraps(f)
def own(q: Any, n: Any = 2) -> Any:
    """Have another default than the wrapped function."""
    return f(q, n)


class Static:
    """An object that is called without itself."""

    @staticmethod
    def __call__(q: Any, n: Any = 1) -> Any:
        """Take only arguments."""
        return q, n


class Model:
    """Something with methods."""

    def method(self, q: Any, n: Any = 1) -> Any:
        """Take the instance as the first parameter."""
        return q, n

    def packed(*args: Any, **kwargs: Any) -> Any:
        """Take the instance among others."""
        return args, kwargs

    @classmethod
    def made(cls, q: Any, n: Any = 1) -> Any:
        """Take the class as the first parameter."""
        return q, n

    @staticmethod
    def static(q: Any, n: Any = 1) -> Any:
        """Take only arguments."""
        return q, n

    def __call__(self, q: Any, n: Any = 1) -> Any:
        """Be called itself."""
        return q, n


BOUND: list[tuple[Any, tuple[Any, ...], dict[str, Any], tuple[Any, ...], dict[str, Any]]] = [
    (f, ("q",), {}, ("q", 1), {"t": 0.5}),
    (f, (), {"q": "q"}, ("q", 1), {"t": 0.5}),
    (f, ("q",), {"n": 1}, ("q", 1), {"t": 0.5}),
    (f, (), {"n": 2, "t": 1, "q": "q"}, ("q", 2), {"t": 1}),
    (rest, ("q", 2, 3), {"x": 4}, ("q", 2, 3), {"t": None, "x": 4}),
    (rest, ("q",), {"self": 4}, ("q", 1), {"t": None, "self": 4}),
    (only, (1,), {"a": 3}, (1, 2), {"a": 3}),
    (unset, ("q",), {}, ("q",), {"m": 3}),
    (unset, ("q", 1), {}, ("q", 1, 3), {}),
    (unset, ("q",), {"t": 1, "m": 4}, ("q",), {"m": 4, "t": 1}),
    (wrapper, (), {"q": "q"}, ("q",), {}),
    (wrapper, ("q",), {"t": 1, "n": 2}, ("q", 2), {"t": 1}),
    (own, ("q",), {}, ("q", 2), {}),
    (lru_cache(f), ("q",), {}, ("q", 1), {"t": 0.5}),
    (Static(), (), {"q": "q"}, ("q", 1), {}),
    (rest, ("q",), {"*": [2]}, ("q",), {"*": [2]}),
    (Model().method, (), {"q": "q"}, ("q", 1), {}),
    (Model.method, ("self",), {"q": "q"}, ("self", "q", 1), {}),
    (Model().packed, ("q",), {"n": 1}, ("q",), {"n": 1}),
    (Model.made, (), {"q": "q"}, ("q", 1), {}),
    (Model.static, (), {"q": "q"}, ("q", 1), {}),
    (Model(), (), {"q": "q"}, ("q", 1), {}),
    (partial(f, "q", t=1), (), {"n": 3}, ("q", 3), {"t": 1}),
    (partial(partial(f, t=1), t=2), ("q",), {}, ("q", 1), {"t": 2}),
    (len, ("q",), {}, ("q",), {}),
    (dict, (), {"q": "q"}, (), {"q": "q"}),
]


@pytest.mark.parametrize(("function", "args", "kwargs", "positional", "named"), BOUND)
def test_arguments_are_bound_to_the_signature(
    function: Any, args: Any, kwargs: Any, positional: Any, named: Any
) -> None:
    """Defaults are applied, and parameters have one place."""
    assert bind(function, args, kwargs) == (positional, named)


@pytest.mark.parametrize(
    ("function", "args", "kwargs"),
    [
        (f, (), {}),
        (f, ("q", 1, 2), {}),
        (f, ("q",), {"q": "q"}),
        (f, ("q",), {"x": 1}),
        (only, (), {"a": 1}),
        (wrapper, (), {}),
    ],
)
def test_a_call_that_the_function_rejects_is_keyed_as_written(function: Any, args: Any, kwargs: Any) -> None:
    """The function's own error reaches the caller."""
    assert bind(function, args, kwargs) == (args, kwargs)


def test_an_ignored_parameter_is_left_out_wherever_it_is_given() -> None:
    """The parameters after it are named then."""
    assert bind(f, ("q", 5), {}, ("n",)) == (("q",), {"t": 0.5})
    assert bind(f, (), {"q": "q", "n": 6}, ("n",)) == (("q",), {"t": 0.5})
    assert bind(f, ("q", 5), {"t": 1}, ("q", "t")) == ((), {"n": 5})
    assert bind(rest, ("q", 5, 6), {}, ("n", "t")) == (("q",), {"*": [6]})


def test_calls_by_position_and_by_name_share() -> None:
    """And calls that differ do not."""

    def key(*args: Any, **kwargs: Any) -> Any:
        return prepare(Options(), f, args, kwargs).key

    assert key("q") == key(q="q") == key("q", 1) == key("q", t=0.5)
    assert len({key("q"), key("q", 2), key("q", t=1), key("r"), key(["q"])}) == 5


SIGNATURES: list[Any] = [f, rest, only, unset, lru_cache(f), Model().method, Model.made, Model()]
VALUES = st.sampled_from([0, 1, "q", None])
NAMES = st.sampled_from(["q", "n", "m", "t", "a", "b", "x"])


@given(st.sampled_from(SIGNATURES), st.lists(VALUES, max_size=4), st.dictionaries(NAMES, VALUES, max_size=4))
def test_equal_calls_and_only_they_are_bound_alike(function: Any, args: list[Any], kwargs: dict[str, Any]) -> None:
    """Calls are equal or not by the standard library's judgement of what a call means."""
    signature = inspect.signature(function)
    try:
        function(*args, **kwargs)  # `Signature.bind` of some versions accepts what the call does not
    except TypeError:
        return

    meant = signature.bind(*args, **kwargs)
    meant.apply_defaults()
    # The same call, written with as many names as possible.
    positional: list[Any] = []
    named: dict[str, Any] = {}
    for name, parameter in signature.parameters.items():
        value = meant.arguments[name]
        if parameter.kind is parameter.VAR_POSITIONAL:
            positional += value
        elif parameter.kind is parameter.VAR_KEYWORD:
            named.update(value)
        elif value is SENTINEL:
            continue
        elif parameter.kind is parameter.POSITIONAL_ONLY or meant.arguments.get("more"):
            positional.append(value)
        else:
            named[name] = value

    if not (function is rest and meant.arguments["more"]):
        assert bind(function, tuple(positional), named) == bind(function, tuple(args), kwargs)

    # What was bound still means the same call.
    bound_args, bound_kwargs = bind(function, tuple(args), kwargs)
    again = signature.bind(*bound_args, **bound_kwargs)
    again.apply_defaults()
    assert again.arguments == meant.arguments


def test_defaults_that_a_decorator_may_change_are_not_applied() -> None:
    """It may pass on another value where its caller gives none."""

    @wraps(f)
    def warm(*args: Any, **kwargs: Any) -> Any:
        kwargs.setdefault("t", 0.9)
        return f(*args, **kwargs)

    def key(*args: Any, **kwargs: Any) -> Any:
        return prepare(Options(name="warm"), warm, args, kwargs).key

    assert key("q") != key("q", t=0.5)
    assert key("q", 1) == key(q="q", n=1)


def test_code_and_defaults_that_are_replaced_count() -> None:
    """As tests, reloads and instrumentation do."""

    def answer(q: Any, n: Any = 1) -> Any:
        return q, n

    def other(q: Any, *, m: Any = 3) -> Any:
        return q, m

    assert bind(answer, ("q",), {}) == (("q", 1), {})
    answer.__defaults__ = (2,)
    assert bind(answer, ("q",), {}) == (("q", 2), {})
    answer.__defaults__ = ([],)
    assert bind(answer, ("q",), {}) == (("q", []), {})
    answer.__defaults__[0].append(object())  # a mutable default
    assert bind(answer, ("q",), {}) == (("q",), {})
    answer.__code__, answer.__defaults__, answer.__kwdefaults__ = other.__code__, None, {"m": 4}
    assert bind(answer, ("q",), {}) == (("q",), {"m": 4})
    answer.__kwdefaults__ = {"m": 5}
    assert bind(answer, ("q",), {}) == (("q",), {"m": 5})


def test_equal_defaults_of_another_type_count() -> None:
    """1 and True are two arguments, also of a function that captures a variable."""
    captured = "x"

    def answer(q: Any, n: Any = 1) -> Any:
        return q, n, captured

    assert bind(answer, ("q",), {}) == (("q", 1), {})
    answer.__defaults__ = (True,)
    assert bind(answer, ("q",), {})[0][1] is True


def test_a_name_stands_for_what_a_partial_holds() -> None:
    """What the call adds counts, and what it replaces."""

    def key(function: Any, *args: Any, **kwargs: Any) -> Any:
        return prepare(Options(name="n"), function, args, kwargs).key

    assert key(partial(f, object()), 2) == key(partial(f, SENTINEL), n=2) != key(partial(f, "q"), 3)
    assert key(partial(f, t=SENTINEL), "q") == key(partial(f, t=1), q="q") != key(partial(f, t=1), "q", t=2)
    assert key(partial(partial(f, "q"), 1), t=2) == key(partial(partial(f, "r"), 5), t=2)


def test_a_partial_whose_argument_has_no_stable_form_asks_for_a_name() -> None:
    """It is what the partial holds, not what the call gives."""
    with pytest.raises(UnkeyableRequest, match=r"partial.*name="):
        prepare(Options(), partial(f, SENTINEL), (), {})

    with pytest.raises(UnkeyableRequest, match=r"^f: n is"):
        prepare(Options(), partial(f, "q"), (SENTINEL,), {})


def ask(question: Any, n: Any = 1, *rest: Any, flag: Any = None, **more: Any) -> str:
    """Answer."""
    return f"{question}{n}{rest}{flag}{more}"


@pytest.mark.parametrize(
    ("function", "args", "kwargs", "words"),
    [
        (ask, ("q", SENTINEL), {}, "ask: n is a builtins.object"),
        (ask, (), {"question": "q", "n": {"a": [1, SENTINEL]}}, "ask: n['a'][1] is a builtins.object"),
        (ask, ("q", {SENTINEL: 1}), {}, "ask: n has a key of type object"),
        (ask, ("q", 1, SENTINEL), {}, "ask: args[2] is a builtins.object"),
        (ask, ("q",), {"flag": SENTINEL}, "ask: flag is a builtins.object"),
        (ask, ("q",), {"seed": {1: SENTINEL}}, "ask: seed[1] is a builtins.object"),
        (ask, (["args[1]", float("nan")],), {}, "ask: question[1] is NaN"),
        (partial(ask, "q"), (SENTINEL,), {"name": "n"}, "ask: n is a builtins.object"),
        (max, (1, SENTINEL), {}, "max: args[1] is a builtins.object"),
    ],
)
def test_an_argument_without_a_stable_form_is_named_as_its_parameter(
    function: Any, args: Any, kwargs: Any, words: str
) -> None:
    """However the call is written, and with the function, of which a program has many."""
    with pytest.raises(UnkeyableRequest, match=f"^{re.escape(words)}"):
        prepare(Options(), function, args, kwargs)


class Proxy:
    """Returns itself for any attribute, as clients of remote procedures do."""

    def __getattr__(self, name: str) -> "Proxy":
        return self

    def __call__(self, q: Any) -> Any:
        """Be called far away."""
        return q


def test_a_proxy_is_not_looked_through_for_ever() -> None:
    """It answers for every name."""
    assert bind(Proxy().server.ask, (), {"q": 1}) == ((1,), {})
    assert prepare(Options(name="n"), Proxy(), ("q",), {}).key
    assert prepare(Options(), ServerProxy("http://localhost/").ask, ("q",), {"name": "n"}).key


def test_functions_that_wrap_themselves_are_no_endless_loop() -> None:
    """A mistake of a decorator."""

    def answer(q: Any) -> Any:
        return q

    answer.__wrapped__ = answer  # type: ignore[attr-defined]  # the mistake
    assert bind(answer, ("q",), {}) == (("q",), {})
