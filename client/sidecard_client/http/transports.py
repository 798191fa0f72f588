"""Transports for httpx2 and httpx: the calls of real SDKs, shared without a change to the app.

::

    sidecard = Client()
    llm = OpenAI(http_client=httpx2.Client(transport=SidecardTransport(sidecard=sidecard)))
    llm.chat.completions.create(...)          # made once for all processes of the host

    async with AsyncClient() as sidecard:
        transport = AsyncSidecardTransport(sidecard=sidecard)
        llm = AsyncOpenAI(http_client=httpx2.AsyncClient(transport=transport))

What goes through
=================
POST requests whose path ends as one of `http_asked.ENDPOINTS` (chat completions, completions, responses, embeddings, Anthropic's
messages, Ollama's generate, chat and embed) and whose body is a JSON object. All else goes straight on to ``inner``.

A request becomes a stream (`Client.stream`), whose first piece is status and headers, and whose others are the body's bytes as
they came: so server-sent events and JSON lines are followed as they come, and replayed byte for byte. What its key is made of is
told in `http_asked`, what is kept in `http_reading`. Its backend is ``host:port/model#account`` unless ``backend`` says otherwise,
so the outage of one is nobody else's. Those on a loopback address are local. Sharing costs one thing: an answer comes
unencoded (``accept-encoding: identity``).

Outcomes for the breakers: 2xx is an answer; 408, 409, 425, 429 (with its ``Retry-After``) and 5xx are transient, as are connections
that fail and time-outs; other 4xx are fatal. A response that is no answer is its own caller's as it came; those who waited for
it get the same status and body, where these fit a message. An answer that breaks off, or that is not whole, raises a read error
for those who follow it, and is never stored.

Cancelling an asynchronous request that others wait for leaves it running for them.

What an app may say and hear
============================
==============================  ======================================================================================
request header                  meaning, for this one call; none of them is sent on
==============================  ======================================================================================
``x-sidecard-cache``            ``refresh``: no stored answer; ``off``: neither stored nor shared;
                                ``only``: a stored answer or status 504
``x-sidecard-ttl``              seconds for which the answer may be stored
``x-sidecard-task``             the task
==============================  ======================================================================================

==============================  ======================================================================================
response header                 meaning
==============================  ======================================================================================
``x-sidecard-source``           ``upstream``, ``cache``, ``stale``, ``shared``, ``fallback``, or ``rejected``
``x-sidecard-age``              seconds since the answer was stored
``x-sidecard-backend``          whose answer it is
``x-sidecard-saved-dollars``    what its own call cost, of stored answers
==============================  ======================================================================================

Where the daemon may not let a call happen, the response is of status 503 (the breaker is open, or no room), 429 (a budget is
spent), 403 (sovereign mode) or 504 (only a stored answer was wanted), with ``Retry-After`` where it is known.

Frameworks
==========
*FastAPI*: open one `AsyncClient` for the app, in its lifespan; SDK clients may then be made anywhere::

    @asynccontextmanager
    async def lifespan(app):
        async with AsyncClient() as sidecard:
            transport = AsyncSidecardTransport(sidecard=sidecard)
            app.state.llm = AsyncOpenAI(http_client=httpx2.AsyncClient(transport=transport))
            yield  # the app serves

*OpenAI*, *Anthropic*: ``OpenAI(http_client=httpx2.Client(transport=SidecardTransport()))``, and ``Anthropic`` the same. An SDK's own
time-out is then ``httpx2.Client(timeout=...)``. ``max_retries`` stays the SDK's: each attempt is a call, which never gets
anything of the failed one before it.

*Ollama*: its client makes its own httpx client and passes arguments on: ``ollama.Client(host, transport=SidecardTransport(...))``.

*LangChain*: ``ChatOpenAI(http_client=httpx2.Client(transport=...), http_async_client=httpx2.AsyncClient(transport=...))``: give it
the httpx that its OpenAI SDK uses. *LiteLLM*: ``litellm.client_session = httpx.Client(transport=...)`` and
``litellm.aclient_session``.

*A plain function* needs no transport: `Client.call`, or `Client.stream`.
"""

import sys
from collections.abc import AsyncIterator, Collection, Iterator, Mapping
from contextlib import suppress
from functools import cache
from importlib import import_module
from types import ModuleType, TracebackType
from typing import TYPE_CHECKING, Any, Final, Literal, Self, cast, get_args

import msgspec
from msgspec import MsgspecError

