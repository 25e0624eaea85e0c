"""What is around every request: correlation id, metrics, problems, and the last resort."""

import re
import traceback
from typing import Final

import structlog
from fastapi import FastAPI
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from shared.clock import Clock
from shared.errors import Problem
from shared.http.access import RateLimiter
from shared.http.answers import route_template
from shared.http.problems import install_problems, problem_response
from shared.ids import correlation_ids
from shared.logs import correlation, scrub
from shared.metrics import Metrics

log = structlog.get_logger(__name__)

_CORRELATION = re.compile(r"[A-Za-z0-9._:-]{1,64}")


class _Coming:
    """The body of a request on its way: how its length is stated, and whether more of it will come."""

    def __init__(self, scope: Scope, receive: Receive) -> None:
        stated = [v for name, v in scope["headers"] if name in {b"content-length", b"transfer-encoding"}]
        self.is_ambiguous = len(stated) > 1
        self.is_coming = any(length.strip(b"0") for length in stated)
        self._receive = receive

    async def receive(self) -> Message:
        """The next message of the server."""
        message = await self._receive()
        self.is_coming = self.is_coming and bool(message.get("more_body"))
        return message


class _Envelope:
    """Gives every request its correlation id, counts it, and turns a crash into a 500 without words."""

    def __init__(self, app: ASGIApp, *, clock: Clock, metrics: Metrics | None) -> None:
        self._app = app
        self._clock = clock
        self._metrics = metrics
        self._ids = correlation_ids()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        outer = scope.get("correlation")  # an application around this one has chosen already
        current = outer or _given_id(scope) or next(self._ids)
        scope["correlation"] = current
        token = correlation.set(current)
        begun, status = self._clock.monotonic(), 0
        body = _Coming(scope, receive)
        app = problem_response(_ambiguous()) if body.is_ambiguous else self._app

        async def stamped(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                extra = list(scope.get("state", {}).pop("rate_headers", ()))
                if outer is None:
                    extra.append((b"x-correlation-id", current.encode()))
                    if (
                        body.is_coming
                    ):  # else the server would read the rest, however long, to keep the connection
                        extra.append((b"connection", b"close"))
                message = {**message, "headers": [*message.get("headers", ()), *extra]}
            await send(message)

        try:
            await app(scope, body.receive, stamped)
        except Exception as error:  # noqa: BLE001 - the last resort; its words may hold personal data
            frames = [f"{f.filename}:{f.lineno} {f.name}" for f in traceback.extract_tb(error.__traceback__)]
            kind, where = type(error).__name__, route_template(scope)
            log.error("request_crashed", error=kind, route=where, frames=frames[-12:])  # noqa: TRY400
            if not status:
                await problem_response(_crash())(scope, receive, stamped)
        finally:
            if self._metrics is not None:
                seconds = self._clock.monotonic() - begun
                method = scope["method"] if scope["method"] in _METHODS else "other"
                self._metrics.request(method, route_template(scope), status, seconds)
            correlation.reset(token)


_METHODS: Final = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})


def _ambiguous() -> Problem:
    return Problem(
        400,
        "ambiguous_length",
        zh="请求体长度须只声明一次：Content-Length 或 Transfer-Encoding",
        en="state the length of the body once: Content-Length or Transfer-Encoding",
    )


def _crash() -> Problem:
    return Problem(
        500,
        "internal_error",
        zh="系统内部错误，请稍后重试，并提供 correlation_id 给运维人员",
        en="something went wrong inside; try again later and give operations the correlation_id",
    )


def _given_id(scope: Scope) -> str | None:
    given = [value for name, value in scope["headers"] if name == b"x-correlation-id"]
    if not given:
        return None
    text = given[0].decode("latin-1")
    # What looks like a mobile or an ID number would reach answers, events and audit rows.
    harmless = _CORRELATION.fullmatch(text) and scrub(text) == text
    return text if harmless else None


def install(
    app: FastAPI, *, clock: Clock, metrics: Metrics | None = None, rate_limit_per_s: float | None = None
) -> None:
    """Gives an application the problems, the correlation id, the request metrics and the rate limit.

    The application's `state.core` has to offer `auth`, `call` and `fingerprint` before the first request.
    """
    app.router.redirect_slashes = False
    app.state.rate_limiter = None if rate_limit_per_s is None else RateLimiter(rate_limit_per_s, clock)
    install_problems(app)
    app.add_middleware(_Envelope, clock=clock, metrics=metrics)
