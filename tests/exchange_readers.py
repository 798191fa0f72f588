"""Applications that read answers with httpx, httpx2 and the SDKs, blocking and asynchronous, and note all they observe.

Each reader is written once, as a coroutine. With blocking clients nothing in it waits, so that it can be run without an event loop.
"""

import inspect
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping
from contextlib import suppress
from datetime import timedelta
from typing import Any

import anthropic
import httpx
import httpx2
import ollama
import openai

from tests.exchanges import PATHS, Api, Exchange

SECONDS = 20.0

HOW = ["raw", "bytes", "lines", "hook", "leave"]
"""How an application reads: as received, decoded, line by line, in a response hook, or only the beginning."""

Observed = dict[str, Any]


class App:
    """An application with clients of all kinds. ``transport`` makes a transport for a library's clients; None for its own."""

    def __init__(self, url: str, *, asynchronous: bool, transport: Callable[[Any], Any] | None) -> None:
        self._asynchronous = asynchronous
        kinds: dict[str, Any] = {}
        for library in (httpx, httpx2):
            hooks = {"request": [self._hook("request")], "response": [self._hook("response")]}
            arguments: dict[str, Any] = {"timeout": SECONDS, "event_hooks": hooks, "trust_env": False}
            if transport is not None:
                arguments["transport"] = transport(library)

            made = library.AsyncClient if asynchronous else library.Client
            kinds[library.__name__] = made(base_url=url, **arguments)

        self.clients = kinds
        shared: dict[str, Any] = {"http_client": kinds["httpx2"], "max_retries": 0}
        openai_class = openai.AsyncOpenAI if asynchronous else openai.OpenAI
        anthropic_class = anthropic.AsyncAnthropic if asynchronous else anthropic.Anthropic
        ollama_class = ollama.AsyncClient if asynchronous else ollama.Client
        self.openai: Any = openai_class(base_url=f"{url}/v1", api_key="sk-one", **shared)
        self.anthropic: Any = anthropic_class(base_url=url, api_key="sk-one", **shared)
        given = {} if transport is None else {"transport": transport(httpx)}
        self.ollama: Any = ollama_class(url, timeout=SECONDS, trust_env=False, **given)

    async def close(self) -> None:
        """Close all clients."""
        for client in (*self.clients.values(), self.ollama._client):
            await _value(client.aclose() if self._asynchronous else client.close())

    def _hook(self, name: str) -> Callable[[Any], Any]:
        """Return a hook that notes its call; that of a response may read it."""

        async def asynchronous(message: Any) -> None:
            request = message if name == "request" else message.request
            request.extensions.get("hooks", []).append(name)
            if name == "response" and request.extensions.get("reads"):
                await message.aread()
                request.extensions["hooks"].append(_is_timed(message))

        def blocking(message: Any) -> None:
            request = message if name == "request" else message.request
            request.extensions.get("hooks", []).append(name)
            if name == "response" and request.extensions.get("reads"):
                message.read()
                request.extensions["hooks"].append(_is_timed(message))

        return asynchronous if self._asynchronous else blocking

    def forget(self) -> None:
        """Remove cookies, so that each call is a first one."""
        for client in (*self.clients.values(), self.ollama._client):
            client.cookies.clear()

    async def read(self, exchange: Exchange, reader: str, number: int) -> Observed:
        """Make a call as the reader does (a library and one of `HOW`, or an SDK); ``number`` makes its request unique."""
        library, _, how = reader.partition(":")
        body = request_body(exchange.api, number, stream=exchange.stream)
        if how:
            return await self._read_response(library, how, PATHS[exchange.api], body)

        seen: Observed = {"parsed": []}
        try:
            await {"openai": self._openai, "anthropic": self._anthropic, "ollama": self._ollama}[library](body, seen)
        except Exception as error:  # noqa: BLE001 - what the application observes
            seen |= _of_error(error)

        return seen

    async def _read_response(self, name: str, how: str, path: str, body: Mapping[str, Any]) -> Observed:
        client = self.clients[name]
        hooks: list[Any] = []
        request = client.build_request("POST", path, json=body, extensions={"hooks": hooks, "reads": how == "hook"})
        request.headers["authorization"] = "Bearer sk-one"
        seen: Observed = {"hooks": hooks, "read": []}
        response = None
        try:
            response = await _value(client.send(request, stream=True))
            seen |= _of_head(response)
            if how == "hook":
                seen["read"].append(response.content)
            else:
                ways = {"raw": "iter_raw", "bytes": "iter_bytes", "lines": "iter_lines", "leave": "iter_raw"}
                pieces = getattr(response, f"a{ways[how]}" if self._asynchronous else ways[how])()
                async for piece in _each(pieces):
                    seen["read"].append(piece)
                    if how == "leave":
                        seen["read"].clear()  # how much one piece has depends on time
                        break
        except Exception as error:  # noqa: BLE001 - what the application observes
            seen |= _of_error(error)

        if response is not None:
            await _value(response.aclose() if self._asynchronous else response.close())
            seen["elapsed"] = _is_timed(response)
            seen["downloaded"] = None if how == "leave" else response.num_bytes_downloaded

        if how != "lines":
            seen["read"] = b"".join(seen["read"])

        return seen

    async def _openai(self, body: dict[str, Any], seen: Observed) -> None:
        raw = await _value(self.openai.chat.completions.with_raw_response.create(**body))
        seen |= _of_head(raw.http_response)
        await _parse(raw, body, seen)
        seen["elapsed"] = _is_timed(raw)

    async def _anthropic(self, body: dict[str, Any], seen: Observed) -> None:
        raw = await _value(self.anthropic.messages.with_raw_response.create(**body))
        seen |= _of_head(raw.http_response)
        await _parse(raw, body, seen)
        seen["elapsed"] = _is_timed(raw)

    async def _ollama(self, body: dict[str, Any], seen: Observed) -> None:
        parsed = await _value(self.ollama.chat(**body))
        async for part in _each(parsed) if body["stream"] else _each([parsed]):
            seen["parsed"].append(part.model_dump())


