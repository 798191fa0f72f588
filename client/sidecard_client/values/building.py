"""Build the form of an annotation."""

import collections
import dataclasses
import sys
import types
import typing
from collections.abc import Callable, Collection, Mapping
from typing import Any, Final, Literal, TypeVar

from sidecard_client.values.annotations import UnknownAnnotation, bare, hints_of, is_alias, is_plain, value_of_alias
from sidecard_client.values.arrays import array_form
from sidecard_client.values.containers import DequeForm, DictForm, ItemsForm, TupleForm, TypedDictForm
from sidecard_client.values.forms import Form, LaterForm, OptionalForm, PlainForm, UnionForm, shortened
from sidecard_client.values.instances import InstanceForm, OldPydanticForm, PydanticForm, StructForm
from sidecard_client.values.likeness import name_of_kind
from sidecard_client.values.scalars import scalar_form

_ITEMS: Final = frozenset({tuple, set, frozenset, collections.deque})
_TABLES: Final = frozenset({collections.OrderedDict, collections.Counter})

_ABSTRACT: Final[Mapping[Any, tuple[type, ...]]] = {
    collections.abc.Sequence: (list, tuple),
    collections.abc.MutableSequence: (list,),
    collections.abc.Collection: (list, tuple, set, frozenset),
    collections.abc.Iterable: (list, tuple, set, frozenset),
    collections.abc.Set: (set, frozenset),
    collections.abc.MutableSet: (set,),
    collections.abc.Mapping: (dict,),
    collections.abc.MutableMapping: (dict,),
}
"""Abstract classes, and the builtin ones that are meant."""

_STAND_INS: Final[Mapping[str, str]] = {
    "AwareDatetime": "datetime",
    "NaiveDatetime": "datetime",
    "PastDatetime": "datetime",
    "FutureDatetime": "datetime",
    "PastDate": "date",
    "FutureDate": "date",
}
"""Classes of pydantic that only annotate, and the class of `datetime` that their values have."""


