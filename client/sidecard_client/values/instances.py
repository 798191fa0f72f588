"""Forms of objects with annotated fields: dataclasses, attrs classes, msgspec Structs and pydantic models.

Their plain form is a map of their fields, or ``[fields, more]`` with what they hold besides. A copy gets the same attributes
without its constructor: what validators and ``__post_init__`` changed is not changed again, and what they computed is kept. Only
a Struct has no other way than its constructor.

Bytes name attributes, so they may come from a caller with other intentions: only names that instances can hold are set, never
those of methods, properties and Python itself.
"""

import functools
from collections.abc import Callable, Mapping
from typing import Any, Final

from sidecard_client.values.forms import SUBSCRIPT, Form, Misfit, PlainForm, misfit, subscript_misfit
from sidecard_client.values.likeness import fault_of_plain, name_of_kind, slots_of

_set: Final = object.__setattr__
_ATTRS_HASH: Final = "_attrs_cached_hash"
"""A hash that attrs keeps, which differs between processes."""

_OF_CLASSES: Final = (functools.cached_property, functools.partialmethod, classmethod, staticmethod)
"""Of what a class has besides constants, those that cannot be called and do not set anything."""


class InstanceForm(Form):
    """Instances of a class with fields."""

    def __init__(self, kind: type) -> None:
        self.kind = kind
        self.shape = f"@{name_of_kind(kind)}"
        self._new = functools.partial(object.__new__, kind)
        self.fields: Mapping[str, Form] = {}
        self._fancy: list[tuple[str, Callable[[Any], Any]]] = []
        self._slots = slots_of(kind)

    def set_fields(self, fields: Mapping[str, Form]) -> None:
        """Set the forms of the fields, which may refer to this form."""
        self.fields = fields
        self._fancy = [(name, form.from_plain) for name, form in fields.items() if type(form) is not PlainForm]

    def to_plain(self, value: Any) -> Any:
        """Return the map of the fields, or also what the instance holds besides."""
        if type(value) is not self.kind:
            raise misfit(value, name_of_kind(self.kind))

        state = self._state_of(value)
        fields, name = {}, ""
        try:
            for name, form in self.fields.items():
                if name in state:
                    fields[name] = form.to_plain(state.pop(name))
        except Misfit as error:
            raise error.at(f".{name}") from None

        more = self._more_of(value, state)
        return fields if not more and len(fields) == len(self.fields) else [fields, more]

    def from_plain(self, plain: Any) -> Any:
        """Return a new instance."""
        if type(plain) is list:
            fields, more = plain
            if not fields.keys() <= self.fields.keys():
                raise ValueError("not its fields")

            self._check(more)

            for name, restored in self._fancy:
                if name in fields:
                    fields[name] = restored(fields[name])

            return self._instance(fields, more)

        if plain.keys() != self.fields.keys():
            raise ValueError("not its fields")

        for name, restored in self._fancy:
            plain[name] = restored(plain[name])

        return self._instance(plain, {})

    def _state_of(self, value: Any) -> dict[str, Any]:
        state = dict(getattr(value, "__dict__", ()))
        for name in self._slots:
            try:
                state[name] = object.__getattribute__(value, name)
            except AttributeError:
                continue

        return state

    def _more_of(self, _: Any, state: dict[str, Any]) -> dict[str, Any]:
        """Return what an instance holds beside its fields, without what it computes again."""
        attributes = {}
        for name, part in state.items():
            if name != _ATTRS_HASH and not _is_computed_again(self.kind, name):
                attributes[name] = _plain_attribute(name, part)

        return {"attributes": attributes} if attributes else {}

    def _check(self, more: Mapping[str, Any]) -> None:
        """Raise `ValueError` if instances cannot hold something."""
        for name in more.get("attributes", {}).keys():  # noqa: SIM118 - of a map, and of nothing else
            held = name in self._slots or _may_be_held(self.kind, name)
            if not held or name in self.fields or name == _ATTRS_HASH:
                raise ValueError(f"its instances do not hold {name!r}")

    def _instance(self, fields: dict[str, Any], more: dict[str, Any]) -> Any:
        instance: Any = self._new()
        for name, part in fields.items():
            _set(instance, name, part)

        for name, part in more.get("attributes", {}).items():
            _set(instance, name, part)

        if _ATTRS_HASH in self._slots:
            _set(instance, _ATTRS_HASH, None)

        return instance


