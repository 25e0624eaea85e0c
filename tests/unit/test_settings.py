"""Settings are read from the environment, and a typo stops the start."""

from pathlib import Path

import pytest
from pydantic import Field, ValidationError
from pydantic_settings import SettingsConfigDict

from shared.settings import ServiceSettings, UnknownSetting, refuse_unknown, settings_table


class RegistrySettings(ServiceSettings):
    """One service."""

    model_config = SettingsConfigDict(env_prefix="YINGBAO_REGISTRY_")


class NotifySettings(ServiceSettings):
    """Another, with a field of its own."""

    model_config = SettingsConfigDict(env_prefix="YINGBAO_NOTIFY_")

    registry_url: str = Field("http://localhost/registry", description="Where the last look | asks")


def test_the_environment_is_read(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Own prefix for the service's fields; the city pack is one for all."""
    monkeypatch.setenv("YINGBAO_REGISTRY_DATA_DIR", str(tmp_path))
    monkeypatch.setenv("YINGBAO_REGISTRY_DEMO", "true")
    monkeypatch.setenv("YINGBAO_CITY_PACK", "/pack")
    settings = RegistrySettings()
    assert settings.demo
    assert settings.service == "registry"
    assert settings.database == f"sqlite:///{tmp_path}/registry.db"
    assert settings.issuer_key == tmp_path / "issuer.jwk"
    assert settings.city_pack == Path("/pack")
    assert not NotifySettings().demo
    with pytest.raises(ValidationError):
        settings.demo = False  # type: ignore[misc]


def test_arguments_win_over_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tests and the embedded suite name fields directly."""
    monkeypatch.setenv("YINGBAO_REGISTRY_DATABASE_URL", "sqlite:///env.db")
    monkeypatch.setenv("YINGBAO_CITY_PACK", "/env")
    settings = RegistrySettings(database_url="postgresql+psycopg://db/x", city_pack=Path("/arg"))
    assert settings.database == "postgresql+psycopg://db/x"
    assert settings.city_pack == Path("/arg")


@pytest.mark.parametrize(
    ("name", "nearest"),
    [
        ("YINGBAO_REGISTRY_DATABSE_URL", "YINGBAO_REGISTRY_DATABASE_URL"),
        ("YINGBAO_REGSTRY_DEMO", "YINGBAO_REGISTRY_DEMO"),
        ("YINGBAO_CITYPACK", "YINGBAO_CITY_PACK"),
        ("yingbao_log_levl", "YINGBAO_LOG_LEVEL"),
        ("YINGBAO_NOTIFY_REGISTRY_ULR", "YINGBAO_NOTIFY_REGISTRY_URL"),
        ("YINGBAO_ZZZ", "remove it"),
    ],
)
def test_an_unknown_setting_stops_the_start(name: str, nearest: str) -> None:
    """The message names the variable and what was probably meant; never its value."""
    environ = {name: "secret", "PATH": "/bin", "YINGBAO_NOTIFY_REGISTRY_URL": "x", "YINGBAO_CITY_PACK": "y"}
    with pytest.raises(UnknownSetting, match=nearest) as stopped:
        refuse_unknown(environ, [RegistrySettings, NotifySettings])
    assert name in str(stopped.value)
    assert "secret" not in str(stopped.value)


def test_a_shared_environment_file_is_fine() -> None:
    """A service doesn't judge the variables of services that run elsewhere."""
    environ = {"YINGBAO_NOTIFY_ANYTHING": "x", "YINGBAO_REGISTRY_DEMO": "1"}
    refuse_unknown(environ, [RegistrySettings], others=["registry", "notify"])
    with pytest.raises(UnknownSetting):
        refuse_unknown(environ, [RegistrySettings])
    with pytest.raises(UnknownSetting):
        refuse_unknown({"YINGBAO_REGISTRY_DEMOO": "1"}, [RegistrySettings], others=["registry"])


def test_the_table_shows_every_setting_once() -> None:
    """Name, type, default and meaning; bars are escaped; common variables come once."""
    table = settings_table([RegistrySettings, NotifySettings])
    assert "| `YINGBAO_REGISTRY_DEMO` | true or false | `false` |" in table
    assert (
        "| `YINGBAO_NOTIFY_REGISTRY_URL` | text | `http://localhost/registry` | Where the last look \\| asks |"
        in table
    )
    assert table.count("YINGBAO_CITY_PACK") == 1


def test_a_setting_without_words_is_a_mistake() -> None:
    """The README could not say what it is for."""

    class Mute(ServiceSettings):
        model_config = SettingsConfigDict(env_prefix="YINGBAO_MUTE_")
        what: int = 1

    with pytest.raises(ValueError, match="YINGBAO_MUTE_WHAT needs a description"):
        settings_table([Mute])
