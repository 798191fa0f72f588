"""What a function holds besides its arguments: captured variables, attributes of a callable object, the instance of a method.

They are part of the key, by their values at the time of the call: two functions that differ by them alone answer differently.

=========================================  =========================================================================
function                                   what it holds
=========================================  =========================================================================
defined in a function                      the variables that it captures; defaults that have no place among the
                                           arguments
result of a decorator, at a module's top   the same, but for what has no stable form: the name alone identifies it
callable object                            its attributes, what its ``__call__`` holds, and what it is if its class inherits
                                           from a plain type
method of an instance that compares by     what is compared: the fields of dataclasses, attrs, pydantic models and
value                                      Structs, named tuples, members of enums, plain values
method of any other instance               its texts (`sidecard_client.keys.instances`), unless ``model=`` is given
method of a class defined in a function    the class's attributes; also of a class that another has replaced
=========================================  =========================================================================

Global variables and what is called from within are never part of the key.
"""

from collections.abc import Callable
from functools import partial
from types import BuiltinFunctionType, FunctionType, MethodType, ModuleType
from typing import Any, Final

from sidecard_client.functions import (
    StandIn,
    attribute,
    bare,
    call_of,
    defined_as,
    is_defined_as,
    is_named_alone,
    plain,
    text_attribute,
    variables_of,
    wrapped_by,
)
from sidecard_client.keys.fingerprint import canonical
from sidecard_client.keys.naming import LOCAL, name_of
from sidecard_client.keys.stable_forms import (
    Forms,
    Unstable,
    attributes_of,
    compared_fields,
    state_below,
)
from sidecard_client.protocol.errors import UnkeyableRequest

HINT: Final = "give the function a name with name=, the same in every process and for this state alone"


def may_hold_state(function: Callable[..., Any]) -> bool:
    """Return whether `captured_by` may find something, now or later."""
    code = plain(function)
    if type(code) is not FunctionType:
        return True

    if code.__closure__ is not None and code.__code__.co_freevars != ("__class__",):
        return True

    if LOCAL in code.__qualname__ and (code.__defaults__ or code.__kwdefaults__):
        return True

    if type(function) is not MethodType:
        return False

    bound_to = function.__self__
    kind = bound_to if isinstance(bound_to, type) else type(bound_to)
    return not is_named_alone(kind) or (kind is not bound_to and compared_fields(bound_to) is not None)


def captured_by(function: Callable[..., Any]) -> dict[str, Any] | None:
    """Return what a function holds, by name; None for most functions, which hold nothing.

    Raises `UnkeyableRequest` for a value without a stable form.
    """
    try:
        return _Captured().of(bare(function), ()) or None
    except Unstable as problem:
        raise UnkeyableRequest(f"{problem.place} {problem.reason}: {HINT}, or pass it as an argument.") from None


def check_partial(function: Callable[..., Any], ignore: tuple[str, ...]) -> None:
    """Raise `UnkeyableRequest` if a partial holds an argument without a stable form, which ``name=`` may stand for."""
    while isinstance(function, partial):
        try:
            canonical("", None, "", function.args, function.keywords, ignore)
        except UnkeyableRequest as error:
            raise UnkeyableRequest(
                f"In the partial, {error} Or {HINT}: it replaces all that the partial holds."
            ) from None

        function = function.func


