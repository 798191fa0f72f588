"""Build the pages of `GET /metrics`: in turns, one page for all scrapes that wait, from cached text of what has not changed.

1. A scrape that arrives during a build may not have its page, which can lack what was recorded since: it waits for the next one.
2. All scrapes of one format that wait when a build begins get its page.

The text of each app metric is kept until the metric changes, in the format that was scraped last. It is no larger than what the metric
is charged (`sidecard.core.accounts.app_metric_room`). Pages that are being sent share it. Together, pages have at most
`MAX_PAGES_BYTES`: beyond that the oldest are given up, and their readers, the slowest, get no more of them.
"""

import asyncio
from collections.abc import Callable, Iterator
from typing import Final

from sidecard.core.accounts.app_metrics import FamilySource
from sidecard.observe import exposition
from sidecard.observe.http.turns import TURN_SECONDS, Scheduler

Sources = Callable[[], Iterator[FamilySource]]
"""Returns all families of this moment. The engine may handle events while they are made."""

MAX_PAGES_BYTES: Final = 32 * 1024 * 1024
"""Limit of all pages that are being sent: the largest has less than 20 MiB."""

BLOCK_BYTES: Final = 64 * 1024
"""Size of the parts in which a page is sent."""


class PageGivenUp(Exception):
    """The page was read so slowly that its memory was needed for newer ones."""


class Page:
    """One response: the text of all families."""

    def __init__(self, texts: list[bytes]) -> None:
        self._texts: list[bytes] | None = texts
        self.size_bytes = sum(map(len, texts))
        self.readers = 0

    def blocks(self) -> Iterator[bytes]:
        """Yield the text in blocks. Raises `PageGivenUp` if that happens meanwhile."""
        at, block, size = 0, list[bytes](), 0
        while True:
            texts = self._texts
            if texts is None:
                raise PageGivenUp

            while at < len(texts) and size < BLOCK_BYTES:
                block.append(texts[at])
                size += len(texts[at])
                at += 1

            if not block:
                return

            yield b"".join(block)
            block, size = [], 0

    def give_up(self) -> None:
        """Release the memory."""
        self._texts = None


class Scrapes:
    """Builds pages in turns of ``scheduler``. ``sources`` yields the families of the moment."""

    def __init__(self, sources: Sources, scheduler: Scheduler) -> None:
        self._sources = sources
        self._scheduler = scheduler
        self._waiting: dict[exposition.TextFormat, list[asyncio.Future[Page]]] = {}
        self._building: tuple[list[asyncio.Future[Page]], Iterator[None], list[bytes]] | None = None
        self._cached: dict[str, tuple[int, list[bytes]]] = {}
        """The number of the change up to which the texts of an app metric hold, and its texts."""
        self._cached_format = exposition.TEXT
        self._pages: dict[Page, None] = {}
        """Pages that are being sent, the oldest first."""

    async def page(self, form: exposition.TextFormat, uid: int) -> Page:
        """Return the page of this moment or later, built in turns of ``uid``; call `sent` when it has been sent."""
        future = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(form, []).append(future)
        self._scheduler.enqueue(self, uid)
        page: Page = await future
        page.readers += 1
        self._pages[page] = None
        while sum(page.size_bytes for page in self._pages) > MAX_PAGES_BYTES and len(self._pages) > 1:
            oldest = next(iter(self._pages))
            oldest.give_up()
            del self._pages[oldest]

        return page

    def sent(self, page: Page) -> None:
        """Note that a page has been sent to one more of its readers, or that this reader is gone."""
        page.readers -= 1
        if not page.readers:
            self._pages.pop(page, None)

    def serve_turn(self) -> bool:
        """Build for one turn."""
        until = self._scheduler.clock() + TURN_SECONDS
        if self._building is None:
            form = next(iter(self._waiting))
            texts: list[bytes] = []
            self._building = self._waiting.pop(form), self._build(form, texts), texts

        futures, building, texts = self._building
        try:
            for _ in building:
                if self._scheduler.clock() > until:
                    return True
        except Exception as fault:  # noqa: BLE001 - the error of those who asked, as if each had built it
            self._building = None
            for future in futures:
                if not future.done():
                    future.set_exception(fault)
        else:
            self._building = None
            page = Page(texts)
            for future in futures:
                if not future.done():
                    future.set_result(page)

        return bool(self._waiting)

    def _build(self, form: exposition.TextFormat, texts: list[bytes]) -> Iterator[None]:
        """Append the texts of all families, and yield after each piece."""
        before = self._cached if form is self._cached_format else {}
        cached: dict[str, tuple[int, list[bytes]]] = {}
        self._cached, self._cached_format = cached, form
        for source in self._sources():
            known = before.pop(source.name, None)
            if known is not None and source.changed and known[0] == source.changed:
                family = known[1]
            else:
                family = []
                for piece in source.pieces:
                    family.append(form.piece(piece, first=not family))
                    yield

            if source.changed:
                cached[source.name] = source.changed, family

            texts += family
            yield

        texts.append(form.end)
