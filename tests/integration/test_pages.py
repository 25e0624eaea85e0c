"""The first page and the lists behind its figures, through the whole suite."""

import asyncio
import re
from collections.abc import Awaitable, Callable
from datetime import date, datetime
from pathlib import Path
from typing import Any
from urllib.parse import urljoin

import httpx
import pytest

from services.all_in_one import Suite
from services.demo_clock import DEMO_START
from shared.clock import ZONE, FrozenClock
from tests.support.pages import (
    BATCH,
    DECLARED,
    LONG,
    NAUGHTY,
    browse,
    code,
    figures,
    lived_in,
    rows,
    text,
)
from tests.support.system import System

SERVICES = ("registry", "matching", "notify", "targets")
CSS = Path(__file__).parents[2] / "shared" / "pages" / "yingbao.css"


def play(folder: Path, story: Callable[[System], Awaitable[None]], *, live: bool = False) -> None:
    async def run() -> None:
        async with System(folder, overrides={} if live else BATCH) as system:
            if not live:
                await lived_in(system)
            await story(system)

    asyncio.run(run())


async def items(system: System, path: str) -> list[Any]:
    found: list[Any] = (await system.ask("GET", path))["items"]
    return found


def test_the_figures_are_those_of_the_api(tmp_path: Path) -> None:
    """Funnel, overdue steps, visits, stock, units, notices and newly insured; each tells something here."""

    async def story(system: System) -> None:
        shown = figures((await system.page("/")).text)
        funnel = await system.ask("GET", "/matching/v1/funnel")
        places = {place: shown[f"matching/lists/place.{place}"] for place in funnel["places"]}
        assert places == funnel["places"]
        assert sum(places.values()) == funnel["leads"] == 4
        assert {"unreached_visit", "held", "enrolled"} <= {
            place for place, number in places.items() if number
        }
        assert shown["matching/lists/overdue"] == funnel["overdue"] > 0
        visits = await items(system, "/matching/v1/visits?state=open")
        assert shown["matching/lists/visits"] == len(visits) > 0
        assert shown["matching/lists/week"] == 1
        stock = await system.ask("GET", "/matching/v1/stock")
        assert shown["matching/lists/clocks.held.stock"] == stock["count"] == 0
        assert shown["registry/lists/units"] == len(await items(system, "/registry/v1/units")) == 8
        uninsured = await items(system, "/registry/v1/units?insured=false")
        assert shown["registry/lists/uninsured"] == len(uninsured) == 6
        for state in ("queued", "held", "handed_over", "delivered", "unreached", "withdrawn"):
            notices = await items(system, f"/notify/v1/notices?state={state}")
            assert shown[f"notify/lists/{state}"] == len(notices), state
        progress = await system.ask("GET", "/targets/v1/progress?year=2026")
        (pension,) = [target for target in progress["targets"] if target["id"] == "T1"]
        assert shown["targets/lists/T1"] == pension["actual"] == 2
        page = text((await system.page("/")).text)
        assert f"{pension['difference_pp']} 百分点" in page
        assert f"完成率 completion{pension['completion_pct']} %" in page
        assert f"时序进度 pace{pension['pace_pct']} %" in page

    play(tmp_path, story)


def test_behind_every_figure_is_the_list_that_it_counts(tmp_path: Path) -> None:
    """From the first page, and from the page of each service."""

    async def story(system: System) -> None:
        for start in ("/", *(f"/{name}/" for name in SERVICES)):
            pages = await browse(system, start)
            shown = figures(pages[start])
            assert shown
            for link, number in shown.items():
                behind = pages[urljoin(start, link)]
                if "/targets/lists/T" in urljoin(start, link):  # the figure is the sum of the towns
                    counted = [int(n) for n in re.findall(r'data-name="新增参保（人）">(\d+)<', behind)]
                    assert sum(counted) == number, link
                else:
                    assert rows(behind) == number, link
                    assert number or 'class="empty"' in behind, link

    play(tmp_path, story)


def test_what_waits_is_shown_with_its_reason(tmp_path: Path) -> None:
    """Data that is not there, suspension, a doubtful code; and the clock that ends this week by name and day."""

    async def story(system: System) -> None:
        page = (await system.page("/")).text
        shown, said = figures(page), text(page)
        assert f"参保数据仅完整至 {DECLARED}" in said
        assert (shown["matching/lists/clocks.waiting"], shown["matching/lists/clocks.suspended"]) == (1, 1)
        assert "线索暂缓：统一社会信用代码待核实" in said
        assert LONG in said
        assert "2026-01-26" in said
        assert "▲ 迟 12 天" in said  # a sign, not only a colour

    play(tmp_path, story)


