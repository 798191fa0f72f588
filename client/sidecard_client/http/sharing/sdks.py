"""Rules for SDKs that make HTTP clients late or repeatedly: how each of these clients is shared.

Each function gets an object of an SDK and ``share``, which shares what is inside another object. It returns how many clients
will be shared when the SDK makes them. Only attributes and methods of known classes are touched.
"""

from collections.abc import Callable, Coroutine
from contextlib import suppress
from functools import wraps
from importlib import import_module
from types import FunctionType, ModuleType
from typing import Any, Final, Protocol

from sidecard_client.http.fork_safe_lock import ForkSafeLock


class ShareMade(Protocol):
    """Shares what is inside an object that an SDK makes, now or later."""

    replaces: bool
    """The client of sidecard is to replace an earlier one."""

    def __call__(self, made: Any) -> None:
        """Share it."""


_lock: Final = ForkSafeLock()


class Unshareable(Exception):
    """An SDK's object that can never be shared as it is. The text says why, and what to change."""


def prepare(value: Any, share: ShareMade) -> int:
    """Make the HTTP clients of an SDK's object, or arrange that later ones are shared.

    Raises `Unshareable`, and what the SDK raises if it cannot make its client.
    """
    if isinstance(value, ModuleType):
        rule = _MODULES.get(value.__name__)
        return 0 if rule is None else rule(value, share)

    if isinstance(value, FunctionType):
        return _litellm(value, share) if _is_of_litellm(value) else 0

    for kind in type(value).__mro__:
        module = str(kind.__module__)
        rule = _CLASSES.get((module.partition(".")[0], kind.__name__)) or next(
            (rule for start, rule in _PACKAGES.items() if module.startswith(start)), None
        )
        if rule is not None:
            return rule(value, share)

    return 0


def _is_of_litellm(function: FunctionType) -> bool:
    """Return whether a function is `litellm.completion`, which instructor keeps in place of a client."""
    return function.__name__ in {"completion", "acompletion"} and str(function.__module__).startswith("litellm.")


# Objects that make their clients at first use ------------------------------------------------------------------------


def _touch(*names: str) -> Callable[[Any, ShareMade], int]:
    """Return a rule that reads attributes, which makes the clients. What a method returns is a client that its object keeps."""

    def rule(value: Any, _: ShareMade) -> int:
        for name in names:
            made = getattr(value, name, None)
            if callable(made) and getattr(made, "__self__", None) is value:
                _run(made())

        return 0

    return rule


def _run(made: Any) -> None:
    """Run a coroutine that awaits nothing; one that does is given up."""
    if isinstance(made, Coroutine):
        with suppress(StopIteration):
            made.send(None)

        made.close()


def _haystack(value: Any, share: ShareMade) -> int:
    """Make the clients of a generator or an embedder. Warming up any other component could load a model."""
    if not {"client", "async_client"} <= vars(value).keys():
        return 0

    return _touch("warm_up", "warm_up_async")(value, share)


def _llama_index(value: Any, share: ShareMade) -> int:
    if getattr(value, "reuse_client", True) is False:
        raise Unshareable(
            "with reuse_client=False it makes a client for each request. Leave that out, or pass http_client= and "
            "async_http_client= and share those."
        )

    return _touch("_get_client", "_get_aclient", "client", "async_client")(value, share)


def _agno(value: Any, share: ShareMade) -> int:
    """Its models have methods that make their clients. Some versions keep these, others make one for each request."""
    found = 0
    for name in ("get_client", "get_async_client"):
        make = getattr(value, name, None)
        if callable(make) and not _is_shared(make, share) and make() is not make():
            setattr(value, name, _sharing(make, share))
            found += 1

    return found


# Objects that replace their clients ----------------------------------------------------------------------------------


def _together(value: Any, _: ShareMade) -> int:
    if not hasattr(value, "_client"):
        raise Unshareable("this version of together uses requests and aiohttp. Versions 2.0 and later use httpx.")

    return 0


def _google_genai(value: Any, share: ShareMade) -> int:
    """Let the asynchronous part use httpx: with aiohttp installed it would use that, which has no transports.

    Its HTTP client may make one more for each event loop.
    """
    if not hasattr(value, "_async_httpx_client"):
        raise Unshareable(
            "this version of google-genai makes an HTTP client for each request. Later versions keep one."
        )

    options, client = getattr(value, "_http_options", None), getattr(value, "_async_httpx_client", None)
    uses_aiohttp = getattr(value, "_use_aiohttp", None)
    if client is None:
        return 0

    maker = getattr(client, "_inner_client_cls", None)
    if maker is not None and not _is_shared(maker, share):
        client._inner_client_cls = _sharing(maker, share)  # noqa: SLF001 - there is no public one
        for made in list(getattr(client, "_loop_clients", {}).values()):
            share(made)

    if options is not None and uses_aiohttp is not None and uses_aiohttp():
        options.httpx_async_client = client

    return 0


def _aisuite(value: Any, _: ShareMade) -> int:
    """Its providers, which it would make at their first use."""
    if not value.providers:
        value._initialize_providers()  # noqa: SLF001 - there is no public one

    return 0


def _pydantic_ai(value: Any, share: ShareMade) -> int:
    """A provider makes a new client in another event loop, and after it was closed."""
    factory = getattr(value, "_http_client_factory", None)
    if factory is None or _is_shared(factory, share):
        return 0

    value._http_client_factory = _sharing(factory, share)  # noqa: SLF001 - there is no public one
    return 0