class Builder:
    """Builds the forms of one annotation's types. ``problems`` names the types that are not supported, ``classes`` what others have."""

    def __init__(self) -> None:
        self.problems: list[str] = []
        self.classes: dict[str, str] = {}
        self._made: dict[Any, Form] = {}
        self._recurring: set[Any] = set()
        """What was asked for again."""

    def form(self, annotation: Any) -> Form:
        """Return the form of an annotation; plain values for what is not supported."""
        annotation = bare(annotation)
        if is_plain(annotation):
            return PlainForm(_name_of(annotation))

        key = _key(annotation)
        made = self._made.get(key)
        if made is not None:
            self._recurring.add(key)
            return made

        if isinstance(annotation, TypeVar):
            bound = annotation.__bound__
            return PlainForm("Any") if bound is None else self.form(bound)

        if is_alias(annotation):
            return self._alias(annotation)

        origin, parameters = typing.get_origin(annotation), typing.get_args(annotation)
        if origin in {typing.Union, types.UnionType}:
            return self._union([self.form(one) for one in parameters])

        if origin is Literal:
            return self._union(
                [PlainForm(repr(one)) if _is_plain_word(one) else self.form(type(one)) for one in parameters]
            )

        kind = annotation if origin is None else origin
        if not isinstance(kind, type):
            return self._unsupported(annotation)

        return self._of_class(kind, annotation, parameters)

    def _of_class(self, kind: type, annotation: Any, parameters: tuple[Any, ...]) -> Form:
        if kind is list:
            return self._items(list, parameters)

        if kind is tuple:
            return self._tuple(parameters)

        if kind is dict or kind in _TABLES:
            return self._table(kind, parameters)

        if kind in _ITEMS:
            return self._items(kind, parameters)

        if kind in _ABSTRACT:
            kinds = _ABSTRACT[kind]
            if kinds == (dict,):
                return self._table(dict, parameters)

            return self._union([self._items(one, parameters) for one in kinds])

        if hasattr(kind, "__required_keys__") and hasattr(kind, "__total__"):
            return self._keyed(kind, annotation)

        if issubclass(kind, tuple) and hasattr(kind, "_fields"):
            return self._named_tuple(kind, annotation)

        return self._instance(kind, annotation) or self._scalar(kind) or self._unsupported(annotation)

    def _scalar(self, kind: type) -> Form | None:
        if kind.__module__.startswith("pydantic"):
            if kind.__name__ == "EmailStr":
                return PlainForm("str")

            if kind.__name__ in _STAND_INS:
                return self.form(getattr(sys.modules["datetime"], _STAND_INS[kind.__name__]))

        return array_form(kind) or scalar_form(kind)

    def _items(self, kind: type, parameters: tuple[Any, ...]) -> Form:
        item = self.form(parameters[0]) if parameters else PlainForm("Any")
        if kind is list and type(item) is PlainForm:
            return PlainForm(f"list[{item.shape}]")

        return (DequeForm if kind is collections.deque else ItemsForm)(kind, item)

    def _tuple(self, parameters: tuple[Any, ...]) -> Form:
        if len(parameters) == 2 and parameters[1] is ...:  # noqa: PLR2004 - any number of one type
            return ItemsForm(tuple, self.form(parameters[0]))

        if not parameters or any(map(_is_unpacked, parameters)):
            return ItemsForm(tuple, PlainForm("Any"))

        return TupleForm(tuple, map(self.form, parameters))

    def _table(self, kind: type, parameters: tuple[Any, ...]) -> Form:
        forms = [self.form(one) for one in parameters] or [PlainForm("Any")]
        if kind is collections.Counter:
            forms = [forms[0], PlainForm("int")]

        if len(forms) == 1:
            forms.append(PlainForm("Any"))

        key, value = forms
        if kind is dict and type(key) is PlainForm and type(value) is PlainForm:
            return PlainForm(f"dict[{key.shape},{value.shape}]")

        return DictForm(kind, key, value)

    def _union(self, forms: list[Form]) -> Form:
        options: dict[str, Form] = {}
        plain: list[str] = []
        for form in forms:
            if type(form) is PlainForm:
                plain.append(form.shape)
            else:
                options[form.shape] = form

        plain_shape = "|".join(sorted(set(plain)))
        if not options:
            return PlainForm(plain_shape)

        if len(options) == 1 and plain_shape in {"", "None"}:
            (only,) = options.values()
            if not plain_shape:
                return only

            if not isinstance(only, LaterForm | UnionForm | OptionalForm):
                return OptionalForm(only)

        return UnionForm([*options.values(), *([PlainForm(plain_shape)] if plain else [])])

    def _alias(self, annotation: Any) -> Form:
        try:
            value = value_of_alias(annotation)
        except UnknownAnnotation:
            return self._unsupported(annotation)

        return self._recursive(annotation, f"^{annotation.__name__}", lambda: self.form(value))

    def _recursive(self, annotation: Any, shape: str, build: Callable[[], Form]) -> Form:
        """Return a form that may refer to itself: first as if it was plain, and if it is not, by a `Later`."""
        key = _key(annotation)
        before, problems, classes = dict(self._made), [*self.problems], dict(self.classes)
        self._made[key] = PlainForm(shape)
        self._recurring.discard(key)
        form = build()
        if type(form) is not PlainForm and key in self._recurring:
            later = LaterForm(shape)
            self._made, self.problems, self.classes = {**before, key: later}, problems, classes
            later.target = form = build()
            self.classes.setdefault(shape, form.shape)

        self._made[key] = form
        return form

    def _named_tuple(self, kind: Any, annotation: Any) -> Form:
        def build() -> Form:
            hints = hints_of(annotation, kind._fields)
            return TupleForm(kind, [self.form(hints.get(name, Any)) for name in kind._fields], kind._fields)

        return self._recursive(annotation, f"@{name_of_kind(kind)}", build)

    def _keyed(self, kind: type, annotation: Any) -> Form:
        shape = f"@{name_of_kind(kind)}"

        def build() -> Form:
            form = TypedDictForm(shape)
            forms = {name: self.form(hint) for name, hint in hints_of(annotation, kind.__annotations__).items()}
            self._describe(shape, forms)
            if all(type(one) is PlainForm for one in forms.values()):
                return PlainForm(shape)

            form.forms = forms
            return form

        return self._recursive(annotation, shape, build)

    def _instance(self, kind: Any, annotation: Any) -> Form | None:
        """Return the form of a class with fields; None for other classes."""
        try:
            form, names = _form_and_fields(kind)
            if type(form) is not StructForm:
                object.__new__(kind)
        except TypeError:
            return None  # a class without fields, or one that needs its constructor: an exception, a dict, an abstract class

        parameters = typing.get_args(annotation)
        if parameters:
            form.shape += f"[{','.join(self.form(one).shape for one in parameters)}]"

        self._made[_key(annotation)] = form
        if isinstance(form, PydanticForm):
            form.private = self._forms(annotation, kind.__private_attributes__)
            self._describe(f"{form.shape}'s private", form.private)
            forms = {name: self.form(field.annotation) for name, field in kind.model_fields.items()}
        else:
            forms = self._forms(annotation, names)

        self._describe(form.shape, forms)
        form.set_fields(forms)
        return form

    def _forms(self, annotation: Any, names: Collection[str]) -> dict[str, Form]:
        hints = hints_of(annotation, names) if names else {}
        return {name: self.form(hints.get(name, Any)) for name in names}

    def _describe(self, shape: str, forms: Mapping[str, Form]) -> None:
        self.classes[shape] = ",".join(f"{name}:{form.shape}" for name, form in forms.items())

    def _unsupported(self, annotation: Any) -> Form:
        name = _name_of(annotation)
        self.problems.append(name)
        return PlainForm(name)