def test_messages_are_shown_as_on_a_phone_with_the_number_masked(tmp_path: Path) -> None:
    """Signature, text, masked number, instant and what became of it."""

    async def story(system: System) -> None:
        said = text((await system.page("/")).text)
        assert f"【荣成人社】{NAUGHTY}：" in said
        assert re.search(r"138\*\*\*\*8000 · 2026-01-08 \d\d:\d\d · ✓ 已送达 delivered", said)

    play(tmp_path, story)


def test_no_page_shows_anything_of_a_person(tmp_path: Path) -> None:
    """Neither names nor numbers, on the first page and all that it leads to."""

    async def story(system: System) -> None:
        for start in ("/", *(f"/{name}/" for name in SERVICES)):
            for path, html in (await browse(system, start)).items():
                for secret in (
                    "13800138000",
                    "13800138002",
                    "于示例",
                    "王示例",
                    "3710821985",
                    "37108219900101",
                ):
                    assert secret not in html, path

    play(tmp_path, story)


def test_names_are_text_and_never_markup(tmp_path: Path) -> None:
    """A unit may be called anything."""

    async def story(system: System) -> None:
        for path, html in (await browse(system)).items():
            assert "<b>甲" not in html, path
        listed = (await system.page("/registry/lists/units")).text
        assert "荣成&lt;b&gt;甲&lt;/b&gt;渔业有限公司" in listed

    play(tmp_path, story)


def test_pages_need_no_script_and_nothing_from_elsewhere(tmp_path: Path) -> None:
    """Their policy says so to the browser; every table has headings; every page finds the stylesheet."""

    async def story(system: System) -> None:
        for start in ("/", *(f"/{name}/" for name in SERVICES)):
            for path in await browse(system, start):
                answer = await system.page(path)
                assert answer.headers["content-security-policy"].startswith("default-src 'none'"), path
                assert "<script" not in answer.text, path
                assert "style=" not in answer.text, path
                assert not re.search(r'(?:href|src)="(?:https?:)?//', answer.text), path
                assert answer.text.count("<table") == answer.text.count("<thead>"), path
                (sheet,) = re.findall(r'<link rel="stylesheet" href="([^"]+)">', answer.text)
                assert "text/css" in (await system.page(urljoin(path, sheet))).headers["content-type"], path
                (brand,) = re.findall(r'<p class="brand"><a href="([^"]+)">', answer.text)
                assert urljoin(path, brand) == "/", path

    play(tmp_path, story)


def test_every_address_on_the_first_page_answers(tmp_path: Path) -> None:
    """API documents, readiness, metrics, sandbox and clock."""

    async def story(system: System) -> None:
        links = set(re.findall(r'href="([^"#]+)"', (await system.page("/")).text)) - {"data:,"}
        assert {
            "./matching/openapi.json",
            "./notify/metrics",
            "./sandbox/messages",
            "./targets/health/ready",
        } <= links
        for link in links:
            await system.page(urljoin("/", link))

    play(tmp_path, story)


def test_an_empty_suite_says_what_to_do_next(tmp_path: Path) -> None:
    """Every list has its own words; no figure is missing."""

    async def story(system: System) -> None:
        pages = await browse(system)
        said = text(pages["/"])
        for hint in (
            "POST /registry/v1/units",
            "make demo",
            "还没有线索",
            "七日内没有",
            "还没有发出短信",
            "08:30—18:00",
        ):
            assert hint in said
        assert "None" not in said
        assert pages["/"].count('class="empty"') == 5
        counted = {link: n for link, n in figures(pages["/"]).items() if not link.endswith("uncounted")}
        assert set(counted.values()) == {0}

    play(tmp_path, story, live=True)


def test_the_brake_is_shown(tmp_path: Path) -> None:
    """Stopped in words and with a sign."""

    async def story(system: System) -> None:
        assert "✓ 短信发送中 SMS sending" in text((await system.page("/")).text)
        await system.ask("PUT", "/notify/v1/sending", {"state": "off", "daily_cap": 500})
        said = text((await system.page("/")).text)
        assert "■ 短信已停发 SMS stopped" in said
        assert "■ 微信已停发 WeChat stopped" in said
        assert "每日上限 500 条" in said

    play(tmp_path, story, live=True)


