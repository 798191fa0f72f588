"""Forms of lists, tuples, sets and dicts whose parts are not all plain, and of named tuples."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from sidecard_client.values.forms import SUBSCRIPT, Form, Misfit, PlainForm, key_step, misfit, subscript_misfit
from sidecard_client.values.likeness import PLAIN_KEYS, fault_of_plain, name_of_kind


class ItemsForm(Form):
    """A list, tuple, set, frozenset or deque of any length, whose items have one form. Its plain form is a list."""

    def __init__(self, kind: type, item: Form) -> None:
        self.kind = kind
        self.shape = f"{name_of_kind(kind)}[{item.shape}]"
        self._item = item
        self._is_list = kind is list
        self._items_are_plain = type(item) is PlainForm

    def to_plain(self, value: Any) -> Any:
        """Return the list of the items' plain forms."""
        if type(value) is not self.kind:
            raise misfit(value, name_of_kind(self.kind))

        return _plain_items(value, self._item)

    def from_plain(self, plain: Any) -> Any:
        """Return a new container."""
        if type(plain) is not list:
            raise TypeError(f"a {type(plain).__name__} in place of a list")

        items: Any = plain if self._items_are_plain else list(map(self._item.from_plain, plain))
        return items if self._is_list else self.kind(items)


class DequeForm(ItemsForm):
    """A deque, with its maximum length."""

    def to_plain(self, value: Any) -> Any:
        """Return ``[items, maximum length]``."""
        return [super().to_plain(value), value.maxlen]

    def from_plain(self, plain: Any) -> Any:
        """Return a new deque."""
        items, most = plain
        if type(items) is not list:
            raise TypeError(f"a {type(items).__name__} in place of a list")

        return self.kind(map(self._item.from_plain, items), most)


def _plain_items(value: Iterable[Any], form: Form) -> list[Any]:
    index, items = 0, []
    try:
        for index, item in enumerate(value):  # noqa: B007 - for the error
            items.append(form.to_plain(item))
    except Misfit as error:
        raise error.at(f"[{index}]") from None

    return items


class TupleForm(Form):
    """A tuple whose places have their own forms, or a named tuple. Its plain form is a list."""

    def __init__(self, kind: type, forms: Iterable[Form], names: tuple[str, ...] = ()) -> None:
        self.kind = kind
        self._forms = tuple(forms)
        self._names = names
        self._make: Callable[[Iterable[Any]], Any] = (lambda items: tuple.__new__(kind, items)) if names else tuple
        self._expected = name_of_kind(kind) if names else f"a tuple of {len(self._forms)}"
        parts = ",".join(form.shape for form in self._forms)
        self.shape = f"{name_of_kind(kind)}<{','.join(names)}>[{parts}]" if names else f"tuple[{parts};]"

    def to_plain(self, value: Any) -> Any:
        """Return the list of the items' plain forms."""
        if type(value) is not self.kind:
            raise misfit(value, self._expected)

        if len(value) != len(self._forms):
            raise Misfit(f"has {len(value)} items, and the annotation {len(self._forms)}: make them agree")

        _refuse_attributes(value, "items")

        index, items = 0, []
        try:
            for index, form in enumerate(self._forms):
                items.append(form.to_plain(value[index]))
        except Misfit as error:
            raise error.at(f".{self._names[index]}" if self._names else f"[{index}]") from None

        return items

    def from_plain(self, plain: Any) -> Any:
        """Return a new tuple."""
        if type(plain) is not list:
            raise TypeError(f"a {type(plain).__name__} in place of a list")

        return self._make([form.from_plain(item) for form, item in zip(self._forms, plain, strict=True)])


class DictForm(Form):
    """A dict, or a class that is made of a dict. Its plain form is a map, or a list of pairs if the keys are not plain."""

    def __init__(self, kind: type, key: Form, value: Form) -> None:
        self.kind = kind
        self.shape = f"{name_of_kind(kind)}[{key.shape},{value.shape}]"
        self._key = key
        self._value = value
        self._is_dict = kind is dict
        self._keys_are_plain = type(key) is PlainForm

    def to_plain(self, value: Any) -> Any:
        """Return the map, or the pairs."""
        if type(value) is not self.kind:
            raise misfit(value, name_of_kind(self.kind))

        _refuse_attributes(value, "entries")

        name, pairs = None, []
        try:
            for name, item in value.items():
                pairs.append([self._plain_key(name), self._value.to_plain(item)])
        except Misfit as error:
            raise error.at(key_step(name)) from None

        return dict(pairs) if self._keys_are_plain else pairs

    def _plain_key(self, name: Any) -> Any:
        if self._keys_are_plain and type(name) not in PLAIN_KEYS:
            raise Misfit(
                f"has a key of type {name_of_kind(type(name))}: name that type in the annotation, or use str(key)"
            )

        try:
            return self._key.to_plain(name)
        except Misfit as error:
            raise Misfit(f"has a key that {error.problem}") from None

    def from_plain(self, plain: Any) -> Any:
        """Return a new dict."""
        value = self._value
        if self._keys_are_plain:
            if type(plain) is not dict:
                raise TypeError(f"a {type(plain).__name__} in place of a dict")

            entries = {name: value.from_plain(item) for name, item in plain.items()}
        else:
            if type(plain) is not list:
                raise TypeError(f"a {type(plain).__name__} in place of a list")

            key = self._key
            entries = {key.from_plain(name): value.from_plain(item) for name, item in plain}

        return entries if self._is_dict else self.kind(entries)


class TypedDictForm(Form):
    """A `TypedDict` whose values are not all plain. Keys that it does not declare have plain values."""

    kind = dict

    def __init__(self, shape: str) -> None:
        self.shape = shape
        self.forms: Mapping[str, Form] = {}

    def to_plain(self, value: Any) -> Any:
        """Return the map."""
        if type(value) is not dict:
            raise misfit(value, "dict")

        plain, name = {}, None
        try:
            for name, item in value.items():
                if type(name) is not str:
                    raise Misfit("has a key that is not a str, which the annotation does not have: use str(key)")

                form = self.forms.get(name)
                if form is not None:
                    plain[name] = form.to_plain(item)
                else:
                    fault = fault_of_plain(
                        item, ", and the annotation does not have this key: add it, or use a plain value"
                    )
                    if fault is not None:
                        raise Misfit(fault[1]).at(fault[0])

                    plain[name] = item
        except Misfit as error:
            raise error.at(key_step(name)) from None

        return plain

    def from_plain(self, plain: Any) -> Any:
        """Return the dict."""
        if type(plain) is not dict:
            raise TypeError(f"a {type(plain).__name__} in place of a dict")

        for name, form in self.forms.items():
            if name in plain:
                plain[name] = form.from_plain(plain[name])

        return plain


def _refuse_attributes(value: Any, parts: str) -> None:
    """Raise `Misfit` for a container that has attributes, which the copy would lack."""
    attributes = getattr(value, "__dict__", None)
    if not attributes:
        return

    if SUBSCRIPT in attributes:
        raise subscript_misfit(attributes[SUBSCRIPT])

    raise Misfit(f"has attributes beside its {parts}, which would be lost: make them {parts}")
