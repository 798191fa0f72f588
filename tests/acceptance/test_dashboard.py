"""The dashboard in a real browser: live, offline, on a phone, in the dark, by keyboard, and with names that are an attack."""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, expect, sync_playwright

from sidecard_client import Client
from tests.acceptance.test_commands import run
from tests.daemons import Daemon, ask
from tests.servers import free_port

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(120),
    pytest.mark.skipif(CHROMIUM is None, reason="there is no chromium: install Debian's"),
]

ATTACK = "<img src=x onerror=document.title='taken'>"
WAIT_MILLISECONDS = 15_000
LEAST_CONTRAST = 4.5
"""Of text, by WCAG 2.2 AA."""

CONTRASTS = """() => {
    const channel = (value) => (value /= 255, value <= 0.04045 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4);
    const luminance = ([red, green, blue]) => 0.2126 * channel(red) + 0.7152 * channel(green) + 0.0722 * channel(blue);
    const numbers = (color) => color.match(/[0-9.]+/g).map(Number);
    const behind = (element) => {
        for (; element; element = element.parentElement) {
            const color = numbers(getComputedStyle(element).backgroundColor);
            if (color.length === 3 || color[3] === 1) return color;
        }
        return [255, 255, 255];
    };
    const contrasts = [];
    for (const element of document.querySelectorAll('body *')) {
        const own = [...element.childNodes].some((node) => node.nodeType === 3 && node.textContent.trim());
        if (!own || !element.getClientRects().length || element.closest('svg, noscript')) continue;
        const pair = [luminance(numbers(getComputedStyle(element).color)), luminance(behind(element))].sort((a, b) => b - a);
        contrasts.push([(pair[0] + 0.05) / (pair[1] + 0.05), element.tagName + ': ' + element.textContent.trim().slice(0, 40)]);
    }
    return contrasts;
}"""


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Start the system's browser, which may reach nothing but this host."""
    with sync_playwright() as playwright:
        options = ["--no-sandbox", "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1"]
        with closing(playwright.chromium.launch(executable_path=CHROMIUM, args=options)) as started:
            yield started


@pytest.fixture
def one(daemon: Callable[..., Daemon]) -> tuple[Daemon, str]:
    """Start a daemon with a listener and a budget."""
    port = free_port()
    return (
        daemon("--no-state", f"--set=http.listen=127.0.0.1:{port}", "--set=budgets.day.dollars=1"),
        f"http://127.0.0.1:{port}/",
    )


@pytest.fixture
def opened(browser: Browser) -> Iterator[Callable[..., Page]]:
    """Open pages, and at the end find nothing that they complained about."""
    pages: list[Page] = []
    complaints: list[str] = []

    def open_page(url: str, width: int = 1280, **options: Any) -> Page:
        page = browser.new_page(viewport={"width": width, "height": 800}, **options)
        page.set_default_timeout(WAIT_MILLISECONDS)
        page.on("pageerror", lambda error: complaints.append(str(error)))
        pages.append(page)
        page.goto(url)
        return page

    yield open_page
    for page in pages:
        page.close()

    assert complaints == []


def fill(path: str) -> None:
    """Make calls of several tasks and backends, one of which fails until its breaker opens."""

    def fail(number: int) -> None:
        raise TimeoutError(number)

    with Client(path, usage=lambda _: {"model": "m", "cost_dollars": 0.25}) as client:
        for task in ("rag", ATTACK):
            for _ in range(3):
                client.call(str, 1, name="f", task=task, backend="cloud")

        for number in range(10):
            with pytest.raises(TimeoutError):
                client.call(fail, number, name="g", backend="flaky")


def test_dashboard_shows_calls_as_they_come(
    one: tuple[Daemon, str], opened: Callable[..., Page], socket_path: str
) -> None:
    """It shows a first step, then hit rate, money, backends, budgets and tasks, without a reload."""
    page = opened(one[1])
    expect(page.get_by_role("heading", name="No calls yet")).to_be_visible(timeout=WAIT_MILLISECONDS)
    fill(socket_path)
    expect(page.locator("#hit-rate")).to_have_text("25.0 %", timeout=WAIT_MILLISECONDS)
    expect(page.locator("#saved-dollars")).to_have_text("$1.00")
    expect(page.get_by_role("heading", name="No calls yet")).to_be_hidden()
    expect(page.get_by_role("row", name="rag")).to_contain_text("66.7 %")
    expect(page.locator("#backends")).to_contain_text("Breaker open: no calls")
    expect(page.locator("#backends")).to_contain_text("Breaker closed: calls go through")
    expect(page.locator("#budgets")).to_contain_text("$0.50 of $1.00")
    expect(page.get_by_role("heading", name="Problems")).to_be_visible()


