"""Bind the arguments of a call to its function's signature, so that equal calls have equal keys however they are written.

``f("q")``, ``f(q="q")`` and, with a default, ``f()`` are one call. Positional parameters come first, in the signature's order, then the
values of ``*args``; keyword-only parameters and those of ``**kwargs`` are named. Defaults are applied. A default without a stable form
(a sentinel) that is not given, and a parameter in ``ignore=``, are left out: the positional parameters after it are named, too.

Signatures are known of functions and methods written in Python, and of what wraps them with ``functools.wraps`` and takes any
arguments. All other calls, and those that the function will reject, are keyed as written. `inspect.signature` is not used: it and its module cost
more than a hit.
"""

from collections.abc import Callable, Mapping
from copy import copy
from types import FunctionType, MethodType
from typing import Any, Final

from sidecard_client.functions import CACHE_TYPE, call_of, chain_of, wrapped_by

Bound = tuple[tuple[Any, ...], Mapping[str, Any]]
Bind = Callable[[tuple[Any, ...], Mapping[str, Any], tuple[str, ...]], Bound]
"""Takes positional and named arguments, and names of parameters to leave out."""

REST: Final = "*"
"""Name of the values of ``*args`` if a parameter before them is left out. No parameter has this name.
A call that gives it to ``**kwargs`` is keyed as it is written."""

_HAS_REST, _HAS_NAMED = 0x04, 0x08
"""``inspect.CO_VARARGS`` and ``CO_VARKEYWORDS``."""

_STABLE: Final = frozenset({str, bytes, bool, int, type(None)})
_MISSING: Final = object()


class Signature:
    """The parameters of a function, without the first ``skipped`` ones, which its caller does not give.

    ``own_defaults``: arguments that a call leaves out get the defaults of this function. A decorator may pass others.
    """

    def __init__(self, function: FunctionType, skipped: int, *, own_defaults: bool) -> None:
        code = function.__code__
        last = code.co_argcount + code.co_kwonlyargcount
        names = code.co_varnames
        self.names = names[skipped : code.co_argcount]
        self.count = len(self.names)
        self.written_as_keyed = -1 if code.co_kwonlyargcount else self.count
        """A call with so many positional arguments and no others, the most frequent one, is written as it is keyed."""
        self.positional_only = max(0, code.co_posonlyargcount - skipped)
        self.keyword_only = names[code.co_argcount : last]
        self.has_rest = bool(code.co_flags & _HAS_REST)
        self.has_named = bool(code.co_flags & _HAS_NAMED)
        self.defaults = function.__defaults__ or ()
        self.named_defaults = function.__kwdefaults__ or {}
        if not own_defaults:
            self.defaults = (_MISSING,) * len(self.defaults)
            self.named_defaults = dict.fromkeys(self.named_defaults, _MISSING)

        complete = len(self.named_defaults) == len(self.keyword_only)
        defaults = (*self.defaults, *self.named_defaults.values())
        self._defaults_suffice = complete and all(map(_is_constant, defaults))

    def without_first(self, count: int) -> "Signature":
        """Return the signature without its first positional parameters."""
        rest = copy(self)
        rest.names = self.names[count:]
        rest.count = len(rest.names)
        rest.positional_only = max(0, self.positional_only - count)
        rest.defaults = self.defaults[max(0, len(self.defaults) - rest.count) :] if rest.count else ()
        return rest

    def bind(self, args: tuple[Any, ...], kwargs: Mapping[str, Any], ignore: tuple[str, ...]) -> Bound:
        """Return the positional and the named arguments of a call, as they enter its key."""
        if not kwargs and not ignore:
            missing = self.count - len(args)
            if self._defaults_suffice and 0 <= missing <= len(self.defaults):
                return args + self.defaults[len(self.defaults) - missing :], self.named_defaults

        return _Binding(self, ignore).bind(args, kwargs) or (args, kwargs)


def as_written(args: tuple[Any, ...], kwargs: Mapping[str, Any], _ignore: tuple[str, ...]) -> Bound:
    """Return the arguments of a function whose signature is not known."""
    return args, kwargs


