"""The dashboard in a real browser, in front of an engine whose clock the test controls."""

import re
import shutil
from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, expect, sync_playwright

from sidecard.core.settings import BackendSettings, BreakerSettings, BudgetSettings
from sidecard_client.protocol import wire
from tests.host import Actor
from tests.served_http import Served, served

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="there is no chromium: install Debian's"),
]

Open = Callable[..., Page]

WAIT_MILLISECONDS = 15_000
LONGEST_NAME = "w" * 128
"""Of a task: nothing in it can be broken at."""


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Start the system's browser."""
    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield started
        started.close()


@pytest.fixture
def one() -> Iterator[Served]:
    """Serve an engine with two backends and a budget of one dollar."""
    breaker = BreakerSettings(min_calls=2, open_seconds=60.0)
    backends = {"local": BackendSettings(locality="local", max_concurrent=2), "cloud": BackendSettings(breaker=breaker)}
    with served(backends=backends, budgets={"day": BudgetSettings(dollars=1.0)}) as listener:
        yield listener


@pytest.fixture
def opened(browser: Browser, one: Served) -> Iterator[Open]:
    """Open pages; at the end check that none has logged an error."""
    pages: list[Page] = []
    complaints: list[str] = []

    def open_page(width: int = 1280, *, frozen: bool = False, **options: Any) -> Page:
        page = browser.new_page(viewport={"width": width, "height": 800}, **options)
        page.set_default_timeout(WAIT_MILLISECONDS)
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("console", lambda line: complaints.append(line.text) if line.type == "error" else None)
        pages.append(page)
        if frozen:
            page.clock.install()

        page.goto(one.url)
        expect(page.locator("#state-words")).not_to_have_text("connecting …", timeout=WAIT_MILLISECONDS)
        return page

    yield open_page
    for page in pages:
        page.close()

    assert complaints == []


def call(one: Served, key: str, *, task: str = "rag", backend: str = "local", dollars: float | None = 0.25) -> None:
    """Make a call of two seconds, or get its answer from the cache."""

    def make() -> None:
        peer: Actor = one.host.peer()
        peer.asks(wire.Begin(key, id=1, task=task, backends=(backend,)))
        (reply,) = peer.receives()
        if isinstance(reply, wire.Lease):
            one.host.passes(2.0)
            peer.completes(reply.lease, "answer", usage=wire.Usage(model="m", cost_dollars=dollars))

        peer.dies()

    one.do(make)


def fail(one: Served, backend: str = "cloud") -> None:
    """Let a call of a backend fail."""

    def make() -> None:
        peer = one.host.peer()
        peer.fails(peer.calls(backend).lease)
        peer.dies()

    one.do(make)


def plain(text: str) -> str:
    """Return a text with ordinary spaces."""
    return text.replace("\u00a0", " ")


def module(page: Page, name: str, expression: str) -> Any:
    """Evaluate an expression with a module of the page, as ``it``."""
    return page.evaluate(f"import('/assets/{name}.js').then((it) => {expression})")


@pytest.mark.parametrize(
    ("written", "text"),
    [
        ("percent(0)", "0 %"),
        ("percent(1)", "100 %"),
        ("percent(0.00001)", "< 0.1 %"),
        ("percent(0.99999)", "> 99.9 %"),
        ("percent(0.5)", "50.0 %"),
        ("dollars(0)", "$0.00"),
        ("dollars(0.0021)", "$0.002100"),
        ("dollars(1234.5)", "$1,234.50"),
        ("dollars(2e-9)", "$2e-9"),
        ("seconds(0)", "0 s"),
        ("seconds(0.0000123)", "12.3 µs"),
        ("seconds(0.0123)", "12.3 ms"),
        ("seconds(0.9999)", "1 s"),
        ("seconds(59.96)", "60 s"),
        ("seconds(61)", "1 min 1 s"),
        ("seconds(3599.6)", "1 h"),
        ("seconds(90000)", "1 d 1 h"),
        ("bytes(1023)", "1,023 B"),
        ("bytes(1048575)", "1 MiB"),
        ("bytes(2 ** 50)", "1,024 TiB"),
        ("count(1234567)", "1,234,567"),
    ],
)
def test_numbers_are_formatted_with_units(opened: Open, written: str, text: str) -> None:
    """Units stay on the number's line; rounding never reaches 0 % or 100 %."""
    assert plain(module(opened(), "format", f"it.{written}")) == text


def test_steps_are_added_to_their_minute(opened: Open) -> None:
    """A step that ends on the minute belongs to the minute before; steps older than an hour are left out."""
    steps = "{at_seconds: [60, 3660, 3670, 7200, 7205], hits: [1, 2, 4, 8, 16]}"
    sums = module(opened(), "charts", f"it.minutes({steps}, 7210, ['hits']).map((minute) => minute.hits)")
    assert len(sums) == 60
    assert (sums[0], sums[58], sums[59], sum(sums)) == (4, 8, 16, 28)


