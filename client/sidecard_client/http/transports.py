"""Transports for httpx2 and httpx: SDKs share their calls without a change to the app.

::

    sidecard = Client()
    llm = OpenAI(http_client=httpx2.Client(transport=SidecardTransport(sidecard=sidecard)))
    llm.chat.completions.create(...)          # made once for all processes of the host

    llm = AsyncOpenAI(http_client=httpx2.AsyncClient(transport=AsyncSidecardTransport()))

A POST request of a known API (`request.ENDPOINTS`) becomes a stream (`Client.stream`). Its first piece is status and headers,
and the others are the body's bytes as they arrive, so event streams are followed live and replayed byte for byte.
Every other request goes to ``inner`` unchanged. ``sidecard docs sdks`` lists headers, outcomes and SDK recipes.
"""

from collections.abc import AsyncIterator, Iterator
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, cast

from sidecard_client.http.bodies import adrain, async_body_class, body_class, drain
from sidecard_client.http.embedding_calls import EmbeddingCall
from sidecard_client.http.embeddings import UnusableAnswer
from sidecard_client.http.interception import InterceptedCall, Interception
from sidecard_client.http.own_transports import OwnAsyncTransport, OwnTransport
from sidecard_client.http.translation import (
    UpstreamRefused,
    forwarded,
    head_of,
    library_of,
    refusal_kind,
    response_from,
    response_to,
)

if TYPE_CHECKING:
    from sidecard_client._async.client import AsyncClient
    from sidecard_client._sync.client import Client
    from sidecard_client.http.translation import Request, Response

    # Of httpx or of httpx2: they share no base.
    _BaseTransport = Any
else:
    _BaseTransport = object


def _transport(inner: Any, method: str) -> Any:
    """Return the transport. Raises `TypeError` for anything else, such as a client, which has ``sidecard=``."""
    if not callable(getattr(inner, method, None)):
        raise TypeError(
            f"inner= must be a transport with a method {method}(), not {type(inner).__name__}: "
            "a client of sidecard is given as sidecard=."
        )

    return inner


class SidecardTransport(Interception, _BaseTransport):  # type: ignore[misc]  # Any, as said above
    """A transport for ``httpx2.Client`` and ``httpx.Client`` that shares the requests of known APIs.

    ``inner`` makes the calls; by default the ``HTTPTransport`` of the library that the request is of.
    ``sidecard`` is a `Client`, which any number of transports may use; by default the transport makes its own.
    ``task``, ``ttl``, ``stale``, ``wait`` and ``pace`` apply to every call; ``wait`` defaults to the request's read timeout.
    ``keep`` selects the answers that are stored (`Keep`), for all tasks or by task. ``keep_length`` also stores answers that
    were cut at their maximum length. ``backend`` replaces the computed name. ``share_credentials`` lets all API keys share
    answers. ``endpoints`` replaces the table of paths. ``normalize`` sets the form of the body's texts in keys (`normal_form`).
    With ``embed``, as of `Client`, a request may get the answer to one with a similar last message (`question`); that answer's
    ids and usage are the other request's. The embedder of the client is not used.

    Raises what ``inner`` raises, for this caller's own call. For another caller's: ``ReadTimeout`` if waiting took too long,
    and ``ReadError`` if its stream broke.
    """

    def __init__(self, inner: Any = None, sidecard: "Client | None" = None, **policy: Any) -> None:
        from sidecard_client._sync.client import Client  # noqa: PLC0415 - users of the async client do not need it

        super().__init__(**policy)
        if sidecard is not None and not isinstance(sidecard, Client):
            raise TypeError(f"sidecard= must be a Client, not {type(sidecard).__name__}.")

        self._inner = OwnTransport() if inner is None else _transport(inner, "handle_request")
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
        """Close ``inner``, and the client if the transport made it."""
        self._close_own()
        self._inner.close()

    def _close_own(self) -> None:
        if self._own is not None:
            self._own.close()

    def handle_request(self, request: "Request") -> "Response":
        """Return the answer: stored, another caller's, or that of ``inner``."""
        call = self.intercept(request, request.read())
        if call is None:
            return self._inner.handle_request(request)

        embedding = call.embedding(request.content)
        if embedding is not None:
            return self._embed(embedding)

        if call.needs_normal_forms:
            call.set_key(self._sidecard.normal_forms(call.task))

        stream = self._sidecard.stream(self._fetch, call.asked.parts["body"], call, **call.policy)
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

    def _embed(self, embedding: EmbeddingCall) -> "Response":
        call = embedding.call
        forms = self._sidecard.normal_forms(call.task) if call.needs_normal_forms else self.forms

        def fetch(texts: list[str]) -> list[Any]:
            response = self._inner.handle_request(embedding.request_for(texts))
            try:
                return embedding.answers(response, response.read(), texts)
            finally:
                response.close()

        keys = embedding.keys(forms)
        try:
            outcomes = self._sidecard.outcome_keyed(fetch, embedding.texts, keys, embedding.policy)
        except UnusableAnswer:
            return self._inner.handle_request(forwarded(call.request))
        except Exception as error:  # noqa: BLE001 - raised again, unless the app gets it as a response
            return response_to(error, call.request)

        return embedding.response_from(outcomes)

    def _fetch(self, _body: object, call: InterceptedCall) -> Iterator[Any]:
        response = self._inner.handle_request(forwarded(call.request))
        try:
            kind = refusal_kind(response)
            if kind is not None:
                raise UpstreamRefused(response, kind, response.read())

            parser = call.parser_of(response)
            if not call.asked.stream:
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


