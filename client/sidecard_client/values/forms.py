"""How the values of one type become plain ones and back: a `Form` for each type that an annotation names.

A form takes values of exactly its type. What it returns for one is plain (text, bytes, numbers, None, lists, dicts), and from that
it makes an equal value of the same type in another process. No form runs a constructor's validation or imports anything: the
types are those that the app gave.
"""

from collections.abc import Callable, Iterable
from typing import Any, Final

from sidecard_client.values.likeness import fault_of_plain, name_of_kind

MAX_CHARACTERS: Final = 60
"""Of a text of the app, in messages."""


SUBSCRIPT: Final = "__orig_class__"
"""The attribute in which an instance keeps the subscripted class that it was made by."""


class Misfit(Exception):
    """A value, or a part of it, has no plain form. The path to the part is collected from the inside out."""

    def __init__(self, problem: str) -> None:
        super().__init__(problem)
        self.problem = problem
        self.steps: list[str] = []

    def at(self, step: str) -> "Misfit":
        """Add the step that leads to this part, such as ``.name`` or ``[0]``."""
        self.steps.append(step)
        return self

    def __str__(self) -> str:
        """Return the place and the problem."""
        return f"value{''.join(reversed(self.steps))} {self.problem}"


def misfit(value: Any, expected: str) -> Misfit:
    """Return the error for a value of another type."""
    found = name_of_kind(type(value))
    return Misfit(f"is of type {found}, not {expected}: return exactly that type, or name {found} in the annotation")


def subscript_misfit(made_as: Any) -> Misfit:
    """Return the error about an instance that was made as ``Box[int](...)``, which keeps ``Box[int]`` in `SUBSCRIPT`."""
    name = getattr(getattr(made_as, "__origin__", None), "__qualname__", "the class")
    return Misfit(f"is set by {shortened(str(made_as))}(...): write {name}(...)").at(f".{SUBSCRIPT}")


def key_step(key: Any) -> str:
    """Return the step to the value of a dict's key."""
    return f"[{shortened(repr(key))}]"


def shortened(text: str) -> str:
    """Return the beginning of a text, for messages."""
    return text if len(text) <= MAX_CHARACTERS else f"{text[:MAX_CHARACTERS]}..."


class Form:
    """The values of one type. ``shape`` describes the type and its plain form, for keys.

    Python compares neither the types nor the zones of equal values, hence forms do.
    """

    shape: str
    kind: Any = None
    """The class of the values; None if the values of several classes are taken."""
    is_scalar = False
    """Whether the plain form can be the key of a map."""

    def to_plain(self, value: Any) -> Any:
        """Return the plain form of a value. Raises `Misfit`."""
        raise NotImplementedError

    def from_plain(self, plain: Any) -> Any:
        """Return the value of a plain form, whose lists and dicts it may use. Raises any `Exception` for another form."""
        raise NotImplementedError

    def __repr__(self) -> str:
        """Show the shape."""
        return f"<{type(self).__name__} {self.shape}>"


class PlainForm(Form):
    """Values that msgpack can carry unchanged, whatever their annotation is."""

    is_scalar = True

    def __init__(self, shape: str) -> None:
        self.shape = shape
        self._advice = f", where the annotation is {shortened(shape)}: annotate that type, or use a plain value"

    def to_plain(self, value: Any) -> Any:
        """Return the value. Raises `Misfit` if it is not plain everywhere."""
        fault = fault_of_plain(value, self._advice)
        if fault is None:
            return value

        place, problem = fault
        error = Misfit(problem)
        raise error.at(place) if place else error

    def from_plain(self, plain: Any) -> Any:
        """Return the value."""
        return plain


class LaterForm(Form):
    """A type alias that refers to itself."""

    def __init__(self, shape: str) -> None:
        self.shape = shape
        self.target: Form = PlainForm(shape)

    def to_plain(self, value: Any) -> Any:
        """Return what the alias's form does."""
        return self.target.to_plain(value)

    def from_plain(self, plain: Any) -> Any:
        """Return what the alias's form does."""
        return self.target.from_plain(plain)


class OptionalForm(Form):
    """None, or a value of a form whose plain form is never None."""

    def __init__(self, form: Form) -> None:
        self._form = form
        self.shape = f"{form.shape}?"
        self.is_scalar = form.is_scalar

    def to_plain(self, value: Any) -> Any:
        """Return None, or the plain form."""
        return None if value is None else self._form.to_plain(value)

    def from_plain(self, plain: Any) -> Any:
        """Return None, or the value."""
        return None if plain is None else self._form.from_plain(plain)


class UnionForm(Form):
    """A value of one of several forms: its plain form is ``[index of the form, plain form]``.

    The forms are ordered by their shapes, because typing takes ``A | B`` and ``B | A`` for the same.
    """

    def __init__(self, forms: Iterable[Form]) -> None:
        self._forms = sorted(forms, key=lambda form: form.shape)
        self.shape = f"({'|'.join(form.shape for form in self._forms)})"
        self._by_kind: dict[type, int | None] = {}
        for index, form in enumerate(self._forms):
            if form.kind is not None:
                # Several forms of a class (two generic aliases, two lists) are tried one after another.
                self._by_kind[form.kind] = None if form.kind in self._by_kind else index

    def to_plain(self, value: Any) -> Any:
        """Return the index and the plain form of the first form that takes the value."""
        index = self._by_kind.get(type(value))
        if index is not None:
            try:
                return [index, self._forms[index].to_plain(value)]
            except Misfit:
                if not any(type(form) is PlainForm for form in self._forms):
                    raise

        deepest: Misfit | None = None
        for index, form in enumerate(self._forms):
            try:
                return [index, form.to_plain(value)]
            except Misfit as error:
                if error.steps and (deepest is None or len(error.steps) > len(deepest.steps)):
                    deepest = error

        raise deepest or misfit(value, "one of those in the annotation")

    def from_plain(self, plain: Any) -> Any:
        """Return the value of the form with the index."""
        index, inner = plain
        return self._forms[index].from_plain(inner)


class ScalarForm(Form):
    """Values of a class with a short plain form, such as a text."""

    is_scalar = True

    def __init__(
        self, kind: type, to_plain: Callable[[Any], Any], from_plain: Callable[[Any], Any], *, is_scalar: bool = True
    ) -> None:
        self.kind = kind
        self.shape = name_of_kind(kind)
        self.is_scalar = is_scalar
        self._to_plain = to_plain
        self.from_plain = from_plain  # type: ignore[method-assign,assignment]  # no call between

    def to_plain(self, value: Any) -> Any:
        """Return the plain form."""
        if type(value) is not self.kind:
            raise misfit(value, self.shape)

        return self._to_plain(value)
