"""The sample city: units, people and what happens to them, from a seed, with the truth written beside it.

Everything is invented. Codes and numbers are well formed, so that the real checks see real shapes; the
organisation codes lie in a block (MAY…) that has not been issued. Each unit has one *fate*, a name for what
happens to it; what must follow from that is not said here but worked out by `check` from the facts alone.

`model` is what a city is made of, `inventor` makes up names and numbers, `builder` units and calls; `fates`
tell what happens to one unit, `paths` what several go through together or by WeChat, `files` what comes in files.
"""

from collections.abc import Sequence
from random import Random

from services.demo.city.builder import Builder, lead_day, sending_day
from services.demo.city.fates import FATES
from services.demo.city.files import FILES
from services.demo.city.model import (
    DECLARES_AT,
    END,
    INSURES,
    MISSED_NIGHTS,
    START,
    Action,
    City,
    Done,
    Find,
    Person,
    Unit,
)
from services.demo.city.paths import PATHS

__all__ = [
    "DECLARES_AT",
    "END",
    "FATES",
    "FILES",
    "INSURES",
    "MISSED_NIGHTS",
    "PATHS",
    "START",
    "Action",
    "City",
    "Done",
    "Find",
    "Person",
    "Unit",
    "generate",
    "lead_day",
    "sending_day",
]


def generate(seed: int, towns: Sequence[str]) -> City:
    """The city of a seed; the same seed and towns make the same city."""
    builder = Builder(Random(seed), towns)
    for fate, (count, happens) in FATES.items():
        for n in range(count):
            happens(builder, fate, n)
    for happen in (*PATHS, *FILES):
        happen(builder)
    return builder.build()
