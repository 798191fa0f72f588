"""Whose keyword is it, and what may it hold: the table of policies."""

import functools
import struct
from typing import Any

import pytest

from sidecard_client.call.failures import default_classify
from sidecard_client.call.options import POLICY_KEYWORDS, Options, declared_policy_keywords, split
from sidecard_client.keys.vectors import Embedding
from sidecard_client.protocol.errors import UnkeyableRequest

DEFAULTS = Options()


def plain(prompt: str, temperature: float = 0) -> str:
    """Take nothing of sidecard's."""
    return f"{prompt}{temperature}"


def with_model(prompt: str, *, model: str) -> str:
    """Take the one keyword that both have."""
    return prompt + model


def with_ttl(prompt: str, ttl: int = 3) -> str:
    """Take a keyword that is sidecard's too."""
    return f"{prompt}{ttl}"


def with_anything(prompt: str, **parameters: Any) -> str:
    """Take whatever comes."""
    return f"{prompt}{parameters}"


def test_split_without_keywords_changes_nothing() -> None:
    """The hot path allocates nothing."""
    keywords: dict[str, Any] = {}
    options, own = split(DEFAULTS, [plain], keywords)
    assert options is DEFAULTS
    assert own is keywords


def test_split_leaves_the_functions_own_keywords() -> None:
    """Every other keyword goes to the function."""
    keywords = {"temperature": 0.5}
    assert split(DEFAULTS, [plain], keywords) == (DEFAULTS, keywords)


def test_split_takes_every_policy_keyword() -> None:
    """Each policy keyword has its field."""
    policy: dict[str, Any] = {
        "task": "rag",
        "namespace": "team",
        "ttl": 600,
        "max_age": 30,
        "stale": 60,
        "failure_ttl": 5,
        "wait": 30,
        "mode": "refresh",
        "model": "m",
        "name": "n",
        "key": "k",
        "tags": ["a", "b"],
        "ignore": ["trace"],
        "sample": 2,
        "returns": list[str],
        "normalize": ["space", "nfc"],
        "deterministic": True,
        "usage": len,
        "store": bool,
        "valid": bool,
        "classify": default_classify,
        "embed": {"model": len},
        "pace": 0.1,
        "redact": max,
        "on_unavailable": "raise",
        "backend": "cloud",
        "route": "cheapest",
        "retries": 2,
        "sovereign": True,
        "prefix": ["Be brief.", b"x"],
    }
    assert policy.keys() == POLICY_KEYWORDS - {"vector"}  # which is another way to the field of ``embed``
    options, own = split(DEFAULTS, [plain], policy | {"temperature": 1})
    assert own == {"temperature": 1}
    assert options == Options(
        task="rag",
        namespace="team",
        ttl_seconds=600.0,
        max_age_seconds=30.0,
        stale_seconds=60.0,
        failure_ttl_seconds=5.0,
        wait_seconds=30.0,
        mode="refresh",
        model="m",
        name="n",
        key="k",
        tags=("a", "b"),
        ignore=("trace",),
        sample=2,
        returns=None,
        normalize=("nfc", "space"),
        deterministic=True,
        store=bool,
        valid=bool,
        usage=len,  # type: ignore[arg-type]  # any callable will do here
        classify=default_classify,
        embed=Embedding("model", len),  # type: ignore[arg-type]  # any callable will do here
        pace_seconds=0.1,
        redact=max,
        on_unavailable="raise",
        backend="cloud",
        route="cheapest",
        retries=2,
        sovereign=True,
        prefix=("Be brief.", b"x"),
    )


@pytest.mark.parametrize("function", [with_model, with_anything])
def test_split_gives_model_to_both_where_the_function_takes_it(function: Any) -> None:
    """``model`` is part of the key and reaches the function."""
    options, own = split(DEFAULTS, [function], {"model": "m"})
    assert options.model == "m"
    assert own == {"model": "m"}


def test_split_keeps_model_from_a_function_that_does_not_take_it() -> None:
    """``model`` then only enters the key."""
    options, own = split(DEFAULTS, [plain], {"model": "m"})
    assert options.model == "m"
    assert own == {}


