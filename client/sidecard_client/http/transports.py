"""The transport for httpx2 and httpx: SDKs share their calls without a change to the app.

::

    sidecard = Client()
    llm = OpenAI(http_client=httpx2.Client(transport=SidecardTransport(sidecard=sidecard)))
    llm.chat.completions.create(...)          # made once for all processes of the host

    llm = AsyncOpenAI(http_client=httpx2.AsyncClient(transport=SidecardTransport()))

A request that a known API's family recognizes becomes a stream (`Client.stream`). Its first piece is status and headers,
and the others are the body's bytes as they arrive, so event streams are followed live and replayed byte for byte.
Every other request goes to ``inner``, unread. ``sidecard docs sdks`` lists headers, outcomes and SDK recipes.
"""

from collections.abc import AsyncIterator, Iterator
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from sidecard_client.http.clients import Clients
from sidecard_client.http.embedding_calls import EmbeddingCall
from sidecard_client.http.embeddings import UnusableAnswer
from sidecard_client.http.intercepted_call import InterceptedCall
from sidecard_client.http.interception import UNRECOGNIZED, Interception, PassedRequest
from sidecard_client.http.messages.bodies import (
    ReadAhead,
    adrain,
    async_shared_body_class,
    drain,
    shared_body_class,
)
from sidecard_client.http.messages.forwarding import abody_of, body_of, without_own_headers
from sidecard_client.http.messages.libraries import library_of
from sidecard_client.http.messages.own_transports import OwnTransports
from sidecard_client.http.messages.refusals import MAX_REFUSAL_BYTES, response_to
from sidecard_client.http.messages.responses import mark
from sidecard_client.http.messages.upstream_answer import MAX_ANSWER_BYTES

if TYPE_CHECKING:
    from sidecard_client._async.client import AsyncClient
    from sidecard_client._sync.client import Client
    from sidecard_client.http.messages.libraries import Request, Response

    # Of httpx or of httpx2: they share no base.
    _BaseTransport = Any
else:
    _BaseTransport = object


