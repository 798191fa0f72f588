"""An app with tracing: ``tracing_app SOCKET SCENARIO`` prints its spans as JSON.

It is a process of its own, because a tracer provider cannot be removed.
"""

import contextlib
import json
import sys
import threading
import time
import warnings
from collections.abc import Callable
from typing import Any

import anyio
from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from sidecard_client import AsyncClient, Client, Usage

POLICY: dict[str, Any] = {
    "model": "small",
    "task": "rag",
    "backend": "cloud",
    "usage": lambda _: {"model": "small-7", "prompt_tokens": 3, "completion_tokens": 5, "cost_dollars": 0.25},
}


def generate(prompt: str) -> str:
    """Be an SDK with tracing of its own."""
    with trace.get_tracer("sdk").start_as_current_span("sdk call"):
        return f"{prompt} SECRET"


async def agenerate(prompt: str) -> str:
    """As `generate`."""
    return generate(prompt)


def embed(prompt: str) -> str:
    """Fail with the prompt in the error's text."""
    raise ValueError(prompt)


def blocking(path: str) -> None:
    """Make a call, repeat it, and make one that fails."""
    with Client(path) as client:
        client.call(generate, "PROMPT", **POLICY)
        client.call(generate, "PROMPT", **POLICY)
        with contextlib.suppress(ValueError):
            client.call(embed, "PROMPT")


def embed_each(texts: list[str]) -> list[list[float]]:
    """Be an embedder."""
    return [[1.0] for _ in texts]


EACH: dict[str, Any] = {"task": "rag", "model": "small", "usage": lambda _: Usage("small-7", 10, None)}


def batches(path: str) -> None:
    """Embed two texts, and then three of which one is new."""
    with Client(path) as client:
        client.call_each(embed_each, ["PROMPT", "b"], **EACH)
        client.call_each(embed_each, ["PROMPT", "b", "c"], **EACH)


async def batches_asynchronous(path: str) -> None:
    """As `batches`."""
    async with AsyncClient(path) as client:
        await client.call_each(embed_each, ["PROMPT", "b"], **EACH)
        await client.call_each(embed_each, ["PROMPT", "b", "c"], **EACH)


async def asynchronous(path: str) -> None:
    """As `blocking`."""
    async with AsyncClient(path) as client:
        await client.call(agenerate, "PROMPT", **POLICY)
        await client.call(agenerate, "PROMPT", **POLICY)
        with contextlib.suppress(ValueError):
            await client.call(embed, "PROMPT")


def sharing(path: str) -> None:
    """Let one thread wait for another thread's call."""
    entered, opened = threading.Event(), threading.Event()

    def slow(prompt: str) -> str:
        entered.set()
        opened.wait(20)
        return prompt

    with Client(path) as client:
        holder = threading.Thread(target=client.call, args=(slow, "PROMPT"), kwargs={"name": "slow"})
        holder.start()
        entered.wait(20)
        waiter = threading.Thread(target=client.call, args=(slow, "PROMPT"), kwargs={"name": "slow"})
        waiter.start()
        while client.stats().waiters != 1:
            time.sleep(0.005)

        opened.set()
        holder.join()
        waiter.join()


def broken(path: str) -> None:
    """Trace with a library whose every function fails."""

    class Broken:
        def __getattr__(self, name: str) -> Any:
            raise RuntimeError(name)

    sys.modules["opentelemetry.trace"] = Broken()  # type: ignore[assignment]  # that is the point
    with Client(path) as client:
        assert client.call(str, 1, name="f") == "1"
        failure = None
        try:
            client.call(embed, "x")
        except ValueError as error:
            failure = error

    assert failure is not None
    assert failure.__context__ is None, "the library's failure appears as its context"


def half_broken(path: str) -> None:
    """Trace with spans whose every method fails."""

    class Broken(trace.NonRecordingSpan):
        def get_span_context(self) -> Any:
            raise RuntimeError

        set_attributes = set_attribute = set_status = add_link = end = get_span_context  # type: ignore[assignment]

    class Provider(trace.NoOpTracer):
        def start_span(self, *_: Any, **__: Any) -> Any:
            return Broken(trace.INVALID_SPAN_CONTEXT)

    trace.get_tracer = lambda *_, **__: Provider()
    with Client(path) as client:
        assert client.call(str, 1, name="f") == "1"
        try:
            client.call(embed, "x")
        except ValueError:
            return

    raise AssertionError("the function's own exception did not arrive")


def without_context(path: str) -> None:
    """Trace with a library that makes spans but cannot make them current."""
    sys.modules["opentelemetry.context"] = None  # type: ignore[assignment]  # that is the point
    with Client(path) as client:
        assert client.call(str, 1, name="f") == "1"


def unshared(path: str) -> None:
    """Make a call with an unshareable value and one that fails, with a daemon and without."""
    warnings.simplefilter("ignore")
    for place in (path, f"{path}.gone"):
        with Client(place) as client:
            client.call(lambda _: object(), "PROMPT", name="f", **POLICY)
            with contextlib.suppress(ValueError):
                client.call(embed, "PROMPT", **POLICY)


async def unshared_asynchronous(path: str) -> None:
    """As `unshared`."""
    warnings.simplefilter("ignore")
    for place in (path, f"{path}.gone"):
        async with AsyncClient(place) as client:
            await client.call(lambda _: object(), "PROMPT", name="f", **POLICY)
            with contextlib.suppress(ValueError):
                await client.call(embed, "PROMPT", **POLICY)


def fields_of(span: ReadableSpan) -> dict[str, Any]:
    """Return the visible fields of a span."""
    assert span.context is not None
    return {
        "name": span.name,
        "kind": span.kind.name,
        "id": f"{span.context.trace_id:032x}-{span.context.span_id:016x}",
        "parent": None if span.parent is None else f"{span.parent.trace_id:032x}-{span.parent.span_id:016x}",
        "links": [f"{link.context.trace_id:032x}-{link.context.span_id:016x}" for link in span.links],
        "status": span.status.status_code.name,
        "attributes": dict(span.attributes or {}),
        "all": span.to_json(),
    }


def main(path: str, scenario: str) -> None:
    """Run a scenario."""
    exporter = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    trace.set_tracer_provider(provider)
    scenarios: dict[str, Callable[[str], object]] = {
        "blocking": blocking,
        "batches": batches,
        "batches asynchronous": lambda path: anyio.run(batches_asynchronous, path),
        "sharing": sharing,
        "broken": broken,
        "half broken": half_broken,
        "without context": without_context,
        "unshared": unshared,
        "unshared asynchronous": lambda path: anyio.run(unshared_asynchronous, path),
        "asynchronous": lambda path: anyio.run(asynchronous, path),
        "on trio": lambda path: anyio.run(asynchronous, path, backend="trio"),
    }
    scenarios[scenario](path)
    print(json.dumps([fields_of(span) for span in exporter.get_finished_spans()]))


if __name__ == "__main__":
    main(*sys.argv[1:])
