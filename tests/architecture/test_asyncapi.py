"""docs/asyncapi.json is an AsyncAPI 3 document, its references lead somewhere, and real messages fit it."""

import asyncio
import json
import warnings
from collections.abc import Iterator
from copy import deepcopy
from datetime import date
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft7Validator
from pydantic import ValidationError

from services import asyncapi, docs
from shared.events.catalogue import EVENTS, PARTITIONS, TOPIC_DAYS, TOPICS
from shared.messaging.bus import Message
from tests.support.system import GatedBus, System

with warnings.catch_warnings(action="ignore"):  # a field of theirs is called `schema`
    from asyncapi3.models.asyncapi import AsyncAPI3

DOCUMENT = asyncapi.document(docs.consumers())
USCC = "91371082MA3XTE5T8Q"


def references(part: Any) -> Iterator[str]:
    """Every `$ref` in a document."""
    if isinstance(part, dict):
        if isinstance(part.get("$ref"), str):
            yield part["$ref"]
        for inner in part.values():
            yield from references(inner)
    elif isinstance(part, list):
        for inner in part:
            yield from references(inner)


def resolved(document: dict[str, Any], reference: str) -> Any:
    found: Any = document
    for name in reference.removeprefix("#/").split("/"):
        found = found[name]
    return found


def validator(document: dict[str, Any], name: str) -> Draft7Validator:
    """Of the payload of one message, by the event's name."""
    payload = document["components"]["messages"][name.replace(".", "_")]["payload"]
    return Draft7Validator({**payload, "components": document["components"]})


def test_it_is_an_asyncapi_document() -> None:
    """By the models of the specification; the file holds what the code says."""
    AsyncAPI3.model_validate(DOCUMENT)
    written = Path(docs.ROOT / "docs" / "asyncapi.json").read_text("utf-8")
    assert json.loads(written) == DOCUMENT


@pytest.mark.parametrize(
    ("place", "value"),
    [
        (("channels", "registry", "adress"), "registry"),
        (("operations", "registry_sends", "action"), "publish"),
        (("components", "messages", "registry_unit_closed_v1", "read-by"), []),
        (("channels", "registry", "bindings", "kafka", "partitions"), 0),
    ],
    ids=["field", "action", "extension", "binding"],
)
def test_a_planted_fault_is_found(place: tuple[str, ...], value: Any) -> None:
    """A misspelt field, a word of an older version, an extension without its prefix, an impossible number."""
    broken = deepcopy(DOCUMENT)
    *path, last = place
    resolved(broken, "/".join(path))[last] = value
    with pytest.raises(ValidationError):
        AsyncAPI3.model_validate(broken)


def test_every_reference_leads_somewhere() -> None:
    """And an operation's messages are those of its channel."""
    for reference in set(references(DOCUMENT)):
        assert resolved(DOCUMENT, reference), reference
    for operation in DOCUMENT["operations"].values():
        channel = operation["channel"]["$ref"]
        assert all(item["$ref"].startswith(f"{channel}/messages/") for item in operation["messages"])
    with pytest.raises(KeyError):
        resolved(DOCUMENT, "#/components/schemas/Nothing")


def test_every_event_is_sent_once_and_heard_by_its_readers() -> None:
    """As the services' own tables say."""
    by_action: dict[str, list[tuple[str, str]]] = {"send": [], "receive": []}
    for name, operation in DOCUMENT["operations"].items():
        for item in operation["messages"]:
            event = resolved(DOCUMENT, resolved(DOCUMENT, item["$ref"])["$ref"])["name"]
            by_action[operation["action"]].append((name.split("_")[0], event))
    assert sorted(by_action["send"]) == sorted((name.split(".")[0], name) for name in EVENTS)
    heard = {(reader, name) for name, readers in docs.consumers().items() for reader in readers}
    assert set(by_action["receive"]) == heard
    assert len(by_action["receive"]) == len(heard)


def test_topics_are_as_the_catalogue_says() -> None:
    """In the document and in the list for whoever makes them by hand."""
    for topic in TOPICS:
        kafka = DOCUMENT["channels"][topic]["bindings"]["kafka"]
        assert (kafka["topic"], kafka["partitions"]) == (topic, PARTITIONS)
        assert kafka["topicConfiguration"]["retention.ms"] == TOPIC_DAYS * 86_400_000
    lines = docs.topics_csv().splitlines()
    assert lines[0] == "topic,partitions,retention.ms,cleanup.policy"
    assert lines[1] == f"registry,{PARTITIONS},{TOPIC_DAYS * 86_400_000},delete"
    assert [line.split(",")[0] for line in lines[1:]] == list(TOPICS)


class Listening(GatedBus):
    """The embedded bus, which remembers what it carried."""

    def __init__(self, carried: list[Message]) -> None:
        super().__init__()
        self._carried = carried

    async def publish(self, messages: Any) -> None:
        self._carried += messages
        await super().publish(messages)


@pytest.fixture(scope="module")
def carried(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """Messages of a short story, as they lay on the bus."""
    messages: list[Message] = []

    async def run() -> None:
        async with System(tmp_path_factory.mktemp("story"), bus=Listening(messages)) as system:
            await system.register(USCC, date(2025, 12, 1))
            await system.settle()
            made = await system.enrol(USCC, date(2026, 1, 5))
            await system.enrol(None, date(2026, 1, 5), form="flexible", insurance="resident_pension")
            path = f"/registry/v1/participations/{made['id']}/cancel"
            await system.ask("POST", path, {"reason": "录入错误"})
            await system.settle()

    asyncio.run(run())
    return [json.loads(message.value) for message in messages]


def test_messages_of_a_story_fit_their_schemas(carried: list[dict[str, Any]]) -> None:
    """Of all four topics that tell something, each under its own name."""
    names = {message["type"] for message in carried}
    assert {
        "registry.unit_registered.v1",
        "registry.contact_changed.v1",
        "registry.participation_cancelled.v1",
        "registry.data_complete.v1",
        "matching.lead_opened.v1",
        "matching.lead_resolved.v1",
        "notify.notice_withdrawn.v1",
    } <= names
    for message in carried:
        errors = [error.message for error in validator(DOCUMENT, message["type"]).iter_errors(message)]
        assert errors == [], message["type"]


def test_a_message_that_breaks_its_contract_is_found(carried: list[dict[str, Any]]) -> None:
    """A field that is missing or of another kind, another event's name, an envelope without its id."""
    good = next(message for message in carried if message["type"] == "registry.unit_registered.v1")
    lacking = {**good, "data": {name: value for name, value in good["data"].items() if name != "uscc"}}
    wrong = {**good, "data": {**good["data"], "version": "one"}}
    other = {**good, "type": "registry.unit_closed.v1"}
    without = {name: value for name, value in good.items() if name != "id"}
    check = validator(DOCUMENT, good["type"])
    assert check.is_valid(good)
    assert check.is_valid({**good, "data": {**good["data"], "added_later": 1}})
    assert not any(check.is_valid(message) for message in (lacking, wrong, other, without))