class SidecardTransport(Interception, _BaseTransport):  # type: ignore[misc]  # Any, as said above
    """A transport for the clients of httpx2 and httpx, blocking or asynchronous, that shares the requests of known APIs.

    ``inner`` makes the calls; by default the transports that a client of the request's library would have, with the proxies
    of the environment. ``verify``, ``cert``, ``http2``, ``proxy``, ``trust_env`` and ``limits`` are then that client's.
    ``sidecard`` is a `Client` or an `AsyncClient`, which any number of transports may use; where the app makes requests of
    the other kind too, a client with the same arguments is made for them. By default the transport makes its own.
    ``task``, ``ttl``, ``stale``, ``wait`` and ``pace`` apply to every call; ``wait`` defaults to the request's read timeout.
    ``keep`` selects the answers that are stored (`Keep`), for all tasks or by task. ``keep_length`` also stores answers that
    were cut at their maximum length. ``backend`` replaces the computed name. ``share_credentials`` lets all API keys share
    answers. ``identity`` says who makes the requests, in place of their credentials, which may rotate: a text, or a function of
    the request that returns one, or None for the credentials. ``endpoints`` maps endings of paths to names of families, and
    replaces the recognition of requests. ``normalize`` sets the form of the body's texts in keys (`normal_form`).
    With ``embed``, as of `Client`, a request may get the answer to one with a similar last message (`question`); that answer's
    ids and usage are the other request's. The embedder of the client is not used.

    It may be made anywhere, also at module level, and used in any number of threads and event loops, unless ``inner`` belongs
    to one.

    Raises what ``inner`` raises, for this caller's own call. For another caller's: ``ReadTimeout`` if waiting took too long,
    and ``ReadError`` if its stream broke.
    """

    def __init__(
        self,
        inner: Any = None,
        sidecard: "Client | AsyncClient | None" = None,
        *,
        verify: Any = True,
        cert: Any = None,
        http2: bool = False,
        proxy: Any = None,
        trust_env: bool = True,
        limits: Any = None,
        **policy: Any,
    ) -> None:
        super().__init__(**policy)
        self._clients = Clients(sidecard)
        settings = {
            "verify": verify, "cert": cert, "http2": http2, "proxy": proxy, "trust_env": trust_env, "limits": limits
        }  # fmt: skip
        if inner is None:
            self._inner: Any = OwnTransports(settings)
        else:
            self._inner = _given_transport(inner)
            changed = [name for name, value in settings.items() if value != _DEFAULTS[name]]
            if changed:
                raise TypeError(
                    f"{changed[0]}= is a setting of the transport's own connections: give it to inner= itself."
                )

    def use(self, sidecard: "Client | AsyncClient") -> None:
        """Make later requests with another client of the daemon."""
        self._clients.replace(sidecard)

    def __enter__(self) -> Self:
        self._inner.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._clients.close()
        self._inner.__exit__(kind, error, traceback)

    def close(self) -> None:
        """Close ``inner``, and the blocking client if the transport made it."""
        self._clients.close()
        self._inner.close()

    async def __aenter__(self) -> Self:
        await self._inner.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self._clients.aclose()
        await self._inner.__aexit__(kind, error, traceback)

    async def aclose(self) -> None:
        """Close ``inner``, and the connections of the asynchronous client if the transport made it."""
        await self._clients.aclose()
        await self._inner.aclose()

    # Blocking requests ------------------------------------------------------------------------------------------------

    def handle_request(self, request: "Request") -> "Response":
        """Return the answer: stored, another caller's, or that of ``inner``."""
        claimed = self.claim(request)
        if claimed is None:
            return self._pass(request, UNRECOGNIZED)

        call = self.intercept(request, claimed, body_of(request))
        if isinstance(call, PassedRequest):
            return self._pass(request, call)

        if call.needs_normal_forms:
            call.set_key(self._clients.blocking.normal_forms(call.task))

        return self._answer(call) if call.embedding is None else self._embed(call.embedding)

    def _send(self, request: "Request") -> "Response":
        response: Response = _method(self._inner, "handle_request")(request)
        return response

    def _pass(self, request: "Request", why: PassedRequest) -> "Response":
        self._clients.blocking.count_passed(why.reason, why.family, why.task)
        return _marked(self._send(without_own_headers(request)), why)

    def _answer(self, call: InterceptedCall) -> "Response":
        sidecard = self._clients.blocking
        pieces = sidecard.stream_with(self._fetch, (call.asked.asked.body, call), call.options(sidecard.options))
        try:
            first = next(pieces)
        except BaseException as error:  # noqa: BLE001 - raised again, unless the app gets it as a response
            return self._failed(call, error)

        unused = call.unused_refusal()
        if unused is not None:
            unused.close()

        response, whole = call.response(first, pieces, shared_body_class(library_of(call.request)))
        if whole:
            drain(pieces, response.headers)

        return response

    def _failed(self, call: InterceptedCall, error: BaseException) -> "Response":
        """Return the response that reports an error, or raise it. A refused response that the app does not get is closed."""
        unused = call.unused_refusal(error)
        if unused is not None:
            unused.close()

        try:
            return response_to(error, call.request)
        finally:
            del error  # which refers to this frame

    def _fetch(self, _body: object, call: InterceptedCall) -> Iterator[Any]:
        unused = call.unused_refusal()
        if unused is not None:
            unused.close()

        response = self._send(call.forwarded())
        if call.is_refused(response):
            ahead = ReadAhead(response.stream)
            ahead.read(MAX_REFUSAL_BYTES)
            if call.left:
                ahead.source.close()

            raise call.refusal(response, ahead)

        answer = call.begin_answer(response)
        del response  # it will refer to this generator
        try:
            yield answer.first()
            for data in answer.source:
                yield from answer.received(data)

            yield from answer.ended()
        finally:
            answer.source.close()

    def _embed(self, embedding: EmbeddingCall) -> "Response":
        call, sidecard = embedding.call, self._clients.blocking
        forms = sidecard.normal_forms(call.task) if self.forms is None else self.forms

        def fetch(texts: list[str]) -> list[Any]:
            response = self._send(embedding.request_for(texts))
            ahead = ReadAhead(response.stream)
            ahead.read(MAX_ANSWER_BYTES)
            try:
                return embedding.answers(response, ahead, texts)
            except UnusableAnswer:
                ahead.source.close()
                raise

        try:
            outcomes = sidecard.outcome_keyed(
                fetch, embedding.texts, embedding.keys(forms), embedding.policy(), embedding.call.asked.context
            )
        except UnusableAnswer:
            return self._pass(call.request, PassedRequest("dialect", call.asked.family.name, call.task))
        except BaseException as error:  # noqa: BLE001 - as above
            return self._failed(call, error)

        unused = call.unused_refusal()
        if unused is not None:
            unused.close()

        return embedding.response_from(outcomes)

    # Asynchronous requests --------------------------------------------------------------------------------------------

    async def handle_async_request(self, request: "Request") -> "Response":
        """Return the answer: stored, another caller's, or that of ``inner``. Canceling it does not end a call with waiters."""
        claimed = self.claim(request)
        if claimed is None:
            return await self._apass(request, UNRECOGNIZED)

        call = self.intercept(request, claimed, await abody_of(request))
        if isinstance(call, PassedRequest):
            return await self._apass(request, call)

        if call.needs_normal_forms:
            call.set_key(await self._clients.awaiting.normal_forms(call.task))

        return await (self._aanswer(call) if call.embedding is None else self._aembed(call.embedding))

    async def _asend(self, request: "Request") -> "Response":
        response: Response = await _method(self._inner, "handle_async_request")(request)
        return response

    async def _apass(self, request: "Request", why: PassedRequest) -> "Response":
        self._clients.awaiting.count_passed(why.reason, why.family, why.task)
        return _marked(await self._asend(without_own_headers(request)), why)

    async def _aanswer(self, call: InterceptedCall) -> "Response":
        sidecard = self._clients.awaiting
        pieces = sidecard.stream_with(self._afetch, (call.asked.asked.body, call), call.options(sidecard.options))
        try:
            first = await anext(pieces)
        except BaseException as error:  # noqa: BLE001 - raised again, unless the app gets it as a response
            return await self._afailed(call, error)

        unused = call.unused_refusal()
        if unused is not None:
            await unused.aclose()

        response, whole = call.response(first, pieces, async_shared_body_class(library_of(call.request)))
        if whole:
            await adrain(pieces, response.headers)

        return response

    async def _afailed(self, call: InterceptedCall, error: BaseException) -> "Response":
        """Return the response that reports an error, or raise it. A refused response that the app does not get is closed."""
        unused = call.unused_refusal(error)
        if unused is not None:
            await unused.aclose()

        try:
            return response_to(error, call.request)
        finally:
            del error  # which refers to this frame

    async def _afetch(self, _body: object, call: InterceptedCall) -> AsyncIterator[Any]:
        unused = call.unused_refusal()
        if unused is not None:
            await unused.aclose()

        response = await self._asend(call.forwarded())
        if call.is_refused(response):
            ahead = ReadAhead(response.stream)
            await ahead.aread(MAX_REFUSAL_BYTES)
            if call.left:
                await ahead.source.aclose()

            raise call.refusal(response, ahead)

        answer = call.begin_answer(response)
        del response  # it will refer to this generator
        try:
            yield answer.first()
            async for data in answer.source:
                for piece in answer.received(data):
                    yield piece

            for piece in answer.ended():
                yield piece
        finally:
            await answer.source.aclose()

    async def _aembed(self, embedding: EmbeddingCall) -> "Response":
        call, sidecard = embedding.call, self._clients.awaiting
        forms = await sidecard.normal_forms(call.task) if self.forms is None else self.forms

        async def fetch(texts: list[str]) -> list[Any]:
            response = await self._asend(embedding.request_for(texts))
            ahead = ReadAhead(response.stream)
            await ahead.aread(MAX_ANSWER_BYTES)
            try:
                return embedding.answers(response, ahead, texts)
            except UnusableAnswer:
                await ahead.source.aclose()
                raise

        try:
            outcomes = await sidecard.outcome_keyed(
                fetch, embedding.texts, embedding.keys(forms), embedding.policy(), embedding.call.asked.context
            )
        except UnusableAnswer:
            return await self._apass(call.request, PassedRequest("dialect", call.asked.family.name, call.task))
        except BaseException as error:  # noqa: BLE001 - as above
            return await self._afailed(call, error)

        unused = call.unused_refusal()
        if unused is not None:
            await unused.aclose()

        return embedding.response_from(outcomes)


