"""Settings from the environment: prefix `YINGBAO_<SERVICE>_`, typos stop the start."""

import difflib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin

from pydantic import Field, SecretStr
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined
from pydantic_settings import BaseSettings, SettingsConfigDict

PREFIX = "YINGBAO_"


class UnknownSetting(ValueError):  # noqa: N818 - it names the cause
    """The environment holds a setting that nobody reads: most likely a typo. The message names the fix."""


class MissingSetting(ValueError):  # noqa: N818 - it names the cause
    """Without it a process can't be started; the message says what to set."""


class ServiceSettings(BaseSettings):
    """What every service can be told. Subclasses set `env_prefix="YINGBAO_<SERVICE>_"` and add fields.

    Each field has a `description`: it is the table in the README.
    """

    model_config = SettingsConfigDict(
        frozen=True,
        extra="ignore",
        populate_by_name=True,
        env_ignore_empty=True,
        hide_input_in_errors=True,
        protected_namespaces=(),
    )

    mode: Literal["embedded", "server"] = Field(
        "embedded", description="embedded: bus and carriers in one process; server: alone, with Kafka"
    )
    role: Literal["all", "api", "worker"] = Field(
        "all", description="api: answers requests; worker: relay, consumer and duties; all: both"
    )
    kafka: str | None = Field(
        None,
        validation_alias="YINGBAO_KAFKA",
        description="Bootstrap servers of Apache Kafka, for services that run alone",
    )
    kafka_prefix: str = Field(
        "yingbao.",
        validation_alias="YINGBAO_KAFKA_PREFIX",
        description="Stands before the names of topics and consumer groups",
    )
    data_dir: Path = Field(
        Path("var"),
        description="Folder for databases, keys and other files of the suite; one for all processes of a service",
    )
    database_url: str | None = Field(
        None,
        description="SQLAlchemy URL, needed by `serve SERVICE`; the suite in one process has SQLite files without it",
    )
    city_pack: Path | None = Field(
        None,
        validation_alias="YINGBAO_CITY_PACK",
        description="Folder with the city's dated data; without it the pack that is shipped",
    )
    jwks_file: Path | None = Field(
        None, description="JWKS document with the issuer's public keys; without it the local issuer's"
    )
    issuer: str = Field("yingbao-local", description="The `iss` that bearer tokens must carry")
    issuer_key_file: Path | None = Field(
        None, description="Private key of the local issuer; without it issuer.jwk in the data folder"
    )
    keys_file: Path | None = Field(
        None,
        description="Keys of the service's own records; without it <service>.keys.json in the data folder",
    )
    contact_keys_file: Path | None = Field(
        None,
        validation_alias="YINGBAO_CONTACT_KEYS_FILE",
        description="Keys that seal contacts between services; without it contact.keys.json in the data folder",
    )
    audit_heads: Path | None = Field(
        None,
        validation_alias="YINGBAO_AUDIT_HEADS",
        description="Folder where each service remembers the newest block of its audit trail; without it the data folder",
    )
    rate_limit_per_s: float = Field(
        500.0, gt=0, description="Requests a second that one client may send for ever; twice that at once"
    )
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = Field(
        "INFO", validation_alias="YINGBAO_LOG_LEVEL", description="Least severe log line"
    )
    clock_file: Path | None = Field(
        None,
        validation_alias="YINGBAO_CLOCK_FILE",
        description="File of a demo's clock, the same for all processes; without it clock.json in the data folder",
    )
    demo: bool = Field(default=False, description="Opens the demo's clock and the carrier sandbox over HTTP")

    @property
    def service(self) -> str:
        """The service's name as its prefix has it, in small letters."""
        return _prefix(type(self)).removeprefix(PREFIX).rstrip("_").lower()

    @property
    def database(self) -> str:
        """The SQLAlchemy URL to open."""
        return self.database_url or f"sqlite:///{self.data_dir / (self.service + '.db')}"

    @property
    def keys(self) -> Path:
        """The file with the keys of this service's own records."""
        return self.keys_file or self.data_dir / f"{self.service}.keys.json"

    @property
    def audit_head(self) -> Path:
        """The file that remembers the newest block of the audit trail, outside the database."""
        return (self.audit_heads or self.data_dir) / f"{self.service}.audit.head"

    @property
    def clock(self) -> Path:
        """The file of the simulated clock."""
        return self.clock_file or self.data_dir / "clock.json"

    @property
    def contact_keys(self) -> Path:
        """The file with the keys that seal contacts on their way between services; one for the suite."""
        return self.contact_keys_file or self.data_dir / "contact.keys.json"

    @property
    def issuer_key(self) -> Path:
        """The local issuer's key file; one for the suite, since all services trust it."""
        return self.issuer_key_file or self.data_dir / "issuer.jwk"


