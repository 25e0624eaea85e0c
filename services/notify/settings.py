"""What notify is told from outside: its settings, and the city's rules for messages."""

import re
from collections.abc import Mapping
from datetime import date, time, timedelta
from pathlib import Path
from typing import Literal, Self

from pydantic import Field, SecretStr, model_validator
from pydantic_settings import SettingsConfigDict

from services.notify.carriers.wechat import fault_of_field
from services.notify.carriers.wechat_crypt import CallbackKeys
from services.notify.carriers.yunmas import CONNECT_SHARE
from services.notify.domain import CORRECTION, Hours, Rules, Sending, SendingState
from services.notify.fragments import TextTooLongError
from services.notify.words import Field as WechatField
from services.notify.words import Issuer, Subject, Template, TextError, WechatTemplate
from shared.calendar import load_calendar
from shared.documents import Document, DocumentError, read_toml
from shared.settings import MissingSetting, ServiceSettings

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
        None,
        min_length=16,
        description="Last part of the receipts' address, 16 characters or more; must be set",
    )
    wechat_url: str = Field(
        "http://127.0.0.1:8000/sandbox/wechat", description="Address of WeChat, before /cgi-bin"
    )
    wechat_app_id: str = Field("wx0123456789abcdef", description="AppID of the official account")
    wechat_secret: SecretStr | None = Field(
        None, description="AppSecret of the official account; without it everything goes by SMS"
    )
    wechat_token: SecretStr | None = Field(
        None, description="Token of the account's callback; must be set with AppSecret"
    )
    wechat_aes_key: SecretStr | None = Field(
        None, description="EncodingAESKey of the account's callback; must be set with AppSecret"
    )
    verify_per_s: float = Field(
        2.0, gt=0, description="Questions whether a message is genuine, a second and address"
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


def callback_keys(settings: NotifySettings) -> CallbackKeys | None:
    """What the official account's callback is checked with; None without an account.

    Raises MissingSetting where a setting of the account is missing, ValueError where one is not of its form.
    """
    if settings.wechat_secret is None:
        return None
    if settings.wechat_token is None or settings.wechat_aes_key is None:
        raise MissingSetting(
            "set YINGBAO_NOTIFY_WECHAT_TOKEN and YINGBAO_NOTIFY_WECHAT_AES_KEY as on the official account's "
            "settings page, or leave YINGBAO_NOTIFY_WECHAT_SECRET out to send by SMS alone"
        )
    return CallbackKeys.read(
        settings.wechat_app_id,
        settings.wechat_token.get_secret_value(),
        settings.wechat_aes_key.get_secret_value(),
    )


def read_rules(settings: NotifySettings, pack: Path) -> Rules:
    """The rules of a city pack. Raises DocumentError where a file or a text lacks something."""
    sending, texts = read_toml(pack / "sending.toml"), read_toml(pack / "texts.toml")
    sandbox = settings.carrier == "sandbox"
    issuer = Issuer(texts.need("issuer.office", str), texts.need("issuer.service_number", str))
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
        slot=timedelta(minutes=sending.need("slots.minutes", int)),
        silence=timedelta(hours=sending.need("waits.silence_hours", int)),
        wechat_silence=timedelta(hours=sending.need("waits.wechat_silence_hours", int)),
        unknown=timedelta(hours=sending.need("waits.unknown_hours", int)),
        contact_order=sending.texts("contacts.order"),
        issuer=issuer,
        signature=texts.need("issuer.signature", str),
        templates={
            (rule, stage): _template(texts.part(f"{rule}.{stage}"), issuer, correction=stage == CORRECTION)
            for rule in texts.data
            if re.fullmatch(r"R\d\d", rule)
            for stage in texts.part(rule).data
        },
        account=settings.account,
        has_wechat=settings.wechat_secret is not None,
        sending=Sending(SendingState.ON, None) if sandbox else Sending(SendingState.OFF, 500),
    )


def _template(part: Document, issuer: Issuer, *, correction: bool) -> Template:
    """The words of a stage, tried out with names of the greatest length."""
    try:
        template = Template(
            part.need("sms", str), part.need("group", str), part.texts("words"), _wechat(part), correction
        )
        for count in (1, 2):
            subjects = [Subject("名" * LONGEST_NAME, date(2026, 12, 31), date(2026, 12, 31))] * count
            template.write_sms(subjects, issuer, "2" * 9, "2" * 9)
            if template.wechat:
                _check_fields(template.write_wechat(subjects, issuer, "2" * 9).fields)
    except (TextError, TextTooLongError) as error:
        raise DocumentError(f"{part.file}: {part.at}: {error}") from error
    return template


def _wechat(part: Document) -> WechatTemplate | None:
    if "wechat" not in part.data:
        return None
    fields = [
        WechatField(one.need("name", str), one.need("label", str), one.need("value", str))
        for one in part.parts("wechat.fields")
    ]
    return WechatTemplate(part.need("wechat.template_id", str), fields)


def _check_fields(fields: Mapping[str, str]) -> None:
    for name, value in fields.items():
        if fault := fault_of_field(name, value):
            raise TextError(f"WeChat would refuse {fault}")
