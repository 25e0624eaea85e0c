"""Who may: every route states its rule, a bearer token proves the caller, a bucket limits the rate."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

import structlog
from fastapi import Depends, Request
from fastapi.routing import iter_route_contexts
from starlette.routing import Mount

from shared.auth import Identity, InvalidToken
from shared.clock import Clock
from shared.errors import Problem
from shared.http.problems import Challenge
from shared.logs import correlation
from shared.storage.work import Cause

log = structlog.get_logger(__name__)


@dataclass(frozen=True)
class Caller:
    """Who asks. Rows are limited by `department` and `town`; None is no limit by that."""

    client_id: str
    department: str | None
    town: str | None
    scopes: frozenset[str]
    cause: Cause


@dataclass(frozen=True)
class Access:
    """The access rule of a route: a bearer token with all of `scopes`.

    What a route with `whole_city` does or shows is no single town's: a token limited to one is refused.
    """

    scopes: frozenset[str]
    whole_city: bool = False

    async def __call__(self, request: Request) -> None:
        who: Caller | None = getattr(request.state, "caller", None)
        if who is None:
            who = _authenticate(request)
            request.state.caller = who
        lacking = sorted(self.scopes - who.scopes)
        if lacking:
            raise Challenge(
                403,
                "insufficient_scope",
                'Bearer realm="yingbao", error="insufficient_scope", '
                f'scope="{" ".join(sorted(self.scopes))}"',
                zh=f"令牌缺少权限：{' '.join(lacking)}",
                en=f"the token lacks the scope: {' '.join(lacking)}",
            )
        if self.whole_city and who.town is not None:
            raise Problem(
                403,
                "outside_town",
                zh="此操作涉及全市，限定镇街的令牌不能使用",
                en="this concerns the whole city; a token limited to one town can't do it",
            )


@dataclass(frozen=True)
class Public:
    """The access rule of a route that asks for no token, and the reason why."""

    reason: str

    async def __call__(self) -> None:
        """Lets everybody in."""


def access(*scopes: str, whole_city: bool = False) -> Any:
    """`dependencies=[access("units:write")]`: the caller's token must hold all these scopes.

    Say `whole_city=True` where the route is not about the units of one town.
    """
    if not scopes:
        raise ValueError("name the scopes that the route asks for; a route for everybody is public(reason)")
    return Depends(Access(frozenset(scopes), whole_city))


def public(reason: str) -> Any:
    """`dependencies=[public("probes of the orchestrator")]`: no token is asked for."""
    if not reason.strip():
        raise ValueError("say why the route is public")
    return Depends(Public(reason))


async def caller(request: Request) -> Caller:
    """`Annotated[Caller, Depends(caller)]`: who asks, on a route with an access rule."""
    who = getattr(request.state, "caller", None)
    if not isinstance(who, Caller):
        raise TypeError("caller() was used on a route without access(...)")
    return who


def _authenticate(request: Request) -> Caller:
    given = request.headers.getlist("authorization")
    scheme, _, token = (given[0] if given else "").partition(" ")
    if len(given) != 1 or scheme.lower() != "bearer" or not token.strip():
        raise Challenge(
            401,
            "token_missing",
            'Bearer realm="yingbao"',
            zh="请在 Authorization 头中提供 Bearer 令牌",
            en="send a bearer token in the Authorization header",
        )
    try:
        who: Identity = request.app.state.core.auth.verify(token.strip())
    except InvalidToken as error:
        log.info("token_refused", reason=error.reason)
        expired = error.reason == "expired"
        raise Challenge(
            401,
            "token_expired" if expired else "token_invalid",
            'Bearer realm="yingbao", error="invalid_token"',
            zh="令牌已过期，请重新获取" if expired else "令牌无效，请重新获取",
            en="the token has expired; get a new one" if expired else "the token is not valid; get a new one",
        ) from None
    return Caller(
        who.client_id, who.department, who.town, who.scopes, Cause(who.client_id, correlation.get())
    )


def routes_without_access(app: Any) -> list[str]:
    """Every route of an application, mounted ones too, that states no access rule: `GET /v1/units`."""
    return sorted(_without_access(app.routes, ""))


def _without_access(routes: Sequence[Any], prefix: str) -> Iterator[str]:
    for route in iter_route_contexts(routes):
        path = prefix + (route.path or "")
        original = route.original_route
        if isinstance(original, Mount) and original.routes:
            yield from _without_access(original.routes, path)
        elif not any(
            isinstance(d.dependency, Access | Public) for d in getattr(route, "dependencies", None) or ()
        ):
            yield f"{' '.join(sorted(route.methods or {'*'}))} {path}"


MOST_CLIENTS: Final = 10_000
"""Buckets that a limiter keeps before it looks for some to forget."""


class RateLimiter:
    """A token bucket per client: `per_s` requests a second for ever, twice that at once."""

    def __init__(self, per_s: float, clock: Clock) -> None:
        if per_s <= 0:
            raise ValueError("the rate limit must be more than 0 requests per second")
        self._per_s = per_s
        self._burst = max(1.0, 2 * per_s)
        self._clock = clock
        self._buckets: dict[str, tuple[float, float]] = {}
        self._most = MOST_CLIENTS
        self.policy = f'"client";q={int(self._burst)};w={max(1, math.ceil(self._burst / per_s))}'

    def take(self, client: str) -> tuple[bool, int, int]:
        """Whether one more request may pass, how many are left, and seconds until there is one more."""
        now = self._clock.monotonic()
        left, at = self._buckets.get(client, (self._burst, now))
        left = min(self._burst, left + (now - at) * self._per_s)
        passes = left >= 1
        left -= passes
        self._buckets[client] = (left, now)
        if len(self._buckets) > self._most:
            self._forget_the_full(now)
        wait = max(0.0, (1 - left) / self._per_s)
        return passes, int(left), math.ceil(wait)

    def _forget_the_full(self, now: float) -> None:
        """A bucket that is full again says nothing: whoever makes up addresses fills no memory with them."""
        filling = self._burst / self._per_s
        self._buckets = {c: bucket for c, bucket in self._buckets.items() if now - bucket[1] < filling}
        self._most = max(MOST_CLIENTS, 2 * len(self._buckets))


def charge(request: Request) -> None:
    """Takes one request from the caller's bucket; 429 when it is empty."""
    limiter: RateLimiter | None = getattr(request.app.state, "rate_limiter", None)
    if limiter is None:
        return
    passes, left, wait = limiter.take(request.state.caller.client_id)
    request.state.rate_headers = [
        (b"ratelimit-policy", limiter.policy.encode()),
        (b"ratelimit", f'"client";r={left};t={wait}'.encode()),
    ]
    if not passes:
        raise too_many_requests(wait)


def too_many_requests(wait_s: int) -> Problem:
    """429 for a client that a `RateLimiter` did not let pass."""
    wait = max(1, wait_s)
    return Problem(
        429,
        "too_many_requests",
        zh=f"请求过于频繁，请 {wait} 秒后重试",
        en=f"too many requests; try again in {wait} s",
        retry_after=wait,
    )
