"""The audit trail: sealed soon after the commit, and whatever is altered afterwards is found."""

import asyncio
import re
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from datetime import UTC, date, datetime
from pathlib import Path
from threading import Thread

import pytest
import sqlalchemy as sa
from typer.testing import CliRunner

from services.cli import app
from shared.logs import scrub
from shared.storage import audit
from shared.storage.audit import Block, Verdict, seal, verify
from tests.support.probe import CAUSE, PLUMBING, Probe
from tests.support.system import System

AUDIT, BLOCKS = PLUMBING.audit, PLUMBING.audit_block
USCC = "91371082MA3XTE5T8Q"


@pytest.fixture
def probe(tmp_path: Path) -> Iterator[Probe]:
    """A service's database with three blocks of two rows."""
    probe = Probe(tmp_path)
    for _ in range(3):
        note(probe, 2)
        seal_one(probe)
    yield probe
    probe.database.close()


def note(probe: Probe, number: int) -> None:
    """So many audit rows, committed and unsealed."""
    with probe.database.write() as db:
        work = probe.make_work(db)
        for n in range(number):
            work.audit("value.set", f"k{n}", cause=CAUSE, town="寻山街道", number=n)
        work.flush()


def seal_one(probe: Probe) -> Block | None:
    with probe.database.write() as db:
        return seal(db, PLUMBING, wall=probe.clock.wall())


def look(probe: Probe) -> Verdict:
    with probe.database.read() as db:
        return verify(db, PLUMBING)


def tamper(probe: Probe, *statements: sa.Executable | str) -> list[str]:
    """Alters the database as an intruder would; gives the breaks that are found."""
    with probe.database.write() as db:
        for statement in statements:
            db.execute(sa.text(statement) if isinstance(statement, str) else statement)
    return look(probe).breaks


def test_an_untouched_trail_is_whole_and_its_tail_is_reported(probe: Probe) -> None:
    """Sealed rows, one block after the other; what is committed since is unsealed, not broken."""
    note(probe, 3)
    verdict = look(probe)
    assert verdict.breaks == []
    assert (len(verdict.hashes), verdict.unsealed, verdict.unsealed_since) == (3, 3, probe.clock.wall())
    sealed = seal_one(probe)
    assert sealed is not None
    assert (sealed.no, sealed.rows, sealed.previous) == (4, 3, verdict.hashes[-1])
    assert look(probe).unsealed == 0
    assert seal_one(probe) is None


@pytest.mark.parametrize(
    "values",
    [
        {"actor": "nobody"},
        {"action": "value.read"},
        {"subject": "k9"},
        {"correlation": "other"},
        {"details": {"town": "寻山街道", "number": 1}},
        {"details": {"number": 0, "town": "寻山街道"}},
        {"at": "2026-01-05T02:00:00.000001+00:00"},
        {"wall": "2026-01-05T02:00:00.000001+00:00"},
    ],
)
def test_a_changed_row_is_found(probe: Probe, values: dict[str, object]) -> None:
    """Whatever of it was changed; the block is named."""
    row = sa.table("audit", *(sa.column(name) for name in values if name != "details"))
    table = AUDIT if "details" in values else row
    breaks = tamper(probe, sa.update(table).where(sa.column("seq") == 3).values(values))
    assert len(breaks) == 1
    assert breaks[0].startswith("block 2 (2026-01-05 02:00:00 UTC): a row of 3 … 4")


@pytest.mark.parametrize("seq", [1, 3, 4, 6])
def test_a_removed_row_is_found(probe: Probe, seq: int) -> None:
    """At the edge of a block or inside."""
    breaks = tamper(probe, sa.delete(AUDIT).where(AUDIT.c.seq == seq))
    assert [text.partition(": ")[2] for text in breaks] == ["sealed with 2 rows, now 1, in their places 1"]


@pytest.mark.parametrize("seq", [0, 99])
def test_an_added_row_is_found(probe: Probe, seq: int) -> None:
    """A row that claims to have been sealed."""
    copied = next(row for row in probe.rows(AUDIT) if row.seq == 3)
    breaks = tamper(probe, sa.insert(AUDIT).values({**copied._mapping, "seq": seq}))
    assert [text.partition(": ")[2] for text in breaks] == ["sealed with 2 rows, now 3, in their places 2"]