def test_a_long_list_is_leafed_through(tmp_path: Path) -> None:
    """A hundred rows at a time, by links alone; each unit with its code, once."""

    async def story(system: System) -> None:
        for number in range(101):
            await system.register(code(number), date(2025, 12, 10), contacts=[])
        await system.move_to(datetime(2026, 1, 12, 10, tzinfo=ZONE))
        for start in ("registry/lists/units", "matching/lists/visits", "notify/lists/unreached"):
            html = (await system.page(f"/{start}")).text
            assert rows(html) == 100
            assert "共 101 条 101 in all；此处为第 1—100 条" in text(html)
            assert 'rel="prev"' not in html
            (link,) = re.findall(r'rel="next" href="([^"]+)"', html)
            last = (await system.page(urljoin(f"/{start}", link))).text
            assert rows(last) == 1
            assert 'rel="next"' not in last
            (back,) = re.findall(r'rel="prev" href="([^"]+)"', last)
            assert (await system.page(urljoin(f"/{start}", back))).text == html
            assert {code(n) for n in range(101)} == set(re.findall(r"91371082MA\w{8}", html + last))
        beyond = text((await system.page("/registry/lists/units?skip=200")).text)
        assert "到此为止，共 101 条" in beyond
        for kind in ("week", "overdue", "clocks.waiting", "place.unreached_visit"):
            everything = text((await system.page(f"/matching/lists/{kind}")).text)
            total = re.search(r"共 (\d+) 条", everything)
            skip = int(total[1]) - 1 if total else 1
            rest = (await system.page(f"/matching/lists/{kind}?skip={skip}")).text
            assert rows(rest) == bool(total), kind

    play(tmp_path, story, live=True)


@pytest.mark.parametrize("path", ["/matching/lists/place.nowhere", "/matching/lists/x", "/notify/lists/x"])
def test_a_list_that_there_is_not_is_not_found(tmp_path: Path, path: str) -> None:
    """And not a crash."""

    async def story(system: System) -> None:
        await system.page(path, status=404)

    play(tmp_path, story, live=True)


def test_the_stylesheet_is_sent_once(tmp_path: Path) -> None:
    """Who has it already gets 304."""

    async def story(system: System) -> None:
        tag = (await system.page("/static/yingbao.css")).headers["etag"]
        again = await system.page("/static/yingbao.css", headers={"If-None-Match": tag}, status=304)
        assert not again.content
        await system.page("/static/yingbao.css", headers={"If-None-Match": '"old"'})

    play(tmp_path, story, live=True)


def test_a_service_alone_shows_its_own_fragment(tmp_path: Path) -> None:
    """At its root, with links that work there."""

    async def run() -> None:
        async with System(tmp_path) as system:
            app = system.suite.services["matching"].app
            async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://x") as client:
                html = (await client.get("/")).text
                assert 'id="matching"' in html
                assert 'id="registry"' not in html
                for link in figures(html):
                    behind = await client.get(urljoin("/", link))
                    assert behind.status_code == 200
                    (sheet,) = re.findall(r'rel="stylesheet" href="([^"]+)"', behind.text)
                    assert (await client.get(urljoin(str(behind.url), sheet))).status_code == 200

    asyncio.run(run())


def test_outside_the_demo_there_are_no_pages(tmp_path: Path) -> None:
    """Until people can log in; `/` is a list of addresses."""
    suite = Suite(tmp_path, clock=FrozenClock(DEMO_START))

    async def run() -> None:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(suite.app), base_url="http://x") as client:
            assert set((await client.get("/")).json()) == set(SERVICES)
            for name in SERVICES:
                for path in ("/", "/lists/units", "/lists/visits", "/static/yingbao.css"):
                    assert (await client.get(f"/{name}{path}")).status_code == 404

    asyncio.run(run())
    suite.close()
    for service in suite.services.values():
        service.core.database.close()


GROUNDS = {
    "card": ("ink", "quiet", "accent", "bad", "good"),
    "ground": ("ink", "quiet", "accent", "bad", "good"),
    "bubble": ("ink",),
    "bad-ground": ("bad", "quiet"),
}


@pytest.mark.parametrize(("ground", "inks"), GROUNDS.items())
def test_text_can_be_read(ground: str, inks: tuple[str, ...]) -> None:
    """Contrast of WCAG AA between every text colour and what it stands on."""
    tokens = dict(re.findall(r"--([a-z-]+): (#[0-9a-f]+);", CSS.read_text()))
    for ink in inks:
        light, dark = sorted((luminance(tokens[ink]), luminance(tokens[ground])), reverse=True)
        assert (light + 0.05) / (dark + 0.05) >= 4.5, (ink, ground)


def luminance(colour: str) -> float:
    """Relative luminance as WCAG defines it."""
    digits = colour[1:] if len(colour) == 7 else "".join(2 * digit for digit in colour[1:])
    parts = [int(digits[i : i + 2], 16) / 255 for i in (0, 2, 4)]
    red, green, blue = (p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue
