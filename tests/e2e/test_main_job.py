"""The main job through the whole embedded suite: real services, real sandbox, a frozen clock."""

import asyncio
from collections.abc import Awaitable, Callable
from datetime import date, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from shared.clock import ZONE
from tests.support.system import System

USCC = "91371082MA3XTE5T8Q"


def at(day: str, time: str = "10:00") -> datetime:
    return datetime.fromisoformat(f"{day}T{time}").replace(tzinfo=ZONE)


def play(folder: Path, story: Callable[[System], Awaitable[None]], **overrides: dict[str, object]) -> None:
    async def run() -> None:
        async with System(folder, overrides=overrides) as system:
            await story(system)

    asyncio.run(run())


async def items(system: System, path: str) -> list[Any]:
    found: list[Any] = (await system.ask("GET", path))["items"]
    return found


async def lead(system: System) -> Any:
    """The one lead of the unit."""
    (found,) = await items(system, f"/matching/v1/leads?uscc={USCC}")
    return found


async def clock(system: System) -> Any:
    """The unit's legal clock."""
    (found,) = await items(system, f"/matching/v1/clocks?uscc={USCC}")
    return found


async def notices(system: System) -> list[str]:
    """States of the unit's notices."""
    return sorted(n["state"] for n in await items(system, f"/notify/v1/notices?uscc={USCC}"))


async def registered(system: System, **facts: Any) -> None:
    """A unit established on 2026-01-09 and known on 2026-01-12: its clock ends with Monday 2026-02-09."""
    await system.move_to(at("2026-01-12"))
    await system.register(USCC, date(2026, 1, 9), **facts)
    await system.settle()


def test_an_uninsured_unit_gets_its_reminder_the_day_after_its_deadline(tmp_path: Path) -> None:
    """Established 2026-01-09, nobody insured: lead on 2026-02-10, message that day inside the hours."""

    async def story(system: System) -> None:
        await registered(system)
        await system.move_to(at("2026-02-09", "23:59"))
        found = await clock(system)
        assert (found["state"], found["deadline"]) == ("running", "2026-02-09")
        assert system.ledger() == []
        await system.move_to(at("2026-02-10", "08:29"))
        assert (await lead(system))["state"] == "open"
        assert system.ledger() == []
        await system.move_to(at("2026-02-10", "18:00"))
        (message,) = system.ledger()
        assert at("2026-02-10", "08:30") <= datetime.fromisoformat(message["received_at"])
        assert message["mobile"] == "13800138000"
        assert "荣成市示例水产有限公司" in message["content"]
        assert await notices(system) == ["delivered"]
        await system.move_to(at("2026-02-13"))
        await system.enrol(USCC, date(2026, 2, 12))
        await system.settle()
        found = await lead(system)
        assert (found["state"], found["end"]) == ("ended", "enrolled")
        assert (await clock(system))["state"] == "stopped"
        await system.move_to(at("2026-03-20"))
        assert len(system.ledger()) == 1

    play(tmp_path, story)


@pytest.mark.parametrize(
    ("established", "deadline", "sent"),
    [
        ("2026-01-15", "2026-02-14", "2026-02-24"),  # a Saturday that is worked; then the Spring Festival
        ("2026-01-16", "2026-02-24", "2026-02-25"),  # the first day of the festival
        ("2026-01-24", "2026-02-24", "2026-02-25"),  # the last day of the festival
        ("2026-01-25", "2026-02-24", "2026-02-25"),  # the first day after it
        ("2026-01-29", "2026-02-28", "2026-03-02"),  # the other Saturday that is worked; month's end
    ],
)
def test_holidays_and_make_up_days_move_the_deadline(
    tmp_path: Path, established: str, deadline: str, sent: str
) -> None:
    """The period ends with its last day, or the next working day; the message leaves in the next window."""

    async def story(system: System) -> None:
        await system.move_to(at("2026-01-31"))
        await system.register(USCC, date.fromisoformat(established))
        await system.move_to(at("2026-02-13"))
        assert (await clock(system))["deadline"] == deadline
        await system.move_to(at("2026-03-06"))
        (message,) = system.ledger()
        assert message["received_at"][:16] == f"{sent}T08:30"

    play(tmp_path, story)


def test_an_enrolment_that_arrives_late_but_was_in_time_makes_no_lead(tmp_path: Path) -> None:
    """Batch data: until the deadline day is declared complete the clock says what it waits for."""

    async def story(system: System) -> None:
        await registered(system)
        await system.ask(
            "PUT", "/registry/v1/datasets/participations/complete-through", {"through": "2026-01-11"}
        )
        await system.move_to(at("2026-02-11"))
        found = await clock(system)
        assert found["state"] == "waiting"
        assert "2026-01-11" in found["waiting_for"]
        await system.enrol(USCC, date(2026, 2, 9))
        await system.ask(
            "PUT", "/registry/v1/datasets/participations/complete-through", {"through": "2026-02-10"}
        )
        await system.move_to(at("2026-02-13"))
        assert (await clock(system))["state"] == "stopped"
        assert await items(system, f"/matching/v1/leads?uscc={USCC}") == []
        assert system.ledger() == []

    play(tmp_path, story, registry={"participations_mode": "batch"})


def test_an_enrolment_that_the_bus_has_not_carried_stops_the_message(tmp_path: Path) -> None:
    """The registry knows, matching does not yet: the last look holds, and the event then withdraws."""

    async def story(system: System) -> None:
        await registered(system)
        await system.move_to(at("2026-02-10", "08:00"))
        system.bus.shut("registry")
        await system.enrol(USCC, date(2026, 2, 9))
        system.clock.move_to(at("2026-02-10", "09:00"))

        async def held() -> bool:
            return await notices(system) == ["held"]

        await system.until(held, "the look holds the notice")
        assert system.ledger() == []
        system.bus.reopen("registry")
        await system.settle()
        assert await notices(system) == ["withdrawn"]
        await system.move_to(at("2026-02-13"))
        assert system.ledger() == []

    play(tmp_path, story)


async def enrols(system: System) -> None:
    await system.enrol(USCC, date(2026, 2, 10))


async def closes(system: System) -> None:
    await system.ask(
        "POST", f"/registry/v1/units/{USCC}/close", {"closed_on": "2026-02-10"}, department="ADM"
    )


@pytest.mark.parametrize(("happens", "end"), [(enrols, "enrolled"), (closes, "unit_closed")])
@pytest.mark.parametrize(("when", "state"), [("08:00", "withdrawn"), ("09:00", "delivered")])
def test_what_ends_a_lead_withdraws_the_unsent_message(
    tmp_path: Path, happens: Callable[[System], Awaitable[None]], end: str, when: str, state: str
) -> None:
    """Before the window opens the message is withdrawn; afterwards the lead is resolved all the same."""

    async def story(system: System) -> None:
        await registered(system)
        await system.move_to(at("2026-02-10", when))
        await happens(system)
        await system.move_to(at("2026-02-12"))
        assert (await lead(system))["end"] == end
        assert await notices(system) == [state]
        assert len(system.ledger()) == (state == "delivered")

    play(tmp_path, story)


def test_a_cancelled_enrolment_brings_the_old_deadline_back(tmp_path: Path) -> None:
    """Also when the deadline has passed meanwhile: then lead and message follow at once."""

    async def story(system: System) -> None:
        await registered(system)
        made = await system.enrol(USCC, date(2026, 1, 12))
        await system.settle()
        assert (await clock(system))["state"] == "stopped"
        await system.move_to(at("2026-02-12"))
        await system.ask("POST", f"/registry/v1/participations/{made['id']}/cancel", {"reason": "录入错误"})
        await system.settle()
        assert (await clock(system))["deadline"] == "2026-02-09"
        assert (await lead(system))["state"] == "open"
        assert len(system.ledger()) == 1

    play(tmp_path, story)


