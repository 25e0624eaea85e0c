"""What matching is told from outside: its settings, and rule R01 in the city pack."""

from datetime import date, timedelta
from pathlib import Path

from pydantic import Field
from pydantic_settings import SettingsConfigDict

from services.matching.domain import Rule
from services.matching.ladder import Evidence, Ladder, Stage
from shared.documents import Document, DocumentError, read_csv, read_toml
from shared.settings import ServiceSettings


class MatchingSettings(ServiceSettings):
    """Settings of matching."""

    model_config = SettingsConfigDict(env_prefix="YINGBAO_MATCHING_")

    late_registration_wait_s: float | None = Field(
        None,
        ge=0,
        description="Seconds that the reminder waits when a unit was overdue before it was registered; "
        "without it the city pack's minutes",
    )


def read_rule(pack: Path, *, late_registration_wait_s: float | None = None) -> Rule:
    """R01 of a city pack (`obliged.toml`, `sending.toml`). Raises DocumentError where one lacks something."""
    document = read_toml(pack / "obliged.toml")
    rule = document.part("rules.R01")
    void = rule.texts("void_insurances")
    stages = tuple(_stage(part) for part in rule.parts("ladder"))
    if not void or not stages:
        raise DocumentError(f"{pack / 'obliged.toml'}: rules.R01 needs insurances and a ladder")
    obliged = {part.need("insurance", str): part.texts("kinds") for part in document.parts("obliged")}
    minutes = read_toml(pack / "sending.toml").need("waits.late_registration_wait_minutes", float)
    wait = minutes * 60 if late_registration_wait_s is None else late_registration_wait_s
    return Rule(
        id="R01",
        name=rule.need("name", str),
        version=document.need("as_of", date).isoformat(),
        source=rule.need("source", str),
        kinds=frozenset(kind for insurance in void for kind in obliged.get(insurance, ())),
        days=document.need("clock.days", int),
        void_insurances=void,
        forms=rule.texts("forms"),
        evidence_class=rule.need("evidence_class", str),
        ladder=Ladder(
            stages,
            follow_up_working_days=rule.need("follow_up_working_days", int),
            recheck_working_days=rule.need("recheck_working_days", int),
        ),
        go_live_on=document.need("go_live_on", date),
        exemption_months=rule.need("exemption_months", int),
        exemption_longest_months=rule.need("exemption_longest_months", int),
        late_registration_wait=timedelta(seconds=wait),
    )


def read_towns(pack: Path) -> tuple[str, ...]:
    """The towns of a city pack (`towns.csv`), in its order."""
    return tuple(row["name"] for row in read_csv(pack / "towns.csv", ["name"]))


def _stage(part: Document) -> Stage:
    minimum = part.need("minimum_evidence", str)
    if minimum not in set(Evidence):
        raise DocumentError(f"{part.file}: {part.at}.minimum_evidence must be {', '.join(Evidence)}")
    return Stage(
        name=part.need("name", str),
        action=part.need("action", str),
        audience=part.need("audience", str),
        minimum_evidence=Evidence(minimum),
        wait_working_days=part.need("wait_working_days", int),
        visit=part.need("visit", bool),
    )
