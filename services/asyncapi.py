"""The AsyncAPI 3 document: topics, messages with their JSON Schemas, and who reads what. Generated, never written.

A schema says what a reader may rely on: fields that came later have a default and may be missing in older
messages, unknown ones are ignored.
"""

from collections.abc import Mapping, Sequence
from inspect import cleandoc
from typing import Any, Final

from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from shared.events.base import Envelope, Event
from shared.events.catalogue import EVENTS, OUTSIDE_READERS, PARTITIONS, TOPIC_DAYS, TOPICS, topic_of

_ABOUT: Final = """\
What the four services of yingbao tell each other and whoever reads along: CloudEvents 1.0 envelopes in structured
JSON. The key of a message is its `subject`; messages of one key keep their order, topics have none among each
other. Every message may come more than once: its `id` tells. `x-read-by` names the services that react to a
message, `x-read-outside` the reader outside that it is published for."""

_SCHEMAS: Final = "#/components/schemas/{model}"


def document(readers: Mapping[str, Sequence[str]]) -> dict[str, Any]:
    """The whole document as JSON data; `readers` are the services that react to each event, by its name."""
    return {
        "asyncapi": "3.0.0",
        "info": {"title": "yingbao", "version": "1.0.0", "description": _ABOUT},
        "defaultContentType": "application/cloudevents+json",
        "channels": {topic: _channel(topic) for topic in TOPICS},
        "operations": _operations(readers),
        "components": {
            "messages": {_key(name): _message(event, readers[name]) for name, event in EVENTS.items()},
            "schemas": _schemas(),
        },
    }


def _key(name: str) -> str:
    return name.replace(".", "_")


def _told(topic: str) -> list[str]:
    return [name for name in EVENTS if topic_of(name) == topic]


def _channel(topic: str) -> dict[str, Any]:
    return {
        "address": topic,
        "description": f"What {topic} tells.",
        "messages": {_key(name): {"$ref": f"#/components/messages/{_key(name)}"} for name in _told(topic)},
        "bindings": {
            "kafka": {
                "topic": topic,
                "partitions": PARTITIONS,
                "topicConfiguration": {
                    "retention.ms": TOPIC_DAYS * 86_400_000,
                    "cleanup.policy": ["delete"],
                },
            }
        },
    }


def _operations(readers: Mapping[str, Sequence[str]]) -> dict[str, Any]:
    """A service sends its own topic, and receives of another one the messages that it reacts to."""
    told = {topic: _told(topic) for topic in TOPICS}
    sent = {f"{topic}_sends": _operation("send", topic, names) for topic, names in told.items() if names}
    received = {
        f"{reader}_hears_{topic}": _operation("receive", topic, heard)
        for reader in TOPICS
        for topic, names in told.items()
        if (heard := [name for name in names if reader in readers[name]])
    }
    return sent | received


def _operation(action: str, topic: str, names: Sequence[str]) -> dict[str, Any]:
    channel = f"#/channels/{topic}"
    return {
        "action": action,
        "channel": {"$ref": channel},
        "messages": [{"$ref": f"{channel}/messages/{_key(name)}"} for name in names],
    }


def _message(event: type[Event], readers: Sequence[str]) -> dict[str, Any]:
    outside = OUTSIDE_READERS.get(event.name)
    return {
        "name": event.name,
        "description": meaning(event),
        "contentType": "application/cloudevents+json",
        "correlationId": {"location": "$message.payload#/correlationid"},
        "payload": {
            "allOf": [
                {"$ref": _SCHEMAS.format(model=Envelope.__name__)},
                {
                    "properties": {
                        "type": {"const": event.name},
                        "source": {"const": f"/{topic_of(event.name)}"},
                        "data": {"$ref": _SCHEMAS.format(model=event.__name__)},
                    }
                },
            ]
        },
        "bindings": {"kafka": {"key": {"type": "string", "description": "The `subject`."}}},
        "x-read-by": list(readers),
        **({"x-read-outside": outside} if outside else {}),
        **({"x-personal": True} if event.personal else {}),
    }


def meaning(event: type[Event]) -> str:
    """The docstrings of the event and of the facts that it shares with others."""
    own = event.__mro__[: event.__mro__.index(Event)]
    return "\n\n".join(cleandoc(part.__doc__) for part in own if part.__doc__)


def _schemas() -> dict[str, Any]:
    """JSON Schemas of the envelope, the events and the records in them, by class."""
    kinds: list[type[BaseModel]] = [Envelope, *EVENTS.values()]
    _, found = models_json_schema([(kind, "validation") for kind in kinds], ref_template=_SCHEMAS)
    schemas: dict[str, Any] = found["$defs"]
    return schemas