from sidecard_client.call.call import UNKEYED
from sidecard_client.call.options import MAX_NAME_CHARACTERS, Options, Redact
from sidecard_client.http.request import ENDPOINTS, KEY_NAME_PREFIX, Asked, Family, read_request
from sidecard_client.http.response import Reader, Reading, kind_of_status
from sidecard_client.keys.fingerprint import fingerprint
from sidecard_client.keys.normal_form import BY_TASK, NormalForm
from sidecard_client.protocol.errors import CallFailed, CallRejected, CallTimeout
from sidecard_client.protocol.wire import DEFAULT_TASK, FailureKind, RejectionReason, Usage

if TYPE_CHECKING:
    from sidecard_client._async.client import AsyncClient
    from sidecard_client._async.streams import AsyncStream
    from sidecard_client._sync.client import Client
    from sidecard_client._sync.streams import Stream

    # Of httpx and of httpx2, whose classes are not each other's: whichever the app uses.
    _BaseTransport = Any
    _Request = Any
    _Response = Any
else:
    _BaseTransport = object

Keep = Literal["always", "deterministic", "never"]
"""Which answers are stored: all; those of requests that are meant to have one answer (temperature 0, a seed, embeddings), the
others being neither stored nor shared, because who asks again wants another; none, though calls in flight are shared."""

_from_json = msgspec.json.Decoder().decode

MAX_MESSAGE_CHARACTERS: Final = 1900
"""Of a failure's message, with which a response travels to those who wait: a message is cut at 2,000."""

_CONTROLS: Final = frozenset({"", "refresh", "off", "only"})
_HOP_BY_HOP: Final = frozenset({"connection", "keep-alive", "set-cookie", "trailer", "transfer-encoding", "upgrade"})
"""Headers of one connection, or of one client: a cookie is a credential."""

_STREAMED: Final = ("text/event-stream", "application/x-ndjson", "application/jsonl", "application/stream+json")

_STATUS_OF_REJECTION: Final[Mapping[RejectionReason, int]] = {
    "breaker_open": 503,
    "saturated": 503,
    "busy": 503,
    "draining": 503,
    "sovereign": 403,
    "budget": 429,
    "not_cached": 504,  # as HTTP has it for its own ``only-if-cached``
}
_NO_USE_RETRYING: Final = frozenset({"sovereign", "budget", "not_cached"})


class UpstreamRefused(Exception):
    """A response that is no answer. Never leaves this module: its caller gets ``response``."""

    def __init__(self, response: "_Response", kind: FailureKind, body: bytes = b"") -> None:
        self.response = response
        self.kind = kind
        content_type = response.headers.get("content-type", "")
        text = body.decode("utf-8", "replace")
        whole = len(text) + len(content_type) < MAX_MESSAGE_CHARACTERS
        super().__init__(f"{response.status_code} {content_type}\n{text if whole else ''}")


class IncompleteAnswer(Exception):
    """An answer that ended before it was whole, after all of it was handed on. Never leaves this module."""

    def __init__(self, reading: Reading) -> None:
        self.kind: FailureKind = reading.failure or "transient"
        super().__init__(f"the answer is not whole: {reading.reason}")