class PydanticForm(InstanceForm):
    """Pydantic models of version 2: also which fields were set, extra fields and private attributes."""

    def __init__(self, kind: Any) -> None:
        super().__init__(kind)
        self._no_extra: Mapping[str, Any] | None = {} if kind.model_config.get("extra") == "allow" else None
        self.private: Mapping[str, Form] = {}
        # Root models have no extra fields and no private attributes.
        self._set_extra, self._set_private = _setter(kind, "__pydantic_extra__"), _setter(kind, "__pydantic_private__")

    def _more_of(self, value: Any, state: dict[str, Any]) -> dict[str, Any]:
        more = super()._more_of(value, state)
        fields_set = value.__pydantic_fields_set__
        if fields_set != self.fields.keys():
            more["set"] = sorted(fields_set)

        if value.__pydantic_extra__:
            more["extra"] = {name: _plain_attribute(name, part) for name, part in value.__pydantic_extra__.items()}

        private = value.__pydantic_private__
        if private is not None:
            name, parts = "", {}
            try:
                for name, part in private.items():
                    parts[name] = (
                        self.private[name].to_plain(part) if name in self.private else _plain_attribute("", part)
                    )
            except Misfit as error:
                raise error.at(f".{name}") from None

            more["private"] = parts

        return more

    def _check(self, more: Mapping[str, Any]) -> None:
        super()._check(more)
        extra, private = more.get("extra", {}), more.get("private")
        if extra and (self._no_extra is None or not extra.keys().isdisjoint(self.fields)):
            raise ValueError("it has no such extra fields")

        if not (private is None or private.keys() <= self.kind.__private_attributes__.keys()):
            raise ValueError("not its private attributes")

        if not self.fields.keys() | extra.keys() >= set(more.get("set", ())):
            raise ValueError("not its fields")

    def _instance(self, fields: dict[str, Any], more: dict[str, Any]) -> Any:
        instance: Any = self._new()
        fields_set, extra = set(fields), self._no_extra
        private: Any = None
        if more:
            fields.update(more.get("attributes", ()))
            fields_set = set(more.get("set", fields_set))
            extra, private = more.get("extra", extra), more.get("private")
            for name in self.private.keys() & (private or {}):
                private[name] = self.private[name].from_plain(private[name])

        _set(instance, "__dict__", fields)
        _set(instance, "__pydantic_fields_set__", fields_set)
        self._set_extra(instance, extra if extra is None else dict(extra))
        self._set_private(instance, private)
        return instance


class OldPydanticForm(InstanceForm):
    """Pydantic models of version 1: also which fields were set."""

    def _more_of(self, value: Any, state: dict[str, Any]) -> dict[str, Any]:
        more = super()._more_of(value, state)
        if value.__fields_set__ != self.fields.keys():
            more["set"] = sorted(value.__fields_set__)

        return more

    def _check(self, more: Mapping[str, Any]) -> None:
        super()._check(more)
        if not self.fields.keys() | more.get("attributes", {}).keys() >= set(more.get("set", ())):
            raise ValueError("not its fields")

    def _instance(self, fields: dict[str, Any], more: dict[str, Any]) -> Any:
        instance = super()._instance(fields, more)
        _set(instance, "__fields_set__", set(more.get("set", fields)))
        return instance


class StructForm(InstanceForm):
    """msgspec's Structs, which only their constructor can make."""

    def _instance(self, fields: dict[str, Any], more: dict[str, Any]) -> Any:
        instance = self.kind(**fields)
        if more:
            instance.__dict__.update(more.get("attributes", {}))

        return instance


def _plain_attribute(name: str, part: Any) -> Any:
    if name == SUBSCRIPT:
        raise subscript_misfit(part)

    fault = fault_of_plain(part, ", and no field with an annotation: annotate it, or use a plain value")
    if fault is None:
        return part

    error = Misfit(fault[1]).at(fault[0])
    raise error.at(f".{name}") if name else error


def _setter(kind: type, slot: str) -> Callable[[Any, Any], Any]:
    """Return what sets a slot; nothing does if the class has a constant in place of it."""
    setter: Callable[[Any, Any], Any] = getattr(getattr(kind, slot), "__set__", lambda *_: None)
    return setter


def _is_computed_again(kind: type, name: str) -> bool:
    return isinstance(getattr(kind, name, None), functools.cached_property)


def _may_be_held(kind: type, name: str) -> bool:
    """Return whether an instance's own attribute may have this name: Python and the class must not use it otherwise."""
    if name.startswith("__") and name.endswith("__"):
        return False

    for base in kind.__mro__:
        if name in vars(base):
            default = vars(base)[name]
            is_constant = not callable(default) and not isinstance(default, _OF_CLASSES)
            return is_constant and not hasattr(default, "__set__")

    return True