def test_a_suspended_unit_is_left_alone_until_it_resumes(tmp_path: Path) -> None:
    """Suspended before the message: held; resumed: the old deadline, one lead, one message."""

    async def story(system: System) -> None:
        await registered(system)
        await system.move_to(at("2026-02-10", "08:00"))
        assert (await lead(system))["state"] == "open"
        path = f"/registry/v1/units/{USCC}"
        await system.ask("POST", f"{path}/suspend", {"suspended_on": "2026-02-10"}, department="ADM")
        await system.move_to(at("2026-03-02"))
        assert (await lead(system))["state"] == "held"
        assert system.ledger() == []
        await system.ask("POST", f"{path}/resume", {"resumed_on": "2026-03-02"}, department="ADM")
        await system.move_to(at("2026-03-03"))
        found = await lead(system)
        assert (found["state"], found["deadline"], found["episode"]) == ("open", "2026-02-09", 1)
        assert len(system.ledger()) == 1

    play(tmp_path, story)


def test_without_registry_nothing_leaves_and_later_everything_does(tmp_path: Path) -> None:
    """No answer to the last look is no message; when registry is back, it goes once."""

    async def story(system: System) -> None:
        await registered(system)
        assert system.wire
        system.wire.cut = "last-look"
        await system.move_to(at("2026-02-10", "08:00"))
        system.clock.move_to(at("2026-02-10", "09:00"))

        async def asked() -> bool:
            system.clock.advance(timedelta(seconds=1))  # the pauses between tries
            return system.wire is not None and system.wire.refused >= 2

        await system.until(asked, "the look is tried again")
        assert system.ledger() == []
        assert await notices(system) == ["queued"]
        system.wire.cut = None
        system.clock.advance(timedelta(minutes=2))
        await system.settle()
        assert len(system.ledger()) == 1

    play(tmp_path, story)


def test_a_doubtful_code_is_held_until_a_person_confirms_it(tmp_path: Path) -> None:
    """A wrong check character is accepted with a warning; the message waits for the confirmation."""

    async def story(system: System) -> None:
        await system.move_to(at("2026-01-12"))
        doubtful = USCC[:-1] + "A"
        made = await system.register(doubtful, date(2026, 1, 9))
        assert made["warnings"]
        await system.move_to(at("2026-02-11"))
        (found,) = await items(system, f"/matching/v1/leads?uscc={doubtful}")
        assert (found["state"], found["held"]) == ("held", ["code"])
        assert system.ledger() == []
        await system.ask(
            "PATCH", f"/registry/v1/units/{doubtful}", {"code_confirmed": True}, department="ADM"
        )
        await system.settle()
        assert len(system.ledger()) == 1

    play(tmp_path, story)


def test_a_unit_without_a_phone_becomes_a_visit(tmp_path: Path) -> None:
    """Unreached for want of a contact: the town gets a task, the carrier nothing."""

    async def story(system: System) -> None:
        await registered(system, contacts=[])
        await system.move_to(at("2026-02-11"))
        assert await notices(system) == ["unreached"]
        (visit,) = await items(system, "/matching/v1/visits?town=寻山街道")
        assert visit["uscc"] == USCC
        assert system.ledger() == []

    play(tmp_path, story)


def test_a_unit_already_overdue_when_registered_has_ten_minutes_to_enrol(tmp_path: Path) -> None:
    """The participation call often follows at once; only then is it reminded."""

    async def story(system: System) -> None:
        await system.move_to(at("2026-03-10"))
        await system.register(USCC, date(2026, 1, 9))
        await system.move_to(at("2026-03-10", "10:09"))
        assert (await lead(system))["state"] == "open"
        assert system.ledger() == []
        await system.move_to(at("2026-03-10", "10:11"))
        assert len(system.ledger()) == 1

    play(tmp_path, story)