class _Plan:
    """How one request is made a call. ``reading`` is what its answer was, once it has ended."""

    def __init__(
        self, asked: Asked, request: "_Request", task: str, *, keep: bool, keep_length: bool, redact: Redact | None
    ) -> None:
        self.asked = asked
        self.request = request
        self.task = task
        self.policy: dict[str, Any] = {
            "task": task,
            "store": self.may_be_stored,
            "usage": self.usage,
            "redact": self.speak,
            "embed": None,  # an answer to a similar request would have that one's ids and usage
        }
        self.keep = keep
        self.keep_length = keep_length
        self.redact = redact
        self.reader: Reader | None = None
        self.reading: Reading | None = None

    def key_in(self, forms: tuple[NormalForm, ...]) -> str:
        """Return the key, of texts in these forms."""
        asked = self.asked
        name = f"{KEY_NAME_PREFIX}{asked.family}"
        return fingerprint(self.task, asked.model or None, name, (), asked.parts, normalize=forms)

    def reader_of(self, response: Any) -> Reader:
        """Return what reads the answer: as a stream where it is one, whatever was asked for."""
        stream = response.headers.get("content-type", "").lower().startswith(_STREAMED)
        self.reader = Reader(self.asked.family, stream=stream, keep_length=self.keep_length, choices=self.asked.choices)
        return self.reader

    @property
    def is_over(self) -> bool:
        """The call is made here, and all that means something of its answer has come."""
        return self.reader is not None and self.reader.terminal

    def may_be_stored(self, _pieces: Any) -> bool:
        """The ``store`` hook."""
        return self.keep and self.reading is not None and self.reading.keep

    def usage(self, _pieces: Any) -> Usage | None:
        """The ``usage`` hook."""
        return None if self.reading is None else self.reading.usage

    def speak(self, prompt: Any, pieces: Any) -> tuple[Any, Any] | None:
        """The ``redact`` hook: what the daemon's call log keeps is the request's body and the answer's, as the app's hook has it."""
        head, *rest = pieces
        body = head["body"] if "body" in head else b"".join(rest)
        try:
            answer = _from_json(body)
        except (MsgspecError, RecursionError, UnicodeError, ValueError):
            answer = body.decode("utf-8", "replace")

        told = {"args": prompt["args"][:1], "kwargs": {}}
        return (told, answer) if self.redact is None else self.redact(told, answer)

    def whole(self, reader: Reader, response: Any) -> dict[str, Any]:
        """Return the one piece that an answer is, judged before anybody sees it. Raises `UpstreamRefused`."""
        self.reading = reading = reader.finish()
        if not reading.complete:
            raise UpstreamRefused(response, reading.failure or "ignored", response.content)

        return _head_of(response) | {"body": response.content}

    def read(self, reader: Reader) -> None:
        """Judge a stream that has ended. Raises `IncompleteAnswer`."""
        self.reading = reading = reader.finish()
        if not reading.complete:
            raise IncompleteAnswer(reading)


class _Interception:
    """What both transports have in common: how a request becomes a call, and a failure a response."""

    _sidecard: "Client | AsyncClient"

    def __init__(
        self,
        *,
        task: str = DEFAULT_TASK,
        keep: Keep | Mapping[str, Keep] = "always",
        ttl: float | None = None,
        stale: float | None = None,
        wait: float | None = None,
        pace: float | None = None,
        backend: str | None = None,
        keep_length: bool = False,
        share_credentials: bool = False,
        endpoints: Mapping[str, Family] = ENDPOINTS,
        normalize: Collection[NormalForm] | Literal["task"] = (),
    ) -> None:
        by_task = {"": keep} if isinstance(keep, str) else dict(keep)
        wrong = [rule for rule in by_task.values() if rule not in get_args(Keep)]
        if wrong:
            raise ValueError(f"keep= must be {' or '.join(map(repr, get_args(Keep)))}, not {wrong[0]!r}.")

        self._task = task
        self._keep = by_task
        self._ttl = ttl
        self._stale = stale
        self._wait = wait
        self._pace = pace
        self._backend = backend
        self._keep_length = keep_length
        self._share_credentials = share_credentials
        self._endpoints = endpoints
        self._normalize = Options().changed({"normalize": normalize}).normalize

    def plan(self, request: "_Request", body: bytes) -> _Plan | None:
        """Say how a request is made a call; None where it goes straight on."""
        headers = [(name, value) for name, value in request.headers.items() if isinstance(value, str)]
        asked = read_request(
            request.method,
            str(request.url),
            headers,
            body,
            self._endpoints,
            share_credentials=self._share_credentials,
        )
        if asked is None:
            return None

        control = request.headers.get("x-sidecard-cache", "").lower()
        if control not in _CONTROLS:
            raise ValueError(f"x-sidecard-cache must be refresh, off or only, not {control!r}.")

        task = request.headers.get("x-sidecard-task", self._task)
        rule = self._keep.get(task, self._keep.get("", "always"))
        keep, redact = rule != "never", self._sidecard.redact
        plan = _Plan(asked, request, task, keep=keep, keep_length=self._keep_length, redact=redact)
        policy = plan.policy
        policy |= {
            "key": UNKEYED if self._normalize == BY_TASK else plan.key_in(self._normalize),
            "deterministic": asked.deterministic,
            "backend": self._backend or asked.backend,
            "ttl": self._ttl,
            "stale": self._stale,
            "wait": self._wait if self._wait is not None else _patience_of(request),
            "pace": self._pace,
        }
        ttl = request.headers.get("x-sidecard-ttl")
        if ttl is not None:
            try:
                policy["ttl"] = float(ttl)
            except ValueError:
                raise ValueError(f"x-sidecard-ttl must be a number of seconds, not {ttl!r}.") from None

        if control == "off" or (rule == "deterministic" and not asked.deterministic):
            policy["key"] = None
        elif control == "only":
            policy["mode"] = "only_if_cached"
        elif control == "refresh" or rule == "never":
            policy["mode"] = "refresh"

        if asked.model:
            policy["model"] = asked.model[:MAX_NAME_CHARACTERS]

        return plan