def description_of(form: Form, builder: Builder) -> str:
    """Return what decides how a form's values travel, the same in every process."""
    classes = ";".join(f"{shape}{{{fields}}}" for shape, fields in sorted(builder.classes.items()))
    return f"{form.shape};{classes}"


def _key(annotation: Any) -> Any:
    """Return what an annotation is remembered by: itself, or its text if its metadata cannot be hashed."""
    try:
        hash(annotation)
    except TypeError:
        return "unhashable", repr(annotation)

    return annotation


def _form_and_fields(kind: Any) -> tuple[InstanceForm, Collection[str]]:
    """Return the form of a class, without its fields, and their names. Raises `TypeError` for a class without fields."""
    if hasattr(kind, "__struct_fields__"):
        return StructForm(kind), kind.__struct_fields__

    if hasattr(kind, "__pydantic_core_schema__") and hasattr(kind, "model_config"):
        if not getattr(kind, "__pydantic_complete__", True):
            kind.model_rebuild(raise_errors=False)

        return PydanticForm(kind), kind.model_fields

    if hasattr(kind, "__private_attributes__") and hasattr(kind, "__fields__"):
        return OldPydanticForm(kind), kind.__fields__

    if hasattr(kind, "__attrs_attrs__"):
        return InstanceForm(kind), [attribute.name for attribute in kind.__attrs_attrs__]

    return InstanceForm(kind), [field.name for field in dataclasses.fields(kind)]


def _is_plain_word(word: Any) -> bool:
    return isinstance(word, str | bytes | int | bool | None) and type(word).__module__ == "builtins"


def _is_unpacked(annotation: Any) -> bool:
    return (
        bool(getattr(annotation, "__unpacked__", False))
        or getattr(typing.get_origin(annotation), "_name", "") == "Unpack"
    )


def _name_of(annotation: Any) -> str:
    if annotation is None or annotation is type(None):
        return "None"

    if isinstance(annotation, type) and not typing.get_args(annotation):
        return name_of_kind(annotation)

    return shortened(repr(annotation))