def request_body(api: Api, number: int, *, stream: bool) -> dict[str, Any]:
    """Return a request of a model of its own, since breakers judge models."""
    if api == "other":
        return {"survey": number, "answer": "no"}

    body: dict[str, Any] = {
        "model": f"modèle-{number}",
        "messages": [{"role": "user", "content": "être ou ne pas être?"}],
        "stream": stream,
    }
    return body | {"max_tokens": 9} if api == "messages" else body


def run_blocking(reading: Coroutine[Any, Any, Observed]) -> Observed:
    """Run a reader of blocking clients, which waits for nothing."""
    try:
        reading.send(None)
    except StopIteration as end:
        observed: Observed = end.value
        return observed

    raise AssertionError("a reader of blocking clients waits")


async def _parse(raw: Any, body: Mapping[str, Any], seen: Observed) -> None:
    parsed = await _value(raw.parse())
    async for part in _each(parsed) if body["stream"] else _each([parsed]):
        seen["parsed"].append(part.model_dump() if hasattr(part, "model_dump") else part)

    with suppress(AttributeError):
        seen["request_id"] = parsed._request_id


async def _value(given: Any) -> Any:
    return await given if inspect.isawaitable(given) else given


async def _each(given: Any) -> AsyncIterator[Any]:
    if hasattr(given, "__aiter__"):
        async for each in given:
            yield each
    else:
        for each in given:
            yield each


def _is_timed(response: Any) -> bool:
    """Return whether ``elapsed`` can be read."""
    with suppress(RuntimeError):
        return isinstance(response.elapsed, timedelta)

    return False


def _of_head(response: Any) -> Observed:
    return {
        "status": response.status_code,
        "reason": response.reason_phrase,
        "http_version": response.http_version,
        "headers": [(name, value) for name, value in response.headers.raw if not name.startswith(b"x-sidecard-")],
        "source": response.headers.get("x-sidecard-source"),
    }


def _of_error(error: Exception) -> Observed:
    """Return what an application sees of an error."""
    seen: Observed = {"error": type(error).__name__, "message": str(error)}
    for name in ("status_code", "code", "type", "param", "body", "error"):
        if hasattr(error, name) and name not in seen:
            seen[f"error.{name}"] = getattr(error, name)

    response = getattr(error, "response", None)
    if response is not None:
        seen |= _of_head(response)

    return seen
