"""Which type a function's answers have, by its annotation, and what the annotations of types mean."""

import sys
import types
import typing
from collections.abc import Awaitable, Callable, Collection, Coroutine, Mapping
from types import FunctionType
from typing import Any, Final, Literal, TypeVar

from sidecard_client.functions import call_of, chain_of, plain

Part = Literal["whole", "piece", "item"]
"""What a type is wanted of: a function's whole answer, a piece of its stream, or an item of the list that it returns."""

PLAIN: Final[frozenset[Any]] = frozenset(
    {str, int, float, bool, bytes, None, type(None), Any, object, list, dict, typing.LiteralString}
)
"""Annotations of plain values, and of those of which nothing is known."""

_OF_PLAIN: Final[frozenset[Any]] = frozenset({list, dict, typing.Union, types.UnionType})

_AWAITABLES: Final[frozenset[Any]] = frozenset({Awaitable, Coroutine})
_WRAPPERS: Final = frozenset({"Annotated", "Required", "NotRequired", "ReadOnly", "Final", "ClassVar"})
_DECLARATIONS: Final[tuple[Any, ...]] = (typing.Generic, typing.Protocol)
_MISSING: Final = object()


class UnknownAnnotation(TypeError):
    """An annotation cannot be read: a name in it is not defined where the function is."""


def annotation_of(function: Callable[..., Any], part: Part) -> Any:
    """Return the type of a function's answers, or of their parts; `Any` if nothing is known.

    Raises `UnknownAnnotation` for names that are not defined.
    """
    if isinstance(function, type):
        return function if part == "whole" else Any

    *_, innermost = chain_of(plain(function))
    annotated = plain(innermost)
    if not isinstance(annotated, FunctionType):
        annotated, _ = call_of(function)
        if not isinstance(annotated, FunctionType):
            return Any

    annotation = _return_annotation(annotated)
    parameters = typing.get_args(annotation)
    if parameters and typing.get_origin(annotation) in _AWAITABLES:
        # A function that returns an awaitable without being a coroutine function.
        annotation = parameters[-1]

    return annotation if part == "whole" else _item_of(annotation, part)


def _return_annotation(function: FunctionType) -> Any:
    try:
        annotation = function.__annotations__.get("return", Any)
    except NameError as error:
        raise UnknownAnnotation(f"it cannot be read ({error})") from None

    return resolved(annotation, function.__globals__, _captured(function) | _type_parameters(function))


def resolved(annotation: Any, names: Mapping[str, Any], local_names: Mapping[str, Any]) -> Any:
    """Resolve the names in a text or within a type. Raises `UnknownAnnotation` if one is not defined."""
    if isinstance(annotation, type) and not typing.get_args(annotation):
        return annotation

    holder = type("Holder", (), {"__annotations__": {"return": annotation}})
    try:
        return typing.get_type_hints(holder, dict(names), {**local_names}, include_extras=True)["return"]
    except Exception as error:  # noqa: BLE001 - whatever a text evaluates to
        raise UnknownAnnotation(f"{annotation!r} cannot be read ({error})") from None


def _captured(function: FunctionType) -> dict[str, Any]:
    names = {}
    for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
        try:
            names[name] = cell.cell_contents
        except ValueError:
            continue  # not assigned yet

    return names


def _item_of(annotation: Any, part: Part) -> Any:
    """Return the type of what an iterable's iterator gives; `Any` if it is not known."""
    annotation = bare(annotation)
    while is_alias(annotation):
        annotation = bare(value_of_alias(annotation))

    origin, parameters = typing.get_origin(annotation), typing.get_args(annotation)
    numpy = sys.modules.get("numpy")
    if numpy is not None and numpy.ndarray in {annotation, origin}:
        return numpy.ndarray if part == "item" else Any

    if not isinstance(origin, type) or not parameters:
        return Any

    if origin is tuple:
        rest = parameters[1:]
        return parameters[0] if rest == (...,) or not rest else Any

    iterates = hasattr(origin, "__iter__") or hasattr(origin, "__aiter__")
    return parameters[0] if iterates and not issubclass(origin, Mapping) else Any


