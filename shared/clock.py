"""Three kinds of time, and where each comes from.

*Business time* carries the law: deadlines, sending hours, waits, caps. It is Asia/Shanghai, aware, and
can be simulated. *Wall time* (UTC) dates tokens, leases and retention. *Monotonic time* measures spans
inside one process. Nothing else in the project reads a clock.
"""

import contextlib
import json
import os
import secrets
import threading
import time
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Protocol
from zoneinfo import ZoneInfo

ZONE = ZoneInfo("Asia/Shanghai")


class Clock(Protocol):
    """What the services may ask about time."""

    def now(self) -> datetime:
        """Business time, aware, in Asia/Shanghai."""

    def wall(self) -> datetime:
        """Wall time, aware, in UTC."""

    def monotonic(self) -> float:
        """Seconds since an arbitrary point of this process; never goes back."""


def today(now: datetime) -> date:
    """The calendar day in Shanghai at an instant."""
    return now.astimezone(ZONE).date()


def start_of(day: date) -> datetime:
    """00:00 of a day in Shanghai."""
    return datetime(day.year, day.month, day.day, tzinfo=ZONE)


class SystemClock:
    """Business time is the real time."""

    def now(self) -> datetime:
        return datetime.now(ZONE)

    def wall(self) -> datetime:
        return datetime.now(UTC)

    def monotonic(self) -> float:
        return time.monotonic()


class FrozenClock:
    """A clock for tests: all three times stand still until told to move, together."""

    def __init__(self, at: datetime) -> None:
        self._now = at.astimezone(ZONE)
        self._monotonic = 0.0

    def now(self) -> datetime:
        return self._now

    def wall(self) -> datetime:
        return self._now.astimezone(UTC)

    def monotonic(self) -> float:
        return self._monotonic

    def advance(self, span: timedelta) -> None:
        """Moves all three times forward."""
        if span < timedelta(0):
            raise ValueError("a clock never goes back; advance by zero or more")
        self._now = (self._now.astimezone(UTC) + span).astimezone(ZONE)
        self._monotonic += span.total_seconds()

    def move_to(self, at: datetime) -> None:
        """Moves forward to an instant; standing there already is fine."""
        self.advance(max(at - self._now, timedelta(0)))


class SimulatedClock:
    """Business time ticks at wall speed and jumps forward; the offset lives in a durable file.

    Every process that opens the same file sees the same business time, also after a kill.
    """

    def __init__(self, file: Path, *, start: datetime) -> None:
        self._file = file
        self._lock = threading.RLock()
        self._seen: tuple[int, int] | None = None
        self._offset = timedelta(0)
        if not file.exists():
            self._write(start - datetime.now(UTC), first=True)

    def now(self) -> datetime:
        with self._lock:  # or a thread that read the file before a jump could write the old offset back
            self._refresh()
            return (datetime.now(UTC) + self._offset).astimezone(ZONE)

    def wall(self) -> datetime:
        return datetime.now(UTC)

    def monotonic(self) -> float:
        return time.monotonic()

    def move_to(self, at: datetime) -> None:
        """Jumps forward to an instant; one that has passed already changes nothing."""
        with self._lock:
            gap = at - self.now()
            if gap > timedelta(0):
                self._write(self._offset + gap)

    def _refresh(self) -> None:
        stat = self._file.stat()
        seen = (stat.st_mtime_ns, stat.st_ino)
        if seen != self._seen:
            self._offset = timedelta(seconds=json.loads(self._file.read_text())["offset_seconds"])
            self._seen = seen

    def _write(self, offset: timedelta, *, first: bool = False) -> None:
        """Writes the file whole or not at all. The first one stands: processes may start at the same time."""
        self._file.parent.mkdir(parents=True, exist_ok=True)
        part = self._file.with_suffix(f".{secrets.token_hex(8)}.part")
        with part.open("w") as out:
            json.dump({"offset_seconds": offset.total_seconds()}, out)
            out.flush()
            os.fsync(out.fileno())
        if first:
            with contextlib.suppress(FileExistsError):
                os.link(part, self._file)
            part.unlink()
        else:
            part.replace(self._file)
            self._offset = offset
