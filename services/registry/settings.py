"""What registry can be told, and what it reads from the city pack."""

from typing import Literal, cast

from pydantic import Field
from pydantic_settings import SettingsConfigDict

from services.registry.domain import City, DataSet, Mode
from shared.calendar import load_calendar
from shared.documents import DocumentError, pack, read_csv, read_toml
from shared.settings import ServiceSettings


class RegistrySettings(ServiceSettings):
    """Settings of registry, prefix `YINGBAO_REGISTRY_`.

    Its processes share one `data_dir`: what one takes in, another applies.
    """

    model_config = SettingsConfigDict(env_prefix="YINGBAO_REGISTRY_")

    participations_mode: Literal["live", "batch"] | None = Field(
        None,
        description="How participations are known to be complete: live (each day when it is over) or batch "
        "(through the day the owner declares); without it as the city pack says",
    )

    def city(self) -> City:
        """The facts of the city pack that registry rests on. Raises DocumentError."""
        folder = pack(self.city_pack)
        document = read_toml(folder / "datasets.toml")
        datasets = {}
        for id_ in (key for key, value in document.data.items() if isinstance(value, dict)):
            table = document.part(id_)
            mode = table.need("mode", str)
            if id_ == "participations":
                mode = self.participations_mode or mode
            if mode not in ("live", "batch"):
                raise DocumentError(f"{document.file}: {id_}.mode must be live or batch")
            datasets[id_] = DataSet(
                id_, cast("Mode", mode), table.need("owner", str), table.need("name", str)
            )
        return City(
            towns=frozenset(row["name"] for row in read_csv(folder / "towns.csv", ["code", "name"])),
            datasets=datasets,
            calendar=load_calendar(folder),
        )
