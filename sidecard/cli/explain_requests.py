"""The requests that ``sidecard explain`` is asked about: how they are written, and what of them is told.

===============================================  ======================================================================
form                                             what it is
===============================================  ======================================================================
``{"name": ..., "args": [...], "kwargs": {}}``   a call of a function; also ``task``, ``model``, and the policy's keywords
``{"url": ..., "headers": {}, "body": {...}}``   an HTTP request, as transports see it
any other object, with ``--url``                 the body of one, as SDKs send it
===============================================  ======================================================================
"""

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
from msgspec import Raw, Struct

from sidecard.cli.asking import UsageError
from sidecard_client.call.call import STREAM_SUFFIX
from sidecard_client.call.determinism import asks_for_one_answer
from sidecard_client.call.options import Options
from sidecard_client.http.request import ENDPOINTS, KEY_NAME_PREFIX, parse_request
from sidecard_client.keys.explanation import Explanation, explain
from sidecard_client.keys.normal_form import BY_TASK, NormalForm
from sidecard_client.protocol.wire import DEFAULT_BACKEND

FROM_CALL = "call"

_POLICY = {
    "ttl": "ttl_seconds",
    "stale": "stale_seconds",
    "failure_ttl": "failure_ttl_seconds",
    "route": "route",
}
"""The keywords of a call that replace values of its task's policy, by their names there."""


class _CallForm(Struct, forbid_unknown_fields=True):
    name: str
    args: list[Any] = []
    kwargs: dict[str, Any] = {}
    task: str | None = None
    model: str | None = None
    namespace: str | None = None
    ignore: list[str] = []
    normalize: list[str] | str | None = None
    deterministic: bool | None = None
    ttl: float | None = None
    stale: float | None = None
    failure_ttl: float | None = None
    route: str | None = None
    backends: list[str] = []
    stream: bool = False


class _HttpForm(Struct, forbid_unknown_fields=True):
    url: str
    body: Raw
    headers: dict[str, str] = {}
    method: str = "POST"


class Flags(Struct, frozen=True):
    """What the command line says about the requests, in place of what is in them."""

    task: str | None = None
    namespace: str | None = None
    normalize: str | None = None
    url: str | None = None
    headers: tuple[tuple[str, str], ...] = ()
    share_credentials: bool = False


class Question(Struct, frozen=True):
    """One request. ``policy`` is what it says itself, by the names of ``[tasks.NAME]``: value, and where that was said."""

    options: Options
    model: str | None
    name: str
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    deterministic: bool
    policy: Mapping[str, tuple[Any, str]]
    shares_nothing: str = ""
    """Why, where it has no key at all."""

    @property
    def by_task(self) -> bool:
        """Its texts are to be in the forms that its task has."""
        return self.options.normalize == BY_TASK

    def explained(self, forms_of_task: tuple[NormalForm, ...]) -> Explanation:
        """Return what its key is made of. Raises `UnkeyableRequest`."""
        options = self.options
        forms = forms_of_task if isinstance(options.normalize, str) else options.normalize
        return explain(
            options.task,
            self.model,
            self.name,
            self.args,
            self.kwargs,
            options.ignore,
            forms,
            options.namespace,
        )


def header_of(text: str) -> tuple[str, str]:
    """Return name and value of a header as it is written. Raises `UsageError`."""
    name, colon, value = text.partition(":")
    if not colon or not name.strip():
        raise UsageError(f"--header {text!r} has no value; write --header 'NAME: VALUE'")

    return name.strip(), value.strip()


def read(text: bytes, place: str, flags: Flags) -> Question:
    """Read a request. Raises `UsageError`, which names ``place``."""
    try:
        fields = msgspec.json.decode(text)
        if not isinstance(fields, dict):
            raise UsageError(f"{place}: a request is a JSON object, not {type(fields).__name__}")

        if "url" in fields and "body" in fields:
            form = msgspec.json.decode(text, type=_HttpForm)
            return _of_http(form.method, form.url, (*form.headers.items(), *flags.headers), bytes(form.body), flags)

        if flags.url is not None:
            return _of_http("POST", flags.url, flags.headers, text, flags)

        if "name" in fields:
            return _of_call(msgspec.json.decode(text, type=_CallForm), flags)

    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError, TypeError, ValueError) as error:
        raise UsageError(f"{place}: {error}") from error

    raise UsageError(
        f"{place}: neither the call of a function nor an HTTP request: it has no name, and no url and body; "
        "of the body of a request say where it goes, such as --url https://api.openai.com/v1/chat/completions"
    )


def _of_call(form: _CallForm, flags: Flags) -> Question:
    keywords = {keyword: getattr(form, keyword) for keyword in _POLICY if getattr(form, keyword) is not None}
    options = _options(form.task, form.namespace, form.normalize, flags).changed(keywords | {"ignore": form.ignore})
    policy: dict[str, tuple[Any, str]] = {
        _POLICY[keyword]: (value, f"{FROM_CALL}: {keyword}") for keyword, value in keywords.items()
    }
    if form.backends:
        policy["backends"] = form.backends, f"{FROM_CALL}: backends"

    args = tuple(form.args)
    deterministic = asks_for_one_answer(args, form.kwargs, said=form.deterministic)
    name = form.name + STREAM_SUFFIX * form.stream
    return Question(options, form.model, name, args, form.kwargs, deterministic, policy)


def _of_http(method: str, url: str, headers: Sequence[tuple[str, str]], body: bytes, flags: Flags) -> Question:
    asked = parse_request(method, url, headers, body, share_credentials=flags.share_credentials)
    if asked is None:
        ends = ", ".join(sorted(ENDPOINTS))
        raise ValueError(f"{method} {url} is not shared: that are POSTs of a JSON object to a path that ends in {ends}")

    said = {name.lower(): value for name, value in headers}
    policy: dict[str, tuple[Any, str]] = {"backends": ([asked.backend or DEFAULT_BACKEND], f"{FROM_CALL}: its url")}
    if "x-sidecard-ttl" in said:
        policy["ttl_seconds"] = float(said["x-sidecard-ttl"]), f"{FROM_CALL}: x-sidecard-ttl"

    off = said.get("x-sidecard-cache", "").lower() == "off"
    return Question(
        _options(said.get("x-sidecard-task"), None, None, flags),
        asked.model or None,
        f"{KEY_NAME_PREFIX}{asked.family}",
        (),
        asked.parts,
        asked.deterministic,
        policy,
        "its header x-sidecard-cache says off" if off else "",
    )


def _options(task: str | None, namespace: str | None, normalize: Any, flags: Flags) -> Options:
    said = {"task": flags.task or task, "namespace": flags.namespace or namespace}
    # A wrong name is an error of the policy's own checks.
    policy: dict[str, Any] = {keyword: value for keyword, value in said.items() if value is not None}
    if flags.normalize is not None:
        normalize = BY_TASK if flags.normalize == BY_TASK else [form for form in flags.normalize.split(",") if form]

    return Options().changed(policy | {"normalize": normalize})