def test_split_leaves_a_model_that_is_no_text_to_the_function() -> None:
    """It enters the key as an argument, or is refused there."""
    options, own = split(DEFAULTS, [with_model], {"model": 4})
    assert options.model is None
    assert own == {"model": 4}


def test_split_refuses_a_model_that_some_backends_take() -> None:
    """A keyword that both sides declare is ambiguous."""
    with pytest.raises(TypeError, match="all of them that parameter, or none"):
        split(DEFAULTS, [with_model, plain], {"model": "m"})


def test_split_refuses_a_keyword_that_both_declare() -> None:
    """The error says how to distinguish them."""
    with pytest.raises(TypeError, match=r"'ttl' is a policy keyword.*with_ttl.*functools.partial.*wrap\(\)"):
        split(DEFAULTS, [with_ttl], {"ttl": 3})


def test_split_allows_other_policy_for_a_function_that_declares_one() -> None:
    """Only a keyword given twice is ambiguous; ``**kwargs`` declares none."""
    assert split(DEFAULTS, [with_ttl], {"task": "rag"})[0].task == "rag"
    assert split(DEFAULTS, [with_anything], {"ttl": 3})[0].ttl_seconds == 3


class Model:
    """A callable object with a method."""

    def __call__(self, prompt: str, *, wait: float = 1) -> str:
        """Take ``wait``."""
        return f"{prompt}{wait}"

    def generate(self, prompt: str, name: str = "") -> str:
        """Take ``name``."""
        return prompt + name


class Slotted:
    """A callable that no weak reference can be made of."""

    __slots__ = ()

    def __call__(self, tags: str) -> str:
        """Take ``tags``."""
        return tags


class Unhashable:
    """A callable that is no dictionary's key."""

    __hash__ = None  # type: ignore[assignment]  # the point

    def __call__(self, tags: str) -> str:
        """Take ``tags``."""
        return tags


def positional(task: str, /) -> str:
    """Take ``task``, but not by name."""
    return task


@functools.wraps(with_ttl)
def decorated(*args: Any, **kwargs: Any) -> str:
    """Look like what it wraps."""
    return with_ttl(*args, **kwargs)


@pytest.mark.parametrize(
    ("function", "declared"),
    [
        (plain, set()),
        (with_model, {"model"}),
        (with_anything, {"model"}),
        (with_ttl, {"ttl"}),
        (decorated, {"ttl"}),
        (Model(), {"wait"}),
        (Model().generate, {"name"}),
        (Slotted(), {"tags"}),
        (Unhashable(), {"tags"}),
        (positional, set()),
        (functools.partial(with_ttl, "x"), {"ttl"}),
        (print, set()),
        (dict, set()),
    ],
)
def test_declared_policy_keywords(function: Any, declared: set[str]) -> None:
    """Functions of every kind are read once."""
    assert declared_policy_keywords(function) == declared
    assert declared_policy_keywords(function) == declared


