"""The story's driver in a thread, and shorter stories."""

import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import httpx
from rich.console import Console

from services.demo import story
from services.demo.city import City, generate
from services.demo.story.suite import real_patience
from shared.documents import pack, read_csv


class Telling(threading.Thread):
    """Tells the story of a city; `finish` waits for its end."""

    def __init__(
        self, addresses: story.Addresses, token: Callable[[str], str], folder: Path, city: City
    ) -> None:
        super().__init__(name="story", daemon=True)
        self._addresses, self._token, self._city = addresses, token, city
        self._folder = folder
        self._failed: BaseException | None = None

    def run(self) -> None:
        try:
            with (
                (self._folder / "story.log").open("w") as log,
                httpx.Client(timeout=30) as client,
            ):
                suite = story.Suite(client, self._token, real_patience(), self._addresses)
                story.tell_story(suite, self._city, self._folder, Console(file=log, width=160))
        except Exception as error:  # noqa: BLE001 - told to whoever waits
            self._failed = error

    def finish(self) -> None:
        """Waits; raises RuntimeError when the story did not come to its end."""
        self.join()
        if self._failed is not None:
            raise RuntimeError(f"the story stopped; see {self._folder / 'story.log'}") from self._failed


def whole_city() -> City:
    """The demo's city, without what somebody does because a certain message came or a visit was asked for.

    Under harm a message may end as unknown, and then that is not there at the planned time.
    """
    towns = [row["name"] for row in read_csv(pack(None) / "towns.csv", ["name"])]
    city = generate(story.SEED, towns)
    needy = {action.key for action in city.actions if action.find and action.find.path in _BY_MESSAGES}
    return replace(
        city,
        actions=tuple(a for a in city.actions if a.key not in needy and a.after not in needy),
    )


def small_city(fates: dict[str, int]) -> City:
    """So many units of each fate of the demo's city, and what happens to them; no files, nothing joint."""
    city = whole_city()
    units = [
        unit
        for fate, count in fates.items()
        for unit in [unit for unit in city.units if unit.fate == fate][:count]
    ]
    chosen = {unit.uscc for unit in units}
    return replace(
        city,
        units=tuple(units),
        actions=tuple(
            action
            for action in city.actions
            if action.uscc in chosen or (action.uscc is None and action.key.startswith(_OF_ALL))
        ),
    )


_BY_MESSAGES = ("/sandbox/messages", "/matching/v1/visits", "/notify/v1/notices")
_OF_ALL = ("declared-", "000-script")