class SidecardTransport(_Interception, _BaseTransport):  # type: ignore[misc]  # Any, as said above
    """A transport for ``httpx2.Client`` and ``httpx.Client`` that shares what `http_asked.ENDPOINTS` are asked.

    ``inner`` makes the calls; where it is left out it is httpx2's own, or httpx's where that one is not there.
    ``sidecard`` is the `Client`, of which any number of transports may share one; without it the transport has one of its own.
    ``task``, ``ttl``, ``stale``, ``wait`` and ``pace`` are the policy's of every call; where ``wait`` is left out it is the request's read time-out.
    ``keep`` says which answers are stored (`Keep`), for all tasks or by task. ``keep_length`` keeps those that were cut at
    their maximal length. ``backend`` replaces the computed name. ``share_credentials`` lets all API keys share answers.
    ``endpoints`` replaces the table of paths. ``normalize`` says in which form the body's texts go into keys (`normal`).

    Raises what ``inner`` raises, for this caller's own call; a ``ReadTimeout`` where waiting for somebody else's took too long,
    and a ``ReadError`` where somebody else's stream broke.
    """

    def __init__(self, inner: Any = None, sidecard: "Client | None" = None, **policy: Any) -> None:
        from sidecard_client._sync.client import Client  # noqa: PLC0415 - httpx users of one client need not import the other

        super().__init__(**policy)
        if sidecard is not None and not isinstance(sidecard, Client):
            raise TypeError(f"sidecard= must be a Client, not {type(sidecard).__name__}.")

        self._inner = _default_module().HTTPTransport() if inner is None else inner
        self._own = None if sidecard is not None else Client()
        self._sidecard: Client = cast("Client", sidecard or self._own)

    def __enter__(self) -> Self:
        self._inner.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._close_own()
        self._inner.__exit__(kind, error, traceback)

    def close(self) -> None:
        """Close what the transport has made itself, and ``inner``."""
        self._close_own()
        self._inner.close()

    def _close_own(self) -> None:
        if self._own is not None:
            self._own.close()

    def handle_request(self, request: "_Request") -> "_Response":
        """Answer a request, from wherever its answer comes."""
        plan = self.plan(request, request.read())
        if plan is None:
            return self._inner.handle_request(request)

        if plan.policy["key"] == UNKEYED:
            plan.policy["key"] = plan.key_in(self._sidecard.normal_forms(plan.task))

        httpx = _module_of(request)
        stream = self._sidecard.stream(self._fetch, plan.asked.parts["body"], plan, **plan.policy)
        try:
            head = next(stream)
        except Exception as error:
            response = _response_of(httpx, request, error)
            if response is None:
                raise

            return response

        response = _whole(httpx, head, stream)
        if response is not None:
            _drain(stream)
            return response

        return httpx.Response(
            head["status"], headers=_headers(head, stream), stream=_body_classes(httpx)[0](httpx, request, plan, stream)
        )

    def _fetch(self, _body: object, plan: _Plan) -> Iterator[Any]:
        response = self._inner.handle_request(_sent_on(plan.request))
        kind = kind_of_status(response.status_code)
        try:
            if kind is not None:
                raise UpstreamRefused(response, kind, response.read())

            if _is_encoded(response):
                raise UpstreamRefused(response, "ignored", response.read())

            reader = plan.reader_of(response)
            if not plan.asked.stream:
                reader.feed(response.read())
                yield plan.whole(reader, response)
                return

            yield _head_of(response)
            for piece in response.stream:
                reader.feed(piece)
                yield piece

            plan.read(reader)
        finally:
            response.close()


