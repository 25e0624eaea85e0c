"""The generated documents: events, data sets, AsyncAPI, the list of topics, the settings in README.md.

All come from declarations and are never written by hand; a test says when they are stale.
"""

import json
import re
import types
from collections.abc import Iterator, Mapping, Sequence
from datetime import date, datetime
from inspect import cleandoc
from pathlib import Path
from typing import Any, Final, Literal, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic_settings import BaseSettings, SettingsConfigDict

from services import asyncapi
from services.matching import handlers as matching
from services.matching.settings import MatchingSettings
from services.notify import handlers as notify
from services.notify.sandbox import SandboxSettings
from services.notify.settings import NotifySettings
from services.registry import handlers as registry
from services.registry.settings import RegistrySettings
from services.targets import handlers as targets
from services.targets.settings import TargetsSettings
from shared.datasets.contract import Contract, load_contracts
from shared.events.base import Event
from shared.events.catalogue import EVENTS, OUTSIDE_READERS, PARTITIONS, TOPIC_CONFIG, TOPICS, topic_of
from shared.messaging.consumer import Reaction
from shared.settings import ServiceSettings, settings_table

ROOT: Final = Path(__file__).resolve().parent.parent
BEGIN: Final = "<!-- settings:begin -->"
END: Final = "<!-- settings:end -->"

SUBSCRIPTIONS: Final[Mapping[str, Sequence[Reaction]]] = {
    "registry": registry.SUBSCRIPTIONS,
    "matching": matching.SUBSCRIPTIONS,
    "notify": notify.SUBSCRIPTIONS,
    "targets": targets.SUBSCRIPTIONS,
}
"""What each service reacts to."""

SETTINGS: Final[Mapping[str, type[BaseSettings]]] = {
    "registry": RegistrySettings,
    "matching": MatchingSettings,
    "notify": NotifySettings,
    "targets": TargetsSettings,
    "sandbox": SandboxSettings,
}
"""The settings of each service, and of the carrier sandbox as a process of its own."""


_SETTINGS_HEAD: Final = """\
Every service has these; `<SERVICE>` stands for its name in capital letters. A `YINGBAO_…` variable that nobody
reads stops the start."""

_EVENTS_HEAD: Final = f"""\
# Events

Generated from `shared/events/` by `yingbao docs`; do not edit.

CloudEvents 1.0 envelopes in JSON. One topic per publisher, with {PARTITIONS} partitions; the key (`subject`) gives
the partition, and facts of one key keep their order. A field may be added to an event; anything else is a new
version beside the old one."""


_DATASETS_HEAD: Final = """\
# Data sets

Generated from `shared/datasets/` by `yingbao docs`; do not edit.

Files are CSV with comma or tab, in UTF-8 (with or without BOM), GBK or GB18030. The headings are among the first ten
lines, in any order, with others between; a row is one line. `GET /registry/v1/datasets/{id}/template` gives an empty
file, `POST /registry/v1/datasets/{id}/batches` takes a filled one, `GET /registry/v1/batches/{id}/errors` gives back
the rows that were not taken, with what to do about each."""


class NoPlaceForSettings(Exception):  # noqa: N818 - it names the cause
    """README.md lacks the markers between which the settings are written. The message says what to add."""


def write(*, check: bool, root: Path = ROOT) -> list[Path]:
    """Writes the documents that are not up to date, or with `check` only names them, relative to `root`.

    Raises NoPlaceForSettings where README.md lacks the two markers.
    """
    readme = root / "README.md"
    fresh = {
        root / "docs" / "events.md": events_markdown(),
        root / "docs" / "datasets.md": datasets_markdown(),
        root / "docs" / "asyncapi.json": asyncapi_json(),
        root / "deploy" / "kafka" / "topics.csv": topics_csv(),
        readme: _with_settings(readme.read_text("utf-8")),
    }
    stale = [file for file, text in fresh.items() if not file.exists() or file.read_text("utf-8") != text]
    for file in () if check else stale:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(fresh[file], "utf-8")
    return [file.relative_to(root) for file in stale]


def _with_settings(readme: str) -> str:
    if readme.count(BEGIN) != 1 or readme.count(END) != 1:
        raise NoPlaceForSettings(f"README.md: write {BEGIN} and {END} once each, where the settings belong")
    before, _, rest = readme.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}\n\n{settings_markdown()}\n{END}{after}"


# -- settings ------------------------------------------------------------------------------------------


def settings_markdown() -> str:
    """The tables of settings: what every service has, then each one's own."""
    common = _table(_named("<SERVICE>"))
    text = [_SETTINGS_HEAD, "\n".join(common)]
    for name, settings in SETTINGS.items():
        shared = set(_table(_named(name.upper())))
        own = [row for row in _table(settings) if row not in shared]
        if own:
            text += [f"{name}:", "\n".join([*common[:2], *own])]
    return "\n\n".join(text) + "\n"


def _named(name: str) -> type[ServiceSettings]:
    """The common settings under a service's prefix."""
    config = SettingsConfigDict(env_prefix=f"YINGBAO_{name}_")
    return type("CommonSettings", (ServiceSettings,), {"model_config": config, "__doc__": "The common ones."})


def _table(settings: type[BaseSettings]) -> list[str]:
    return settings_table([settings]).splitlines()


# -- data sets -----------------------------------------------------------------------------------------