def refuse_unknown(
    environ: Mapping[str, str], known: Sequence[type[BaseSettings]], *, others: Sequence[str] = ()
) -> None:
    """Raises UnknownSetting for each `YINGBAO_…` variable that none of the known classes reads.

    `others` are names of services that run elsewhere but may share the environment file: variables with
    their prefix are theirs to judge. Entry points call this before anything is built.
    """
    names = {name for cls in known for name, _ in variables(cls)}
    own = {_prefix(cls) for cls in known} - {PREFIX, ""}
    foreign = tuple(p for p in (f"{PREFIX}{other.upper()}_" for other in others) if p not in own)
    unknown = [
        name
        for name in sorted(environ)
        if name.upper().startswith(PREFIX)
        and name.upper() not in names
        and not name.upper().startswith(foreign)
    ]
    if unknown:
        raise UnknownSetting("\n".join(_advice(name, names) for name in unknown))


def _advice(name: str, names: set[str]) -> str:
    known = {known.removeprefix(PREFIX): known for known in sorted(names)}
    near = difflib.get_close_matches(name.upper().removeprefix(PREFIX), known, n=1, cutoff=0.6)
    fix = f"did you mean {known[near[0]]}?" if near else "remove it; README lists the settings"
    return f"unknown setting {name}: {fix}"


def settings_table(classes: Sequence[type[BaseSettings]]) -> str:
    """A Markdown table of all settings: name, type, default, meaning; each variable once."""
    rows = ["| setting | type | default | meaning |", "|---|---|---|---|"]
    seen: set[str] = set()
    for cls in classes:
        for name, field in variables(cls):
            if name in seen:
                continue
            seen.add(name)
            if not field.description:
                raise ValueError(f"{cls.__name__}: the field behind {name} needs a description")
            cells = (f"`{name}`", _type(field.annotation), _default(field), field.description)
            rows.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return "\n".join(rows) + "\n"


def _prefix(cls: type[BaseSettings]) -> str:
    return str(cls.model_config.get("env_prefix", "")).upper()


def variables(cls: type[BaseSettings]) -> Iterator[tuple[str, FieldInfo]]:
    """The environment variables that a class reads, and the field behind each."""
    for name, field in cls.model_fields.items():
        alias = field.validation_alias
        yield (alias if isinstance(alias, str) else _prefix(cls) + name).upper(), field


def _type(annotation: Any) -> str:
    origin = get_origin(annotation)
    if origin is Literal:
        return " or ".join(str(value) for value in get_args(annotation))
    if origin in (Union, UnionType):
        return " or ".join(_type(part) for part in get_args(annotation) if part is not type(None))
    if origin is not None:
        parts = (_type(part) for part in get_args(annotation) if part is not Ellipsis)
        return f"{'list' if origin is tuple else origin.__name__} of {', '.join(parts)}"
    return {
        SecretStr: "secret",
        str: "text",
        bool: "true or false",
        int: "whole number",
        float: "number",
        Path: "path",
    }.get(annotation, getattr(annotation, "__name__", str(annotation)))


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "must be set"
    value = field.get_default(call_default_factory=True, validated_data={})
    if value is None or value is PydanticUndefined or value == "":
        return ""
    if isinstance(value, SecretStr):
        return "(set it)"
    return f"`{str(value).lower() if isinstance(value, bool) else value}`"
