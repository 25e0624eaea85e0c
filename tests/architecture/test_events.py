"""Every event is known, read by somebody, and documented."""

import ast
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path

import pytest

from services import docs
from services.all_in_one import Suite
from services.dashboards import DASHBOARDS
from shared.clock import ZONE, FrozenClock
from shared.events.base import Event
from shared.events.catalogue import EVENTS, OUTSIDE_READERS, TOPICS, topic_of
from shared.events.notify import NoticeDelivered

READ_BY_NOBODY = "consumed by no service and no reader outside"
READ_BY_BOTH = "listed as read from outside though a service consumes it"
READ_BY_ITSELF = "its publisher reacts to it"
UNKNOWN = "not in the catalogue"
NEVER_TOLD = "its publisher's code never names it"


def faults(
    events: Mapping[str, type[Event]], readers: Mapping[str, Sequence[str]], outside: Mapping[str, str]
) -> set[tuple[str, str]]:
    """What is wrong with the readers of events: pairs of event name and fault."""
    named = {name for name, reader in outside.items() if reader.strip()}
    wrong = {(name, READ_BY_NOBODY) for name in events if not readers.get(name) and name not in named}
    wrong |= {(name, READ_BY_BOTH) for name in outside if readers.get(name)}
    wrong |= {(name, READ_BY_ITSELF) for name, services in readers.items() if topic_of(name) in services}
    return wrong | {(name, UNKNOWN) for name in {*readers, *outside} if name not in events}


def never_told(events: Mapping[str, type[Event]], code: Mapping[str, str]) -> set[tuple[str, str]]:
    """Events that their publisher's code (by service) imports at most."""
    used = {
        service: {node.id for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Name)}
        for service, text in code.items()
    }
    return {
        (name, NEVER_TOLD) for name, event in events.items() if event.__name__ not in used[topic_of(name)]
    }


def test_every_event_has_a_reader_and_every_reader_an_event() -> None:
    """Consumed by a service or listed in OUTSIDE_READERS, never both; no reaction to an unknown event."""
    assert faults(EVENTS, docs.consumers(), OUTSIDE_READERS) == set()


def test_planted_faults_are_found() -> None:
    """Read by nobody or by no name, twice over or by its publisher; a reaction and a reader of no event."""
    read, forgotten, both = "registry.read.v1", "registry.forgotten.v1", "registry.both.v1"
    blank, own = "registry.blank.v1", "registry.own.v1"
    events = dict.fromkeys((read, forgotten, both, blank, own), Event)
    readers = {
        read: ["targets"],
        both: ["targets"],
        own: ["registry"],
        "registry.gone.v1": ["notify"],
        forgotten: [],
    }
    outside = {both: "somebody", "registry.lost.v1": "somebody", blank: " "}
    assert faults(events, readers, outside) == {
        (forgotten, READ_BY_NOBODY),
        (blank, READ_BY_NOBODY),
        (own, READ_BY_ITSELF),
        (both, READ_BY_BOTH),
        ("registry.gone.v1", UNKNOWN),
        ("registry.lost.v1", UNKNOWN),
    }


def test_every_event_is_told_by_its_publisher() -> None:
    """And a planted one that is only imported is found."""
    code = {
        topic: "\n".join(
            file.read_text("utf-8") for file in sorted((docs.ROOT / "services" / topic).rglob("*.py"))
        )
        for topic in TOPICS
    }
    assert never_told(EVENTS, code) == set()
    idle = {"notify.idle.v1": Event, "notify.told.v1": NoticeDelivered}
    told = {"notify": "from x import Event\nwork.emit(NoticeDelivered(), cause=c)"}
    assert never_told(idle, told) == {("notify.idle.v1", NEVER_TOLD)}


def test_services_react_as_the_tables_say(tmp_path: Path) -> None:
    """What a running service listens to is the table that the documents are made from."""
    suite = Suite(tmp_path, clock=FrozenClock(datetime(2026, 1, 5, 10, tzinfo=ZONE)))
    listening = {
        name: set(service.consumer._handlers) if service.consumer else set()
        for name, service in suite.services.items()
    }
    suite.close()
    for service in suite.services.values():
        service.core.database.close()
    assert listening == {
        name: {reaction.event.name for reaction in reactions}
        for name, reactions in docs.SUBSCRIPTIONS.items()
    }


