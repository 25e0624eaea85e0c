"""What notify is told from outside: its settings, and the city's rules for messages."""

import re
from datetime import date, time, timedelta
from pathlib import Path
from typing import Literal, Self

from pydantic import Field, SecretStr, model_validator
from pydantic_settings import SettingsConfigDict

from services.notify.carriers.yunmas import CONNECT_SHARE
from services.notify.domain import Facts, Hours, Rules, Sending, SendingState, Template, TextError
from services.notify.fragments import TextTooLongError, fragments
from shared.calendar import load_calendar
from shared.documents import Document, DocumentError, read_toml
from shared.settings import ServiceSettings

LONGEST_NAME = 200
"""Length of a unit's name in UTF-16 code units; a text with such a name still has to fit."""


class NotifySettings(ServiceSettings):
    """Settings of notify. The carrier's are those of one 云MAS account, or of the sandbox that plays it."""

    model_config = SettingsConfigDict(env_prefix="YINGBAO_NOTIFY_")

    registry_url: str = Field(
        "http://127.0.0.1:8000/registry", description="Address of registry for the last look, prefix included"
    )
    client_id: str = Field("notify", description="Client that the last look is asked as")
    look_timeout_s: float = Field(2.0, gt=0, description="How long the last look may take, in seconds")
    submit_within_s: float = Field(
        5.0, gt=0, description="A message reaches the carrier within so many seconds of its last look, or not"
    )
    carrier: Literal["sandbox", "yunmas"] = Field(
        "sandbox", description="sandbox: sending begins on and uncapped; yunmas: off, and 500 a day once on"
    )
    carrier_url: str = Field(
        "http://127.0.0.1:8000/sandbox/yunmas", description="Address of the carrier, before /sms/norsubmit"
    )
    carrier_timeout_s: float = Field(3.0, gt=0, description="How long one submission may take, in seconds")
    account: str = Field(
        "sandbox", pattern=r"^[a-z0-9-]{1,32}$", description="Name of the account in the receipts' address"
    )
    ec_name: str = Field("演示单位", description="ecName of the account")
    ap_id: str = Field("sandbox", description="apId of the account")
    carrier_secret_key: SecretStr | None = Field(None, description="Secret key of the account; must be set")
    sign: str = Field("SIGN01", description="Code of the signature, as registered with the carrier")
    receipts_secret: SecretStr | None = Field(
        None, min_length=16, description="Last part of the receipts' address; must be set"
    )
    rate_per_s: float = Field(100.0, ge=1, description="Messages a second that the carrier takes")

    @property
    def latest_s(self) -> float:
        """A submission begins at most so many seconds after its last look, for it has to connect as well."""
        return self.submit_within_s - CONNECT_SHARE * self.carrier_timeout_s

    @model_validator(mode="after")
    def _leaves_time(self) -> Self:
        if self.latest_s <= 0:
            raise ValueError(
                f"connecting may take {CONNECT_SHARE} of YINGBAO_NOTIFY_CARRIER_TIMEOUT_S, which leaves no time of "
                "YINGBAO_NOTIFY_SUBMIT_WITHIN_S to begin: make the time-out shorter"
            )
        return self


def read_rules(settings: NotifySettings, pack: Path) -> Rules:
    """The rules of a city pack. Raises DocumentError where a file or a text lacks something."""
    sending, texts = read_toml(pack / "sending.toml"), read_toml(pack / "texts.toml")
    sandbox = settings.carrier == "sandbox"
    return Rules(
        hours=Hours(
            opens=sending.need("hours.opens", time),
            closes=sending.need("hours.closes", time),
            blocked_from=sending.need("hours.blocked_from", time),
            blocked_until=sending.need("hours.blocked_until", time),
            working_days_only=sending.need("hours.working_days_only", bool),
        ),
        calendar=load_calendar(pack),
        cap=sending.need("cap.per_recipient", int),
        cap_days=timedelta(days=sending.need("cap.days", int)),
        silence=timedelta(hours=sending.need("waits.silence_hours", int)),
        unknown=timedelta(hours=sending.need("waits.unknown_hours", int)),
        office=texts.need("issuer.office", str),
        service_number=texts.need("issuer.service_number", str),
        signature=texts.need("issuer.signature", str),
        templates={
            (rule, stage): _template(texts.part(f"{rule}.{stage}"), texts)
            for rule in texts.data
            if re.fullmatch(r"R\d\d", rule)
            for stage in texts.part(rule).data
        },
        account=settings.account,
        sending=Sending(SendingState.ON, None) if sandbox else Sending(SendingState.OFF, 500),
    )


def _template(part: Document, texts: Document) -> Template:
    try:
        template = Template(part.need("sms", str), part.texts("words"))
        day = date(2026, 12, 31)  # no day is written longer
        longest = template.render(
            Facts("名" * LONGEST_NAME, "", None, day, day, {}, 0),
            office=texts.need("issuer.office", str),
            service_number=texts.need("issuer.service_number", str),
            reference="2" * 9,
        )
        fragments(texts.need("issuer.signature", str), longest)
    except (TextError, TextTooLongError) as error:
        raise DocumentError(f"{part.file}: {part.at}.sms: {error}") from error
    return template
