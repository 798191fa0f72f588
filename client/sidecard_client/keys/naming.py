"""The name of a function in keys: the same in every process that runs the same program, and another in every other program.

It is ``project:module.qualified_name`` (`sidecard_client.keys.projects`); for a method, with the class that it is called on, so
that subclasses do not share calls of inherited methods. ``name=`` replaces all of it.
"""

import functools
import hashlib
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import CodeType, FunctionType, ModuleType
from typing import Any

from sidecard_client.keys.projects import project_of
from sidecard_client.protocol.errors import UnkeyableRequest

_MAIN = frozenset({"__main__", "__mp_main__"})
"""The main module, and multiprocessing's name for its parent's."""


def name_of(function: Callable[..., Any]) -> str:
    """Return the name of a function, of a partial's function, or of a callable object's class.

    Raises `UnkeyableRequest` for functions without a stable name, such as lambdas.
    """
    while isinstance(function, partial):
        function = function.func

    qualified_name = getattr(function, "__qualname__", None)
    if qualified_name is None:
        kind = type(function)
        return f"{_place_of_class(kind, kind.__call__)}.{kind.__qualname__}()"

    if qualified_name[-1:] == ">" or "<lambda>" in qualified_name:
        raise UnkeyableRequest(
            f"{function!r} has no stable name: give it one with name=, the same in every process and for this function alone."
        )

    bound_to = getattr(function, "__self__", None)
    if bound_to is not None and not isinstance(bound_to, ModuleType):
        kind = bound_to if isinstance(bound_to, type) else type(bound_to)
        return f"{_place_of_class(kind, function)}.{kind.__qualname__}.{function.__name__}"

    # A method of a class written in C has a class, but no module.
    module = getattr(getattr(function, "__objclass__", function), "__module__", None) or "builtins"
    if type(function) is FunctionType:
        # Of two modules with one name, the function's own. A wrapper has the name of its function, but not its variables.
        variables = function.__globals__
        if variables.get("__name__") == module:
            return f"{_place_of(module, variables.get('__file__'), function.__code__)}.{qualified_name}"

    return f"{_place_of_loaded(module, function)}.{qualified_name}"


def _place_of_class(kind: type, method: Any) -> str:
    return _place_of_loaded(kind.__module__, method)


def _place_of_loaded(module: str | None, function: Any) -> str:
    plain = getattr(function, "__func__", function)
    name = module or "builtins"
    return _place_of(name, getattr(sys.modules.get(name), "__file__", None), getattr(plain, "__code__", None))


def _place_of(module: str, file: str | None, code: CodeType | None) -> str:
    """Return ``project:module``, or the module alone if it is installed."""
    if module not in _MAIN:
        return _joined(module, file)

    main = sys.modules.get("__mp_main__") or sys.modules["__main__"]
    spec, file = getattr(main, "__spec__", None), getattr(main, "__file__", None)
    if spec is not None and spec.name not in _MAIN:
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
        constants = [parts(constant) if isinstance(constant, CodeType) else constant for constant in code.co_consts]
        return code.co_code, code.co_names, code.co_varnames, constants

    return hashlib.sha256(repr(parts(code)).encode()).hexdigest()[:16]
