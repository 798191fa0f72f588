"""What keys are made of, and what makes two differ."""

from typing import Any

import pytest

from sidecard_client import UnkeyableRequest
from sidecard_client.call import call as calls
from sidecard_client.call.options import Options
from sidecard_client.keys.explanation import ABSENT, SHOWN_CHARACTERS, Difference, Explanation, explain
from sidecard_client.keys.fingerprint import canonical, fingerprint
from sidecard_client.keys.normal_form import NormalForm


def of(*args: Any, normalize: tuple[NormalForm, ...] = (), **kwargs: Any) -> Explanation:
    """Explain a request that differs from others in its arguments alone."""
    return explain("rag", "m", "app.f", args, kwargs, ("trace",), normalize)


def lines(one: Explanation, other: Explanation) -> list[str]:
    """Return the differences as they are shown."""
    return [str(difference) for difference in one.differences(other)]


def generate(prompt: str) -> str:
    """Stand for a model."""
    return prompt


def test_an_explanation_has_the_key_and_its_parts() -> None:
    """Ignored arguments are left out, as in the key."""
    explained = of("q", {"a": (1,)}, temperature=0, trace="x")
    assert explained.key == fingerprint("rag", "m", "app.f", ("q", {"a": (1,)}), {"temperature": 0})
    assert explained.canonical == canonical("rag", "m", "app.f", ("q", {"a": (1,)}), {"temperature": 0})
    assert explained.parts == {
        "task": "rag",
        "model": "m",
        "name": "app.f",
        "args": ["q", {"a": [1]}],
        "kwargs": {"temperature": 0},
    }
    assert explained.as_written == explained.parts


def test_an_explanation_reads_as_lines() -> None:
    """An explanation prints as readable text."""
    assert str(of("q ", normalize=("space",))) == (
        f"key: {of('q', normalize=('space',)).key}\nnamespace: default\nnormalize: space\n"
        'task: "rag"\nmodel: "m"\nname: "app.f"\nargs: ["q"]\nkwargs: {}'
    )
    assert "args: [{None: 1}]" in str(of({None: 1}))


@pytest.mark.parametrize(
    ("one", "other", "expected"),
    [
        (of("x"), of("x"), []),
        (of("x"), of("y"), ["args[0]: 'x' / 'y'"]),
        (of("x"), of("x", 1), ["args[1]: (absent) / 1"]),
        (of(a=1), of(a=1.0), ["kwargs.a: 1 / 1.0"]),
        (of(a=1), of(a=True), ["kwargs.a: 1 / True"]),
        (of(a=None), of(), ["kwargs.a: None / (absent)"]),
        (of(a="x"), of(a=b"x"), ["kwargs.a: 'x' / b'x'"]),
        (of(a=[1]), of(a={"b": 1}), ["kwargs.a: [1] / {'b': 1}"]),
        (of({"a b": 1}), of({"a b": 2}), ["args[0]['a b']: 1 / 2"]),
        (
            of(messages=[{"role": "user"}, {"role": "user", "content": "x"}]),
            of(messages=[{"role": "user"}, {"role": "system", "content": "y"}]),
            ["kwargs.messages[1].content: 'x' / 'y'", "kwargs.messages[1].role: 'user' / 'system'"],
        ),
        (explain("a", None, "f", (), {}), explain("b", "m", "g", (), {}), ["task: 'a' / 'b'", "model: None / 'm'", "name: 'f' / 'g'"]),
    ],
)  # fmt: skip
def test_differences_have_their_place(one: Explanation, other: Explanation, expected: list[str]) -> None:
    """Each has both values, and there are some exactly if the keys differ."""
    assert lines(one, other) == expected
    assert bool(expected) == (one.key != other.key)


def test_a_long_text_is_shown_around_the_first_place_where_it_differs() -> None:
    """The rest of a prompt is left out."""
    text = "word " * 100
    (line,) = lines(of(text + "one" + text), of(text + "other" + text))
    assert "word oneword" in line
    assert "word otherword" in line
    assert len(line) < 2 * SHOWN_CHARACTERS + 50


def test_the_end_of_a_text_that_goes_on_is_shown() -> None:
    """A text that is a prefix of the other differs at its end."""
    (line,) = lines(of("a" * 200), of("a" * 200 + "!"))
    assert line.endswith("!'")


def test_a_difference_that_normalization_removes_is_marked() -> None:
    """It does not change the key."""
    one, other = of("A  b", "x", normalize=("space",)), of("A b", "y", normalize=("space",))
    assert one.differences(other) == [
        Difference("args[1]", "x", "y"),
        Difference("args[0]", "A  b", "A b", same_in_normal_form=True),
    ]
    same = of("A  b", normalize=("space",)).differences(of("A b", normalize=("space",)))
    assert [str(difference) for difference in same] == ["args[0]: 'A  b' / 'A b' (the same in normal form)"]


def test_other_forms_and_another_namespace_are_differences() -> None:
    """Forms change the key, the namespace changes the entry."""
    assert lines(of("a"), of("a", normalize=("nfc",))) == ["normalize: [] / ['nfc']"]
    here = explain("t", None, "f", (), {}, namespace="here")
    assert lines(here, explain("t", None, "f", (), {})) == ["namespace: 'here' / 'default'"]


def test_given_keys_differ_by_themselves() -> None:
    """A given key has no parts."""
    assert lines(Explanation("a"), Explanation("b")) == ["key: 'a' / 'b'"]
    assert repr(ABSENT) == "(absent)"


def test_a_call_is_explained_as_it_would_be_keyed() -> None:
    """The call's options apply; a stream's name differs."""
    options = Options().changed({"task": "rag", "namespace": "team", "normalize": ["space"]})
    call = calls.prepare(options, generate, ("q ",), {})
    explained = calls.explanation_of(call)
    assert (explained.key, explained.namespace, explained.normalize) == (call.key, "team", ("space",))
    streamed = calls.explanation_of(calls.prepare(options, generate, ("q ",), {}, stream=True))
    assert lines(explained, streamed)[0].startswith("name: ")


def test_a_call_that_goes_by_its_tasks_forms_is_keyed_by_those() -> None:
    """The forms are applied once they are known."""
    options = Options().changed({"normalize": "task"})
    call = calls.prepare(options, generate, ("q ",), {})
    assert call.key is calls.UNKEYED
    keyed = calls.keyed(call, ("space",))
    assert calls.explanation_of(call, ("space",)).key == keyed.key
    assert keyed.key == calls.prepare(Options().changed({"normalize": ["space"]}), generate, ("q",), {}).key
    with pytest.raises(UnkeyableRequest):
        calls.keyed(calls.prepare(options, generate, (object(),), {}), ())


@pytest.mark.parametrize("key", ["mine", None])
def test_a_given_key_is_all_there_is_to_explain(key: str | None) -> None:
    """A null key shares nothing."""
    call = calls.prepare(Options().changed({"key": key}), generate, ("q",), {})
    assert calls.explanation_of(call) == Explanation(key)