def test_every_subclass_of_event_is_in_the_catalogue() -> None:
    """A class with a name of its own in `shared.events` that its module forgot to list."""

    def named(kind: type[Event]) -> set[type[Event]]:
        below = set[type[Event]]().union(*(named(sub) for sub in kind.__subclasses__()))
        return below | ({kind} if "name" in vars(kind) else set())

    declared = {kind for kind in named(Event) if kind.__module__.startswith("shared.events.")}
    assert declared == set(EVENTS.values())


def test_names_are_publisher_fact_and_version() -> None:
    """And the publisher is the topic."""
    for name, event in EVENTS.items():
        publisher, fact, version = name.split(".")
        assert publisher == topic_of(name) == event.__module__.rpartition(".")[2]
        assert publisher in TOPICS
        assert fact.islower()
        assert version[0] == "v"
        assert version[1:].isdigit()


def test_a_service_reacts_to_each_event_once() -> None:
    """A second line of the table would silently replace the first."""
    for service, reactions in docs.SUBSCRIPTIONS.items():
        names = [reaction.event.name for reaction in reactions]
        assert len(names) == len(set(names)), service


def test_the_generated_documents_are_fresh() -> None:
    """`yingbao docs` writes them."""
    assert docs.write(check=True) == []


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "docs").mkdir()
    (tmp_path / "README.md").write_text(f"# yingbao\n\n{docs.BEGIN}\nold\n{docs.END}\n\nend\n", "utf-8")
    (tmp_path / "docker-compose.yml").write_text("${POSTGRES_PASSWORD:?}", "utf-8")
    return tmp_path


def test_documents_are_written_once_and_then_fresh(root: Path) -> None:
    """With `check` nothing is written; what stands around the settings stays."""
    boards = (f"deploy/grafana/dashboards/{board.uid}.json" for board in DASHBOARDS)
    names = (
        *("docs/events.md", "docs/datasets.md", "docs/asyncapi.json", "deploy/kafka/topics.csv"),
        *("README.md", ".env.example", *boards),
    )
    documents = [Path(name) for name in names]
    assert docs.write(check=True, root=root) == documents
    assert not (root / "docs" / "events.md").exists()
    assert docs.write(check=False, root=root) == documents
    assert docs.write(check=True, root=root) == []
    readme = (root / "README.md").read_text("utf-8")
    assert readme.startswith(f"# yingbao\n\n{docs.BEGIN}\n")
    assert readme.endswith(f"{docs.END}\n\nend\n")
    assert "old" not in readme.splitlines()
    assert "`YINGBAO_<SERVICE>_DATA_DIR`" in readme


@pytest.mark.parametrize(
    "name",
    [
        *("docs/events.md", "docs/asyncapi.json", "deploy/kafka/topics.csv"),
        *(".env.example", "deploy/grafana/dashboards/services.json"),
    ],
)
def test_an_edited_document_is_stale(root: Path, name: str) -> None:
    """A generated file that somebody wrote into by hand."""
    docs.write(check=False, root=root)
    with (root / name).open("a", encoding="utf-8") as document:
        document.write("by hand\n")
    assert docs.write(check=True, root=root) == [Path(name)]


def test_a_readme_without_the_markers_is_an_error_with_its_fix(root: Path) -> None:
    """Nothing is written anywhere then."""
    (root / "README.md").write_text("# yingbao\n", "utf-8")
    with pytest.raises(docs.NoPlaceForSettings, match="settings:begin"):
        docs.write(check=False, root=root)
    assert not (root / "docs" / "events.md").exists()


def test_events_are_described_with_key_fields_and_readers() -> None:
    """By the example of a cancelled participation."""
    text = docs.events_markdown()
    section = text.partition("## registry.participation_cancelled.v1\n")[2].partition("\n## ")[0]
    assert "A participation was recorded in error: it never was." in section
    assert "**Key:** `uscc`, or `person` where there is none. **Read by:** matching, targets." in section
    assert "| `counts_now` | Counted or null |  |" in section
    assert "| `recorded_on` | day |  |" in section
    assert "**Counted:**" in section


def test_every_setting_has_a_row() -> None:
    """Own settings under the service's name; the common ones once."""
    text = docs.settings_markdown()
    assert text.count("_DATA_DIR`") == 1
    assert "`YINGBAO_REGISTRY_PARTICIPATIONS_MODE`" in text
    assert "`YINGBAO_SANDBOX_CALLBACK_URL`" in text