def test_scales_end_at_round_numbers(opened: Open) -> None:
    """Slightly above the highest bar."""
    tops = module(opened(), "charts", "[0, 0.7, 1, 3, 7, 11, 99.5, 400, 401].map(it.ceiling)")
    assert tops == pytest.approx([2, 0.8, 1, 4, 8, 20, 100, 400, 600])


def test_charts_show_an_hour(one: Served, opened: Open) -> None:
    """One bar per minute with calls, also as text and as a table."""
    for number in range(3):
        call(one, f"key {number}")
        call(one, f"key {number}")
        one.passes(598.0)

    page = opened()
    chart = page.locator("#calls-chart")
    expect(chart.get_by_role("img", name="Calls per minute")).to_be_visible()
    expect(chart).to_contain_text("In total 3 from the cache, 0 shared, 3 upstream, 0 unanswered.")
    assert chart.locator("g rect.hits").count() == chart.locator("g rect.upstream").count() == 3
    chart.get_by_text("As a table").click()
    cells = chart.get_by_role("row", name="0 to 10", exact=False).first.get_by_role("cell")
    assert cells.all_inner_texts() == ["1", "0", "1", "0"]
    expect(page.locator("#saved-chart")).to_contain_text("In total $0.75")


def test_backends_show_what_they_read_from_their_prompt_caches(browser: Browser) -> None:
    """Those that schedule by prefixes, also before an answer has reported any; others only if they report some."""
    backends = {"local": BackendSettings(prefix_affinity="slots", max_concurrent=2), "cloud": BackendSettings()}
    with served(backends=backends) as one:
        page = browser.new_page()
        page.set_default_timeout(WAIT_MILLISECONDS)
        page.goto(one.url)
        headings = [page.get_by_role("heading", name=name) for name in ("local", "cloud")]
        local, cloud = (page.get_by_role("article").filter(has=heading) for heading in headings)
        expect(local).to_contain_text("Prompt tokens cachednone reported")
        expect(local).to_contain_text("Warm prefixes0")
        expect(cloud).not_to_contain_text("Prompt tokens cached")

        usage = wire.Usage(model="m", prompt_tokens=1000, cached_prompt_tokens=750, completion_tokens=5)
        for name in ("local", "cloud"):

            def make(name: str = name) -> None:
                peer = one.host.peer()
                lease = peer.leads(f"key of {name}", backends=(name,), prefix=("0" * 32,), prefix_bytes=(4000,))
                peer.completes(lease, "answer", usage=usage)
                peer.dies()

            one.do(make)

        for card in (local, cloud):
            expect(card).to_contain_text(re.compile(r"Prompt tokens cached75.0\s%"), timeout=WAIT_MILLISECONDS)

        expect(local).to_contain_text("Warm prefixes1")
        page.close()


def test_without_costs_the_chart_shows_saved_time(one: Served, opened: Open) -> None:
    """$0 would look like a measurement."""
    call(one, "key", dollars=None)
    call(one, "key", dollars=None)
    one.passes(10)
    page = opened()
    expect(page.locator("#saved-chart")).to_contain_text("Time saved per minute")
    expect(page.locator("#saved-dollars-of")).to_have_text("no cost reported")
    assert "$" not in page.locator("#tasks-section").inner_text()


def test_the_page_shows_the_summary(one: Served, opened: Open) -> None:
    """Each backend with its state in words, each budget with its share."""
    call(one, "a")
    call(one, "a")
    call(one, "b", dollars=0.625)
    fail(one)
    fail(one)
    holder, waiter = one.do(one.host.peer), one.do(one.host.peer)
    one.do(lambda: (holder.leads("c", backends=("local",)), waiter.waits("c", backends=("local",))))
    page = opened()
    texts = {name: plain(page.locator(f"#{name}").inner_text()) for name in ("hit-rate", "flights", "waiters", "peers")}
    assert texts == {"hit-rate": "25.0 %", "flights": "1", "waiters": "1", "peers": "3"}
    local = page.get_by_role("article").filter(has=page.get_by_role("heading", name="local"))
    expect(local).to_contain_text("Breaker closed: calls go through")
    expect(local).to_contain_text("1 of 2")
    cloud = page.get_by_role("article").filter(has=page.get_by_role("heading", name="cloud"))
    expect(cloud).to_contain_text("Breaker open: no calls")
    expect(cloud).to_contain_text("2 of 2 calls")
    expect(page.locator("#budgets")).to_contain_text("87.5")
    expect(page.get_by_role("region", name="Problems")).to_contain_text("'cloud' is open")