def test_a_later_date_of_establishment_moves_the_clock(tmp_path: Path) -> None:
    """Corrected before sending: the lead was wrong data, the message is withdrawn, a new clock runs."""

    async def story(system: System) -> None:
        await registered(system)
        await system.move_to(at("2026-02-10", "08:00"))
        await system.ask(
            "PATCH", f"/registry/v1/units/{USCC}", {"established_on": "2026-02-03"}, department="ADM"
        )
        await system.move_to(at("2026-02-12"))
        found = await clock(system)
        assert (found["state"], found["deadline"]) == ("running", "2026-03-05")
        assert (await lead(system))["end"] == "wrong_data"
        assert await notices(system) == ["withdrawn"]
        await system.move_to(at("2026-03-09"))
        assert (await lead(system))["episode"] == 2
        (message,) = system.ledger()
        assert message["received_at"][:10] == "2026-03-06"

    play(tmp_path, story)


@pytest.mark.parametrize(
    ("uscc", "facts"),
    [(USCC, {"insurance": "medical"}), (None, {"form": "flexible"})],
    ids=["medical alone", "flexible form"],
)
def test_what_does_not_stop_the_clock(tmp_path: Path, uscc: str | None, facts: dict[str, Any]) -> None:
    """Medical alone and other forms than employer leave the duty where it is."""

    async def story(system: System) -> None:
        await registered(system)
        await system.enrol(uscc, date(2026, 1, 20), **facts)
        await system.move_to(at("2026-02-11"))
        assert len(system.ledger()) == 1

    play(tmp_path, story)


def test_an_ended_participation_does_not_bring_the_clock_back(tmp_path: Path) -> None:
    """It was true until then."""

    async def story(system: System) -> None:
        await registered(system)
        made = await system.enrol(USCC, date(2026, 1, 12))
        await system.ask("POST", f"/registry/v1/participations/{made['id']}/end", {"ended_on": "2026-01-20"})
        await system.move_to(at("2026-02-12"))
        assert (await clock(system))["state"] == "stopped"
        assert system.ledger() == []

    play(tmp_path, story)


def test_a_participation_in_the_future_ends_the_lead_on_its_day(tmp_path: Path) -> None:
    """The clock runs out before; the message goes; the lead ends when the participation begins."""

    async def story(system: System) -> None:
        await registered(system)
        await system.enrol(USCC, date(2026, 3, 2))
        await system.move_to(at("2026-02-11"))
        assert len(system.ledger()) == 1
        assert (await lead(system))["state"] == "open"
        await system.move_to(at("2026-03-02"))
        assert (await lead(system))["end"] == "enrolled"

    play(tmp_path, story)


def test_new_people_count_towards_the_target_of_their_town(tmp_path: Path) -> None:
    """First ever and declared first: one for the town, the month and the city."""

    async def story(system: System) -> None:
        await registered(system)
        await system.enrol(USCC, date(2026, 1, 12))
        await system.settle()
        progress = await system.ask("GET", "/targets/v1/progress?year=2026&by=town")
        (pension,) = [t for t in progress["targets"] if t["insurance"] == "pension" and t["id"] == "T1"]
        assert (pension["target"], pension["actual"]) == (9900, 1)
        assert {line["town"]: line["actual"] for line in pension["lines"]}["寻山街道"] == 1
        assert pension["pace_pct"] == 3.3  # 12 of 365 days
        assert pension["completion_pct"] == 0.0
        assert pension["difference_pp"] == -3.3

    play(tmp_path, story)


def test_an_enrolment_that_came_and_ended_unseen_stops_the_message_too(tmp_path: Path) -> None:
    """It ends the lead as soon as its event arrives, so nothing may slip out before."""

    async def story(system: System) -> None:
        await registered(system)
        await system.move_to(at("2026-02-10", "08:00"))
        system.bus.shut("registry")
        made = await system.enrol(USCC, date(2026, 2, 2))
        await system.ask("POST", f"/registry/v1/participations/{made['id']}/end", {"ended_on": "2026-02-09"})
        system.clock.move_to(at("2026-02-10", "09:00"))

        async def held() -> bool:
            return await notices(system) == ["held"]

        await system.until(held, "the look holds the notice")
        system.bus.reopen("registry")
        await system.settle()
        assert await notices(system) == ["withdrawn"]
        assert system.ledger() == []

    play(tmp_path, story)