def _huggingface_hub(_: Any, share: ShareMade) -> int:
    """All its objects use the HTTP clients that two functions of the package make."""
    http = import_module("huggingface_hub.utils._http")
    if not hasattr(http, "set_client_factory"):
        raise Unshareable(
            "this version of huggingface_hub uses requests and aiohttp. Versions 1.0 and later use httpx."
        )

    factories = ("_GLOBAL_CLIENT_FACTORY", "_GLOBAL_ASYNC_CLIENT_FACTORY")
    with _lock:
        for name in factories:
            factory = getattr(http, name)
            if not _is_shared(factory, share):
                # The package's own setter would close the client in use, perhaps in the middle of a request.
                setattr(http, name, _sharing(factory, share))

    share(http._GLOBAL_CLIENT)  # noqa: SLF001 - made by the factory at the first request
    return len(factories)


def _litellm(_: Any, share: ShareMade) -> int:
    """All its providers get their HTTP clients from a few functions, which its own caches call."""
    handlers = import_module("litellm.llms.custom_httpx.http_handler")
    makers: list[tuple[type, str]] = [
        (handlers.HTTPHandler, "__init__"),
        (handlers.HTTPHandler, "create_client"),
        (handlers.AsyncHTTPHandler, "create_client"),
    ]
    openai_like = getattr(import_module("litellm.llms.openai.common_utils"), "BaseOpenAILLM", None)
    if openai_like is None:  # before version 1.62
        openai_like = import_module("litellm.llms.openai.openai").OpenAIChatCompletion
        makers.append((openai_like, "_get_openai_client"))
    else:
        makers += [(openai_like, "_get_sync_http_client"), (openai_like, "_get_async_http_client")]

    with _lock:
        fresh = [_share_maker(owner, name, share) for owner, name in makers]

    if any(fresh) or share.replaces:
        module = import_module("litellm")
        for name in ("client_session", "aclient_session", "module_level_client", "module_level_aclient"):
            share(getattr(module, name, None))

        share(getattr(module, "in_memory_llm_clients_cache", None))

    return len(makers)


def _share_maker(owner: type, name: str, share: ShareMade) -> bool:
    """Replace a method that makes HTTP clients; return False if it is replaced already, or missing in this version."""
    made = vars(owner).get(name)
    function = getattr(made, "__func__", made)
    if function is None or _is_shared(function, share):
        return False

    shared = _sharing(function, share)
    setattr(owner, name, staticmethod(shared) if isinstance(made, staticmethod) else shared)
    return True


def _dspy(value: Any, share: ShareMade) -> int:
    if getattr(value, "_engine_spec", "litellm") != "litellm":
        raise Unshareable('its own engine makes calls without httpx. Use dspy.LM(..., engine="litellm").')

    return _litellm(value, share)


def _openai(module: Any, _: ShareMade) -> int:
    """The functions of the module, such as ``openai.chat.completions.create``, use one client, made at first use."""
    load = getattr(module, "_load_client", None)
    if load is not None:
        load()

    return 0


def _sharing(maker: Callable[..., Any], share: ShareMade) -> Callable[..., Any]:
    """Return a function that makes what ``maker`` makes, shared. For ``__init__``, that is the object itself."""

    @wraps(maker, updated=())  # LiteLLM looks at signatures
    def make(*args: Any, **kwargs: Any) -> Any:
        made = maker(*args, **kwargs)
        make.share(args[0] if made is None and args else made)  # type: ignore[attr-defined]  # set below
        return made

    make.share = share  # type: ignore[attr-defined]  # also a mark, so that the maker is replaced once
    return make


def _is_shared(maker: Any, share: ShareMade) -> bool:
    """Return whether a function is one of `_sharing`'s, which then shares with the latest client that the app gave."""
    if not isinstance(getattr(maker, "share", None), type(share)):
        return False

    if share.replaces:
        maker.share = share

    return True


_CLASSES: Final[dict[tuple[str, str], Callable[[Any, ShareMade], int]]] = {
    ("langchain_anthropic", "ChatAnthropic"): _touch("_client", "_async_client"),
    ("aisuite", "Client"): _aisuite,
    ("agents", "OpenAIProvider"): _touch("_get_client"),
    ("google", "BaseApiClient"): _google_genai,
    ("pydantic_ai", "Provider"): _pydantic_ai,
    ("together", "Together"): _together,
    ("together", "AsyncTogether"): _together,
    ("huggingface_hub", "InferenceClient"): _huggingface_hub,
    ("huggingface_hub", "AsyncInferenceClient"): _huggingface_hub,
    ("dspy", "LM"): _dspy,
    ("crewai", "LLM"): _litellm,
    ("smolagents", "LiteLLMModel"): _litellm,
    ("langchain_litellm", "ChatLiteLLM"): _litellm,
    ("langchain_community", "ChatLiteLLM"): _litellm,
}

_PACKAGES: Final[dict[str, Callable[[Any, ShareMade], int]]] = {
    "agno.models.": _agno,
    "haystack.components.": _haystack,
    "llama_index.embeddings.": _llama_index,
    "llama_index.llms.": _llama_index,
}
"""By how the name of a class's module begins."""

_MODULES: Final[dict[str, Callable[[Any, ShareMade], int]]] = {
    "huggingface_hub": _huggingface_hub,
    "litellm": _litellm,
    "openai": _openai,
}
"""By the name of the module that is shared."""