class AsyncSidecardTransport(_Interception, _BaseTransport):  # type: ignore[misc]  # as above
    """`SidecardTransport` for ``httpx2.AsyncClient`` and ``httpx.AsyncClient``. ``sidecard`` is an `AsyncClient` that is open."""

    def __init__(self, inner: Any = None, *, sidecard: "AsyncClient", **policy: Any) -> None:
        from sidecard_client._async.client import AsyncClient  # noqa: PLC0415 - it needs anyio, which not everybody has

        super().__init__(**policy)
        if not isinstance(sidecard, AsyncClient):
            raise TypeError(f"sidecard= must be an AsyncClient, not {type(sidecard).__name__}.")

        self._inner = _default_module().AsyncHTTPTransport() if inner is None else inner
        self._sidecard: AsyncClient = sidecard

    async def __aenter__(self) -> Self:
        await self._inner.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self._inner.__aexit__(kind, error, traceback)

    async def aclose(self) -> None:
        """Close ``inner``."""
        await self._inner.aclose()

    async def handle_async_request(self, request: "_Request") -> "_Response":
        """Answer a request, from wherever its answer comes."""
        plan = self.plan(request, await request.aread())
        if plan is None:
            return await self._inner.handle_async_request(request)

        if plan.policy["key"] == UNKEYED:
            plan.policy["key"] = plan.key_in(await self._sidecard.normal_forms(plan.task))

        httpx = _module_of(request)
        stream = self._sidecard.stream(self._fetch, plan.asked.parts["body"], plan, **plan.policy)
        try:
            head = await anext(stream)
        except Exception as error:
            response = _response_of(httpx, request, error)
            if response is None:
                raise

            return response

        response = _whole(httpx, head, stream)
        if response is not None:
            await _adrain(stream)
            return response

        return httpx.Response(
            head["status"], headers=_headers(head, stream), stream=_body_classes(httpx)[1](httpx, request, plan, stream)
        )

    async def _fetch(self, _body: object, plan: _Plan) -> AsyncIterator[Any]:
        response = await self._inner.handle_async_request(_sent_on(plan.request))
        kind = kind_of_status(response.status_code)
        try:
            if kind is not None:
                raise UpstreamRefused(response, kind, await response.aread())

            if _is_encoded(response):
                raise UpstreamRefused(response, "ignored", await response.aread())

            reader = plan.reader_of(response)
            if not plan.asked.stream:
                reader.feed(await response.aread())
                yield plan.whole(reader, response)
                return

            yield _head_of(response)
            async for piece in response.stream:
                reader.feed(piece)
                yield piece

            plan.read(reader)
        finally:
            await response.aclose()


# Requests and responses of either library ------------------------------------------------------------------------------


def _default_module() -> ModuleType:
    for name in ("httpx2", "httpx"):
        with suppress(ImportError):
            return import_module(name)

    raise ImportError("Neither httpx2 nor httpx is there: install the one that your SDK uses, or give inner=.")


def _module_of(request: "_Request") -> ModuleType:
    """Return the library that a request is of."""
    return sys.modules[type(request).__module__.partition(".")[0]]


def _sent_on(request: "_Request") -> "_Request":
    """Return the request as it goes to the backend: without our headers, and asking for bytes that are as they are."""
    httpx = _module_of(request)
    headers = [(name, value) for name, value in request.headers.multi_items() if not name.startswith("x-sidecard-")]
    headers = [(name, value) for name, value in headers if name != "accept-encoding"]
    return httpx.Request(
        request.method,
        request.url,
        headers=[*headers, ("accept-encoding", "identity")],
        content=request.content,
        extensions=request.extensions,
    )


def _patience_of(request: "_Request") -> float | None:
    timeouts = request.extensions.get("timeout")
    seconds = timeouts.get("read") if isinstance(timeouts, dict) else None
    return float(seconds) if isinstance(seconds, int | float) else None


def _is_encoded(response: "_Response") -> bool:
    return response.headers.get("content-encoding", "identity").lower() not in {"", "identity"}


def _head_of(response: "_Response") -> dict[str, Any]:
    headers = [[name, value] for name, value in response.headers.multi_items() if name not in _HOP_BY_HOP]
    return {"status": response.status_code, "headers": headers}


def _headers(head: Mapping[str, Any], stream: "Stream[Any] | AsyncStream[Any]") -> list[tuple[str, str]]:
    said = [(str(name), str(value)) for name, value in head["headers"]]
    said.append(("x-sidecard-source", stream.source or ""))
    said.append(("x-sidecard-backend", stream.backend or ""))
    if stream.source in {"cache", "stale", "shared"}:
        said.append(("x-sidecard-age", f"{stream.age_seconds:.3f}"))
        said.append(("x-sidecard-saved-dollars", f"{stream.saved_dollars:.6g}"))

    return said