def signature_of(function: Callable[..., Any]) -> Signature | None:
    """Return the signature of a function, a method or a callable object; None if it is not known.

    A decorator that takes any arguments has the parameters of what it wraps, but not the defaults: it may pass on others.
    """
    skipped, own_defaults = 0, True
    if type(function) is MethodType:
        function, skipped = function.__func__, 1
    elif type(function) is not FunctionType and wrapped_by(function) is None:
        function, takes_instance = call_of(function)
        skipped = int(takes_instance)

    for one in chain_of(function):
        if type(one) is FunctionType:
            if wrapped_by(one) is None or not _takes_anything(one, skipped):
                return Signature(one, skipped, own_defaults=own_defaults)

            own_defaults = False
        elif type(one) is not CACHE_TYPE:
            own_defaults = False

    return None


def _takes_anything(function: FunctionType, skipped: int) -> bool:
    code = function.__code__
    both = _HAS_REST | _HAS_NAMED
    return code.co_argcount <= skipped and not code.co_kwonlyargcount and code.co_flags & both == both


class _Binding:
    """One call's arguments."""

    def __init__(self, signature: Signature, ignore: tuple[str, ...]) -> None:
        self._signature = signature
        self._names = signature.names
        self._positional_only = signature.positional_only
        self._defaults = signature.defaults
        self._named_defaults = signature.named_defaults
        self._ignore = ignore

    def bind(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Bound | None:
        """Return the bound arguments; None if the function will reject the call."""
        names, left = self._names, dict(kwargs)
        rest = args[len(names) :]
        if (rest and not self._signature.has_rest) or REST in left:
            return None

        values: list[Any] = []
        first_default = len(names) - len(self._defaults)
        for index, name in enumerate(names):
            if index < len(args):
                value = args[index]
                if name in left and index >= self._positional_only:
                    return None
            elif name in left and index >= self._positional_only:
                value = left.pop(name)
            elif index >= first_default:
                value = _stable_or_missing(self._defaults[index - first_default])
            else:
                return None

            values.append(_MISSING if name in self._ignore else value)

        return self._placed(values, rest, left) if self._completed(left) else None

    def _completed(self, named: dict[str, Any]) -> bool:
        """Add the defaults of keyword-only parameters; return whether the function accepts these arguments."""
        keyword_only = self._signature.keyword_only
        for name in keyword_only:
            if name not in named:
                if name not in self._named_defaults:
                    return False

                named[name] = _stable_or_missing(self._named_defaults[name])

        return not named or self._signature.has_named or named.keys() <= set(keyword_only)

    def _placed(self, values: list[Any], rest: tuple[Any, ...], named: dict[str, Any]) -> Bound:
        if named:
            named = {name: value for name, value in named.items() if value is not _MISSING and name not in self._ignore}

        first_missing = 0
        for value in values:
            if value is _MISSING:
                break

            first_missing += 1
        else:
            return (*values, *rest), named

        after = zip(self._names[first_missing:], values[first_missing:], strict=True)
        named.update((name, value) for name, value in after if value is not _MISSING)
        if rest:
            named[REST] = list(rest)

        return tuple(values[:first_missing]), named


def _is_constant(default: Any) -> bool:
    """Return whether a default has a stable form, whatever calls do."""
    return type(default) in _STABLE or (type(default) is float and default == default)  # noqa: PLR0124 - not NaN


def _stable_or_missing(default: Any) -> Any:
    return default if default is not _MISSING and has_stable_form(default) else _MISSING


def has_stable_form(value: Any) -> bool:
    """Return whether a default may be part of a key."""
    if type(value) in _STABLE or (isinstance(value, str | int | float) and value == value):  # noqa: PLR0124 - not NaN
        return True

    if isinstance(value, list | tuple):
        return all(map(has_stable_form, value))

    return isinstance(value, dict) and all(map(has_stable_form, value)) and all(map(has_stable_form, value.values()))
