"""Server-rendered pages: one look for all services, without JavaScript, nothing from another host.

A service says what it shows as `Pages`: a fragment for the first page, and the list behind each of its figures.
Everything on a page is in clear for whoever sees it, so no personal data may be in it unmasked.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from hashlib import sha256
from importlib.resources import files
from typing import Annotated, Any, Final, Protocol, TypeVar

import sqlalchemy as sa
from fastapi import APIRouter, Query, Request, Response
from fastapi.responses import HTMLResponse
from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from shared.clock import ZONE, Clock
from shared.errors import not_found
from shared.http import StrictRoute, public

T = TypeVar("T")

SHOWN: Final = 100
"""Most rows of a list on a page; a link leads to the next ones."""

MOST_SKIPPED: Final = 1_000_000
"""Nobody leafs further; the API has them all."""

STYLE: Final = "/static/yingbao.css"
"""Where every application with pages serves the stylesheet."""

IN_DEMO: Final = "pages exist in demo mode only, with invented people"

_HEADERS: Final = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": "default-src 'none'; style-src 'self'; img-src data:; base-uri 'none'; "
    "form-action 'none'; frame-ancestors 'none'",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}


@dataclass(frozen=True)
class Words:
    """The same in Chinese and English."""

    zh: str
    en: str


def code_words(known: Mapping[str, str], code: str | None) -> Words | None:
    """A code in words: Chinese where it is known, and the code itself in English."""
    return None if code is None else Words(known.get(code, code), code.replace("_", " "))


@dataclass(frozen=True)
class ListPage:
    """What is behind a figure: at most `SHOWN` rows of `total`, behind those skipped. `api` has them all.

    A cell is anything that `shown` takes, or Words.
    """

    title: Words
    columns: Sequence[Words]
    rows: Sequence[Sequence[Any]]
    total: int
    api: str
    empty: Words


@dataclass(frozen=True)
class Pages:
    """What a service shows people.

    `fragment(db, now, base)` is its part of the first page; `base` goes before its own addresses.
    `listing(db, now, name, skip)` is the list at `{base}/lists/{name}` without so many of its first rows, None
    where there is no such one.
    """

    title: Words
    fragment: Callable[[sa.Connection, datetime, str], Markup]
    listing: Callable[[sa.Connection, datetime, str, int], ListPage | None]


class Reader(Protocol):
    """What pages need of a service."""

    clock: Clock

    async def read(self, ask: Callable[[sa.Connection], T]) -> T:
        """Asks the database."""


class Templates:
    """The templates of a package's folder `pages`, and the shared ones, as HTML that escapes what it is given."""

    def __init__(self, package: str) -> None:
        own = [] if package == "shared" else [PackageLoader(package, "pages")]
        self._environment = Environment(
            loader=ChoiceLoader([*own, PackageLoader("shared", "pages")]),
            autoescape=True,
            undefined=StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
        )
        self._environment.filters["shown"] = shown

    def render(self, name: str, **values: Any) -> Markup:
        """One template, filled."""
        return Markup(self._environment.get_template(name).render(**values))  # noqa: S704 - escaped inside


def shown(value: Any) -> str:
    """A value as people read it: instants in Shanghai to the minute, days by ISO, numbers grouped, none as a dash."""
    if value is None or value == "":
        return "—"
    if isinstance(value, datetime):
        return f"{value.astimezone(ZONE):%Y-%m-%d %H:%M}"
    if isinstance(value, Decimal):
        return f"{value.normalize():,f}"
    return f"{value:,}" if isinstance(value, int) else str(value)


def page(
    templates: Templates, name: str, *, title: Words, root: str, first: str, now: datetime, **values: Any
) -> Response:
    """A whole page. Relative addresses lead from it to the root of its application and to the first page."""
    html = templates.render(name, title=title, first=first, now=now, style=root + STYLE, **values)
    return HTMLResponse(html, headers=_HEADERS)


def style_route() -> APIRouter:
    """The stylesheet, from this package."""
    router = APIRouter(route_class=StrictRoute, include_in_schema=False)
    text = (files("shared.pages") / "yingbao.css").read_bytes()
    tag = f'"{sha256(text).hexdigest()[:16]}"'

    @router.get(STYLE, dependencies=[public("the look of the pages")])
    async def style(request: Request) -> Response:
        headers = {"ETag": tag, "Cache-Control": "no-cache"}
        if request.headers.get("if-none-match") == tag:
            return Response(status_code=304, headers=headers)
        return Response(text, media_type="text/css", headers=headers)

    return router


def page_routes(pages: Pages, reader: Reader) -> APIRouter:
    """The pages of one service: its fragment at `/`, its lists, its stylesheet.

    `../` leads to the first page of the suite where the service is mounted, and nowhere else where it is alone.
    """
    router = APIRouter(route_class=StrictRoute, dependencies=[public(IN_DEMO)], include_in_schema=False)
    templates = Templates("shared")

    @router.get("/")
    async def first() -> Response:
        now = reader.clock.now()
        section = await reader.read(lambda db: pages.fragment(db, now, "."))
        return page(
            templates, "first.html", title=pages.title, root=".", first="../", now=now, sections=[section]
        )

    @router.get("/lists/{name}")
    async def listing(name: str, skip: Annotated[int, Query(ge=0, le=MOST_SKIPPED)] = 0) -> Response:
        now = reader.clock.now()
        found = await reader.read(lambda db: pages.listing(db, now, name, skip))
        if found is None:
            raise not_found("没有这张清单，请从首页进入", "There is no such list; start at the first page")
        return page(
            templates,
            "list.html",
            title=found.title,
            root="..",
            first="../../",
            now=now,
            listing=found,
            skip=skip,
            step=SHOWN,
        )

    router.include_router(style_route())
    return router
