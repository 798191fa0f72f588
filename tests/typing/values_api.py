"""Typed values as users write them: every way of calling has the function's own types. Checked by mypy, never run."""

from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple, TypedDict, assert_type

from sidecard_client import AsyncClient, Client, Outcome
from sidecard_client.testing import FakeClient


@dataclass
class Invoice:
    """An answer with fields."""

    number: int
    customer: str | None = None


class Point(NamedTuple):
    """A piece of a stream."""

    x: int
    y: int


class Row(TypedDict):
    """A dict with fields."""

    number: int


def extract(text: str, *, strict: bool = False) -> Invoice:
    """Return a dataclass."""
    return Invoice(len(text), str(strict))


async def aextract(text: str) -> Invoice:
    """Return one, asynchronously."""
    return Invoice(len(text))


def points(count: int) -> Iterator[Point]:
    """Return named tuples, one by one."""
    yield Point(count, count)


async def apoints(count: int) -> AsyncIterator[Point]:
    """Return them asynchronously."""
    yield Point(count, count)


def parsed(text: str) -> Any:
    """Return what the annotation does not say."""
    return text


class Extractor:
    """An SDK's client."""

    def rows(self, text: str) -> list[Row]:
        """Return dicts."""
        return [{"number": len(text)}]

    def find(self, text: str) -> Invoice | None:
        """Return one, or none."""
        return Invoice(1) if text else None


def blocking(sidecard: Client, extractor: Extractor) -> None:
    """Use the blocking client."""
    assert_type(sidecard.call(extract, "a"), Invoice)
    assert_type(sidecard.call(extract, "a", strict=True, ttl=60), Invoice)
    assert_type(sidecard.call({"local": extract, "cloud": extract}, "a"), Invoice)
    assert_type(sidecard.call(Invoice, 1), Invoice)
    assert_type(sidecard.outcome(extract, "a"), Outcome[Invoice])
    assert_type(sidecard.outcome(extract, "a").value.customer, str | None)
    assert_type(sidecard.call(extract, "a", returns=Invoice), Invoice)
    assert_type(sidecard.call(parsed, "a", returns=tuple[int, str]), Any)
    assert_type(FakeClient().call(extractor.find, "a"), Invoice | None)

    shared = sidecard.wrap(extractor, ttl=60)
    assert_type(shared.rows("a"), list[Row])
    assert_type(shared.find("a"), Invoice | None)

    with sidecard.stream(points, 3) as stream:
        for point in stream:
            assert_type(point, Point)

    @sidecard.cached(ttl=600)
    def invoice_of(text: str, *, strict: bool = False) -> Invoice:
        return extract(text, strict=strict)

    @sidecard.cached(returns=Point)
    def points_of(count: int) -> Iterator[Point]:
        yield from points(count)

    assert_type(invoice_of("a", strict=True), Invoice)
    assert_type(points_of(3), Iterator[Point])
    invoice_of(3)  # type: ignore[arg-type]  # the decorated function's own parameters are kept
    invoice_of("a", stricter=True)  # type: ignore[call-arg]  # as above


async def asynchronous(sidecard: AsyncClient, extractor: Extractor) -> None:
    """Use the asynchronous client."""
    assert_type(await sidecard.call(aextract, "a"), Invoice)
    assert_type(await sidecard.call(extract, "a", returns=Invoice), Invoice)
    assert_type(await sidecard.outcome(aextract, "a"), Outcome[Invoice])
    assert_type(await sidecard.call(extractor.rows, "a"), list[Row])

    async with sidecard.stream(apoints, 3) as stream:
        async for point in stream:
            assert_type(point, Point)

    @sidecard.cached(ttl=600)
    async def invoice_of(text: str) -> Invoice:
        return await aextract(text)

    @sidecard.cached(ttl=600)
    async def points_of(count: int) -> AsyncIterator[Point]:
        async for point in apoints(count):
            yield point

    assert_type(await invoice_of("a"), Invoice)
    async for point in points_of(3):
        assert_type(point, Point)

    await invoice_of(3)  # type: ignore[arg-type]  # the decorated function's own parameters are kept
