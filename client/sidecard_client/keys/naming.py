"""The name of a function in keys: the same in every process that runs the same program, and another in every other program.

It is ``project:module.qualified_name`` (`sidecard_client.keys.projects`); for a method, with the class that it is called on, so
that subclasses do not share calls of inherited methods. ``name=`` replaces all of it.

A qualified name may belong to several functions: those that are defined in a function, under both branches of an ``if``, and
those that a later definition has replaced (``def _()``). Their names end in ``+LINE``, counted from the line of the outer
function, or in ``@LINE`` if no such function is found in the module. Functions made of a text (`exec`), outside of any module, end in
``@DIGEST`` of what they do.
"""

import functools
import hashlib
import sys
from collections.abc import Callable
from pathlib import Path
from types import CodeType, FunctionType, ModuleType
from typing import Any

from sidecard_client.functions import (
    attribute,
    bare,
    call_of,
    chain_of,
    defined_as,
    is_defined_as,
    plain,
    text_attribute,
    variables_of,
)
from sidecard_client.keys.projects import project_of
from sidecard_client.protocol.errors import UnkeyableRequest

_MAIN = frozenset({"__main__", "__mp_main__"})
"""The main module, and multiprocessing's name for its parent's."""

LOCAL = ".<locals>."


def name_of(function: Callable[..., Any]) -> str:
    """Return the name of a function, of a partial's function, or of a callable object's class.

    Raises `UnkeyableRequest` for functions without a stable name, such as lambdas.
    """
    function = bare(function)
    qualified_name = text_attribute(function, "__qualname__")
    if qualified_name is None:
        kind, (call, _) = type(function), call_of(function)
        return f"{_place_of_class(kind, call)}.{kind.__qualname__}(){_line_within(call, kind)}"

    if qualified_name[-1:] == ">" or "<lambda>" in qualified_name:
        raise UnkeyableRequest(
            f"{function!r} has no stable name: give it one with name=, the same in every process and for this function alone."
        )

    bound_to = attribute(function, "__self__")
    if bound_to is not None and not isinstance(bound_to, ModuleType):
        kind = bound_to if isinstance(bound_to, type) else type(bound_to)
        return f"{_place_of_class(kind, function)}.{kind.__qualname__}.{_method_name(kind, function)}"

    if type(function) is FunctionType:
        # Of two modules with one name, the function's own. A wrapper has the name of its function, but not its variables.
        variables, module = function.__globals__, function.__module__
        if variables.get("__name__") == module:
            place = _place_of(module, variables.get("__file__"), function.__code__)
            return f"{place}.{qualified_name}{_line_of(function, qualified_name)}"

    # A method of a class written in C has a class, but no module.
    owner = getattr(function, "__objclass__", function)
    return f"{_place_of_loaded(text_attribute(owner, '__module__'), function)}.{qualified_name}"


def name_of_class(kind: type) -> str:
    """Return the name of a class."""
    return f"{_place_of_loaded(kind.__module__, None)}.{kind.__qualname__}"


def _method_name(kind: type, method: Any) -> str:
    """Return the name of a method within a class; with the class that defines it, if that is not what the name means."""
    name, function = str(method.__name__), plain(method)
    if type(function) is not FunctionType:
        return name

    definition = next((one.__dict__[name] for one in kind.__mro__ if name in one.__dict__), None)
    line = _line_within(function, kind)
    # ``super().answer``, called by an overriding method, is not ``self.answer``.
    return name + line if is_defined_as(function, definition) else f"{name}<{function.__qualname__}>{line}"


def _line_of(function: Any, qualified_name: str) -> str:
    """Return what distinguishes a function from others of its name; empty if there are none."""
    if type(function) is not FunctionType or _is_named_by_digest(function.__globals__):
        return ""

    if _is_in_no_module(function):
        return f"@{_digest_of(function.__code__)}"

    line = function.__code__.co_firstlineno
    outer, local, _ = qualified_name.partition(LOCAL)
    definition = defined_as(outer, variables_of(function))
    if not local:
        known = definition is None or any(is_defined_as(plain(one), definition) for one in chain_of(function))
        return "" if known else f"@{line}"

    for one in chain_of(definition):
        code = getattr(plain(one), "__code__", None)
        if isinstance(code, CodeType) and code.co_filename == function.__code__.co_filename:
            return f"+{line - code.co_firstlineno}"

    return f"@{line}"


def _is_in_no_module(function: FunctionType) -> bool:
    """Return whether a function was made of a text, and belongs to no module."""
    variables = function.__globals__
    if "__file__" in variables or not function.__code__.co_filename.startswith("<"):
        return False

    module = sys.modules.get(variables.get("__name__") or "")
    return module is None or vars(module) is not variables


def _line_within(method: Any, kind: type) -> str:
    """Return `_line_of` a method of a class that is defined in a function."""
    return _line_of(method, kind.__qualname__) if LOCAL in kind.__qualname__ else ""


def _is_named_by_digest(variables: dict[str, Any]) -> bool:
    """Return whether what a function of a module with these variables does is part of its name already."""
    if variables.get("__name__") not in _MAIN or variables.get("__file__") is not None:
        return False

    spec = getattr(_main(), "__spec__", None)
    return getattr(_main(), "__file__", None) is not None or spec is None or spec.name in _MAIN


def _place_of_class(kind: type, method: Any) -> str:
    variables = getattr(plain(method), "__globals__", {})
    if variables.get("__name__") == kind.__module__:
        return _place_of(kind.__module__, variables.get("__file__"), getattr(plain(method), "__code__", None))

    return _place_of_loaded(kind.__module__, method)


def _place_of_loaded(module: str | None, function: Any) -> str:
    name = module or "builtins"
    return _place_of(name, getattr(sys.modules.get(name), "__file__", None), getattr(plain(function), "__code__", None))


def _main() -> ModuleType:
    return sys.modules.get("__mp_main__") or sys.modules["__main__"]


def _place_of(module: str, file: str | None, code: CodeType | None) -> str:
    """Return ``project:module``, or the module alone if it is installed."""
    if module not in _MAIN:
        return _joined(module, file)

    main = _main()
    spec, main_file = getattr(main, "__spec__", None), getattr(main, "__file__", None)
    # cloudpickle sends functions to processes with another main module; they keep the variables of their own.
    if file == main_file and spec is not None and spec.name not in _MAIN:
        return _joined(spec.name, file)

    if file is not None:
        # Named after its file, because every script's module is called the same.
        return _joined(Path(file).stem, file)

    # A notebook or a shell: many of them run in one directory, with functions of the same name.
    return _joined(module, None) + ("" if code is None else f".{_digest_of(code)}")


@functools.lru_cache(maxsize=1024)
def _joined(module: str, file: str | None) -> str:
    project = project_of(module, file)
    return f"{project}:{module}" if project else module


def _digest_of(code: CodeType) -> str:
    """Return a digest of what a function does."""

    def parts(code: CodeType) -> tuple[Any, ...]:
        constants = [
            parts(constant)
            if isinstance(constant, CodeType)
            # The order of a set's text changes from process to process.
            else sorted(map(repr, constant))
            if isinstance(constant, frozenset)
            else constant
            for constant in code.co_consts
        ]
        return code.co_code, code.co_exceptiontable, code.co_names, code.co_varnames, constants

    return hashlib.sha256(repr(parts(code)).encode()).hexdigest()[:16]