AsyncSidecardTransport = SidecardTransport
"""The same class: one transport serves both kinds of clients."""

_DEFAULTS = {"verify": True, "cert": None, "http2": False, "proxy": None, "trust_env": True, "limits": None}


def _marked(response: "Response", why: PassedRequest) -> "Response":
    mark(response.headers, source="passed", not_stored=why.reason)
    return response


def _given_transport(inner: Any) -> Any:
    """Return the transport. Raises `TypeError` for anything else, such as a client, which has ``sidecard=``."""
    if not any(callable(getattr(inner, name, None)) for name in ("handle_request", "handle_async_request")):
        raise TypeError(
            "inner= must be a transport with a method handle_request() or handle_async_request(), "
            f"not {type(inner).__name__}: a client of sidecard is given as sidecard=."
        )

    return inner


def _method(inner: Any, name: str) -> Any:
    """Return the method of a transport. Raises `TypeError` if it serves the other kind of requests only."""
    method = getattr(inner, name, None)
    if method is None:
        kinds = ("asynchronous", "blocking") if name == "handle_async_request" else ("blocking", "asynchronous")
        raise TypeError(
            f"inner= is of {type(inner).__name__}, which has no {name}(): it serves {kinds[1]} clients only, and this request "
            f"is of an {kinds[0]} one. Give a transport of both kinds, or leave inner= out."
        )

    return method