@pytest.mark.parametrize(
    ("keyword", "value", "error", "words"),
    [
        ("task", 3, TypeError, "task= must be a str, not int"),
        ("task", "", ValueError, "1 to 128 characters"),
        ("task", "x" * 129, ValueError, "1 to 128 characters, not 129"),
        ("task", "\udc80", ValueError, "surrogate"),
        ("task", None, TypeError, "must be a str"),
        ("ttl", "600", TypeError, "number of seconds or None, not str"),
        ("ttl", True, TypeError, "not bool"),
        ("ttl", -1, ValueError, "0 to"),
        ("wait", float("nan"), ValueError, "0 to"),
        ("wait", 1e12, ValueError, "0 to"),
        ("mode", "maybe", ValueError, "'use' or 'refresh' or 'only_if_cached', not 'maybe'"),
        ("model", 3, TypeError, "must be a str"),
        ("key", "x" * 1025, ValueError, "1024"),
        ("tags", "rag", TypeError, r"tags=\['a'\]"),
        ("tags", 3, TypeError, "list of names"),
        ("tags", ["a"] * 17, ValueError, "at most 16"),
        ("tags", [3], TypeError, "must be a str"),
        ("ignore", b"x", TypeError, "list of names"),
        ("usage", 3, TypeError, "callable"),
        ("classify", None, TypeError, "callable"),
        ("on_unavailable", "panic", ValueError, "'fallback' or 'raise'"),
        ("backend", "", ValueError, "1 to 128 characters"),
        ("backend", ["cloud"], TypeError, "must be a str, not list"),
        ("route", "best", ValueError, "'order' or 'cheapest' or 'fastest' or 'least_busy' or 'weighted', not 'best'"),
        ("retries", True, TypeError, "whole number, not bool"),
        ("retries", 1.5, TypeError, "whole number, not float"),
        ("retries", 11, ValueError, "0 to 10, not 11"),
        ("retries", -1, ValueError, "0 to 10"),
        ("sovereign", 1, TypeError, "True or False, not int"),
        ("normalize", "nfc", TypeError, "a list, such as normalize=.*, or 'task', not 'nfc'"),
        ("normalize", ["nfkc"], ValueError, "'nfc', 'space', 'case', or 'task', not 'nfkc'"),
        ("deterministic", 1, TypeError, "True or False, not int"),
        ("sovereign", None, TypeError, "True or False, not NoneType"),
        ("embed", "text", TypeError, "must be callable"),
        ("embed", {}, TypeError, "one embedder"),
        ("embed", {"a": len, "b": len}, TypeError, "one embedder"),
        ("embed", {"a": 1}, TypeError, "must be callable"),
        ("embed", lambda text: [len(text)], UnkeyableRequest, "name the model"),
        ("vector", [], ValueError, "1 to 4096 numbers, not 0"),
        ("vector", [1.0] * 4097, ValueError, "1 to 4096 numbers, not 4097"),
        ("vector", [0.0, 0.0], ValueError, "not all 0"),
        ("vector", [1.0, float("nan")], ValueError, "finite"),
        ("vector", [1.0, 1e300], ValueError, "finite"),
        ("vector", b"12345", ValueError, "not a multiple of item size"),
        ("vector", 3, TypeError, "numbers, or their bytes, not int"),
        ("vector", ["x"], ValueError, "could not convert"),
        (
            "timeout",
            3,
            TypeError,
            "'timeout' is not a policy keyword; there are: backend, classify, deterministic, embed, failure_ttl",
        ),
    ],
)
def test_changed_refuses_invalid_values(keyword: str, value: object, error: type[Exception], words: str) -> None:
    """Each error says what to write instead."""
    with pytest.raises(error, match=words):
        DEFAULTS.changed({keyword: value})


@pytest.mark.parametrize("keyword", ["ttl", "wait", "model", "name", "key", "usage", "backend", "route"])
def test_changed_takes_none_back_to_the_default(keyword: str) -> None:
    """None undoes the client's default; for ``key`` it means: share nothing."""
    field = {"ttl": "ttl_seconds", "wait": "wait_seconds"}.get(keyword, keyword)
    assert getattr(DEFAULTS.changed({keyword: None}), field) is None


def test_embed_and_vector_are_one_or_the_other() -> None:
    """The call overrides the client; both together are an error."""
    embeds = DEFAULTS.changed({"embed": {"model": len}})
    assert embeds.embed == Embedding("model", len)  # type: ignore[arg-type]  # any callable will do here
    ready = embeds.changed({"vector": [1.0, 0.5]})
    assert ready.embed == Embedding(None, None, struct.pack("<2f", 1.0, 0.5))
    assert embeds.changed({"vector": None}).embed is None
    with pytest.raises(TypeError, match="give one of them"):
        DEFAULTS.changed({"embed": {"model": len}, "vector": [1.0]})


def test_changed_by_nothing_is_the_same() -> None:
    """Without a change there is no copy."""
    assert DEFAULTS.changed({}) is DEFAULTS


def test_the_error_of_a_number_of_seconds_writes_its_bounds_out() -> None:
    """31622400 is readable; 3.16224e+07 is not."""
    with pytest.raises(ValueError, match=r"^ttl= must be 0 to 31622400 seconds, not -1\.$"):
        split(DEFAULTS, [plain], {"ttl": -1})