def test_a_row_whose_seal_was_taken_off_is_found(probe: Probe) -> None:
    """It can't be slipped among the unsealed ones to be changed there."""
    assert tamper(probe, "UPDATE audit SET block = NULL WHERE seq = 3")


def test_rows_that_changed_places_are_found(probe: Probe) -> None:
    """In one block, and from one block to another."""
    swap = (
        "UPDATE audit SET seq = -1 WHERE seq = {0}",
        "UPDATE audit SET seq = {0} WHERE seq = {1}",
        "UPDATE audit SET seq = {1} WHERE seq = -1",
    )
    assert tamper(probe, *(text.format(3, 4) for text in swap))
    assert tamper(probe, *(text.format(3, 4) for text in swap)) == []
    assert len(tamper(probe, *(text.format(2, 3) for text in swap))) == 2


@pytest.mark.parametrize(
    ("statement", "breaks"),
    [
        ("DELETE FROM audit_block WHERE no = 1", 2),
        ("DELETE FROM audit_block WHERE no = 2", 2),
        ("DELETE FROM audit_block WHERE no = 3", 1),
        ("UPDATE audit_block SET sealed_at = '2026-01-04T02:00:00.000000+00:00' WHERE no = 2", 1),
        ("UPDATE audit_block SET previous = 'genesis' WHERE no = 2", 2),
        ("UPDATE audit_block SET hash = 'x' WHERE no = 2", 2),
        ("UPDATE audit_block SET last_seq = 5 WHERE no = 2", 1),
    ],
)
def test_a_block_that_was_altered_or_removed_is_found(probe: Probe, statement: str, breaks: int) -> None:
    """In itself, in the one that follows, or by the rows that name it."""
    assert len(tamper(probe, statement)) == breaks


def test_blocks_that_changed_places_are_found(probe: Probe) -> None:
    """Even when their rows moved with them."""
    moves = [
        sa.update(number.table).where(number == of).values({number.name: to})
        for of, to in ((2, -2), (3, 2), (-2, 3))
        for number in (BLOCKS.c.no, AUDIT.c.block)
    ]
    assert len(tamper(probe, *moves)) >= 2


def test_rewriting_a_block_breaks_the_next_one(probe: Probe) -> None:
    """A row changed together with the hash of its block does not fit what follows."""
    with probe.database.write() as db:
        db.execute(sa.delete(BLOCKS).where(BLOCKS.c.no > 1))
        db.execute(sa.update(AUDIT).where(AUDIT.c.seq == 3).values(actor="nobody"))
        db.execute(sa.update(AUDIT).where(AUDIT.c.block > 1).values(block=None))
    before = look(probe).hashes
    seal_one(probe)
    assert look(probe).breaks == []  # the chain itself is a good one again …
    assert before[:1] == look(probe).hashes[:1]
    assert len(look(probe).hashes) == 2  # … but the hashes that the log remembers are gone


def test_a_lower_number_that_commits_later_is_sealed(probe: Probe) -> None:
    """Databases give out numbers before they commit: what is unsealed is sealed, wherever it stands."""
    with probe.database.write() as db:
        db.execute(sa.update(AUDIT).where(AUDIT.c.block == 3).values(block=None, seq=AUDIT.c.seq + 10))
        db.execute(sa.delete(BLOCKS).where(BLOCKS.c.no == 3))
    assert seal_one(probe) is not None
    with probe.database.write() as db:
        row = dict(db.execute(sa.select(AUDIT).where(AUDIT.c.seq == 16)).one()._mapping)
        db.execute(sa.insert(AUDIT).values({**row, "seq": 9, "block": None}))
    late = seal_one(probe)
    assert late is not None
    assert (late.no, late.first_seq, late.last_seq) == (4, 9, 9)
    assert look(probe).breaks == []


def test_blocks_are_of_limited_size(probe: Probe) -> None:
    """A backlog is sealed piece by piece."""
    note(probe, audit.BLOCK + 10)
    sizes = [block.rows for block in iter(lambda: seal_one(probe), None)]
    assert sizes == [audit.BLOCK, 10]
    assert look(probe).breaks == []