class AsyncSidecardTransport(Interception, _BaseTransport):  # type: ignore[misc]  # as above
    """`SidecardTransport` for ``httpx2.AsyncClient`` and ``httpx.AsyncClient``. ``sidecard`` is an `AsyncClient`.

    It may be made anywhere, also at module level, and used in any number of event loops, unless ``inner`` belongs to one.
    """

    def __init__(self, inner: Any = None, sidecard: "AsyncClient | None" = None, **policy: Any) -> None:
        from sidecard_client._async.client import AsyncClient  # noqa: PLC0415 - it needs anyio, an optional dependency

        super().__init__(**policy)
        if sidecard is not None and not isinstance(sidecard, AsyncClient):
            raise TypeError(f"sidecard= must be an AsyncClient, not {type(sidecard).__name__}.")

        self._inner = OwnAsyncTransport() if inner is None else _transport(inner, "handle_async_request")
        self._own = None if sidecard is not None else AsyncClient()
        self._sidecard: AsyncClient = cast("AsyncClient", sidecard or self._own)

    async def __aenter__(self) -> Self:
        await self._inner.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self._close_own()
        await self._inner.__aexit__(kind, error, traceback)

    async def aclose(self) -> None:
        """Close ``inner``, and the connections of the client if the transport made it."""
        await self._close_own()
        await self._inner.aclose()

    async def _close_own(self) -> None:
        if self._own is not None:
            await self._own.aclose()

    async def handle_async_request(self, request: "Request") -> "Response":
        """Return the answer: stored, another caller's, or that of ``inner``. Canceling it does not end a call with waiters."""
        call = self.intercept(request, await request.aread())
        if call is None:
            return await self._inner.handle_async_request(request)

        embedding = call.embedding(request.content)
        if embedding is not None:
            return await self._embed(embedding)

        if call.needs_normal_forms:
            call.set_key(await self._sidecard.normal_forms(call.task))

        stream = self._sidecard.stream(self._fetch, call.asked.parts["body"], call, **call.policy)
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

    async def _embed(self, embedding: EmbeddingCall) -> "Response":
        call = embedding.call
        forms = await self._sidecard.normal_forms(call.task) if call.needs_normal_forms else self.forms

        async def fetch(texts: list[str]) -> list[Any]:
            response = await self._inner.handle_async_request(embedding.request_for(texts))
            try:
                return embedding.answers(response, await response.aread(), texts)
            finally:
                await response.aclose()

        keys = embedding.keys(forms)
        try:
            outcomes = await self._sidecard.outcome_keyed(fetch, embedding.texts, keys, embedding.policy)
        except UnusableAnswer:
            return await self._inner.handle_async_request(forwarded(call.request))
        except Exception as error:  # noqa: BLE001 - as above
            return response_to(error, call.request)

        return embedding.response_from(outcomes)

    async def _fetch(self, _body: object, call: InterceptedCall) -> AsyncIterator[Any]:
        response = await self._inner.handle_async_request(forwarded(call.request))
        try:
            kind = refusal_kind(response)
            if kind is not None:
                raise UpstreamRefused(response, kind, await response.aread())

            parser = call.parser_of(response)
            if not call.asked.stream:
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
