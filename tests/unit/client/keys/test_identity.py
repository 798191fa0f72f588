"""What is known of a function is kept as long as it is needed."""

import gc
from collections.abc import Callable
from typing import Any
from weakref import ref

import pytest

from sidecard_client.call.call import prepare
from sidecard_client.call.options import Options
from sidecard_client.keys import identity
from sidecard_client.keys.identity import identity_of


class Document:
    """Something large."""


def capturing(document: Document) -> Callable[[str], Any]:
    """Return a function that captures the document."""

    def answer(question: str) -> Any:
        return question, document

    return answer


def with_default(document: Document) -> Callable[[str], Any]:
    """Return a function that has the document as a default."""

    def answer(question: str, document: Document = document) -> Any:
        return question, document

    return answer


def method(document: Document) -> Callable[[str], Any]:
    """Return a method of a class that captures the document."""

    class Agent:
        def answer(self, question: str) -> Any:
            return question, document

    return Agent().answer


@pytest.mark.parametrize("define", [capturing, with_default, method])
def test_local_function_is_freed_after_its_calls(define: Callable[[Document], Callable[[str], Any]]) -> None:
    """An app that defines a function for each document keeps no document."""
    document = Document()
    kept = ref(document)
    function = define(document)
    prepare(Options(name="answer"), function, ("q",), {})
    assert identity_of(function) is identity_of(function)
    del function, document
    gc.collect()
    assert kept() is None


def test_what_is_known_of_local_functions_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also if the app keeps all of them."""
    monkeypatch.setattr(identity, "MAX_KEPT", 4)
    functions = [with_default(Document()) for _ in range(10)] + [method(Document()) for _ in range(10)]
    for function in functions:
        identity_of(function)

    assert len(identity._kept_while_used) <= 4
    assert len(identity._methods) <= 4
