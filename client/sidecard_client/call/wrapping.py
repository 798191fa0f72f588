"""What `cached` and `wrap` return: functions and objects whose calls are shared, for both clients.

``perform`` makes a `Call` and returns its value, or an awaitable of it.
"""

import functools
import sys
from collections.abc import AsyncIterator, Callable, Collection, Iterator
from importlib import import_module
from types import BuiltinMethodType, CodeType, FrameType, FunctionType, MethodType
from typing import Any, Self

from msgspec import UNSET

from sidecard_client.call.call import Call, prepare
from sidecard_client.call.keying import check_identity
from sidecard_client.call.options import Options
from sidecard_client.functions import StandIn

Perform = Callable[[Call], Any]

NEVER_SHARED = frozenset({"close", "aclose"})
"""Public methods that `wrap` passes through unless ``methods`` names them: each process must run them itself."""

_GENERATOR_FLAGS = 0x20 | 0x200
"""``inspect.CO_GENERATOR`` and ``CO_ASYNC_GENERATOR``."""

SDK_PACKAGES = frozenset(
    {
        "agents", "agno", "anthropic", "cohere", "crewai", "dspy", "google", "groq", "haystack", "httpx", "httpx2",
        "huggingface_hub", "instructor", "litellm", "llama_index", "mistralai", "ollama", "openai", "pydantic_ai",
        "semantic_kernel", "smolagents", "together",
    }
)  # fmt: skip
"""Packages whose objects make their calls through HTTP clients. LangChain's, ``langchain_openai`` and others, are too many."""

METHOD_TYPES = (MethodType, FunctionType, BuiltinMethodType)


