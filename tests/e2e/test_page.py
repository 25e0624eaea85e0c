"""The pages in a real Chromium, as wide as a phone and as a desk: every page fits, and is looked after by keyboard."""

import asyncio
import shutil
from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, Page, Route, sync_playwright

from tests.support.pages import BATCH, LONG, browse, lived_in
from tests.support.system import System

HOST = "http://suite.test"
STYLE = "/static/yingbao.css"
QUIET = ["--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"]
SIZES = [(390, 844), (1440, 1000)]


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The first page of a suite that is lived in and of an empty one, all their lists, the stylesheet."""

    async def run() -> dict[str, str]:
        async with System(tmp_path_factory.mktemp("lived"), overrides=BATCH) as system:
            await lived_in(system)
            found = await browse(system)
            found[STYLE] = (await system.page(STYLE)).text
        async with System(tmp_path_factory.mktemp("empty")) as system:
            found["/empty"] = (await system.page("/")).text
        return found

    return asyncio.run(run())


@pytest.fixture(scope="module")
def chromium(pages: dict[str, str]) -> Iterator[Browser]:
    """The system's browser; begun behind the suite, since it keeps a loop running in this thread."""
    program = shutil.which("chromium")
    assert program, "install chromium: deploy/test-system.sh names what the tests need"
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=QUIET)
        yield browser
        browser.close()


@pytest.fixture(params=SIZES, ids=["phone", "desk"])
def tab(request: pytest.FixtureRequest, chromium: Browser, pages: dict[str, str]) -> Iterator[Page]:
    """A tab of one of the sizes that gets the kept pages; anything else that it asks for fails the test."""
    width, height = request.param
    page = chromium.new_page(viewport={"width": width, "height": height})
    complaints: list[str] = []

    def answer(route: Route) -> None:
        path = route.request.url.removeprefix(HOST)
        if path.endswith(STYLE):  # each service has it
            path = STYLE
        if path not in pages:
            complaints.append(route.request.url)
            route.abort()
            return
        kind = "text/css" if path == STYLE else "text/html"
        route.fulfill(body=pages[path], content_type=f"{kind}; charset=utf-8")

    page.route("**/*", answer)
    page.on("console", lambda message: complaints.append(message.text))
    yield page
    page.close()
    assert complaints == []


def test_no_page_scrolls_sideways(tab: Page, pages: dict[str, str]) -> None:
    """Not with a name of seventy letters either, which is there to be seen."""
    assert tab.viewport_size
    for path in sorted(pages.keys() - {STYLE}):
        tab.goto(HOST + path)
        width = tab.evaluate("document.documentElement.scrollWidth")
        assert width <= tab.viewport_size["width"], path
    tab.goto(HOST + "/")
    assert tab.get_by_text(LONG).first.is_visible()


def test_the_stylesheet_is_applied(tab: Page) -> None:
    """And a message is a bubble of its own colour."""
    tab.goto(HOST + "/")
    colour = "element => getComputedStyle(element).backgroundColor"
    assert tab.locator(".bubble p").first.evaluate(colour) == "rgb(228, 243, 230)"


def test_the_keyboard_reaches_everything_in_order(tab: Page) -> None:
    """First the way past the head, then the figures; what has the focus can be seen."""
    tab.goto(HOST + "/")
    focused = "document.activeElement.getAttribute('href')"
    tab.keyboard.press("Tab")
    assert tab.evaluate(focused) == "#content"
    assert tab.evaluate("document.activeElement.getBoundingClientRect().top") >= 0
    tab.keyboard.press("Tab")
    tab.keyboard.press("Tab")
    assert tab.evaluate(focused) == "matching/lists/overdue"
    assert tab.evaluate("getComputedStyle(document.activeElement).outlineStyle") == "solid"
    tab.keyboard.press("Enter")
    tab.wait_for_url(HOST + "/matching/lists/overdue")