class _Captured(Forms):
    """Stable forms of values, and of the functions among them."""

    def of(self, function: Any, around: tuple[Any, ...]) -> dict[str, Any]:
        """Return what a function holds."""
        if isinstance(function, MethodType):
            return self._instance(function.__self__, around) | self.of(function.__func__, around)

        if type(function) is FunctionType:
            return self._variables(function, (*around, function))

        if isinstance(function, StandIn):
            return {"function": self.form(function.function, "the function", around)}

        wrapped = wrapped_by(function)
        if wrapped is not None:
            # `functools.lru_cache` and its like.
            return self.of(bare(wrapped), around)

        if isinstance(function, type) or text_attribute(function, "__qualname__") is not None:
            bound_to = attribute(function, "__self__")
            return {} if isinstance(bound_to, ModuleType | type | None) else self._instance(bound_to, around)

        return self._attributes(function, (*around, function))

    def function(self, value: Any, place: str, around: tuple[Any, ...]) -> dict[str, Any] | None:
        """Return the form of a captured function; None for what is none."""
        if isinstance(value, StandIn):
            return {"stands for": self.form(value.function, place, (*around, value))}

        if isinstance(value, partial):
            bound = self.form([list(value.args), value.keywords], place, (*around, value))
            return {"function": self._name(value, place), "captured": self.of(bare(value), around), "bound": bound}

        if isinstance(value, MethodType | BuiltinFunctionType):
            bound_to = value.__self__
            kind = ModuleType | type | None
            if not isinstance(bound_to, kind) and (
                compared_fields(bound_to) is None or isinstance(bound_to, list | dict | set | bytearray)
            ):
                return None  # of what calls may change

        elif not isinstance(value, FunctionType) and wrapped_by(value) is None:
            return None

        return {"function": self._name(value, place), "captured": self.of(value, around)}

    @staticmethod
    def _name(function: Any, place: str) -> str:
        try:
            return name_of(function)
        except UnkeyableRequest:
            raise Unstable(place, "is a function that has no stable name") from None

    def _variables(self, function: FunctionType, around: tuple[Any, ...]) -> dict[str, Any]:
        name = function.__qualname__
        held: dict[str, Any] = {}
        for variable, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
            if variable == "__class__":
                continue  # the class that defines the method is in the name

            try:
                value = cell.cell_contents
            except ValueError:
                continue  # not assigned yet

            try:
                held[variable] = self.form(value, f"{variable!r} of {name}", around)
            except Unstable:
                if not _is_what_its_name_means(function):
                    raise

        if LOCAL in name:
            code = function.__code__
            defaults = function.__defaults__ or ()
            names = code.co_varnames[code.co_argcount - len(defaults) : code.co_argcount]
            for parameter, value in [*zip(names, defaults, strict=True), *(function.__kwdefaults__ or {}).items()]:
                self._add(held, f"{parameter}=", value, f"the default of {parameter!r} of {name}", around)

        return held

    def _attributes(self, instance: Any, around: tuple[Any, ...]) -> dict[str, Any]:
        kind, (call, _) = type(instance), call_of(instance)
        name = f"a {kind.__qualname__}"
        known, below = state_below(instance)
        if not known or not isinstance(plain(call), FunctionType):
            raise Unstable(repr(instance)[:100], "has a state that cannot be read")

        held = {} if below is None else {"": self.form(below, name, around)}
        for slot, value in attributes_of(instance).items():
            held[slot] = self.form(value, f"{slot!r} of {name}", around)

        captured = self.of(plain(call), (*around, instance))
        if captured:
            held["__call__"] = captured

        return held | self._class_attributes(kind, around)

    def _instance(self, bound_to: Any, around: tuple[Any, ...]) -> dict[str, Any]:
        if isinstance(bound_to, type):
            return self._class_attributes(bound_to, around)

        held = self._class_attributes(type(bound_to), around)
        fields = compared_fields(bound_to)
        if fields is None:
            return held

        if fields is bound_to:
            return held | {"self": self.form(bound_to, "the instance", around)}

        for name, value in fields.items():
            self._add(held, f"self.{name}", value, f"{name!r} of the instance", (*around, bound_to), lenient=True)

        return held

    def _class_attributes(self, kind: type, around: tuple[Any, ...]) -> dict[str, Any]:
        """Return the attributes of those classes that may share their name with others."""
        held: dict[str, Any] = {}
        for one in kind.__mro__:
            if not is_named_alone(one):
                for name, value in list(one.__dict__.items()):
                    if not name.startswith("__") and not callable(value):
                        self._add(held, f"class.{name}", value, name, around, lenient=True)

        return held

    def _add(
        self,
        held: dict[str, Any],
        name: str,
        value: Any,
        place: str,
        around: tuple[Any, ...],
        *,
        lenient: bool = False,
    ) -> None:
        """Add the form of a value, or nothing if it has none and that is ``lenient``."""
        try:
            held.setdefault(name, self.form(value, place, around))
        except Unstable:
            if not lenient:
                raise


def _is_what_its_name_means(function: FunctionType) -> bool:
    """Return whether a module calls a function by its name: then it is one function in each process, whatever else it holds."""
    name = function.__qualname__
    return LOCAL not in name and is_defined_as(function, defined_as(name, variables_of(function)))
