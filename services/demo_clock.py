"""The simulated clock over HTTP: where a demo begins, what time it is, and the jump forward."""

from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Annotated, Any, Protocol

from fastapi import APIRouter
from pydantic import Field, model_validator

from shared.clock import ZONE, Clock
from shared.errors import FieldError, unprocessable
from shared.http import LAST_YEAR, Body, Moment, StrictRoute, public, refuse

DEMO_START = datetime(2026, 1, 5, 10, tzinfo=ZONE)
"""Where simulated time begins: a Monday morning."""


class MovableClock(Clock, Protocol):
    """A clock that can jump: the simulated one, or the frozen one of the tests."""

    def move_to(self, at: datetime) -> None:
        """Jumps forward to an instant."""


class Jump(Body):
    """Where the simulated clock goes: to an instant, or so many days ahead."""

    to: Moment | None = None
    advance_days: Annotated[int, Field(ge=1, le=366)] | None = None

    @model_validator(mode="after")
    def _one_of_them(self) -> "Jump":
        if (self.to is None) == (self.advance_days is None):
            raise refuse(
                "one_of", zh="to 与 advance_days 须且只须给出一个", en="give either to or advance_days"
            )
        return self


def clock_routes(clock: MovableClock, jumped: Callable[[], None]) -> APIRouter:
    """`GET` and `POST /demo/clock`; `jumped` is called after each jump."""
    router = APIRouter(route_class=StrictRoute)
    rule = public("exists in demo and test modes only")

    @router.get("/demo/clock", dependencies=[rule])
    async def what_day_is_it() -> dict[str, Any]:
        """Business time of the demo."""
        return {"now": clock.now()}

    @router.post("/demo/clock", dependencies=[rule])
    async def move_the_clock(body: Jump) -> dict[str, Any]:
        """Jumps forward; an instant that has passed already changes nothing."""
        target = body.to or clock.now() + timedelta(days=body.advance_days or 0)
        if target.astimezone(ZONE).year > LAST_YEAR:
            raise unprocessable([_too_late("/to" if body.to else "/advance_days")])
        clock.move_to(target)
        jumped()
        return {"now": clock.now()}

    return router


def _too_late(where: str) -> FieldError:
    return FieldError(
        where,
        "date_out_of_range",
        f"时钟最晚到 {LAST_YEAR}-12-31，请选更早的时间",
        f"the clock goes to {LAST_YEAR}-12-31 at most; choose an earlier time",
    )