@pytest.mark.parametrize("width", [320, 400, 600, 800, 880, 1280])
def test_no_width_is_scrolled_sideways_and_no_number_is_broken(one: Served, opened: Open, width: int) -> None:
    """Even with the longest name, and with open tables."""
    for name in (LONGEST_NAME, "rag"):
        call(one, name, task=name)
        call(one, name, task=name)

    one.passes(10)
    page = opened(width)
    for number in range(2):
        page.get_by_text("As a table").nth(number).click()

    assert page.evaluate("document.documentElement.scrollWidth") <= width
    heights = (
        page.get_by_role("row", name="rag")
        .get_by_role("cell")
        .evaluate_all("(cells) => cells.map((cell) => cell.getBoundingClientRect().height)")
    )
    assert len(heights) == 9
    assert max(heights) < 45


def test_names_of_javascript_properties_are_shown(one: Served, opened: Open) -> None:
    """Tasks and backends may be called ``constructor`` or like a breaker's state."""
    for name in ("__proto__", "constructor", "toString"):
        call(one, name, task=name, backend=name)

    page = opened()
    for name in ("__proto__", "constructor", "toString"):
        expect(page.get_by_role("rowheader", name=name)).to_be_visible()
        expect(page.get_by_role("heading", name=name)).to_be_visible()


def test_screen_readers_announce_faults_once_and_no_numbers(one: Served, opened: Open) -> None:
    """Announcements of every change would be unusable."""
    page = opened()
    page.evaluate(
        "window.said = []; new MutationObserver(() => said.push(document.getElementById('announcement').textContent))"
        ".observe(document.getElementById('announcement'), {childList: true, characterData: true, subtree: true})"
    )
    call(one, "a")
    expect(page.locator("#upstream")).to_have_text("1", timeout=WAIT_MILLISECONDS)
    call(one, "b")
    expect(page.locator("#upstream")).to_have_text("2", timeout=WAIT_MILLISECONDS)
    assert page.evaluate("said") == []
    fail(one)
    fail(one)
    expect(page.locator("#backends")).to_contain_text("Breaker open", timeout=WAIT_MILLISECONDS)
    one.do(one.host.passes, 5)
    expect(page.locator("#backends")).to_contain_text("55 s", timeout=WAIT_MILLISECONDS)
    (said,) = page.evaluate("said")
    assert "breaker of backend 'cloud' is open" in said


def test_a_hidden_page_polls_less_often(opened: Open) -> None:
    """Every two seconds, every half minute while hidden, and immediately when shown again."""
    page = opened(frozen=True)
    asked: list[str] = []
    page.on("requestfinished", lambda request: asked.append(request.url) if "/v1/summary" in request.url else None)

    def count_of(seconds: int) -> int:
        asked.clear()
        for _ in range(seconds):
            page.clock.run_for(1000)
            # The answer comes in the world's time.
            page.evaluate("fetch('/health').then((answer) => answer.text())")

        return len(asked)

    assert count_of(20) > 5
    page.evaluate("Object.defineProperty(document, 'hidden', {value: true, configurable: true})")
    count_of(2)
    assert count_of(60) <= 3
    while not count_of(1):
        pass

    # The next question is half a minute away.
    with page.expect_request("**/v1/summary", timeout=WAIT_MILLISECONDS):
        page.evaluate(
            "Object.defineProperty(document, 'hidden', {value: false});"
            "document.dispatchEvent(new Event('visibilitychange'))"
        )


def test_charts_open_by_keyboard_and_the_focus_is_visible(one: Served, opened: Open) -> None:
    """No function needs the mouse."""
    call(one, "a")
    page = opened()
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.id") == "main"
    page.keyboard.press("Tab")
    assert page.evaluate("getComputedStyle(document.activeElement).outlineStyle") == "solid"
    page.keyboard.press("Enter")
    expect(page.get_by_role("table", name="Calls per minute, in steps of ten minutes")).to_be_visible()


def test_animations_respect_reduced_motion(opened: Open) -> None:
    """Bars grow only without that preference."""
    expression = "getComputedStyle(document.getElementById('cache-bar')).transitionDuration"
    assert opened().evaluate(expression) == "0.3s"
    assert opened(reduced_motion="reduce").evaluate(expression) == "0s"


def test_a_drain_is_shown(one: Served, opened: Open) -> None:
    """In the title too, for pages in a background tab."""
    page = opened()
    one.do(one.host.drains)
    expect(page.locator("#state-words")).to_have_text("draining: it grants no new leases", timeout=WAIT_MILLISECONDS)
    expect(page.get_by_role("status")).to_contain_text("The daemon is draining")
    assert page.title() == "sidecard: draining"


def test_headings_structure_the_page(one: Served, opened: Open) -> None:
    """One first level, none skipped, and each region has a name."""
    call(one, "a")
    page = opened()
    expect(page.get_by_role("heading", name="local")).to_be_visible()
    levels = page.evaluate(
        "[...document.querySelectorAll('h1, h2, h3')].filter((head) => head.getClientRects().length)"
        ".map((head) => Number(head.tagName[1]))"
    )
    assert levels[0] == 1
    assert all(after <= before + 1 for before, after in pairwise(levels))
    for name in ("Now", "The last hour", "Backends", "Budgets", "Tasks"):
        expect(page.get_by_role("region", name=name)).to_be_visible()