def test_sealing_while_others_commit_takes_every_row_once(probe: Probe) -> None:
    """Writers and sealers in several threads; nothing is left out and the chain is whole."""

    def write() -> None:
        for _ in range(30):
            note(probe, 3)

    def chain() -> None:
        for _ in range(30):
            seal_one(probe)

    threads = [Thread(target=target) for target in (write, chain, write, chain)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    seal_one(probe)
    verdict = look(probe)
    assert (verdict.breaks, verdict.unsealed) == ([], 0)
    assert sum(row.rows for row in probe.rows(BLOCKS)) == 6 + 2 * 30 * 3


def test_a_hash_survives_the_scrubber_of_the_logs(probe: Probe) -> None:
    """Digits of a hash are never taken for a phone or ID number."""
    groups = look(probe).hashes[0].split(":")
    assert [len(group) for group in groups] == [8] * 8
    assert scrub(":".join(["13800138"] * 8)) == ":".join(["13800138"] * 8)


# -- in a running service, and from the command line ---------------------------------------------------


def unsealed(folder: Path) -> int:
    with closing(sqlite3.connect(folder / "registry.db")) as db:
        return int(db.execute("SELECT count(*) FROM audit WHERE block IS NULL").fetchone()[0])


def run_verify(folder: Path, *options: str) -> tuple[int, str]:
    result = CliRunner().invoke(app, ["audit", "verify", "--data", str(folder), *options])
    return result.exit_code, result.output


def test_services_seal_while_they_run_at_their_stop_and_after_a_crash(tmp_path: Path) -> None:
    """Rows are sealed soon after their commit, those of a dead process at the next start."""

    async def live(*, register: bool) -> dict[str, str]:
        async with System(tmp_path) as system:
            if register:
                await system.register(USCC, date(2026, 1, 5))

            async def sealed() -> bool:
                return unsealed(tmp_path) == 0

            await system.until(sealed, "the audit rows are sealed")
            return {name: await scrape(system, name) for name in ("registry", "targets")}

    figures = asyncio.run(live(register=True))
    assert "yingbao_audit_unsealed_rows 0.0" in figures["registry"]
    assert re.search(r"yingbao_audit_last_seal_timestamp_seconds 1\.\d+e\+09", figures["registry"])
    # Without the figure the alert would stay silent where sealing never worked at all.
    assert "yingbao_audit_last_seal_timestamp_seconds 0.0" in figures["targets"]
    with closing(sqlite3.connect(tmp_path / "registry.db")) as db:  # what a crash leaves
        db.execute("UPDATE audit SET block = NULL")
        db.execute("DELETE FROM audit_block")
        db.commit()
    (tmp_path / "registry.audit.head").unlink()
    assert unsealed(tmp_path) > 0
    asyncio.run(live(register=False))
    code, output = run_verify(tmp_path)
    assert code == 0
    assert output.count(": whole, ") == 4
    assert "registry: whole, 1 blocks" in output


async def scrape(system: System, name: str) -> str:
    answer = await system._client.get(f"/{name}/metrics")
    return str(answer.text)


def test_what_is_committed_last_is_sealed_at_the_stop(tmp_path: Path) -> None:
    """An orderly stop leaves no tail."""

    async def live() -> None:
        async with System(tmp_path) as system:
            await system.register(USCC, date(2026, 1, 5))

    asyncio.run(live())
    assert unsealed(tmp_path) == 0


def test_verify_fails_on_a_break_and_on_a_cut_tail(tmp_path: Path) -> None:
    """Exit code 1 and the place of the break; a block that the file remembers, or a noted hash, counts too."""

    async def live() -> None:
        async with System(tmp_path) as system:
            await system.register(USCC, date(2026, 1, 5))

    asyncio.run(live())
    with closing(sqlite3.connect(tmp_path / "registry.db")) as db:
        (noted,) = db.execute("SELECT hash FROM audit_block ORDER BY no DESC LIMIT 1").fetchone()
        assert run_verify(tmp_path, "--expect", noted)[0] == 0
        db.execute("UPDATE audit SET actor = 'nobody' WHERE seq = (SELECT max(seq) FROM audit)")
        db.commit()
        code, output = run_verify(tmp_path)
        assert code == 1
        assert "registry: BROKEN" in output
        db.execute("DELETE FROM audit WHERE block = (SELECT max(no) FROM audit_block)")
        db.execute("DELETE FROM audit_block WHERE no = (SELECT max(no) FROM audit_block)")
        db.commit()
    code, output = run_verify(tmp_path)
    assert (code, noted in output) == (1, True)
    (tmp_path / "registry.audit.head").unlink()
    assert run_verify(tmp_path)[0] == 0
    code, output = run_verify(tmp_path, "--expect", noted)
    assert (code, noted in output) == (1, True)


def test_verify_says_where_no_newest_block_is_remembered(tmp_path: Path) -> None:
    """A cut tail would look whole there; a service that has sealed nothing has none to remember."""

    async def live() -> None:
        async with System(tmp_path) as system:
            await system.register(USCC, date(2026, 1, 5))

    asyncio.run(live())
    said = "no newest block is remembered"
    assert said not in run_verify(tmp_path)[1]
    (tmp_path / "registry.audit.head").unlink()
    code, output = run_verify(tmp_path)
    assert (code, output.count(said)) == (0, 1)


def test_a_trail_that_was_emptied_is_found_also_when_the_service_goes_on(tmp_path: Path) -> None:
    """Without a block left, and with new ones from the beginning."""

    async def live() -> None:
        async with System(tmp_path) as system:
            await system.register(USCC, date(2026, 1, 5))

    asyncio.run(live())
    with closing(sqlite3.connect(tmp_path / "registry.db")) as db:
        db.execute("DELETE FROM audit")
        db.execute("DELETE FROM audit_block")
        db.commit()
    code, output = run_verify(tmp_path)
    assert (code, "registry: BROKEN, 0 blocks" in output) == (1, True)

    async def goes_on() -> None:
        async with System(tmp_path) as system:
            await system.register("93371082MA3XTE5U6D", date(2026, 1, 5))

    asyncio.run(goes_on())
    code, output = run_verify(tmp_path)
    assert (code, "is remembered as sealed" in output) == (1, True)


def test_the_file_of_the_newest_block_goes_forward_along_the_chain_alone(
    probe: Probe, tmp_path: Path
) -> None:
    """Not back, and not to a block of another chain; over blocks that another process remembered it goes."""
    file = tmp_path / "heads" / "probe.audit.head"
    assert audit.read_head(file) is None
    first, second, third = (Block(**row._mapping) for row in probe.rows(BLOCKS))
    assert audit.keep_head(file, first)
    assert not audit.keep_head(file, replace(second, previous="another"))
    assert audit.keep_head(file, third)
    assert not audit.keep_head(file, second)
    assert audit.read_head(file) == audit.Head(3, third.hash)
    file.write_text("spoilt")
    with probe.database.read() as db:
        assert len(verify(db, PLUMBING, audit.read_head(file)).breaks) == 1


def test_verify_looks_where_the_demo_keeps_its_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Like `token`; where nothing is, it says which folders there are."""
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(app, ["audit", "verify"])
    said = " ".join(result.output.split())
    assert result.exit_code == 1
    assert "no database in var/demo" in said
    assert "serve: var/data" in said


def test_verify_passes_over_a_service_that_has_not_run_yet(tmp_path: Path) -> None:
    """It has no tables; once a block of it is remembered, they are missing."""
    for name in ("registry", "matching", "notify", "targets"):
        with closing(sqlite3.connect(tmp_path / f"{name}.db")) as db:
            db.execute("CREATE TABLE something (id)")
    status, said = run_verify(tmp_path)
    assert (status, said.count("no tables yet")) == (0, 4)
    block = Block(
        no=1,
        rows=1,
        first_seq=1,
        last_seq=1,
        previous="",
        hash="a" * 64,
        sealed_at=datetime(2026, 1, 5, tzinfo=UTC),
    )
    assert audit.keep_head(tmp_path / "notify.audit.head", block)
    status, said = run_verify(tmp_path)
    assert (status, "notify: BROKEN, its tables are gone" in said) == (1, True)


def test_verify_refuses_a_folder_without_databases(tmp_path: Path) -> None:
    """It makes no empty ones there."""
    assert run_verify(tmp_path)[0] == 1
    assert list(tmp_path.iterdir()) == []
