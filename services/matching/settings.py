"""What matching is told from outside: its settings, and rule R01 in the city pack."""

from datetime import date, timedelta
from pathlib import Path

from pydantic import Field
from pydantic_settings import SettingsConfigDict

from services.matching.domain import Rule
from shared.documents import DocumentError, read_toml
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
    ladder = rule.parts("ladder")
    if not void or not ladder:
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
        stage=ladder[0].need("name", str),
        wait_working_days=ladder[0].need("wait_working_days", int),
        late_registration_wait=timedelta(seconds=wait),
    )
