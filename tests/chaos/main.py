"""Plays the demo's story while everything that it runs on is harmed, again and again.

    python -m tests.chaos.main [--kills 60] [--seed 1] [--embedded]

On PostgreSQL and Kafka, each service in processes of its own: these, the broker and the database are killed
-9 and stopped (SIGSTOP), also for longer than a lease lasts; the lines between them are cut, held and half
closed. Each harm has work in flight, and the log says which. In the end the independent check of the demo
judges the sandbox's ledger. An attempt that was under way may end as unreached(unknown), so a reminder that
is missing for that reason and has its visit task is not lost; anything else is. The last line is one JSON
object. With --embedded the one process of the embedded suite is killed, and nothing else.
"""

import argparse
import json
import math
import random
import shutil
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

from rich.console import Console

from services.demo.city import END, START, City
from tests.chaos import embedded
from tests.chaos.harm import Harmed
from tests.chaos.judge import came_true, judge
from tests.chaos.telling import Telling, whole_city

ROLES = {
    "registry": ("api", "worker", "worker"),
    "matching": ("all", "worker"),
    "notify": ("all", "worker"),
}
VICTIMS = (
    *("registry-1", "matching-1", "matching-2", "notify-1", "notify-2"),
    *("targets-1", "broker", "notify-1", "registry-3", "sandbox", "registry-2", "database"),
)
PAUSES = ((2, 4), (5.5, 8), (11, 15))
"""Seconds that a process stands still: shortly, longer than a look may take, longer than a lease lasts."""
DISTURBANCES = (
    *(("carrier", "half close"), ("last look", "cut"), ("database", "cut"), ("broker", "cut")),
    *(("carrier", "hold"), ("last look", "hold"), ("broker", "hold"), ("database", "half close")),
    *(("carrier", "cut"), ("last look", "half close"), ("broker", "half close"), ("database", "hold")),
)
SPARE = 0.15
"""So many more kills are planned: one that never finds work in flight, as at targets, is not done."""
EARLY = 0.93
"""The last harm is done when so much of the story is over: what it leaves behind has to be made up for."""

Deed = Callable[[Harmed], bool]


def deeds(chance: random.Random, kills: int) -> list[Deed]:
    """What is done, in order: so many kills and some to spare, and faults between them."""
    victims = [VICTIMS[n % len(VICTIMS)] for n in range(math.ceil(kills * (1 + SPARE)))]
    done: list[Deed] = []
    for number, victim in enumerate(victims):
        done.append(partial(Harmed.kill, name=victim, seconds=chance.choice((0.0, 0.0, 1.0))))
        if number % 5 == 1:
            seconds = chance.uniform(*PAUSES[number // 5 % len(PAUSES)])
            done.append(partial(Harmed.pause, name=chance.choice(VICTIMS), seconds=seconds))
        if number % 5 == 3:
            line, how = DISTURBANCES[number // 5 % len(DISTURBANCES)]
            done.append(partial(Harmed.disturb, line=line, how=how, seconds=chance.uniform(1, 9)))
    chance.shuffle(done)
    return done


def run(folder: Path, *, kills: int, seed: int, city: City, console: Console) -> dict[str, Any]:
    """Plays and judges in an empty folder; returns the figures of the last line."""
    chance = random.Random(seed)
    with Harmed(folder, roles=ROLES) as harmed:
        driver = Telling(harmed.stack.addresses(), harmed.stack.token, harmed.folder, city)
        driver.start()
        harm_all(harmed, driver, deeds(chance, kills), console)
        driver.finish()
        figures = judge(harmed.evidence(), console)
    return {**figures, **counted(harmed)}


def harm_all(harmed: Harmed, driver: Telling, todo: list[Deed], console: Console) -> None:
    """Does one thing after the other while the story is told, spread over it."""
    number = len(todo)
    waiting: Iterator[Deed] = iter(todo)
    done = 0
    while driver.is_alive():
        told = (harmed.clock.now() - START) / (END - START)
        if done == number or told < EARLY * done / number:
            time.sleep(0.05)
            continue
        deed = next(waiting, None)
        if deed is None:
            break
        if deed(harmed):
            console.print(f"{len(harmed.log)}: {harmed.log[-1]}", highlight=False)
            done += 1
        else:
            waiting = iter([*waiting, deed])  # nothing was in flight: later again


def counted(harmed: Harmed) -> dict[str, Any]:
    """How often what was done, and what was in flight then."""
    in_flight: Counter[str] = Counter()
    for harm in harmed.log:
        in_flight.update(harm.in_flight)
    kills = sum(harm.what == "kill" for harm in harmed.log)
    return {"kills": kills, "faults": len(harmed.log) - kills, "in_flight": dict(sorted(in_flight.items()))}


def main() -> None:
    """The command line."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--kills", type=int, default=60)
    options.add_argument("--seed", type=int, default=1)
    options.add_argument("--folder", type=Path, default=Path("var/chaos"))
    options.add_argument("--embedded", action="store_true")
    given = options.parse_args()
    shutil.rmtree(given.folder, ignore_errors=True)
    console = Console(stderr=True, width=200)
    if given.embedded:
        figures = embedded.run(given.folder, kills=given.kills, seed=given.seed, console=console)
    else:
        figures = run(
            given.folder.resolve(), kills=given.kills, seed=given.seed, city=whole_city(), console=console
        )
    print(json.dumps(figures))
    sys.exit(not came_true(figures, kills=given.kills))


if __name__ == "__main__":
    main()
