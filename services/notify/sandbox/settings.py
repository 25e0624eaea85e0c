"""What the sandbox is told from outside."""

from pathlib import Path
from typing import Final, Self

from pydantic import Field, SecretStr, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

_OF_WECHAT: Final = ("wechat_secret", "wechat_token", "wechat_aes_key", "wechat_callback_url")


class SandboxSettings(BaseSettings):
    """The accounts that the sandbox knows, and where it keeps and reports things.

    The callback addresses carry secrets. `clock_file` is read by a process of its own alone. Without the
    settings of WeChat there is no WeChat.
    """

    model_config = SettingsConfigDict(
        env_prefix="YINGBAO_SANDBOX_",
        frozen=True,
        extra="forbid",
        env_ignore_empty=True,
        hide_input_in_errors=True,
    )

    ec_name: str = Field("演示单位", description="Name of the account's owner (ecName)")
    ap_id: str = Field("sandbox", description="User name of the account (apId)")
    secret_key: SecretStr = Field(description="Secret key that signs submissions")
    sign: str = Field("SIGN01", description="The one valid code of a signature")
    callback_url: SecretStr = Field(description="Where receipts are pushed to, secret path included")
    file: Path = Field(description="The ledger: an SQLite file of the sandbox's own")
    receipt_delay_s: float = Field(
        5.0, ge=0, description="Business seconds from a submission until its receipt"
    )
    clock_file: Path | None = Field(
        None, description="File of the simulated clock; without it business time is the real time"
    )
    wechat_app_id: str = Field("wx0123456789abcdef", description="AppID of the official account")
    wechat_secret: SecretStr | None = Field(
        None, description="AppSecret of the official account; with it the sandbox plays WeChat too"
    )
    wechat_token: SecretStr | None = Field(None, description="Token that signs calls of WeChat")
    wechat_aes_key: SecretStr | None = Field(
        None, description="EncodingAESKey, 43 letters and digits, that seals calls of WeChat"
    )
    wechat_callback_url: SecretStr | None = Field(None, description="Where events of WeChat are pushed to")
    wechat_templates: tuple[str, ...] = Field(
        (), description="Ids of the account's templates, as a JSON list; none given: any id is one"
    )

    @model_validator(mode="after")
    def _wechat_whole_or_not_at_all(self) -> Self:
        missing = [name for name in _OF_WECHAT if getattr(self, name) is None]
        if 0 < len(missing) < len(_OF_WECHAT):
            raise ValueError(f"WeChat needs all of {', '.join(_OF_WECHAT)}; missing: {', '.join(missing)}")
        return self