def datasets_markdown() -> str:
    """Every data set that departments send as a file: who, why, and each column."""
    text = [_DATASETS_HEAD]
    for contract in load_contracts().values():
        text += [f"## {contract.id} — {contract.name}", _about(contract), "\n".join(_columns(contract))]
    return "\n\n".join(text) + "\n"


def _about(contract: Contract) -> str:
    sort = "changes since the last file" if contract.mode == "delta" else "the whole state"
    lines = [
        f"- **Sent by** {' or '.join(contract.owners)}, {contract.cadence}: {sort}.",
        f"- **A row is the same one** by {', '.join(f'`{name}`' for name in contract.key)}.",
        f"- **Purpose** {contract.purpose}。",
        f"- **Legal basis** {contract.legal_basis}。",
        f"- **Rejected rows** are kept for {contract.retention_days} days at most"
        + (", encrypted: they hold people's data." if contract.sensitive else "."),
    ]
    return "\n".join(lines)


def _columns(contract: Contract) -> list[str]:
    rows = ["| field | heading, or any of | form | must | meaning |", "|---|---|---|---|---|"]
    for column in contract.columns:
        forms = {"text": "text", "day": "day, like 2026-02-10"}
        form = forms.get(column.type) or "；".join(
            f"{word} (`{value}`)" for value, word in column.choices.items()
        )
        headings = "、".join((f"**{column.label}**", *column.aliases))
        must = "yes" if column.required else ""
        rows.append(f"| `{column.name}` | {headings} | {form} | {must} | {column.meaning} |")
    return rows


# -- events --------------------------------------------------------------------------------------------


def events_markdown() -> str:
    """Every event: name, key, meaning, fields, and who reads it."""
    readers = consumers()
    rows = [
        f"| [{name}](#{_anchor(name)}) | {topic_of(name)} | {', '.join(readers[name]) or '—'} |"
        for name in EVENTS
    ]
    text = [_EVENTS_HEAD, "\n".join(["| event | published by | read by |", "|---|---|---|", *rows])]
    for name, event in EVENTS.items():
        read_by = ", ".join(readers[name]) or f"outside: {OUTSIDE_READERS.get(name, 'nobody')}"
        text += [
            f"## {name}",
            asyncapi.meaning(event),
            f"**Key:** {_key(event)}. **Read by:** {read_by}.",
            *_fields(event),
        ]
    return "\n\n".join(text) + "\n"


def asyncapi_json() -> str:
    """The AsyncAPI document of all topics."""
    return json.dumps(asyncapi.document(consumers()), ensure_ascii=False, indent=1) + "\n"


def topics_csv() -> str:
    """The topics in the broker's words, for whoever makes them by hand."""
    rows = [(topic, str(PARTITIONS), *TOPIC_CONFIG.values()) for topic in TOPICS]
    return "".join(",".join(row) + "\n" for row in [("topic", "partitions", *TOPIC_CONFIG), *rows])


def consumers() -> Mapping[str, list[str]]:
    """The services that react to each event, by the event's name; an empty list for one nobody reacts to."""
    found: dict[str, list[str]] = {name: [] for name in EVENTS}
    for service, reactions in SUBSCRIPTIONS.items():
        for reaction in reactions:
            found.setdefault(reaction.event.name, []).append(service)
    return found


def _anchor(heading: str) -> str:
    return re.sub(r"[^a-z0-9_-]", "", heading.lower())


def _key(event: type[Event]) -> str:
    if event.broadcast:
        return "none, it goes once to every partition"
    if "uscc" not in event.model_fields:
        return "`dataset`"
    optional = "uscc" in event.model_fields and type(None) in get_args(event.model_fields["uscc"].annotation)
    return "`uscc`, or `person` where there is none" if optional else "`uscc`"


def _fields(event: type[Event]) -> list[str]:
    """A table of the event's fields, and one of each part that is a record itself."""
    tables = [_fields_table(event)]
    for part in dict.fromkeys(_parts(event)):
        tables += [f"**{part.__name__}:** {cleandoc(part.__doc__ or '')}", _fields_table(part)]
    return tables


def _fields_table(model: type[BaseModel]) -> str:
    rows = ["| field | type | default |", "|---|---|---|"]
    for name, field in model.model_fields.items():
        default = "" if field.is_required() else f"`{field.default!r}`"
        rows.append(f"| `{name}` | {_type(field.annotation)} | {default} |")
    return "\n".join(rows)


def _parts(model: type[BaseModel]) -> Iterator[type[BaseModel]]:
    for field in model.model_fields.values():
        for kind in (field.annotation, *get_args(field.annotation)):
            if isinstance(kind, type) and issubclass(kind, BaseModel):
                yield kind


_WORDS: Final[Mapping[Any, str]] = {
    str: "text",
    int: "whole number",
    float: "number",
    bool: "true or false",
    date: "day",
    datetime: "instant",
    type(None): "null",
}


def _type(annotation: Any) -> str:
    origin, inner = get_origin(annotation), get_args(annotation)
    if origin is Literal:
        return " or ".join(f"`{value}`" for value in inner)
    if origin in (Union, types.UnionType):
        return " or ".join(_type(part) for part in inner)
    if origin is list:
        return f"list of {_type(inner[0])}"
    return _WORDS.get(annotation) or str(annotation.__name__)
