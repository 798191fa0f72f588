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

from sidecard_client.http.bodies import adrain, async_body_class, body_class, drain
from sidecard_client.http.clients import Clients
from sidecard_client.http.embedding_calls import EmbeddingCall
from sidecard_client.http.embeddings import UnusableAnswer
from sidecard_client.http.interception import InterceptedCall, Interception
from sidecard_client.http.messages.forwarding import abody_of, body_of, without_own_headers
from sidecard_client.http.messages.libraries import library_of
from sidecard_client.http.messages.own_transports import OwnTransports
from sidecard_client.http.messages.responses import mark
from sidecard_client.http.translation import (
    UpstreamRefused,
    forwarded,
    head_of,
    refusal_kind,
    response_from,
    response_to,
)

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
    the request that returns one, or None for the credentials. ``endpoints`` maps endings of paths to names of
    families, and replaces the recognition of requests. ``normalize`` sets the form of the body's texts in keys (`normal_form`).
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
        if not self.may_be_call(request):
            return self._pass(request, "dialect")

        body = body_of(request)
        if body is None:
            return self._pass(request, "size")

        call = self.intercept(request, body)
        if call is None:
            return self._pass(request, "dialect")

        sidecard = self._clients.blocking
        embedding = call.embedding(body)
        if embedding is not None:
            return self._embed(embedding)

        if call.needs_normal_forms:
            call.set_key(sidecard.normal_forms(call.task))

        stream = sidecard.stream(self._fetch, call.asked.asked.body, call, **call.policy)
        try:
            head = next(stream)
        except Exception as error:  # noqa: BLE001 - raised again, unless the app gets it as a response
            return response_to(error, request)

        library = library_of(request)
        if "body" not in head:
            return response_from(library, head, stream, stream=body_class(library)(call, stream))

        response = response_from(library, head, stream, content=head["body"])
        drain(stream)
        return response

    def _send(self, request: "Request") -> "Response":
        response: Response = _method(self._inner, "handle_request")(request)
        return response

    def _pass(self, request: "Request", reason: str) -> "Response":
        response = self._send(without_own_headers(request))
        mark(response.headers, source="passed", not_stored=reason)
        return response

    def _embed(self, embedding: EmbeddingCall) -> "Response":
        call = embedding.call
        forms = self._clients.blocking.normal_forms(call.task) if call.needs_normal_forms else self.forms

        def fetch(texts: list[str]) -> list[Any]:
            response = self._send(embedding.request_for(texts))
            try:
                return embedding.answers(response, response.read(), texts)
            finally:
                response.close()

        keys = embedding.keys(forms)
        try:
            outcomes = self._clients.blocking.outcome_keyed(fetch, embedding.texts, keys, embedding.policy)
        except UnusableAnswer:
            return self._pass(call.request, "dialect")
        except Exception as error:  # noqa: BLE001 - raised again, unless the app gets it as a response
            return response_to(error, call.request)

        return embedding.response_from(outcomes)

    def _fetch(self, _body: object, call: InterceptedCall) -> Iterator[Any]:
        response = self._send(forwarded(call.request))
        try:
            kind = refusal_kind(response)
            if kind is not None:
                raise UpstreamRefused(response, kind, response.read())

            parser = call.parser_of(response)
            if not call.asked.asked.stream:
                parser.feed(response.read())
                yield call.single_piece(parser, response)
                return

            yield head_of(response)
            for piece in response.stream:
                parser.feed(piece)
                yield piece

            call.end_stream(parser)
        finally:
            response.close()

    # Asynchronous requests --------------------------------------------------------------------------------------------

    async def handle_async_request(self, request: "Request") -> "Response":
        """Return the answer: stored, another caller's, or that of ``inner``. Canceling it does not end a call with waiters."""
        if not self.may_be_call(request):
            return await self._apass(request, "dialect")

        body = await abody_of(request)
        if body is None:
            return await self._apass(request, "size")

        call = self.intercept(request, body)
        if call is None:
            return await self._apass(request, "dialect")

        sidecard = self._clients.awaiting
        embedding = call.embedding(body)
        if embedding is not None:
            return await self._aembed(embedding)

        if call.needs_normal_forms:
            call.set_key(await sidecard.normal_forms(call.task))

        stream = sidecard.stream(self._afetch, call.asked.asked.body, call, **call.policy)
        try:
            head = await anext(stream)
        except Exception as error:  # noqa: BLE001 - as above
            return response_to(error, request)

        library = library_of(request)
        if "body" not in head:
            return response_from(library, head, stream, stream=async_body_class(library)(call, stream))

        response = response_from(library, head, stream, content=head["body"])
        await adrain(stream)
        return response

    async def _asend(self, request: "Request") -> "Response":
        response: Response = await _method(self._inner, "handle_async_request")(request)
        return response

    async def _apass(self, request: "Request", reason: str) -> "Response":
        response = await self._asend(without_own_headers(request))
        mark(response.headers, source="passed", not_stored=reason)
        return response

    async def _aembed(self, embedding: EmbeddingCall) -> "Response":
        call = embedding.call
        forms = await self._clients.awaiting.normal_forms(call.task) if call.needs_normal_forms else self.forms

        async def fetch(texts: list[str]) -> list[Any]:
            response = await self._asend(embedding.request_for(texts))
            try:
                return embedding.answers(response, await response.aread(), texts)
            finally:
                await response.aclose()

        keys = embedding.keys(forms)
        try:
            outcomes = await self._clients.awaiting.outcome_keyed(fetch, embedding.texts, keys, embedding.policy)
        except UnusableAnswer:
            return await self._apass(call.request, "dialect")
        except Exception as error:  # noqa: BLE001 - as above
            return response_to(error, call.request)

        return embedding.response_from(outcomes)

    async def _afetch(self, _body: object, call: InterceptedCall) -> AsyncIterator[Any]:
        response = await self._asend(forwarded(call.request))
        try:
            kind = refusal_kind(response)
            if kind is not None:
                raise UpstreamRefused(response, kind, await response.aread())

            parser = call.parser_of(response)
            if not call.asked.asked.stream:
                parser.feed(await response.aread())
                yield call.single_piece(parser, response)
                return

            yield head_of(response)
            async for piece in response.stream:
                parser.feed(piece)
                yield piece

            call.end_stream(parser)
        finally:
            await response.aclose()


AsyncSidecardTransport = SidecardTransport
"""The same class: one transport serves both kinds of clients."""

_DEFAULTS = {"verify": True, "cert": None, "http2": False, "proxy": None, "trust_env": True, "limits": None}


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