def _whole(httpx: ModuleType, head: Mapping[str, Any], stream: "Stream[Any] | AsyncStream[Any]") -> Any:
    """Return the response of an answer that came in one piece; None where more of it follows."""
    body = head.get("body")
    return None if body is None else httpx.Response(head["status"], headers=_headers(head, stream), content=body)


def _drain(stream: "Stream[Any]") -> None:
    """Hear the end of an answer of which all that means something has come: OpenAI's SDK, for one, closes at ``[DONE]``.

    Were it closed there, it would be a call that its caller gave up.
    """
    with suppress(Exception):
        for _ in stream:
            pass


async def _adrain(stream: "AsyncStream[Any]") -> None:
    """Do as `_drain` does."""
    with suppress(Exception):
        async for _ in stream:
            pass


def _response_of(httpx: ModuleType, request: "_Request", error: Exception) -> Any:
    """Return the response that an exception is to the app; None where it is to be raised as it is."""
    match error:
        case UpstreamRefused():
            error.response.headers["x-sidecard-source"] = "upstream"
            return error.response
        case CallRejected():
            return _rejection(httpx, error)
        case CallTimeout():
            raise httpx.ReadTimeout(str(error), request=request) from None
        case CallFailed():
            response = _shared_refusal(httpx, error)
            if response is None:
                raise httpx.RemoteProtocolError(str(error), request=request) from None

            return response
        case _:
            return None


def _rejection(httpx: ModuleType, error: CallRejected) -> Any:
    headers = {"x-sidecard-source": "rejected"}
    if error.retry_after_seconds is not None:
        headers["retry-after"] = f"{max(1, round(error.retry_after_seconds))}"

    if error.reason in _NO_USE_RETRYING:
        headers["x-should-retry"] = "false"

    said = {"type": f"sidecard_{error.reason}", "code": error.reason, "message": str(error)}
    return httpx.Response(_STATUS_OF_REJECTION[error.reason], headers=headers, json={"type": "error", "error": said})


def _shared_refusal(httpx: ModuleType, error: CallFailed) -> Any:
    """Return the response that the holder of the call got, as it travelled in its message."""
    kind, _, said = error.message.partition(": ")
    line, _, body = said.partition("\n")
    status, _, content_type = line.partition(" ")
    if kind != UpstreamRefused.__name__ or not status.isdecimal():
        return None

    headers = {"x-sidecard-source": "shared"}
    if content_type:
        headers["content-type"] = content_type

    return httpx.Response(int(status), headers=headers, content=body.encode())


@cache
def _body_classes(httpx: ModuleType) -> tuple[type, type]:  # noqa: C901 - two small classes
    """Make the classes of streamed bodies for one of the libraries, whose clients look whose they are."""

    class Body(httpx.SyncByteStream):  # type: ignore[name-defined,misc]  # of a module that is known when it runs
        """The bytes of an answer as they come."""

        def __init__(self, httpx: ModuleType, request: Any, plan: _Plan, pieces: "Stream[Any]") -> None:
            self._httpx = httpx
            self._request = request
            self._plan = plan
            self._pieces = pieces

        def __iter__(self) -> Iterator[bytes]:
            try:
                yield from self._pieces
            except IncompleteAnswer:
                return  # its own caller got all there was; what that means is for the SDK to say
            except (CallFailed, CallTimeout) as error:
                raise _broken(self._httpx, self._request, error) from None

        def close(self) -> None:
            if self._plan.is_over:
                _drain(self._pieces)

            self._pieces.close()

    class AsyncBody(httpx.AsyncByteStream):  # type: ignore[name-defined,misc]  # as above
        """The bytes of an answer as they come."""

        def __init__(self, httpx: ModuleType, request: Any, plan: _Plan, pieces: "AsyncStream[Any]") -> None:
            self._httpx = httpx
            self._request = request
            self._plan = plan
            self._pieces = pieces

        async def __aiter__(self) -> AsyncIterator[bytes]:
            try:
                async for piece in self._pieces:
                    yield piece
            except IncompleteAnswer:
                return
            except (CallFailed, CallTimeout) as error:
                raise _broken(self._httpx, self._request, error) from None

        async def aclose(self) -> None:
            if self._plan.is_over:
                await _adrain(self._pieces)

            await self._pieces.aclose()

    return Body, AsyncBody


def _broken(httpx: ModuleType, request: "_Request", error: CallFailed | CallTimeout) -> Exception:
    kind = httpx.ReadTimeout if isinstance(error, CallTimeout) else httpx.ReadError
    return cast("Exception", kind(str(error), request=request))