def bare(annotation: Any) -> Any:
    """Return an annotation without what does not change the type: metadata, ``NotRequired``, names for types."""
    while True:
        origin = typing.get_origin(annotation)
        if _special_name(annotation if origin is None else origin) in _WRAPPERS:
            parameters = typing.get_args(annotation)
            if not parameters:
                return Any

            annotation = parameters[0]
        elif (inner := getattr(annotation, "__supertype__", _MISSING)) is not _MISSING:
            annotation = inner  # NewType
        else:
            return annotation


def _special_name(annotation: Any) -> str:
    if getattr(annotation, "__module__", "") not in {"typing", "typing_extensions"}:
        return ""

    return str(getattr(annotation, "_name", None) or getattr(annotation, "__name__", ""))


def is_plain(annotation: Any) -> bool:
    """Return whether an annotation is one of `PLAIN`, or a list, a dict or a union of these, as most are."""
    try:
        if annotation in PLAIN:
            return True
    except TypeError:  # unhashable
        return False

    return typing.get_origin(annotation) in _OF_PLAIN and all(map(is_plain, typing.get_args(annotation)))


def is_alias(annotation: Any) -> bool:
    """Return whether an annotation is a ``type`` statement's alias, with or without parameters."""
    origin = typing.get_origin(annotation)
    return type(annotation if origin is None else origin).__name__ == "TypeAliasType"


def value_of_alias(annotation: Any) -> Any:
    """Return what an alias stands for. Raises `UnknownAnnotation` for names that are not defined."""
    origin = typing.get_origin(annotation)
    alias = annotation if origin is None else origin
    names = vars(sys.modules.get(alias.__module__, object))
    try:
        value = alias.__value__
    except NameError as error:
        raise UnknownAnnotation(f"{alias!r} cannot be read ({error})") from None

    parameters = dict(zip(alias.__type_params__, typing.get_args(annotation), strict=False))
    return substituted(resolved(value, names, {alias.__name__: alias}), parameters)


def substituted(annotation: Any, parameters: Mapping[Any, Any]) -> Any:
    """Return an annotation with its type variables replaced."""
    if isinstance(annotation, TypeVar):
        return parameters.get(annotation, annotation)

    free = getattr(annotation, "__parameters__", ())
    if not free or isinstance(annotation, type):
        return annotation

    return annotation[tuple(parameters.get(one, one) for one in free)]


def parameters_of(annotation: Any) -> dict[Any, dict[Any, Any]]:
    """Return what the type variables of a class, and of each class that it inherits from, are in an annotation."""
    origin = typing.get_origin(annotation)
    kind = annotation if origin is None else origin
    own = dict(zip(getattr(kind, "__parameters__", ()), typing.get_args(annotation), strict=False))
    known = {kind: own}
    for base in vars(kind).get("__orig_bases__", kind.__bases__):
        generic = typing.get_origin(base)
        # Not TypedDict and NamedTuple, which are functions.
        if isinstance(base if generic is None else generic, type) and generic not in _DECLARATIONS:
            known |= parameters_of(substituted(base, own))

    return known


def hints_of(annotation: Any, wanted: Collection[str]) -> dict[str, Any]:
    """Return those annotations of a class and of its bases that are wanted. Those that cannot be read are `Any`."""
    import inspect  # noqa: PLC0415 - takes longer to import than the rest of the client

    parameters = parameters_of(annotation)
    origin = typing.get_origin(annotation)
    hints: dict[str, Any] = {}
    for base in reversed((annotation if origin is None else origin).__mro__):
        names = vars(sys.modules.get(base.__module__, object))
        local_names = {base.__name__: base} | _type_parameters(base)
        for name, hint in inspect.get_annotations(base).items():
            if name not in wanted:
                continue

            try:
                hints[name] = substituted(resolved(hint, names, local_names), parameters.get(base, {}))
            except UnknownAnnotation:
                hints[name] = Any

    return hints


def _type_parameters(declared: Any) -> dict[str, Any]:
    return {parameter.__name__: parameter for parameter in getattr(declared, "__type_params__", ())}