class Sharing(StandIn):
    """How the calls of one function are made: by ``perform``, with ``options``. ``awaits``: by an asynchronous client."""

    __slots__ = ("awaits", "options", "perform", "stream")

    def __init__(self, perform: Perform, function: Callable[..., Any], options: Options, *, awaits: bool) -> None:
        self.perform = perform
        self.function = function
        self.options = options
        self.awaits = awaits
        self.stream = generates(function)

    def make(self, function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Make a call of ``function``, which is the function itself or a method of it."""
        return self.perform(prepare(self.options, function, args, kwargs, stream=self.stream, policy_is_bound=True))

    def shared(self) -> Callable[..., Any]:
        """Return a function whose calls are shared. It is a coroutine function if its calls are to be awaited."""
        return self._like_the_function(_awaiting(self) if self.awaits and not self.stream else _plain(self))

    def shared_method(self) -> Callable[..., Any]:
        """Return a function whose first argument is the instance of a method, which is not part of the key."""
        make_one = _awaiting_method if self.awaits and not self.stream else _plain_method
        return self._like_the_function(make_one(self))

    def code(self, shared: Callable[..., Any]) -> CodeType:
        """Return code that shows `inspect` what calls of ``shared`` return."""
        kind = (_async_generator if self.awaits else _generator) if self.stream else shared
        code: CodeType = getattr(kind, "__code__")  # noqa: B009 - mypy knows no such attribute of a callable
        return code

    def _like_the_function(self, shared: Callable[..., Any]) -> Callable[..., Any]:
        return functools.update_wrapper(shared, self.function)


def _plain(sharing: Sharing) -> Callable[..., Any]:
    def shared(*args: Any, **kwargs: Any) -> Any:
        return sharing.make(sharing.function, args, kwargs)

    return shared


def _awaiting(sharing: Sharing) -> Callable[..., Any]:
    async def shared(*args: Any, **kwargs: Any) -> Any:
        return await sharing.make(sharing.function, args, kwargs)

    return shared


def _plain_method(sharing: Sharing) -> Callable[..., Any]:
    def shared(instance: Any, /, *args: Any, **kwargs: Any) -> Any:
        return sharing.make(MethodType(sharing.function, instance), args, kwargs)

    return shared


def _awaiting_method(sharing: Sharing) -> Callable[..., Any]:
    async def shared(instance: Any, /, *args: Any, **kwargs: Any) -> Any:
        return await sharing.make(MethodType(sharing.function, instance), args, kwargs)

    return shared


def _generator() -> Iterator[None]:
    yield


async def _async_generator() -> AsyncIterator[None]:
    yield


def cached_function(perform: Perform, function: Any, options: Options, *, awaits: bool) -> Any:
    """Return ``function`` with its calls shared: what `cached` makes of it.

    A function of a module becomes a function, so that it pickles by name. All else becomes a `CachedFunction`.
    """
    if isinstance(function, staticmethod | classmethod):
        return type(function)(cached_function(perform, function.__func__, options, awaits=awaits))

    _refuse_key(options)
    if options.key is UNSET:
        check_identity(function, options)  # a function without a stable name is an error here, not at its first call

    sharing = Sharing(perform, function, options, awaits=awaits)
    if type(function) is FunctionType and "." not in function.__qualname__ and not sharing.stream:
        return sharing.shared()

    return CachedFunction(sharing)


class _FunctionLike(StandIn):
    """A callable with the attributes of a function: they show `inspect` its name, and what it returns."""

    __slots__ = ("__dict__", "__weakref__", "_call")

    def __init__(self, sharing: Sharing, call: Callable[..., Any]) -> None:
        self.function = sharing.function
        self._call = call
        functools.update_wrapper(self, sharing.function)
        self.__name__: str = getattr(sharing.function, "__name__", type(sharing.function).__name__)
        self.__code__ = sharing.code(call)
        self.__defaults__ = self.__kwdefaults__ = None

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Return the function's value. It runs only if no stored or running call has the answer."""
        return self._call(*args, **kwargs)

    def __repr__(self) -> str:
        """Show the function."""
        return f"<cached {self.function!r}>"


class CachedFunction(_FunctionLike):
    """A method, local function, generator function or callable object whose calls are shared.

    ``__wrapped__`` is the function itself. It differs from a function in how it binds: ``self`` is not part of a method's key.
    """

    __slots__ = ("_bound", "_sharing")

    def __init__(self, sharing: Sharing) -> None:
        super().__init__(sharing, sharing.shared())
        self._sharing = sharing
        bound = sharing.shared_method()
        self._bound = _FunctionLike(sharing, bound) if sharing.stream else bound

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Bind as a function does, and remember what ``self`` or ``cls`` is."""
        if args and self._is_method_of(args[0]):
            return self._bound(*args, **kwargs)

        return self._call(*args, **kwargs)

    def __get__(self, instance: object | None, owner: type | None = None) -> Any:
        """Bind to an instance like a function, so that ``self`` is not part of the key."""
        return self if instance is None else MethodType(self._bound, instance)

    def __reduce__(self) -> Any:
        """Pickle by name, like a function; by value if the name is local, or as `_pickles_by_value` says."""
        place: Any = None if _pickles_by_value(self.__module__) else sys.modules.get(self.__module__)
        name: str = getattr(self, "__qualname__", "")
        for part in name.split("."):
            place = getattr(place, part, None)

        return name if place is self else (CachedFunction, (self._sharing,))

    def __copy__(self) -> Self:
        return self

    def __deepcopy__(self, _: object) -> Self:
        return self

    def _is_method_of(self, first: object) -> bool:
        """Return whether the first argument is what this binds to, although it was not bound by `__get__`.

        Properties do not do that, nor class methods since Python 3.13, nor callers that write ``Class.method(instance)``.
        """
        kind = first if isinstance(first, type) else type(first)
        for base in kind.__mro__:
            found = vars(base).get(self.__name__)
            if found is self:
                return kind is not first

            if found is not None and not isinstance(found, staticmethod):
                # Of a class method, a property, and a `functools.cached_property`.
                held = (getattr(found, name, None) for name in ("__func__", "fget", "func"))
                if any(one is self for one in held):
                    return isinstance(found, classmethod) == (kind is first)

        return False


def _pickles_by_value(module: str) -> bool:
    """Return whether the pickler that asks sends what ``module`` defines to processes that may not have it.

    cloudpickle, also as a part of other packages, and dill do so with the main module.
    """
    if module != "__main__":
        return False

    frame: FrameType | None = sys._getframe(2)  # noqa: SLF001 - a pickler does not say which one it is
    while frame is not None and frame.f_globals.get("__name__") == "pickle":
        frame = frame.f_back

    pickler = "" if frame is None else frame.f_globals.get("__name__", "")
    return pickler.rpartition(".")[2] in {"cloudpickle", "_dill"}


class SharedMethods:
    """A proxy of an object whose public methods are shared; everything else passes through."""

    __slots__ = ("_sidecard_awaits", "_sidecard_methods", "_sidecard_options", "_sidecard_perform", "_sidecard_target")

    def __init__(
        self,
        perform: Perform,
        target: object,
        options: Options,
        methods: Collection[str] | None,
        *,
        awaits: bool = False,
    ) -> None:
        _refuse_key(options)
        if isinstance(methods, str):
            raise TypeError(f"methods= must be a list of names, such as methods=[{methods!r}].")

        for name in methods or ():
            if not callable(getattr(target, name)):
                raise TypeError(f"methods= names {name!r}, which is not callable.")

        object.__setattr__(self, "_sidecard_awaits", awaits)
        object.__setattr__(self, "_sidecard_perform", perform)
        object.__setattr__(self, "_sidecard_target", target)
        object.__setattr__(self, "_sidecard_options", options)
        object.__setattr__(self, "_sidecard_methods", None if methods is None else frozenset(methods))

    def __getattr__(self, name: str) -> Any:
        """Return the target's attribute, shared if it is one of the methods."""
        attribute = getattr(self._sidecard_target, name)
        methods = self._sidecard_methods
        if methods is None:
            if name.startswith("_") or name in NEVER_SHARED or not isinstance(attribute, METHOD_TYPES):
                return attribute
        elif name not in methods:
            return attribute

        options = self._sidecard_options
        if options.name is not None:  # it names the object; its methods must not answer for each other
            options = options.changed({"name": f"{options.name}.{name}"})

        return Sharing(self._sidecard_perform, attribute, options, awaits=self._sidecard_awaits).shared()

    def __setattr__(self, name: str, value: object) -> None:
        """Set the target's attribute."""
        setattr(self._sidecard_target, name, value)

    def __delattr__(self, name: str) -> None:
        """Delete the target's attribute."""
        delattr(self._sidecard_target, name)

    def __reduce__(self) -> Any:
        """Pickle the target, and how it is shared."""
        make = functools.partial(SharedMethods, awaits=self._sidecard_awaits)
        return make, (self._sidecard_perform, self._sidecard_target, self._sidecard_options, self._sidecard_methods)

    def __dir__(self) -> list[str]:
        """List the target's attributes."""
        return dir(self._sidecard_target)

    def __repr__(self) -> str:
        """Show the target."""
        return f"<shared {self._sidecard_target!r}>"


def wrapped(
    sidecard: Any, perform: Perform, target: object, methods: Collection[str] | None, policy: dict[str, Any]
) -> Any:
    """Return what `wrap` of the client ``sidecard`` returns for ``target``.

    An SDK's object is shared by its HTTP clients, as by ``share()``, and returned itself. Its methods have no stable keys:
    ``OpenAI().chat.completions`` is an object of its own, and their answers are objects of the SDK.
    """
    if methods is None and _is_of_sdk(type(target)):
        # Above this package, and imported with an SDK only.
        sharing = import_module("sidecard_client.http.sharing")
        if sharing.share_if_found(target, sidecard, policy):
            return target

    return SharedMethods(perform, target, sidecard.defaults.changed(policy), methods, awaits=sidecard.awaits)


def _is_of_sdk(kind: type) -> bool:
    packages = {str(one.__module__).partition(".")[0] for one in kind.__mro__}
    return not packages.isdisjoint(SDK_PACKAGES) or any(name.startswith("langchain") for name in packages)


def generates(function: Callable[..., Any]) -> bool:
    """Return whether a function or method is a generator function, asynchronous or not: its answer is a stream.

    Without ``inspect``, which takes longer to import than the rest of the client.
    """
    plain = getattr(function, "__func__", function)
    while isinstance(plain, functools.partial):
        plain = plain.func

    code = getattr(plain, "__code__", None)
    return code is not None and bool(code.co_flags & _GENERATOR_FLAGS)


def _refuse_key(options: Options) -> None:
    if options.embed is not None and options.embed.vector is not None:
        raise TypeError("vector= is for one call: here it would be the vector of all arguments. Use embed=.")

    if isinstance(options.key, str):
        raise TypeError("key= is for one call: here all arguments would share one answer. Use name=.")
