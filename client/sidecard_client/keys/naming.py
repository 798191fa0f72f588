"""The name of a function in keys: the same in every process that runs the same program."""

import functools
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

from sidecard_client.protocol.errors import UnkeyableRequest


def name_of(function: Callable[..., Any]) -> str:
    """Return ``module.qualified_name`` of a function.

    A method's name has the class that it is called on, so that subclasses do not share calls of inherited methods.
    The main program's module is named after its file, because every script's is called ``__main__``.
    Raises `UnkeyableRequest` for functions without a stable name: lambdas, partials, instances.
    """
    try:
        qualified_name = function.__qualname__
        module = function.__module__
    except AttributeError:
        qualified_name = "<nameless>"
        module = ""

    if qualified_name[-1:] == ">" or "<lambda>" in qualified_name:
        raise UnkeyableRequest(
            f"{function!r} has no stable name: give it one with name=, the same in every process and for this function alone."
        )

    bound_to = getattr(function, "__self__", None)
    if bound_to is not None and not isinstance(bound_to, ModuleType):
        kind = bound_to if isinstance(bound_to, type) else type(bound_to)
        module = kind.__module__
        qualified_name = f"{kind.__qualname__}.{function.__name__}"

    if module in {"__main__", "__mp_main__"}:  # multiprocessing's name for its parent's main module
        module = _main_module()

    return f"{module}.{qualified_name}"


@functools.cache
def _main_module() -> str:
    main = sys.modules.get("__mp_main__") or sys.modules["__main__"]
    spec = getattr(main, "__spec__", None)
    if spec is not None and spec.name not in {"__main__", "__mp_main__"}:
        return str(spec.name)

    file = getattr(main, "__file__", None)
    return "__main__" if file is None else f"main:{Path(file).resolve()}"
