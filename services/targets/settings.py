"""What targets is told from outside: its settings, and the plan in the city pack."""

from decimal import Decimal
from pathlib import Path

from pydantic_settings import SettingsConfigDict

from services.targets.domain import Plan, Target, Town
from shared.documents import Document, read_csv, read_json
from shared.settings import ServiceSettings


class TargetsSettings(ServiceSettings):
    """Settings of targets; it has none of its own."""

    model_config = SettingsConfigDict(env_prefix="YINGBAO_TARGETS_")


def read_plan(pack: Path) -> Plan:
    """The plan of a city pack (`targets.json`, `towns.csv`). Raises DocumentError where one lacks something."""
    targets = tuple(_target(part) for part in read_json(pack / "targets.json").parts("targets"))
    rows = read_csv(pack / "towns.csv", ["code", "name"])
    return Plan(targets, tuple(Town(row["code"], row["name"]) for row in rows))


def _target(part: Document) -> Target:
    years = part.part("by_year")
    return Target(
        id=part.need("id", str),
        name=part.need("name", str),
        metric=part.need("metric", str),
        insurance=part.get("insurance", str),
        unit=part.need("unit", str),
        # By way of text: 20.06 as a float is not 20.06.
        by_year={int(year): Decimal(str(years.need(year, float))) for year in years.data},
        definition=part.get("definition", str),
        confirm=part.get("confirm", str),
        source=part.need("source", str),
    )