def test_dashboard_names_a_first_command_that_works(
    one: tuple[Daemon, str], opened: Callable[..., Page], socket_path: str
) -> None:
    """The command works as printed, on a host without anything else."""
    page = opened(one[1])
    expect(page.get_by_role("heading", name="No calls yet")).to_be_visible(timeout=WAIT_MILLISECONDS)
    command = page.locator("#empty code").inner_text()
    program = command.removeprefix("python -c '").removesuffix("'")
    subprocess.run([sys.executable, "-c", program], env=os.environ | {"SIDECARD_SOCKET": socket_path}, check=True)
    assert ask(socket_path, {"op": "stats"})["begins"] == 1


def test_dashboard_shows_names_as_text(one: tuple[Daemon, str], opened: Callable[..., Page], socket_path: str) -> None:
    """A task name with markup is shown as text."""
    fill(socket_path)
    page = opened(one[1])
    expect(page.get_by_role("rowheader", name=ATTACK)).to_be_visible(timeout=WAIT_MILLISECONDS)
    assert page.title() == "sidecard"
    assert page.locator("main img").count() == 0


def test_dashboard_reports_a_stopped_daemon_and_reconnects(
    one: tuple[Daemon, str], opened: Callable[..., Page], socket_path: str
) -> None:
    """The page reports it visibly and to screen readers, keeps the last numbers, and goes on after the restart."""
    fill(socket_path)
    page = opened(one[1])
    expect(page.locator("#hit-rate")).to_have_text("25.0 %", timeout=WAIT_MILLISECONDS)
    one[0].kill()
    expect(page.get_by_text("The daemon does not respond.", exact=True).first).to_be_visible(timeout=WAIT_MILLISECONDS)
    expect(page.get_by_role("status")).to_have_text("The daemon does not respond.")
    expect(page.locator("#hit-rate")).to_have_text("25.0 %")
    one[0].start_again()
    expect(page.locator("#state-words")).to_have_text("serving", timeout=WAIT_MILLISECONDS)
    expect(page.get_by_role("status")).to_contain_text("responds again")
    assert page.title() == "sidecard"


@pytest.mark.parametrize("width", [320, 360, 768, 1280])
def test_dashboard_fits_small_and_large_screens(
    one: tuple[Daemon, str], opened: Callable[..., Page], socket_path: str, width: int
) -> None:
    """No width needs horizontal scrolling."""
    fill(socket_path)
    page = opened(one[1], width)
    expect(page.locator("#hit-rate")).to_have_text("25.0 %", timeout=WAIT_MILLISECONDS)
    assert page.evaluate("document.documentElement.scrollWidth") <= width


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_dashboard_texts_have_enough_contrast(
    one: tuple[Daemon, str], opened: Callable[..., Page], socket_path: str, scheme: str
) -> None:
    """Every text has at least the contrast of WCAG, in light and dark mode."""
    fill(socket_path)
    page = opened(one[1], color_scheme=scheme)
    expect(page.locator("#budgets")).to_contain_text("$0.50 of $1.00", timeout=WAIT_MILLISECONDS)
    contrasts = page.evaluate(CONTRASTS)
    assert len(contrasts) > 30
    assert [text for contrast, text in contrasts if contrast < LEAST_CONTRAST] == []


def test_dashboard_works_with_keyboard_and_screen_reader(
    one: tuple[Daemon, str], opened: Callable[..., Page], socket_path: str
) -> None:
    """It has landmarks, one first heading, a table with headers, and charts with descriptions and a table of their numbers."""
    fill(socket_path)
    page = opened(one[1])
    expect(page.locator("#hit-rate")).to_have_text("25.0 %", timeout=WAIT_MILLISECONDS)
    assert page.locator("h1").count() == page.get_by_role("main").count() == page.get_by_role("banner").count() == 1
    assert page.evaluate("document.documentElement.lang") == "en"
    assert page.get_by_role("columnheader", name="Hit rate").count() >= 1
    assert page.locator("figure svg[role=img][aria-labelledby][aria-describedby]").count() == 2
    page.keyboard.press("Tab")
    expect(page.get_by_role("link", name="Skip to the numbers")).to_be_focused()
    page.keyboard.press("Enter")
    reached = set()
    for _ in range(12):
        page.keyboard.press("Tab")
        reached.add(page.evaluate("document.activeElement.textContent.trim()"))

    assert {"As a table", "summary", "metrics", "health"} <= reached


def test_dashboard_loads_nothing_from_other_hosts(one: tuple[Daemon, str], opened: Callable[..., Page]) -> None:
    """The page works without a network."""
    page = opened("about:blank")
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.goto(one[1])
    expect(page.locator("#state-words")).to_have_text("serving", timeout=WAIT_MILLISECONDS)
    assert len(asked) > 5
    assert all(url.startswith(one[1]) for url in asked)
    assert run("ping", "--socket", one[0].socket).returncode == 0
